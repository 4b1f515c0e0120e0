"""How what programs print becomes labelled lines."""

from __future__ import annotations

import io

import pytest

from shmbridge.cli.launch_log import LabelledLog, Lines


@pytest.fixture(autouse=True)
def no_wishes(monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def feed_all(lines, *chunks, seconds_between=0.0):
    return [line for place, chunk in enumerate(chunks) for line in lines.feed(chunk, 100.0 + place * seconds_between)]


def test_lines_are_cut_wherever_a_read_ends():
    assert feed_all(Lines(), b"one\ntw", b"o\n\nthr", b"ee\n") == ["one", "two", "", "three"]


def test_character_that_two_reads_share_is_one():
    cut = "Grüße\n".encode()
    assert feed_all(Lines(), cut[:3], cut[3:]) == ["Grüße"]


def test_bytes_that_are_no_text_are_shown_as_such():
    assert feed_all(Lines(), b"a\xffb\n") == ["a\ufffdb"]


@pytest.mark.parametrize("chunks", [(b"one\r\ntwo\r\n",), (b"one\r", b"\ntwo\r", b"\n"), (b"one\r\r\ntwo\r\n",)])
def test_carriage_return_before_a_newline_belongs_to_it(chunks):
    assert feed_all(Lines(), *chunks) == ["one", "two"]


def test_text_that_is_overwritten_is_shown_now_and_then_and_the_last_of_it_always():
    lines = Lines()
    bar = [f"\r{percent}%".encode() for percent in range(0, 100, 10)]
    # 0.5 s apart: one look in four is due.
    shown = feed_all(lines, *bar, b"\r100%\n", seconds_between=0.5)
    assert shown == ["0%", "40%", "80%", "100%"]
    assert lines.close() == []


def test_bar_that_erases_itself_leaves_no_empty_line():
    assert feed_all(Lines(), b"\r10%", b"\r    ", b"\rdone\n") == ["10%", "done"]


def test_line_without_an_end_is_shown_when_nothing_has_come_for_a_second():
    lines = Lines()
    assert lines.feed(b"loading ...", 10.0) == []
    assert lines.due(10.5) == []
    assert lines.due(11.0) == ["loading ..."]
    assert lines.due(20.0) == []
    assert lines.feed(b" done\n", 21.0) == [" done"]


@pytest.mark.parametrize(("data", "left"), [(b"half", ["half"]), (b"50%\r", ["50%"]), (b"whole\n", []), (b"", []), (b"a\xc3", ["a\ufffd"])])
def test_rest_is_shown_at_the_end(data, left):
    lines = Lines()
    lines.feed(data, 1.0)
    assert lines.close() == left


def test_endless_line_is_cut():
    assert [len(line) for line in Lines().feed(b"x" * 100_000, 1.0)] == [100_000]


def test_labels_are_padded_and_lines_whole():
    file = io.StringIO()
    log = LabelledLog(file, ["launch", "simulator"])
    log.write("launch", ["one", "", "two "])
    log.write("simulator", ["three"])
    log.write("simulator", [])
    assert file.getvalue() == "launch    | one\nlaunch    |\nlaunch    | two\nsimulator | three\n"


def test_terminal_gets_a_colour_per_label_and_the_line_as_it_is():
    pytest.importorskip("rich")
    terminal = Terminal()
    log = LabelledLog(terminal, ["a", "b"])
    log.write("a", ["[red]one[/]"])
    log.write("b", ["two"])
    first, second = terminal.getvalue().splitlines()
    assert first.endswith("[red]one[/]") and "\x1b[" in first
    assert first.partition("a")[0] != second.partition("b")[0]


@pytest.mark.parametrize(("variable", "file", "coloured"), [("FORCE_COLOR", io.StringIO, True), ("NO_COLOR", Terminal, False)])
def test_wishes_about_colours_are_granted(variable, file, coloured, monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setenv(variable, "1")
    written = file()
    LabelledLog(written, ["a"]).write("a", ["one"])
    assert ("\x1b[" in written.getvalue()) is coloured


def test_terminal_without_rich_gets_plain_labels(without_rich):
    terminal = Terminal()
    LabelledLog(terminal, ["a"]).write("a", ["one"])
    assert terminal.getvalue() == "a | one\n"


def test_characters_that_the_stream_cannot_show_are_escaped():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    LabelledLog(file, ["a"]).write("a", ["ü"])
    assert file.buffer.getvalue() == b"a | \\xfc\n"


class Broken(io.StringIO):
    def write(self, text):
        raise BrokenPipeError


def test_stream_that_nobody_reads_is_noticed_and_left_alone():
    log = LabelledLog(Broken(), ["a"])
    assert not log.broken
    log.write("a", ["one"])
    log.write("a", ["two"])
    assert log.broken


@pytest.fixture
def without_rich(monkeypatch):
    """Make rich look as if it were not installed."""
    import sys

    for name in ("rich", "rich.console", "rich.text"):
        monkeypatch.setitem(sys.modules, name, None)
