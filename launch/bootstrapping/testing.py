"""Tests, on every Python that is here, and static checks."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .programs import Programs, SetupError, complain, say
from .project import Project
from .venvs import Recipe, make, setting_up
from .wheel import build_wheel

MINORS = (10, 11, 12, 13)
_PYTEST_GRACE_SECONDS = 15.0
_DESCRIBE = "import ensurepip, platform, sys; print(platform.python_implementation(), *sys.version_info[:2])"
_WHERE = "import pathlib, shmbridge; print(pathlib.Path(shmbridge.__file__).resolve())"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what can be chosen."""
    parser.add_argument("--only_this_python", action="store_true", help="leave the other Pythons of this machine out")
    parser.add_argument("pytest_words", nargs="*", metavar="-- WORDS", help="words for pytest, e.g.: -- unit/test_spec.py -k dtype")


def test(programs: Programs, project: Project, args: argparse.Namespace) -> int:
    """Test the built wheel: everything on this Python, and on the others what needs neither torch nor a simulator nor much time."""
    others = {} if args.only_this_python else find_other_pythons(programs)
    with setting_up(programs, project):
        wheel = build_wheel(programs, project)
        own = make(programs, project, main_recipe(project), wheel)
        pythons = {name: make(programs, project, other_recipe(project, name, python), wheel) for name, python in others.items()}
    name = _name(sys.version_info[:2])
    say(f"testing {wheel.name} on {name}")
    failed = [name] if programs.show(**_pytest(programs, project, own, wheel, args.pytest_words), grace=_PYTEST_GRACE_SECONDS) else []
    words = ["-m", "not slow", *args.pytest_words]
    failed += _test_side_by_side(programs, {name: _pytest(programs, project, python, wheel, words) for name, python in pythons.items()})
    if failed:
        complain(f"tests failed on {', '.join(failed)}")
    return int(bool(failed))


def main_recipe(project: Project) -> Recipe:
    """Return what all tests need: both halves in one environment, for local deployment."""
    return Recipe("test", tuple(project.requirements("metaworld", "pusht", "pixel_bc", "video", "cli", "test")), torch=True)


def other_recipe(project: Project, name: str, python: str) -> Recipe:
    """Return what the tests need on another Python."""
    return Recipe(f"test-{name}", tuple(project.requirements("test")), python=python)


def find_other_pythons(programs: Programs) -> dict[str, str]:
    """Return one interpreter of each other supported Python, and say which there are none of."""
    own = sys.version_info[:2]
    found = {_name((3, minor)): _first_usable(programs, minor) for minor in MINORS if (3, minor) != own}
    for name, python in found.items():
        if python is None:
            say(f"{name} is not here, so nothing is tested on it")
    return {name: python for name, python in found.items() if python}


def check(programs: Programs, project: Project, args: argparse.Namespace) -> int:
    """Run ruff, mypy and shellcheck, all of them whatever the others find."""
    with setting_up(programs, project):
        python = make(programs, project, Recipe("check", tuple(project.requirements("check"))))
    failed = []
    checks = {"ruff": ["-m", "ruff", "check", "--output-format", "concise"], "ruff format": ["-m", "ruff", "format", "--check"], "mypy": ["-m", "mypy"]}
    for name, words in checks.items():
        say(f"running {name}")
        if programs.show([python, *words], cwd=project.root):
            failed.append(name)
    failed += _shellcheck(programs, project)
    if failed:
        complain(f"not accepted by {', '.join(failed)}")
    return int(bool(failed))


def _test_side_by_side(programs: Programs, pytests: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Test on several Pythons at once, for most tests wait most of the time, and print each one's words when it is done; return where tests failed."""
    failed = []
    with contextlib.ExitStack() as stack:
        running = {}
        for name, pytest in pytests.items():
            output = stack.enter_context(tempfile.TemporaryFile())
            process = programs.start(**pytest, output=output)
            stack.callback(programs.interrupt, process, _PYTEST_GRACE_SECONDS)
            running[name] = process, output
        if running:
            say(f"testing on {', '.join(running)} side by side, what needs neither torch nor a simulator nor much time; each is shown when it is done")
        for name, (process, output) in running.items():
            failed += [name] if programs.wait(process) else []
            output.seek(0)
            say(f"{name} said:\n{output.read().decode(errors='replace').rstrip()}")
    return failed


def _pytest(programs: Programs, project: Project, python: Path, wheel: Path, words: Iterable[str]) -> dict[str, Any]:
    """Return how to start pytest in the tests' folder, from where the sources beside it cannot be imported by accident."""
    folder = project.root / "tests"
    imported = Path(programs.call([python, "-c", _WHERE], doing="importing shmbridge", cwd=folder).strip())
    if not imported.is_relative_to(python.parent.parent.resolve()):
        raise SetupError(f"the tests would not test what was installed: shmbridge is imported from {imported}")
    command = [python, "-m", "pytest", "-c", project.root / "pyproject.toml", "--rootdir", project.root, *words]
    return {"command": command, "cwd": folder, "env": {"SHMBRIDGE_WHEEL": str(wheel)}}


def _shellcheck(programs: Programs, project: Project) -> list[str]:
    scripts = [path for path in _files(project.root) if _is_shell(path)]
    if not scripts:
        return []
    if not shutil.which("shellcheck"):
        say(f"shellcheck is not installed, so {len(scripts)} shell scripts are not checked")
        return []
    say("running shellcheck")
    return ["shellcheck"] * (programs.show(["shellcheck", *scripts], cwd=project.root) != 0)


def _files(root: Path) -> list[Path]:
    """Return the files of the project, without what was made from it."""
    folders = [path for path in root.iterdir() if path.is_dir() and (not path.name.startswith(".") or path.name == ".ci")]
    return sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())


def _is_shell(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.readline(80)
    return path.suffix == ".sh" or (first.startswith(b"#!") and first.rstrip().endswith((b"bash", b"/sh", b" sh")))


def _first_usable(programs: Programs, minor: int) -> str | None:
    for candidate in _candidates(minor):
        # Asked and not believed: pyenv puts commands on PATH that only say that they are not set up.
        with contextlib.suppress(SetupError):
            if programs.call([candidate, "-c", _DESCRIBE], doing="asking for the version").split() == ["CPython", "3", str(minor)]:
                return candidate
    return None


def _candidates(minor: int) -> list[str]:
    folders = [Path(folder) for folder in os.get_exec_path()]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    folders += sorted(pyenv.glob(f"versions/3.{minor}.*/bin"))
    return [str(path) for folder in folders if os.access(path := folder / f"python3.{minor}", os.X_OK)]


def _name(version: tuple[int, ...]) -> str:
    return f"python{version[0]}.{version[1]}"
