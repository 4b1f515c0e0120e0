"""The project's one wheel."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from .packages import pip
from .programs import Programs, say
from .project import Project
from .venvs import Recipe, make

_KEPT = 4


def build_wheel(programs: Programs, project: Project) -> Path:
    """Return the wheel of the sources as they are now, built only if they have changed.

    It lies in a folder named after the sources' digest. It is built from a copy, so that neither modules deleted since
    the last build nor a half-written file gets in, and nothing is left beside the sources.
    """
    shelf = project.venvs / "wheels"
    done = shelf / project.digest()
    if not done.is_dir():
        done = _build(programs, project, shelf)
    return next(done.glob("*.whl"))


def _build(programs: Programs, project: Project, shelf: Path) -> Path:
    python = make(programs, project, Recipe("build", requirements=tuple(project.build_requirements())))
    say("building the wheel")
    with tempfile.TemporaryDirectory(dir=project.temporary) as folder:
        copy, result = Path(folder, "source"), Path(folder, "result")
        for path in project.sources():
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(project.root / path, copy / path)
        # Of the copy: someone may have edited a file since the sources were looked at.
        done = shelf / Project(copy).digest()
        pip(programs, python, ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", result, copy], doing="building the wheel")
        _prune(shelf)
        if not done.is_dir():
            shelf.mkdir(parents=True, exist_ok=True)
            result.rename(done)
    return done


def _prune(shelf: Path) -> None:
    """Remove all but the newest few: a test run under way may still look at its own."""
    by_age = sorted(shelf.glob("*"), key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in by_age[_KEPT - 1 :]:
        shutil.rmtree(folder)
