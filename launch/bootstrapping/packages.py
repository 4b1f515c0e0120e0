"""Calling pip: quietly, and with its last lines where it fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .programs import Finished, Programs

_PIP = ("-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check")


def pip(programs: Programs, python: Path, words: Sequence[str | Path], *, doing: str) -> None:
    """Run pip in the environment of ``python``. Raises SetupError, which says what was being done."""
    programs.call([python, *_PIP, *words], doing=doing)


def try_pip(programs: Programs, python: Path, words: Sequence[str | Path]) -> Finished:
    """Run pip, and leave it to the caller what a failure means."""
    return programs.try_call([python, *_PIP, *words])
