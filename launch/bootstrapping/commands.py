"""The commands of ``launch/bootstrap.py``."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from . import bench, containers, demo, testing
from .programs import Programs, SetupError, SignalledError, complain, say
from .project import Project
from .venvs import setting_up
from .wheel import build_wheel

_DESCRIPTION = """\
Sets up what is needed, once, under .venvs/, and then does one of the project's main jobs.

  demo        a camera task in a simulator, driven by a trained policy in another process, through shared memory
  test        the tests, against the built wheel, on every supported Python of this machine
  containers  the tests that build the images and run them, by docker or podman
  bench       round trips, against what Python can do without this library
  check       ruff, mypy and shellcheck
  wheel       build the wheel into dist/

TORCH=REQUIREMENT chooses another torch than the CPU build; MUJOCO_GL=egl or osmesa chooses how MuJoCo renders.
"""


def main(words: Sequence[str]) -> int:
    """Run one command and return its exit status: 0 done, 1 failed, 2 wrongly called, 128 + signal."""
    args = _parser().parse_args(_with_underscores(words))
    project = Project(Path(__file__).resolve().parents[2])
    with Programs() as programs:
        try:
            _check_venv()
            return int(args.run(programs, project, args))
        except SetupError as error:
            complain(str(error))
            return 1
        except SignalledError as stopped:
            complain(str(stopped))
            return 128 + stopped.number


def wheel(programs: Programs, project: Project, args: argparse.Namespace) -> int:
    """Build the wheel and put it where people look for it."""
    with setting_up(programs, project):
        built = build_wheel(programs, project)
    folder = project.root / "dist"
    folder.mkdir(exist_ok=True)
    shutil.copy2(built, folder)
    say(f"the wheel is dist/{built.name}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bootstrap.py", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="{demo,test,containers,bench,check,wheel}")
    with_flags = (
        ("demo", demo.main, demo.add_flags),
        ("test", testing.test, testing.add_flags),
        ("containers", containers.main, containers.add_flags),
        ("bench", bench.main, bench.add_flags),
    )
    for name, run, add_flags in with_flags:
        command = commands.add_parser(name, allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        command.set_defaults(run=run)
        add_flags(command)
    for name, run in (("check", testing.check), ("wheel", wheel)):
        commands.add_parser(name, allow_abbrev=False).set_defaults(run=run)
    return parser


def _with_underscores(words: Sequence[str]) -> list[str]:
    """Return the words with dashes inside our own flags as underscores: both spellings mean the same."""
    end = words.index("--") if "--" in words else len(words)
    ours = [re.sub(r"(?<=\w)-", "_", word) if word.startswith("--") else word for word in words[:end]]
    return [*ours, *words[end:]]


def _check_venv() -> None:
    """Debian and Ubuntu ship Python without the part of it that makes virtual environments."""
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        raise SetupError("this Python cannot make virtual environments; on Debian and Ubuntu type: sudo apt-get install python3-venv")
