"""Starting the programs of a launch file, showing what they print, and ending them whatever happens."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from types import FrameType, TracebackType
from typing import IO, NamedTuple

from shmbridge.cli.launch_file import OWN_LABEL, Program
from shmbridge.cli.launch_keeper import ENDINGS, Keeper, signal_group
from shmbridge.cli.launch_log import LabelledLog, Lines
from shmbridge.errors import SpecError
from shmbridge.memory.waiting import Deadline

MIXING = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT")
"""Variables that mix one Python's packages into another's."""
_LOOK_SECONDS = 0.1
_HURRIED_SECONDS = {"runner": 0.0, "host": 3.0}
"""What is left of the grace when a further signal asks for haste. A host still needs time to take its names out of /dev/shm."""
_KILLED_SECONDS = 5.0
_DRAIN_SECONDS = 1.0
_READ_BYTES = 1 << 16
_TAIL_LINES = 8


def environment_of(program: Program, base: Mapping[str, str]) -> dict[str, str]:
    """Return a program's environment variables, made of those of ``launch``.

    One with an environment of its own gets nothing that belongs to ours, and its virtual environment's commands first on PATH, as
    if it were activated.
    """
    found = {key: value for key, value in base.items() if not (program.own_python and key in MIXING)}
    if program.venv is not None:
        found["VIRTUAL_ENV"] = str(program.venv)
        found["PATH"] = f"{program.venv / 'bin'}{os.pathsep}{base.get('PATH', os.defpath)}"
    # It writes into a pipe, where Python would keep lines back until there are many.
    return found | {"PYTHONUNBUFFERED": "1"} | dict(program.variables)


class Signals:
    """Notes signals that ask for the end, while it is entered.

    A handler only notes: an exception out of one could lose a program that was just started. What was ignored stays so, but with a
    handler, because programs would inherit the ignoring, and Python would not hear a SIGINT then.
    """

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self.count = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Signals:
        self._previous = {number: signal.signal(number, self._note) for number in self.NUMBERS}
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # as it was returned

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._previous.get(number) is not signal.SIG_IGN:
            self.first = self.first or signal.Signals(number)
            self.count += 1


class Child:
    """A program that was started. It leads a session, so that a Ctrl-C of the terminal reaches it once, from here.

    Attributes:
        program: What it is.
        open: How many of its two pipes are open still, in it or in what it started.
        forgotten: Whether nothing is left of it, so that its number may be another's.
        tail: The last lines that it printed.
    """

    def __init__(self, program: Program, process: subprocess.Popen[bytes]) -> None:
        self.program = program
        self.pid = process.pid
        self.open = 2
        self.forgotten = False
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._process = process
        self._ended: os.waitid_result | None = None

    @property
    def role(self) -> str:
        """``host`` or ``runner``."""
        return "runner" if self.program.serves is None else "host"

    @property
    def status(self) -> int | None:
        """Its exit status, 128 + N where signal N ended it; None while it runs."""
        if self._ended is None and not self.forgotten:
            # Looked at, not reaped: as long as nobody does that, its number, which is also its group's, is nobody else's.
            self._ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if self._ended is None:
            return None
        return self._ended.si_status if self._ended.si_code == os.CLD_EXITED else 128 + self._ended.si_status

    def forget(self) -> None:
        """Give its number back, because nothing is left of it."""
        self.forgotten = True
        self._process.poll()

    @property
    def gone(self) -> bool:
        """Whether it has ended, and with it all that could still print."""
        return self.status is not None and not self.open

    def __str__(self) -> str:
        return self.program.label if self.program.serves is None else f"{self.program.label} (host {self.program.serves!r})"


class _Source(NamedTuple):
    """Where what a pipe brings belongs."""

    child: Child
    lines: Lines
    log: LabelledLog

    def show(self, lines: list[str]) -> None:
        """Pass lines on."""
        self.child.tail.extend(lines)
        self.log.write(self.child.program.label, lines)


class Programs:
    """Starts programs and passes on what they print; whatever still runs at its end is killed.

    Everything happens in the caller's thread, inside :meth:`pump`.
    """

    def __init__(self, labels: Iterable[str], signals: Signals) -> None:
        labels = (OWN_LABEL, *labels)
        self._out, self._err = LabelledLog(sys.stdout, labels), LabelledLog(sys.stderr, labels)
        self._signals = signals
        self._selector = selectors.DefaultSelector()
        self._keeper = Keeper()
        self._children: list[Child] = []

    @property
    def unread(self) -> bool:
        """Whether nobody reads what we write any more."""
        return self._out.broken or self._err.broken

    def of_role(self, role: str) -> list[Child]:
        """Return the programs of a role that were started, in order."""
        return [child for child in self._children if child.role == role]

    def say(self, text: str) -> None:
        """Tell the user what is being done."""
        self._err.write(OWN_LABEL, [text])

    def start(self, program: Program) -> Child:
        """Start a program in its folder, which is made if missing.

        Raises:
            SpecError: It cannot be started.
        """
        try:
            program.folder.mkdir(parents=True, exist_ok=True)
            process = subprocess.Popen(
                program.argv,
                cwd=program.folder,
                env=environment_of(program, os.environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            raise SpecError(f"program {program.label!r} cannot be started: {error}") from None
        child = Child(program, process)
        self._children.append(child)
        self._keeper.began(child.pid, child.role)
        self._follow(child, process.stdout, self._out)
        self._follow(child, process.stderr, self._err)
        return child

    def pump(self, seconds: float = _LOOK_SECONDS) -> None:
        """Pass on what comes within ``seconds``."""
        for key, _ in self._selector.select(seconds):
            self._read(key.fileobj, key.data)  # type: ignore[arg-type]  # it is what was registered
        for key in list(self._selector.get_map().values()):
            key.data.show(key.data.lines.due(time.monotonic()))

    def drain(self, child: Child) -> None:
        """Pass on the last words of a program that has ended."""
        deadline = Deadline(_DRAIN_SECONDS)
        while child.open and not deadline.passed:
            self.pump()

    def end(self, role: str) -> None:
        """End the programs of a role, all at a time, each with all that it started: first asked, and killed when its grace is over."""
        left = [child for child in self.of_role(role) if not child.forgotten]
        for child in left:
            # What a program left behind when it ended is not asked as nicely: what a shell put into the background ignores SIGINT.
            signal_group(child.pid, ENDINGS[role].signal if child.status is None else signal.SIGTERM)
        self._wait_patiently(left, ENDINGS[role].grace, _HURRIED_SECONDS[role])
        self._kill(left)

    def __enter__(self) -> Programs:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        """Kill what nobody has ended, and close everything."""
        self._kill([child for child in self._children if not child.forgotten])
        for key in list(self._selector.get_map().values()):
            self._close(key.fileobj, key.data)  # type: ignore[arg-type]  # it is what was registered
        self._selector.close()
        self._keeper.close()

    def _wait_patiently(self, children: list[Child], grace: float, hurried: float) -> None:
        begun, deadline = self._signals.count, Deadline(grace)
        while not all(child.gone for child in children) and not deadline.passed:
            self.pump()
            if self._signals.count > begun:
                begun, deadline = self._signals.count, Deadline(min(hurried, deadline.remaining))

    def _kill(self, children: list[Child]) -> None:
        for child in children:
            if child.status is None:
                self.say(f"{child} does not end; killing it")
            signal_group(child.pid, signal.SIGKILL)
        deadline = Deadline(_KILLED_SECONDS)
        while any(child.status is None for child in children) and not deadline.passed:
            self.pump()
        for child in children:
            self.drain(child)
            child.forget()
            self._keeper.ended(child.pid)

    def _follow(self, child: Child, pipe: IO[bytes] | None, log: LabelledLog) -> None:
        assert pipe is not None
        os.set_blocking(pipe.fileno(), False)
        self._selector.register(pipe, selectors.EVENT_READ, _Source(child, Lines(), log))

    def _read(self, pipe: IO[bytes], source: _Source) -> None:
        data = os.read(pipe.fileno(), _READ_BYTES)
        lines = source.lines.feed(data, time.monotonic()) if data else source.lines.close()
        if not data:
            self._close(pipe, source)
        source.show(lines)

    def _close(self, pipe: IO[bytes], source: _Source) -> None:
        self._selector.unregister(pipe)
        pipe.close()
        source.child.open -= 1
