"""Virtual environments, made once and brought up to date when the project or its requirements change."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import torch_cpu
from .packages import pip
from .programs import Programs, say
from .project import Project

_STAMP = "shmbridge-stamp.json"


@dataclass(frozen=True)
class Recipe:
    """What goes into one environment, besides the project's wheel.

    Attributes:
        name: Its folder's name.
        requirements: What pip is asked for.
        torch: Whether the CPU build of torch goes in first.
        python: The interpreter that it is made with.
    """

    name: str
    requirements: tuple[str, ...]
    torch: bool = False
    python: str = sys.executable


def make(programs: Programs, project: Project, recipe: Recipe, wheel: Path | None = None) -> Path:
    """Return the interpreter of an environment that is as the recipe says, made or mended as far as needed."""
    folder = project.venvs / recipe.name
    python, stamp = folder / "bin" / "python", folder / _STAMP
    has, base, torch = _read(stamp), _base(programs, folder, recipe), torch_cpu.asked_for()
    fits = has.get("base") == base and not (recipe.torch and torch and has["torch"] != torch)
    installed = wheel.parent.name if wheel else None
    if fits and has["project"] == installed:
        return python
    # Without its stamp an environment is made anew: so one that was interrupted half-way is never taken for whole.
    stamp.unlink(missing_ok=True)
    if not fits:
        _make_anew(programs, folder, recipe)
    if wheel:
        _install_project(programs, python, recipe.name, wheel)
    stamp.write_text(json.dumps({"base": base, "torch": has["torch"] if fits else torch, "project": installed}))
    return python


@contextlib.contextmanager
def setting_up(programs: Programs, project: Project) -> Iterator[None]:
    """Keep other commands out of the environments while one makes them, and what is temporary in a folder that goes with it."""
    project.venvs.mkdir(exist_ok=True)
    with open(project.venvs / "lock", "w") as lock:
        if not _try_lock(lock.fileno()):
            say("waiting: another command is setting up the environments in this folder")
            while not _try_lock(lock.fileno()):
                programs.pause()
        temporary = project.temporary
        shutil.rmtree(temporary, ignore_errors=True)  # of a command that was killed
        temporary.mkdir()
        programs.variables["TMPDIR"] = str(temporary)
        try:
            yield
        finally:
            del programs.variables["TMPDIR"]
            shutil.rmtree(temporary, ignore_errors=True)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make_anew(programs: Programs, folder: Path, recipe: Recipe) -> None:
    say(f"{recipe.name}: making the virtual environment .venvs/{recipe.name}")
    shutil.rmtree(folder, ignore_errors=True)
    programs.call([recipe.python, "-m", "venv", folder], doing=f"making {folder}")
    python = folder / "bin" / "python"
    if recipe.torch:
        torch_cpu.install_torch(programs, python, recipe.name)
    say(f"{recipe.name}: installing {', '.join(recipe.requirements)}")
    pip(programs, python, ["install", *recipe.requirements], doing=f"installing into {folder}")


def _install_project(programs: Programs, python: Path, name: str, wheel: Path) -> None:
    say(f"{name}: installing this project's wheel")
    pip(programs, python, ["install", "--no-deps", "--force-reinstall", wheel], doing=f"installing {wheel}")


def _base(programs: Programs, folder: Path, recipe: Recipe) -> dict[str, Any]:
    """Return what an environment stands on. If any of it changes, it is made anew."""
    return {
        "folder": str(folder),
        "python": _version(programs, recipe.python),
        "interpreter": os.path.realpath(recipe.python),
        "requirements": list(recipe.requirements),
    }


def _version(programs: Programs, python: str) -> str:
    if python == sys.executable:
        return sys.version
    return programs.call([python, "-c", "import sys; print(sys.version)"], doing=f"asking {python} for its version").strip()


def _read(stamp: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(stamp.read_text()))
    except (FileNotFoundError, ValueError):  # none, or cut off while it was written
        return {}
