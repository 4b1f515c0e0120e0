"""Both spellings of flags, and the flags that plug-ins bring themselves."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shmbridge.cli.flags import (
    add_config_flags,
    config_from_flags,
    early,
    make_parser,
    nearest_flag,
    policy_class,
    positive,
    refuse_network,
    refuse_unknown,
    seed_number,
    whole_number,
    with_underscores,
)
from shmbridge.errors import PolicyError, SpecError, UnknownPolicyError


@dataclass(frozen=True)
class Settings:
    gain: float = 0.5
    count: int = 1
    fast: bool = False
    title: str = "none"
    shape: list[int] = field(default_factory=list)
    limit: int | None = None


class StructSettings(msgspec.Struct):
    gain: float = 0.5


@dataclass(frozen=True)
class Required:
    path: str


def parse(words: list[str], config_type: type | None = Settings, yaml: Path | None = None) -> tuple[Any, dict[str, Any]]:
    parser = make_parser("test", "for tests")
    add_config_flags(parser, config_type, "toy")
    args, rest = parser.parse_known_args(with_underscores(words))
    refuse_unknown(parser, rest)
    return config_from_flags(args, config_type, yaml, "toy")


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("--policy-type", "--policy_type"),
        ("--policy_type", "--policy_type"),
        ("--file-name=a-b/c-d.py", "--file_name=a-b/c-d.py"),
        ("a-value", "a-value"),
        ("-h", "-h"),
        ("-1", "-1"),
        ("--", "--"),
        ("", ""),
    ],
)
def test_dashes_inside_flag_names_are_underscores_and_nowhere_else(word: str, expected: str) -> None:
    assert with_underscores([word]) == [expected]


def test_every_field_is_a_flag_with_a_value_of_its_type() -> None:
    config, given = parse(["--gain", "2", "--count=3", "--fast", "true", "--title", "5", "--shape", "[2, 3]", "--limit", "7"])
    assert config == Settings(2.0, 3, True, "5", [2, 3], 7)
    assert given == {"gain": 2, "count": 3, "fast": True, "title": "5", "shape": [2, 3], "limit": 7}


def test_only_what_was_given_is_among_the_given_settings() -> None:
    assert parse(["--count", "1"]) == (Settings(), {"count": 1})
    assert parse([]) == (Settings(), {})


@pytest.mark.parametrize(("words", "fast"), [(["--fast"], True), (["--fast", "false"], False), (["--fast=no"], False), (["--fast", "--count", "2"], True)])
def test_switch_may_stand_alone_or_take_its_value(words: list[str], fast: bool) -> None:
    assert parse(words)[0].fast is fast


def test_negative_numbers_are_values_and_no_flags() -> None:
    assert parse(["--gain", "-0.5", "--count=-2"])[0] == Settings(-0.5, -2)


def test_settings_may_be_a_struct_too() -> None:
    assert parse(["--gain", "1.5"], StructSettings)[0].gain == 1.5


def test_help_tells_type_and_default_of_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "of toy" in text
    assert "float; default 0.5" in text
    assert "bool; default False" in text


def test_flags_override_the_file_and_leave_the_rest_of_it(tmp_path: Path) -> None:
    path = write(tmp_path, "gain: 2.0\ncount: 4\n")
    assert parse(["--count", "5"], yaml=path) == (Settings(gain=2.0, count=5), {"gain": 2.0, "count": 5})


def test_unknown_key_of_the_file_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"toy has no setting 'gian'.*gain"):
        parse([], yaml=write(tmp_path, "gian: 2.0\n"))


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "gain: [", "just words"])
def test_file_that_holds_no_settings_is_refused_by_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(SpecError, match=r"settings\.yaml"):
        parse([], yaml=write(tmp_path, text))


def test_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="absent"):
        parse([], yaml=tmp_path / "absent.yaml")


def test_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert parse([], yaml=write(tmp_path, "# nothing yet\n")) == (Settings(), {})


@pytest.mark.parametrize("words", [["--count", "many"], ["--count", "1.5"], ["--fast", "maybe"], ["--shape", "3"]])
def test_value_of_another_type_is_refused_with_the_name_of_its_owner(words: list[str]) -> None:
    with pytest.raises(SpecError, match="toy"):
        parse(words)


def test_setting_without_default_must_be_given() -> None:
    assert parse(["--path", "here"], Required)[0] == Required("here")
    with pytest.raises(SpecError, match="path"):
        parse([], Required)


def test_file_for_an_owner_that_takes_no_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="toy takes no configuration"):
        parse([], None, write(tmp_path, "gain: 1\n"))
    assert parse([], None) == (None, {})


def test_setting_named_as_a_flag_of_the_command_is_refused() -> None:
    parser = make_parser("test", "for tests")
    parser.add_argument("--gain")
    with pytest.raises(PolicyError, match=r"'gain'.*rename"):
        add_config_flags(parser, Settings, "toy")


@pytest.mark.parametrize("words", [["--gian", "1"], ["--gian=1"]])
def test_unknown_flag_is_a_wrong_call_and_the_nearest_is_named(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(words)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "--gian" in error
    assert "--gain" in error


@pytest.mark.parametrize(
    ("word", "hint"),
    [("--frobnicate", ""), ("--num_env", "did you mean '--num_envs'?"), ("--outputdir", "did you mean '--output_dir'?"), ("--", ""), ("-x", "")],
)
def test_dashes_bring_no_flag_nearer(word: str, hint: str) -> None:
    assert nearest_flag(word, ["-h", "--policy_type", "--num_envs", "--output_dir"]) == hint


@pytest.mark.parametrize("word", ["--gai", "--cou", "--f"])
def test_flags_cannot_be_abbreviated(word: str) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([word, "1"])
    assert ended.value.code == 2


def test_word_that_belongs_to_no_flag_is_a_wrong_call(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--gain", "1", "stray"])
    assert ended.value.code == 2
    assert "'stray'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--other", "1", "--policy_type", "zero"], "zero"),
        (["--policy_type=zero"], "zero"),
        (["--policy_type", "one", "--policy_type", "two"], "two"),
        (["--other"], None),
        ([], None),
    ],
)
def test_flag_that_decides_over_others_is_found_before_them(words: list[str], found: str | None) -> None:
    assert early(words, "--policy_type") == found


def test_policy_class_is_that_of_the_flag() -> None:
    found = policy_class(["--policy_type", "shmbridge.testing:MarkingPolicy"])
    assert found is not None and found.__name__ == "MarkingPolicy"
    assert policy_class([]) is None
    with pytest.raises(UnknownPolicyError):
        policy_class(["--policy_type", "nothing-of-this-name"])


@pytest.mark.parametrize("value", ["token", 5, 0, True, ""])
def test_network_flags_are_refused_by_name_and_without_their_value(value: object) -> None:
    with pytest.raises(SpecError, match="--flag belongs to the path between two machines") as refused:
        refuse_network({"--absent": None, "--off": False, "--flag": value})
    assert "token" not in str(refused.value)


def test_network_flags_that_were_not_given_are_not_refused() -> None:
    refuse_network({"--absent": None, "--off": False})


@pytest.mark.parametrize("text", ["0", "-1", "nan"])
def test_numbers_that_must_be_above_zero_are(text: str) -> None:
    assert (positive("0.5"), whole_number("3")) == (0.5, 3)
    with pytest.raises(argparse.ArgumentTypeError):
        positive(text)
    with pytest.raises((argparse.ArgumentTypeError, ValueError)):
        whole_number(text)


@pytest.mark.parametrize(
    ("kind", "text"), [(positive, "'abc' is no number"), (whole_number, "'abc' is no whole number"), (seed_number, "'abc' is no whole number")]
)
def test_what_is_no_number_is_said_without_the_names_of_functions(kind: Callable[[str], float], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"^{text}$"):
        kind("abc")
