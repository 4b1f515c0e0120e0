"""torch without the libraries for GPUs."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from .packages import pip, try_pip
from .programs import Programs, SetupError, say

PINNED = "torch==2.13.0+cpu"
"""By its full name: where this build is not to be had, pip fails at once and does not take the GPU build instead."""


def asked_for() -> str | None:
    """Return what the user wants instead, in words for ``pip install``."""
    return os.environ.get("TORCH") or None


def install_torch(programs: Programs, python: Path, name: str) -> None:
    """Install the CPU build of torch, or what ``TORCH`` says.

    Raises:
        SetupError: There is none to be had. Nothing was downloaded that nobody asked for.
    """
    if wanted := asked_for():
        say(f"{name}: installing {wanted}, as TORCH says")
        pip(programs, python, ["install", *shlex.split(wanted)], doing=f"installing {wanted}")
        return
    say(f"{name}: installing {PINNED}")
    first = try_pip(programs, python, ["install", PINNED])
    if first.status == 0:
        return
    say(f"{name}: pip finds no {PINNED}; asking uv, which knows where the CPU builds are")
    pip(programs, python, ["install", "uv"], doing="installing uv")
    second = programs.try_call([python, "-m", "uv", "pip", "install", "--quiet", "--python", python, "--torch-backend=cpu", "torch"])
    if second.status:
        raise SetupError(_nothing_to_be_had(first.tail, second.tail))


def _nothing_to_be_had(pip_said: str, uv_said: str) -> str:
    return (
        f"no CPU build of torch can be installed here.\n\npip install {PINNED}:\n{pip_said}\n\n"
        f"uv pip install --torch-backend=cpu torch:\n{uv_said}\n\n"
        "Not tried is a plain 'pip install torch': on x86-64 it downloads several gigabytes of GPU libraries too (CUDA, cuDNN, NCCL, Triton). "
        "If you want that, type:\n    TORCH=torch make demo\n"
        "TORCH is handed to pip as it is, so it may as well be another version, a file, or '--index-url … torch'."
    )
