"""Tables and progress, with rich and without."""

from __future__ import annotations

import builtins
import io
import sys

import pytest

from shmbridge.cli import console
from shmbridge.cli.console import print_table, progress


@pytest.fixture
def without_rich(monkeypatch):
    """Make rich look as if it were not installed."""
    real = builtins.__import__

    def refuse_rich(name, *args, **kwargs):
        if name.split(".")[0] == "rich":
            raise ModuleNotFoundError("No module named 'rich'", name="rich")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse_rich)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def use_terminal(monkeypatch):
    """Make standard error a terminal. Called in the test itself: between a fixture and its test, pytest sets it anew."""
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    return found


HEAD, ROWS = ("name", "state"), [("one", "[READY]"), ("twenty", "dead")]


def test_table_without_rich_has_a_line_per_row_in_columns(without_rich, capsys):
    print_table(HEAD, ROWS, title="hosts")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "hosts"
    found = [line.split() for line in lines[1:]]
    assert ["name", "state"] in found
    assert found[-2:] == [["one", "[READY]"], ["twenty", "dead"]]


def test_table_without_title_begins_with_its_head(without_rich, capsys):
    print_table(HEAD, ROWS)
    assert capsys.readouterr().out.splitlines()[0].split() == ["name", "state"]


def test_table_with_rich_says_the_same(capsys):
    pytest.importorskip("rich")
    print_table(HEAD, ROWS, title="hosts")
    text = capsys.readouterr().out
    assert all(word in text for word in ("hosts", "name", "state", "one", "twenty", "dead"))


def test_table_with_rich_takes_brackets_as_they_are(capsys):
    """Paths and messages of errors may hold them; they are no markup."""
    pytest.importorskip("rich")
    print_table(("shape",), [("[480, 640]",), ("[red]",), ("[/]",)])
    text = capsys.readouterr().out
    assert all(word in text for word in ("[480, 640]", "[red]", "[/]"))


def test_progress_without_a_terminal_is_lines_on_standard_error(capsys):
    with progress(3, "episodes") as line:
        line.show(0, "begun")
        line.show(1, "too soon after it to be said")
        line.show(3, "ended")
        line.show(3, "once is enough")
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.splitlines() == ["episodes 0/3  begun", "episodes 3/3  ended"]


def test_progress_on_a_terminal_without_rich_is_lines_too(without_rich, monkeypatch):
    terminal = use_terminal(monkeypatch)
    with progress(1, "steps") as line:
        line.show(1, "ended")
    assert terminal.getvalue().splitlines() == ["steps 1/1  ended"]


def test_progress_on_a_terminal_with_rich_is_a_bar_on_standard_error(monkeypatch, capsys):
    pytest.importorskip("rich")
    terminal = use_terminal(monkeypatch)
    with progress(2, "steps") as line:
        assert isinstance(line, console._RichProgress)
        line.show(2, "ended")
    assert capsys.readouterr().out == ""
    assert "2/2" in terminal.getvalue()
