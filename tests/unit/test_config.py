"""Configuration: YAML, flags, and classes that say what there is."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shmbridge.config import build_config, config_digest, field_names, read_yaml, value_from_text
from shmbridge.errors import SpecError


@dataclass
class Settings:
    checkpoint: str
    rate: float = 1e-3
    steps: int = 4
    fast: bool = False
    names: list[str] = field(default_factory=list)
    label: str | None = None


class Packed(msgspec.Struct):
    rate: float = 1.0
    steps: int = 2


def test_a_file_of_settings_is_read(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("checkpoint: /models/ä\nrate: 0.5\nnames: [a, b]\n", encoding="utf-8")
    assert read_yaml(path) == {"checkpoint": "/models/ä", "rate": 0.5, "names": ["a", "b"]}


def test_an_empty_file_holds_no_settings(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing yet\n")
    assert read_yaml(path) == {}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"- a\n- b\n", "it holds a list"),
        (b"just text", "it holds a str"),
        (b"a: [1", "is no YAML"),
        (b"\xff\xfe\xff", "cannot be read|is no YAML"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=text):
        read_yaml(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^configuration \S+none.yaml cannot be read: No such file or directory$"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match=r"^suite file "):
        read_yaml(tmp_path / "none.yaml", "suite file")


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trap.yaml"
    path.write_text(f"a: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    with pytest.raises(SpecError, match="is no YAML"):
        read_yaml(path)
    assert not (tmp_path / "made").exists()


def test_settings_become_the_class_that_names_them() -> None:
    made = build_config(Settings, {"checkpoint": "/m", "steps": "8", "rate": "1e-4", "fast": "true"}, "policy x")
    assert made == Settings("/m", 1e-4, 8, fast=True)
    assert build_config(Packed, {"steps": 3}, "policy x") == Packed(1.0, 3)


def test_an_unknown_setting_is_refused_with_the_nearest_and_all_there_are() -> None:
    with pytest.raises(SpecError, match=r"policy x has no setting 'chekpoint' \(did you mean 'checkpoint'\?\)\. There are: checkpoint, rate, steps"):
        build_config(Settings, {"chekpoint": "/m"}, "policy x")


@pytest.mark.parametrize("values", [{}, {"checkpoint": 7}, {"checkpoint": "/m", "steps": "many"}, {"checkpoint": "/m", "steps": 1.5}, {"checkpoint": None}])
def test_a_missing_or_wrong_setting_is_refused_with_its_owner(values: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="configuration of policy x"):
        build_config(Settings, values, "policy x")


def test_a_missing_setting_is_asked_for_in_both_ways_to_give_it() -> None:
    with pytest.raises(SpecError, match=r"configuration of policy x: needs `checkpoint`: give --checkpoint, or checkpoint: in the YAML$"):
        build_config(Settings, {}, "policy x")


def test_an_owner_without_settings_takes_none() -> None:
    assert build_config(None, {}, "policy x") is None
    with pytest.raises(SpecError, match="policy x takes no configuration, but was given a, b"):
        build_config(None, {"b": 1, "a": 2}, "policy x")


def test_fields_are_named_in_order() -> None:
    assert field_names(Settings) == ["checkpoint", "rate", "steps", "fast", "names", "label"]
    assert field_names(Packed) == ["rate", "steps"]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("checkpoint", "007", "007"),
        ("checkpoint", "off", "off"),
        ("checkpoint", "2024-01-01", "2024-01-01"),
        ("checkpoint", "", ""),
        ("label", "12", "12"),
        ("rate", "1e-3", 1e-3),
        ("steps", "8", 8),
        ("fast", "true", True),
        ("names", "[a, b]", ["a", "b"]),
    ],
)
def test_a_flags_text_becomes_what_its_field_is(name: str, text: str, value: object) -> None:
    parsed = value_from_text(Settings, name, text)
    built = build_config(Settings, {"checkpoint": "/m", name: parsed}, "policy x")
    assert getattr(built, name) == value


def test_a_flags_text_that_is_no_yaml_stays_text() -> None:
    assert value_from_text(Settings, "names", "[a") == "[a"


def test_digests_are_equal_for_equal_settings_in_any_order() -> None:
    assert config_digest({"a": 1, "b": [1, 2]}) == config_digest({"b": [1, 2], "a": 1})
    assert config_digest({"a": 1}) != config_digest({"a": 2})
    assert config_digest({}) != config_digest({"a": 1})
    assert len(config_digest({})) == 64


def test_what_yaml_reads_and_json_does_not_know_has_a_digest_too() -> None:
    assert config_digest({"since": datetime.date(2024, 1, 1)}) == config_digest({"since": datetime.date(2024, 1, 1)})
