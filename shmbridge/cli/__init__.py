"""The command ``shmbridge``, which is also ``python -m shmbridge``."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from shmbridge.cli.flags import with_underscores
from shmbridge.errors import ShmbridgeError
from shmbridge.version import __version__

COMMANDS = {
    "serve": ("serve:main", "serve a policy to simulators on this machine"),
    "run": ("run:main", "run an environment with a policy, local or served"),
    "launch": ("launch:main", "start hosts and runners from one file, each in its own environment"),
    "compare": ("compare:main", "compare two runs, episode by episode"),
    "suite": ("suite:main", "run several tasks, one after the other, from one file"),
    "new": ("new:main", "write a small plug-in that works: a policy or an environment of your own"),
    "policies": ("listing:policies", "list the policies that --policy_type knows"),
    "envs": ("listing:environments", "list the environments that run knows"),
    "ls": ("ls:main", "list the hosts of this machine, their clients, and what dead ones left"),
    "inspect": ("inspect:main", "show the tensors, layouts and slots of a host's sessions"),
    "gc": ("gc:main", "remove what dead hosts left in /dev/shm"),
    "doctor": ("doctor:main", "check this machine, and what a launch file needs of it"),
    "bench": ("bench:main", "measure round trips on this machine, against what Python can do without this library"),
}
"""Module and function below ``shmbridge.cli``, imported when called for: a command should not pay for the others."""
INTERRUPTED = 130
TERMINATED = 143


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 failed, 2 wrongly called, 130 interrupted, 143 terminated."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="shmbridge", description="Observations and actions between a simulator and a policy, through shared memory.")
    parser.add_argument("--version", action="version", version=f"shmbridge {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, help_text) in COMMANDS.items():
        commands.add_parser(name, help=help_text, add_help=False)
    command = parser.parse_args(words[:1]).command
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("shmbridge").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, _terminate)
    return _guarded(command, with_underscores(words[1:]))


def _guarded(command: str, words: list[str]) -> int:
    try:
        module, function = COMMANDS[command][0].split(":")
        status: int = getattr(importlib.import_module(f"shmbridge.cli.{module}"), function)(words)
        sys.stdout.flush()
        return status
    except ShmbridgeError as error:
        print(f"shmbridge {command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read our output has enough. What is still buffered must not fail again when the interpreter flushes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print(f"shmbridge {command}: interrupted", file=sys.stderr)
        return INTERRUPTED


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(TERMINATED)
