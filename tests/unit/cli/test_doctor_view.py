"""How findings look."""

from __future__ import annotations

from shmbridge.cli.doctor_findings import COMMAND, Slug, ok, problem, warning
from shmbridge.cli.doctor_view import lines, print_findings

WARNING = warning(Slug.ONE_CORE, "cores", "1", "they take turns", "--cpus 2")
LONG_COMMAND = "docker volume create --a --very --long --command --that --is --copied"
PROBLEM = problem(Slug.DISK, "/dev/shm", "is on a disk", "it is slow", f"make a volume:\n{COMMAND}{LONG_COMMAND}\nmount it")


def test_what_is_in_order_stands_in_columns():
    assert lines([ok("kernel", "Linux"), ok("C library", "glibc", "nothing")], 80) == [
        "ok       kernel     Linux",
        "ok       C library  glibc",
        "                    do: nothing",
        "",
        "no problems, no warnings",
    ]


def test_a_long_name_moves_no_column():
    assert lines([ok("a/very/long/path/of/a/file.yaml", "found"), ok("kernel", "Linux")], 80)[:2] == [
        "ok       a/very/long/path/of/a/file.yaml  found",
        "ok       kernel  Linux",
    ]


def test_the_worst_stands_last_with_why_what_to_do_and_where_to_read_more():
    assert lines([PROBLEM, WARNING, ok("kernel", "Linux")], 60) == [
        "ok       kernel  Linux",
        "",
        "warning  cores: 1",
        "         why  they take turns",
        "         do   --cpus 2",
        "         more docs/howto/troubleshooting.md#one-core",
        "",
        "problem  /dev/shm: is on a disk",
        "         why  it is slow",
        "         do   make a volume:",
        f"              {LONG_COMMAND}",
        "              mount it",
        "         more docs/howto/troubleshooting.md#disk",
        "",
        "1 problem, 1 warning",
    ]


def test_all_but_commands_and_long_words_is_broken_to_the_width():
    long = problem(Slug.DISK, "check", "many words " * 20, "more words " * 20, "x" * 90)
    told = lines([long, ok("check", "many words " * 20)], 60)
    assert [line.split()[-1] for line in told if len(line) > 60] == ["x" * 90]
    assert all(line.startswith((" " * 9, "problem  ", "ok       ")) for line in told[:-1] if line)


def test_an_empty_text_is_a_line():
    assert lines([ok("check", "")], 60)[0].rstrip() == "ok       check"


def test_levels_have_colours_where_they_are_wanted():
    assert lines([ok("a", "b")], 80, coloured=True)[0] == "\x1b[32mok       \x1b[0ma  b"
    assert lines([PROBLEM], 80, coloured=True)[1].startswith("\x1b[31;1mproblem  \x1b[0m/dev/shm")


def test_a_file_gets_no_colours_and_the_width_that_columns_says(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    print_findings([ok("a", "many words " * 20)])
    out = capsys.readouterr().out
    assert "\x1b" not in out and max(map(len, out.splitlines())) <= 60
    monkeypatch.setenv("COLUMNS", "3")
    print_findings([ok("a", "many words")])
    assert "many words" in capsys.readouterr().out
