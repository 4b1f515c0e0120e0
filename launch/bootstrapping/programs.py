"""Starting other programs, and ending them whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 2.0
_LOOK_SECONDS = 0.05
_TAIL_LINES = 40


class SetupError(Exception):
    """Something did not work; the text says what, and what to do about it."""


class SignalledError(Exception):
    """A signal asked for the end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


@dataclass(frozen=True)
class Finished:
    """How a program ended, and what it printed."""

    status: int
    output: str

    @property
    def tail(self) -> str:
        """The last lines it printed."""
        return "\n".join(self.output.rstrip().splitlines()[-_TAIL_LINES:])


def say(text: str) -> None:
    """Tell the user what is being done."""
    print(f"shmbridge: {text}", flush=True)


def complain(text: str) -> None:
    """Tell the user what went wrong."""
    print(f"shmbridge: {text}", file=sys.stderr, flush=True)


class Programs:
    """Starts programs, waits for them, and ends them when a signal arrives.

    A signal only sets a flag, which every wait looks at: an exception out of a signal handler could lose a process that was
    just started. Programs run in sessions of their own, so that a Ctrl-C of the terminal reaches them once, from here.

    Attributes:
        variables: Environment variables that all of them get.
    """

    def __init__(self) -> None:
        self.variables: dict[str, str] = {}
        self._signal: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Programs:
        ignored = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else []  # under nohup
        self._previous = {number: signal.signal(number, self._note) for number in SIGNALS if number not in ignored}
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = self._signal or number

    def check(self) -> None:
        """Raise SignalledError if a signal has arrived."""
        if self._signal is not None:
            raise SignalledError(self._signal)

    def start(
        self, command: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None, output: IO[bytes] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program without input; ``output`` takes what it prints, the terminal if None. Pass it to :meth:`end`.

        It leads a process group of its own.

        Raises:
            SetupError: There is no such program, or it cannot be run.
        """
        words = [str(word) for word in command]
        variables = clean_environment() | self.variables | dict(env or {})
        errors = None if output is None else subprocess.STDOUT
        try:
            return subprocess.Popen(words, cwd=cwd, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True)
        except OSError as error:
            raise SetupError(f"{words[0]} cannot be started: {error}") from error

    def pause(self) -> None:
        """Wait a moment between two looks at something. Raises SignalledError."""
        self.check()
        time.sleep(_LOOK_SECONDS)

    def wait(self, process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        """Return the exit status. Raises SignalledError, and SetupError when the time is over."""
        end = None if timeout is None else time.monotonic() + timeout
        while (status := process.poll()) is None:
            self.pause()
            if end is not None and time.monotonic() > end:
                raise SetupError(f"{Path(str(process.args[0])).name} did not end within {timeout:.0f} s")
        self.check()
        return status

    def end(self, process: subprocess.Popen[bytes], grace: float = GRACE_SECONDS) -> None:
        """End a program that still runs: politely with SIGTERM, and after ``grace`` seconds by force, with all that it started."""
        if process.poll() is None:
            process.terminate()
            _kill_after(process, grace)

    def interrupt(self, process: subprocess.Popen[bytes], grace: float = GRACE_SECONDS) -> None:
        """End a program that still runs as a Ctrl-C in a terminal does: what it started is asked too. Then as in :meth:`end`."""
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            _kill_after(process, grace)

    def try_call(
        self, command: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> Finished:
        """Run a program to its end and keep what it prints."""
        with tempfile.TemporaryFile() as output:
            process = self.start(command, cwd=cwd, env=env, output=output)
            try:
                status = self.wait(process, timeout)
            finally:
                self.interrupt(process)
            output.seek(0)
            return Finished(status, output.read().decode(errors="replace"))

    def call(self, command: Sequence[str | Path], *, doing: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
        """Run a program quietly and return what it printed. Raises SetupError, with the end of that, if it fails."""
        finished = self.try_call(command, cwd=cwd, env=env)
        if finished.status:
            raise SetupError(f"{doing} failed (exit status {finished.status}):\n{finished.tail}")
        return finished.output

    def show(self, command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str] | None = None, grace: float = GRACE_SECONDS) -> int:
        """Run a program that prints to the terminal, and return its exit status."""
        process = self.start(command, cwd=cwd, env=env)
        try:
            return self.wait(process)
        finally:
            self.interrupt(process, grace)


def clean_environment() -> dict[str, str]:
    """Return the environment variables without those that mix one Python's packages into another's."""
    mixing = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONSTARTUP"}
    return {key: value for key, value in os.environ.items() if key not in mixing} | {"PYTHONNOUSERSITE": "1"}


def _kill_after(process: subprocess.Popen[bytes], grace: float) -> None:
    """Kill what is left of a process and its group when the time is over."""
    deadline = time.monotonic() + grace
    while (process.poll() is None or _has_group(process)) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _has_group(process: subprocess.Popen[bytes]) -> bool:
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True
