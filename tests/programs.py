"""Programs of launch files, as a test describes them, for those who ask and judge them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from helpers import PACKAGE

from shmbridge.cli.doctor_asking import Answer
from shmbridge.cli.launch_file import LaunchFile, Program

SMALL_ENVIRONMENT = """
import shmbridge
class Small(shmbridge.Environment):
    def __init__(self, config, *, num_envs, **options):
        self.num_envs = num_envs

    specs = shmbridge.EnvironmentSpecs([shmbridge.TensorSpec("q", (1000,), "float32")], [shmbridge.TensorSpec("action", (1,), "float32")])
    reset = step = episode_metrics = close = lambda self, *args, **options: None
"""


def make_program(
    label: str,
    *words: str,
    serves: str | None = None,
    python: str = sys.executable,
    folder: str | Path = "/",
    variables: dict[str, str] | None = None,
) -> Program:
    """A program as a launch file would say, with the packages of this process."""
    path = os.pathsep.join([str(PACKAGE.parent), *filter(None, sys.path)])
    given = {"PYTHONPATH": path, **(variables or {})}
    argv = (str(python), "-m", "shmbridge", *words) if words else (str(python), "script.py")
    return Program(label, argv, words, Path(python), None, True, Path(folder), given, serves)


def make_file(*programs: Program) -> LaunchFile:
    """A launch file of these programs."""
    return LaunchFile(Path("some/pair.yaml"), programs)


def described(nbytes: Any) -> Answer:
    """What a runner says that needs so many bytes."""
    return Answer(0, json.dumps({"bytes_at_most": nbytes}, indent=2) + "\n")
