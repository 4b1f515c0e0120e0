"""What several test modules need: processes to talk to, eyes on /dev/shm and on descriptors, and hand-made sessions."""

from __future__ import annotations

import fcntl
import gc
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import shmbridge
from shmbridge.errors import ShmbridgeError
from shmbridge.layout import ActionHeader, Change, Layouts, ObservationHeader, Slot, make_slots, session_layouts
from shmbridge.policy import PolicySpecs
from shmbridge.spec import TensorSpec
from shmbridge.transport.base import Agreement

SHM = "/dev/shm"
TESTS = Path(__file__).parent
PACKAGE = Path(shmbridge.__file__).parent
GIVE_UP_SECONDS = 20.0
"""How long to wait for something that must come. Passing it is a failure, so no healthy machine is ever measured by it."""


def is_ours(name: str) -> bool:
    """Whether a name in /dev/shm is one that this library gives."""
    return name.startswith(("shmbridge.", "sem.shmbridge."))


def ours_in_shm(host: str) -> list[str]:
    """Return what there is of the host called ``host``, and only of that one."""
    return sorted(name for name in os.listdir(SHM) if re.fullmatch(rf"(sem\.)?shmbridge\.{re.escape(host)}\..*", name))


def is_held(name: str) -> bool:
    """Whether a living process holds the lock of the host to whom a file in /dev/shm belongs."""
    match = re.fullmatch(r"(?:sem\.)?shmbridge\.([^.]+)\..*", name)
    try:
        descriptor = os.open(f"{SHM}/shmbridge.{match[1] if match else ''}.lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def eventually(condition: Callable[[], object], what: str = "what was expected") -> None:
    """Wait until ``condition`` holds; for what no event tells of."""
    end = time.monotonic() + GIVE_UP_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come about")
        time.sleep(0.01)


def open_descriptors() -> dict[int, str]:
    """Return this process's descriptors and what they are."""
    gc.collect()
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")
        except FileNotFoundError:
            pass
    return found


def mapped_segments() -> int:
    """Return how many mappings of anonymous shared memory this process has."""
    gc.collect()
    return sum(1 for line in Path("/proc/self/maps").read_text().splitlines() if re.search(r" /(dev/shm/)?#\d+ \(deleted\)", line))


class Child:
    """A Python process running ``source``; we read what it prints, line by line, and write what it reads."""

    def __init__(self, source: str, *args: str, prefix: Sequence[str] = (), check: bool = True) -> None:
        path = os.pathsep.join([str(TESTS), str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
        command = [*prefix, sys.executable, "-u", "-c", source, *args]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env={**os.environ, "PYTHONPATH": path.strip(os.pathsep)},
            start_new_session=True,
        )
        self._errors: list[str] = []
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def errors(self) -> str:
        """What it wrote to stderr; all of it once it has ended."""
        if self.process.poll() is not None:
            self._reader.join(5)
        return "".join(self._errors)

    def expect(self, start: str) -> str:
        """Return the rest of the next line that begins with ``start``."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(start):
                return line[len(start) :].strip()
        self.process.wait(GIVE_UP_SECONDS)
        raise AssertionError(f"the process ended ({self.process.returncode}) before it said {start!r}:\n{self.errors}")

    def tell(self, line: str) -> None:
        """Write a line to its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL it and all it started, and wait until the kernel has cleaned up."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(GIVE_UP_SECONDS)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass
        self._reader.join(5)

    def finish(self) -> int:
        """Wait until it ends by itself; return its exit status."""
        return self.process.wait(GIVE_UP_SECONDS)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as errors:
            self._errors.extend(errors)


def run_python(source: str, *args: object, prefix: Sequence[str] = ()) -> str:
    """Run ``source`` in a process of its own and return what it printed; fail with its stderr if it fails."""
    child = Child(source, *map(str, args), prefix=prefix)
    try:
        assert child.process.stdout is not None
        output = child.process.stdout.read()
        assert child.finish() == 0, f"{output}\n{child.errors}"
        return output
    finally:
        child.kill()


OBSERVATION = TensorSpec("q", (3,), "float32")
ACTION = TensorSpec("action", (3,), "float32")


def make_agreement(
    num_envs: int = 2,
    *,
    horizon: int = 4,
    slots: int = 2,
    observation: Sequence[TensorSpec] = (OBSERVATION,),
    action: Sequence[TensorSpec] = (ACTION,),
    observation_steps: int = 1,
) -> Agreement:
    """Return an agreement as a handshake would."""
    return Agreement(7, "sample", "digest", PolicySpecs(observation, action, horizon, observation_steps), num_envs, slots)


class Line:
    """What tells the end of a ring whether its peer is lost; the test says when.

    Attributes:
        ended: Raised by the ring, once set.
    """

    def __init__(self) -> None:
        self.ended: ShmbridgeError | None = None

    def raise_ended(self) -> NoReturn:
        assert self.ended is not None
        raise self.ended


class SlotPair:
    """One observation slot and one action slot over plain memory, as both sides see them."""

    def __init__(self, layouts: Layouts) -> None:
        memory = [bytearray(layout.segment_size(1)) for layout in layouts]
        self.observation: Slot = make_slots(layouts.observation, memory[0], 1, writable=True)[0]
        self.observation_read: Slot = make_slots(layouts.observation, memory[0], 1, writable=False)[0]
        self.action: Slot = make_slots(layouts.action, memory[1], 1, writable=True)[0]

    @classmethod
    def of(cls, agreement: Agreement) -> SlotPair:
        return cls(session_layouts(agreement.specs, agreement.num_envs))

    def write(
        self,
        sequence: int,
        *,
        generation: int = 7,
        rows: Sequence[int] | None = None,
        resets: dict[int, str] | None = None,
        instructions: dict[int, str] | None = None,
        episodes: Any = 1,
        **tensors: Any,
    ) -> None:
        """Fill the observation slot as a client does."""
        slot = self.observation
        for name, value in tensors.items():
            slot.tensors[name][...] = value
        slot.words["@episodes"][:] = episodes
        if rows is not None:
            slot.words["@rows"][:] = 0
            slot.words["@rows"][list(rows)] = 1
        changes = [(Change.EPISODE, row, task) for row, task in (resets or {}).items()]
        changes += [(Change.INSTRUCTION, row, task) for row, task in (instructions or {}).items()]
        if changes:
            slot.words["@changes"][:] = Change.NONE
        for kind, row, task in changes:
            slot.words["@changes"][row], slot.words["@tasks"][row] = kind, task.encode()
        slot.write_header(ObservationHeader(generation, sequence, int(bool(changes)), int(rows is None)))

    @property
    def answer(self) -> ActionHeader:
        """The header of the action slot."""
        header = self.action.read_header()
        assert isinstance(header, ActionHeader)
        return header

    @property
    def failure(self) -> str:
        """What the action slot says went wrong."""
        return bytes(self.action.words["@failure"][()]).decode()

    @property
    def answered_rows(self) -> list[int]:
        """Whom the action slot answers."""
        if self.answer.all_rows:
            return list(range(len(self.action.words["@rows"])))
        return np.flatnonzero(self.action.words["@rows"]).tolist()
