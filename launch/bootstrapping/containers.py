"""The tests on real containers. What they test is inside the images, so their environment holds none of it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from .programs import Programs, say
from .project import Project
from .venvs import Recipe, make, setting_up

REQUIREMENTS = ("pytest>=8", "pytest-timeout", "PyYAML", "podman-compose", "kubernetes-validate")
_PYTEST_GRACE_SECONDS = 60.0
"""What pytest gets to remove containers after a Ctrl-C; each has ten seconds of its own to end."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what can be chosen."""
    parser.add_argument("pytest_words", nargs="*", metavar="-- WORDS", help="words for pytest, e.g.: -- test_images.py -k uid")


def main(programs: Programs, project: Project, args: argparse.Namespace) -> int:
    """Set up pytest, have the images built and tested by whichever engine works, and return pytest's exit status."""
    with setting_up(programs, project):
        python = make(programs, project, Recipe("containers", REQUIREMENTS))
    say("testing on real containers; the first time, both images are built (minutes)")
    status = programs.show(
        pytest_command(python, project, args.pytest_words), cwd=folder(project), env=variables(python, os.environ["PATH"]), grace=_PYTEST_GRACE_SECONDS
    )
    return status if status >= 0 else 128 - status


def folder(project: Project) -> Path:
    """Return where these tests are. Paths among pytest's words are relative to it."""
    return project.root / "tests" / "containers"


def pytest_command(python: Path, project: Project, words: list[str]) -> list[str | Path]:
    """Return the command that runs them, without the fixtures of the other tests: those import the library."""
    return [python, "-m", "pytest", "-c", project.root / "pyproject.toml", "--rootdir", project.root, "--confcutdir", folder(project), *words]


def variables(python: Path, path: str) -> dict[str, str]:
    """Return a PATH that begins with the environment's commands: tests call podman-compose by its name."""
    return {"PATH": f"{python.parent}{os.pathsep}{path}"}
