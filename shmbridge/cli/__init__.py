"""The command ``shmbridge``, which is also ``python -m shmbridge``."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from shmbridge.cli import listing, run, serve
from shmbridge.cli.flags import with_underscores
from shmbridge.errors import ShmbridgeError
from shmbridge.version import __version__

COMMANDS = {
    "serve": (serve.main, "serve a policy to simulators on this machine"),
    "run": (run.main, "run an environment with a policy, local or served"),
    "policies": (listing.policies, "list the policies that --policy_type knows"),
    "envs": (listing.environments, "list the environments that run knows"),
    "ls": (listing.hosts, "list the hosts of this machine and their clients"),
}
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
        status = COMMANDS[command][0](words)
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
