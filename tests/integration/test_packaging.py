"""What is installed: the wheel against the tree, what an import costs, and what works without any installation."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from helpers import PACKAGE

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"shmbridge": "shmbridge", "shmbridge_policies": "policies", "shmbridge_launch": "launch"}
PLUGINS = ("shmbridge.policies", "shmbridge.environments")
HEAVY = ("torch", "rich", "psutil", "yaml", "ssl")


def names_in_wheel() -> set[str]:
    if "SHMBRIDGE_WHEEL" not in os.environ:
        pytest.skip("SHMBRIDGE_WHEEL does not name a wheel to look into; 'make test' builds one")
    with zipfile.ZipFile(os.environ["SHMBRIDGE_WHEEL"]) as wheel:
        return {name for name in wheel.namelist() if ".dist-info/" not in name}


def names_in_tree() -> set[str]:
    found = set()
    for package, folder in FOLDERS.items():
        paths = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        found |= {f"{package}/{path.relative_to(ROOT / folder)}" for path in paths}
    return found


def python(*words: str | Path, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run([sys.executable, *words], env=clean | env, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


def test_the_wheel_holds_every_file_of_the_tree_and_no_other() -> None:
    assert sorted(names_in_wheel()) == sorted(names_in_tree())


def test_the_wheel_holds_code_types_and_weights() -> None:
    kinds = {Path(name).suffix or Path(name).name for name in names_in_wheel()}
    assert kinds >= {".py", ".typed", ".safetensors"}


def test_the_base_installation_needs_five_packages() -> None:
    requirements = importlib.metadata.requires("shmbridge") or []
    assert sorted(text for text in requirements if "extra" not in text) == ["PyYAML", "msgspec", "numpy>=1.22", "posix_ipc", "psutil"]


@pytest.mark.parametrize(("group", "name"), [(entry.group, entry.name) for group in PLUGINS for entry in importlib.metadata.entry_points(group=group)])
def test_a_plug_in_that_is_installed_can_be_loaded(group: str, name: str) -> None:
    (entry,) = importlib.metadata.entry_points(group=group, name=name)
    try:
        plugin = entry.load()
    except ImportError as error:
        if getattr(error, "name", None) in sys.modules or not error.name or error.name.startswith("shmbridge"):
            raise
        pytest.skip(f"{name} needs {error.name}, which is not installed here")
    assert plugin.__name__ == entry.attr


def test_importing_the_library_loads_nothing_slow_or_optional() -> None:
    result = python("-c", f"import sys, shmbridge; print(*[name for name in {HEAVY} if name in sys.modules])")
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "", "")


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment with a copied ``shmbridge/`` folder and the packages it needs, in which nobody installed the project."""
    copy, others = tmp_path / "copy", tmp_path / "others"
    shutil.copytree(PACKAGE, copy / "shmbridge", ignore=shutil.ignore_patterns("__pycache__"))
    others.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "shmbridge" not in path.name and path.suffix != ".pth":
            (others / path.name).symlink_to(path)
    return {"PYTHONPATH": f"{copy}{os.pathsep}{others}"}


def test_a_copied_folder_is_imported_from_where_it_lies(bare: dict[str, str], tmp_path: Path) -> None:
    result = python("-S", "-c", "import shmbridge; print(shmbridge.__file__)", cwd=tmp_path, **bare)
    assert result.stdout.strip() == str(tmp_path / "copy" / "shmbridge" / "__init__.py"), result.stderr


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("policies",), ("envs",), ("serve", "--help"), ("run", "--help")])
def test_a_copied_folder_has_the_command(bare: dict[str, str], tmp_path: Path, words: tuple[str, ...]) -> None:
    result = python("-S", "-m", "shmbridge", *words, cwd=tmp_path, **bare)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout


def test_a_copied_folder_finds_a_policy_in_a_file(bare: dict[str, str], tmp_path: Path) -> None:
    source = "import dataclasses, shmbridge\n@dataclasses.dataclass\nclass C:\n    gain: float = 2.5\nclass Mine(shmbridge.Policy):\n    config_type = C\n"
    (tmp_path / "mine.py").write_text(source)
    result = python("-S", "-m", "shmbridge", "serve", "--policy_type", "mine.py:Mine", "--help", cwd=tmp_path, **bare)
    assert result.returncode == 0, result.stderr
    assert "--gain" in result.stdout
