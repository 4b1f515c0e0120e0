"""Names, refusals and what is written; that it works is shown by test_new_plugins.py."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import sample_policies

from shmbridge.cli import new
from shmbridge.cli.new import KINDS, class_name, main, plugin_name, refuse_taken, render
from shmbridge.errors import SpecError
from shmbridge.registry import Registry, policies

FILES = {
    "policy": ["README.md", "__init__.py", "policy.py", "pyproject.toml", "test_policy.py"],
    "env": ["README.md", "__init__.py", "environment.py", "pyproject.toml", "test_environment.py"],
}


@pytest.mark.parametrize(("text", "name"), [("pick_place", "pick_place"), ("pick-place", "pick_place"), ("a", "a"), ("b2", "b2")])
def test_dashes_become_underscores(text: str, name: str) -> None:
    assert plugin_name(text) == name


@pytest.mark.parametrize(
    ("text", "hint"),
    [("MyPolicy", "try my_policy"), ("my policy", "try my_policy"), ("../x", "try x"), ("2fast", "try fast"), ("_x", "try x"), ("päckchen", "try p_ckchen")],
)
def test_a_name_that_is_none_for_a_package_is_refused_with_one_that_is(text: str, hint: str) -> None:
    with pytest.raises(SpecError, match=hint):
        plugin_name(text)


@pytest.mark.parametrize("text", ["", "2", "--", "class", "import", "x" * 41])
def test_a_name_that_leads_nowhere_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="cannot name a"):
        plugin_name(text)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("pick_place", "policy", "PickPlacePolicy"),
        ("pick_policy", "policy", "PickPolicy"),
        ("policy", "policy", "PolicyPolicy"),
        ("kitchen", "env", "KitchenEnvironment"),
        ("kitchen_env", "env", "KitchenEnvironment"),
        ("kitchen_environment", "env", "KitchenEnvironment"),
        ("a__b2", "policy", "AB2Policy"),
    ],
)
def test_class_is_called_after_the_plug_in_and_says_its_kind_once(name: str, kind: str, expected: str) -> None:
    assert class_name(name, KINDS[kind]) == expected


@pytest.mark.parametrize("name", ["json", "numpy", "shmbridge", "_thread"])
def test_a_module_that_is_here_already_is_not_hidden(name: str) -> None:
    with pytest.raises(SpecError, match="imported here already"):
        refuse_taken(name, KINDS["policy"])


def test_a_name_that_another_plug_in_has_is_refused_with_its_place() -> None:
    registry: Registry[sample_policies.Affine] = Registry("policy", sample_policies.Affine, "shmbridge.test-policies")
    registry.register("mine")(sample_policies.Affine)
    with pytest.raises(SpecError, match="sample_policies:Affine"):
        refuse_taken("mine", KINDS["policy"]._replace(registry=registry))


def test_a_folder_without_python_in_it_is_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_a_folder").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    refuse_taken("only_a_folder", KINDS["env"])


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_placeholder_is_filled_and_all_code_can_be_parsed(kind: str) -> None:
    files = render(kind, "pick_place")
    assert sorted(files) == FILES[kind]
    for name, text in files.items():
        assert "$" not in text, name
        assert text.endswith("\n"), name
        if name.endswith(".py"):
            ast.parse(text)


@pytest.mark.parametrize(("kind", "group", "target"), [("policy", "policies", "policy:GoPolicy"), ("env", "environments", "environment:GoEnvironment")])
def test_the_project_announces_the_class_under_its_name(kind: str, group: str, target: str) -> None:
    assert f'[project.entry-points."shmbridge.{group}"]\ngo = "go.{target}"\n' in render(kind, "go")["pyproject.toml"]


@pytest.mark.parametrize("kind", list(KINDS))
def test_commands_of_the_readme_name_files_that_are_written(kind: str) -> None:
    files = render(kind, "pick_place")
    named = re.findall(r"(?<![\w./])(\w+\.py)", files["README.md"])
    assert named
    assert set(named) <= set(files)


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_folder_is_written_and_what_to_type_next_is_said(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([kind, "pick-place", "--folder", str(tmp_path / "not yet there")]) == 0
    folder = tmp_path / "not yet there" / "pick_place"
    assert sorted(path.name for path in folder.iterdir()) == FILES[kind]
    told = capsys.readouterr().out
    assert f"python -m pytest '{folder}'" in told
    assert f"pip install -e '{folder}'" in told


def test_commands_of_an_environment_name_a_policy_that_needs_no_entry_point(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["env", "kitchen", "--folder", str(tmp_path)])
    for text in (capsys.readouterr().out, render("env", "kitchen")["README.md"]):
        named = re.findall(r"--policy_type (\S+)", text)[0]
        assert policies.load(named).__name__ == "RandomPolicy"


def test_nothing_that_is_there_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "pick_place").write_text("mine")
    with pytest.raises(SpecError, match="there already"):
        main(["policy", "pick_place", "--folder", str(tmp_path)])
    assert (tmp_path / "pick_place").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match="cannot be written: Not a directory"):
        main(["env", "pick_place", "--folder", str(tmp_path / "file")])


def test_templates_lie_in_the_package_that_is_installed() -> None:
    assert {path.name for path in new.TEMPLATES.iterdir() if path.is_dir()} == set(KINDS)
