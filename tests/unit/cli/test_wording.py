"""How sizes, times, users and foreign text are shown, whatever they are."""

from __future__ import annotations

import dataclasses
import enum
import json
import math

import pytest

from shmbridge.cli import wording
from shmbridge.cli.wording import counted, duration, files, print_json, printable, rate, say, size, user


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain Ünïcode 漢字", "plain Ünïcode 漢字"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("two\nlines\ttab\r", "two\\nlines\\ttab\\r"),
        ("\x9b31m", "\\x9b31m"),
        ("user\u202egpj.exe", "user\\u202egpj.exe"),
        ("\udc80", "\\udc80"),
        ("", ""),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text, shown):
    assert printable(text) == shown


def test_endless_text_ends():
    assert printable("x" * 10_000) == "x" * 120 + "…"
    assert printable("x" * 30, 20) == "x" * 20 + "…"
    assert printable("x" * 20, 20) == "x" * 20


@pytest.mark.parametrize(
    ("nbytes", "shown"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (18_432_000, "18.4 MB"), (25_300_000_000, "25.3 GB"), (3e12, "3.0 TB"), (-5, "-5 B")]
)
def test_sizes_read_as_people_write_them(nbytes, shown):
    assert size(nbytes) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0.0 s"), (3.21, "3.2 s"), (45, "45 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (172_800, "2 d")],
)
def test_times_read_as_people_say_them(seconds, shown):
    assert duration(seconds) == shown


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf, -math.inf, 1e300])
def test_a_time_that_cannot_be_is_no_number(seconds):
    assert duration(seconds) == "?"


@pytest.mark.parametrize(("per_second", "shown"), [(0, "0"), (0.25, "0.2"), (9.96, "10.0"), (48.7, "49"), (12_345.0, "12,345"), (math.nan, "?"), (-1, "?")])
def test_rates_have_as_many_digits_as_matter(per_second, shown):
    assert rate(per_second) == shown


def test_users_have_a_name_where_the_machine_knows_one():
    assert user(0) == "root (0)"
    assert user(987_654) == "987654"


@pytest.mark.parametrize("uid", [-1, -5, 1 << 80])
def test_a_user_that_cannot_be_is_a_number(uid):
    assert user(uid) == str(uid)


def test_one_file_is_no_files():
    assert [files(count) for count in (0, 1, 2)] == ["0 files", "1 file", "2 files"]


class Colour(str, enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Thing:
    colour: Colour
    sizes: tuple[float, ...]


def test_json_is_plain_ascii_and_has_no_word_for_what_is_no_number(capsys):
    print_json({"things": [Thing(Colour.RED, (1.5, math.nan, math.inf))], "text": "\x9b漢\u202e\udc80"})
    out = capsys.readouterr().out
    assert out.isascii()
    assert "NaN" not in out
    assert json.loads(out) == {"things": [{"colour": "red", "sizes": [1.5, None, None]}], "text": "\x9b漢\u202e\udc80"}


def test_a_line_stays_one_line_where_no_person_reads_it(capsys):
    say("word " * 100, "  ")
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_line_on_a_terminal_breaks_between_words(capsys, monkeypatch):
    monkeypatch.setattr(wording.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "50")
    say("some words, and what to type: shmbridge serve --name a-rather-long-name --policy_type x", "  ")
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 50 for line in lines)
    assert lines[0].startswith("  some")
    assert lines[1].startswith("    ")
    assert "a-rather-long-name" in " ".join(lines)


def test_one_is_no_plural():
    assert [counted(number, "environment") for number in (0, 1, 2000)] == ["0 environments", "1 environment", "2,000 environments"]
