"""The benchmark, with the built wheel, in an environment that holds no more than it needs."""

from __future__ import annotations

import argparse
from pathlib import Path

from .programs import Programs
from .project import Project
from .venvs import Recipe, make, setting_up
from .wheel import build_wheel

_END_SECONDS = 20.0
"""What ``shmbridge bench`` gets to end the processes that it started."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what can be chosen."""
    parser.add_argument("bench_words", nargs="*", metavar="-- WORDS", help="flags of shmbridge bench, e.g.: -- --scenario state --profile")


def main(programs: Programs, project: Project, args: argparse.Namespace) -> int:
    """Set up, measure, and return the benchmark's exit status."""
    with setting_up(programs, project):
        python = make(programs, project, recipe(project), build_wheel(programs, project))
    # In a folder without the sources, so that what is measured is what was installed.
    status = programs.show(bench_command(python, args.bench_words), cwd=project.venvs, grace=_END_SECONDS)
    return status if status >= 0 else 128 - status


def recipe(project: Project) -> Recipe:
    """Return what the benchmark needs: the base install, and tables."""
    return Recipe("bench", tuple(project.requirements("cli")))


def bench_command(python: Path, words: list[str]) -> list[str | Path]:
    """Return the command that measures."""
    return [python, "-m", "shmbridge", "bench", *words]
