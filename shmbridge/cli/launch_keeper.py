"""Ends the programs of a ``shmbridge launch`` that was killed and cannot do so itself.

A process of its own, which reads on its standard input which process groups live. The end of the input is the end of ``launch``,
however it came: the kernel closes the pipes of a killed process. Groups that still live then are ended as ``launch`` ends them.

The kernel's own way, PR_SET_PDEATHSIG, does not do: it reaches direct children only, and simulators are started by shell scripts; it
knows one signal, which is either ignored by some, or leaves a host no time to take its names out of /dev/shm; and code of ours would
have to run between fork and exec.

It runs by its path, with the standard library only, so that it is there at once and whatever the packages are.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import NamedTuple


class Ending(NamedTuple):
    """How programs of one role are ended: asked with a signal, and killed ``grace`` seconds later."""

    signal: signal.Signals
    grace: float


ENDINGS = {"runner": Ending(signal.SIGINT, 10.0), "host": Ending(signal.SIGTERM, 5.0)}
"""In the order in which they are ended: runners say goodbye to hosts. A simulator takes its time to close; a host ends in two seconds."""
_LOOK_SECONDS = 0.05
_CLOSE_SECONDS = 5.0


class Keeper:
    """The keeper, seen from ``launch``."""

    def __init__(self) -> None:
        # A session of its own, because a Ctrl-C, or whoever kills the group of launch, must not end it first.
        command = [sys.executable, "-I", "-S", __file__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True, bufsize=0)

    def began(self, group: int, role: str) -> None:
        """Tell it of a process group that was just started."""
        self._tell(f"began {role} {group}\n")

    def ended(self, group: int) -> None:
        """Tell it that nothing of a group is left, so that its number may be somebody else's from now on."""
        self._tell(f"ended {group}\n")

    def close(self) -> None:
        """End it. What it was told of and not told the end of, it ends now."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # somebody killed it; launch goes on without
            self._process.stdin.write(line.encode())


def main() -> int:
    """Wait for the end of the input, then end what is left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    left = groups_left(sys.stdin)
    if left:
        with contextlib.suppress(OSError):
            print("shmbridge launch was killed; ending what it started", file=sys.stderr, flush=True)
    for role, ending in ENDINGS.items():
        end([group for group, its_role in left.items() if its_role == role], ending)
    return 0


def groups_left(lines: Iterable[str]) -> dict[int, str]:
    """Return the role of each process group that began and did not end."""
    left: dict[int, str] = {}
    for line in lines:
        what, *rest = line.split()
        if what == "began":
            left[int(rest[1])] = rest[0]
        else:
            left.pop(int(rest[0]), None)
    return left


def end(groups: Iterable[int], ending: Ending) -> None:
    """Ask process groups to end, and kill those that have not when the time is over."""
    left = [group for group in groups if signal_group(group, ending.signal)]
    until = time.monotonic() + ending.grace
    while left and time.monotonic() < until:
        time.sleep(_LOOK_SECONDS)
        left = [group for group in left if signal_group(group, 0)]
    for group in left:
        signal_group(group, signal.SIGKILL)


def signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group; return whether there is one. One that changed its user cannot be signalled, and is there."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    sys.exit(main())
