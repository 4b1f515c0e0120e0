"""``shmbridge launch``: hosts and simulators from one file, each in an environment of its own, from one command."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from shmbridge.cli.flags import make_parser, positive, refuse_unknown
from shmbridge.cli.launch_file import LaunchFile, Program, read_launch_file
from shmbridge.cli.launch_keeper import ENDINGS
from shmbridge.cli.launch_programs import MIXING, Child, Programs, Signals
from shmbridge.connecting import describe_host
from shmbridge.errors import HostExistsError, HostNotFoundError, PeerLostError, PolicyError, SpecError, TimedOutError
from shmbridge.memory.leftovers import Fate, collect
from shmbridge.memory.waiting import Deadline
from shmbridge.messages import HostState

_QUERY_SECONDS = 1.0
_LOOK_SECONDS = 0.2
_SAY_SECONDS = 5.0
_AFTERMATH_SECONDS = 5.0
"""What runners get to notice, and to say, that their host is gone."""
_UP = (HostState.WARMING_UP, HostState.READY, HostState.BUSY)
"""The policy is loaded. Whoever was waiting for it may have been faster than we are at looking."""
_STARTING = "starting"
_SIGNALLED = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "the terminal is gone"}


class Outcome(NamedTuple):
    """How a launch ended: its exit status, and what to say last where something is to be said."""

    status: int
    text: str = ""


class _Ended(Exception):  # noqa: N818  # it may be a success as well
    """The launch is over before its time."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.outcome = Outcome(status, text)


def main(words: Sequence[str]) -> int:
    """Start what a file names, wait for its runners, and end it all."""
    parser = _parser()
    args, rest = parser.parse_known_args(words)
    refuse_unknown(parser, rest)
    file = read_launch_file(args.file, values_from_flags(args.set or []))
    if args.dry_run:
        print("\n".join(shown(program, os.environ) for program in (*file.hosts, *file.runners)))
        return 0
    with Signals() as signals, Programs([program.label for program in file.programs], signals) as programs:
        outcome = _Launch(file, programs, signals, args.start_timeout_ms / 1000).run()
    if outcome.text:
        print(f"shmbridge launch: {outcome.text}", file=sys.stderr)
    return outcome.status


def values_from_flags(given: Sequence[str]) -> dict[str, str]:
    """Return what ``--set name=value`` said.

    Raises:
        SpecError: One of them has no name, or no value.
    """
    for text in given:
        if not text.partition("=")[0] or "=" not in text:
            raise SpecError(f"--set {text}: expected NAME=VALUE, as in --set num_episodes=5")
    return {name: value for name, _, value in (text.partition("=") for text in given)}


def shown(program: Program, variables: Mapping[str, str]) -> str:
    """Return a program as a person would start it in a shell."""
    cleared = [f"-u {name}" for name in MIXING if program.own_python and name in variables]
    given = [f"{name}={shlex.quote(value)}" for name, value in program.variables.items()]
    env = " ".join(["env", *cleared, *given, ""]) if cleared or given else ""
    what = "runner" if program.serves is None else f"host {program.serves!r}"
    return f"# {program.label}: {what}\n(cd {shlex.quote(str(program.folder))} && {env}{shlex.join(program.argv)})"


def check_interpreter(program: Program, path: Path) -> None:
    """Raise SpecError where the interpreter of a program is not there; says how to make it."""
    if os.access(program.python, os.X_OK) and not program.python.is_dir():
        return
    where = f"{path}: program {program.label!r}"
    if program.venv is None:
        raise SpecError(f"{where}, python: there is no interpreter {program.python}; 'python' names one, relative to the folder of the file")
    make = f"python3 -m venv {program.venv} && {program.venv}/bin/pip install shmbridge"
    raise SpecError(f"{where}, venv: {program.venv} has no bin/python. Make it: {make} …; those of this project's own files come with 'make demo'")


def state_of(name: str) -> str:
    """Return what a host says it is doing, or what its silence means."""
    try:
        return describe_host(name, _QUERY_SECONDS).status.state.value
    except HostNotFoundError:
        return _STARTING
    except TimedOutError:
        return "there and does not answer"
    except PeerLostError:
        return "ending"
    except PolicyError:
        return HostState.FAILED.value  # it tells everyone why, and ends


def ending(child: Child) -> str:
    """Return how a program ended, in words."""
    status = child.status or 0
    by = next((number.name for number in signal.Signals if status == 128 + number), "")
    return f"ended by {by}" if by else f"ended with status {status}"


def _parser() -> argparse.ArgumentParser:
    text = (
        "Start the programs that FILE names, each in its own environment: first the hosts, and when they are READY the runners. When the runners have ended, "
        "or one of them fails, or at Ctrl-C, end everything. The exit status is the first runner's that failed, else 0. See docs/howto/launch-files.md."
    )
    parser = make_parser("launch", text)
    parser.add_argument("file", metavar="FILE", type=Path, help="a YAML file with the programs")
    parser.add_argument("--set", action="append", metavar="NAME=VALUE", help="what ${NAME} is in the file; may be repeated")
    parser.add_argument("--start_timeout_ms", type=positive, default=300000, metavar="MS", help="how long all hosts may take until they are READY")
    parser.add_argument("--dry_run", action="store_true", help="show the commands, and start nothing")
    return parser


class _Launch:
    """One launch, from the first host to the last goodbye."""

    def __init__(self, file: LaunchFile, programs: Programs, signals: Signals, start_timeout: float) -> None:
        self._file = file
        self._programs = programs
        self._signals = signals
        self._start_timeout = start_timeout
        self._told: set[int] = set()

    def run(self) -> Outcome:
        """Run it, and end all that it started, whatever happens."""
        try:
            outcome = self._run()
        except _Ended as ended:
            outcome = ended.outcome
        finally:
            self._end_everything()
        # Someone who asked for the end while all was ending anyway is told so too.
        return self._interrupted() if outcome.status == 0 and self._signals.first else outcome

    def _run(self) -> Outcome:
        for program in self._file.programs:
            check_interpreter(program, self._file.path)
        self._refuse_living_hosts()
        self._start(self._file.hosts)
        self._await_hosts()
        self._start(self._file.runners)
        return self._follow_runners() if self._file.runners else self._follow_hosts()

    @property
    def _hosts(self) -> list[Child]:
        return self._programs.of_role("host")

    @property
    def _runners(self) -> list[Child]:
        return self._programs.of_role("runner")

    def _start(self, programs: Sequence[Program]) -> None:
        for program in programs:
            self._check()
            self._programs.say(f"{self._programs.start(program)} starts")

    def _refuse_living_hosts(self) -> None:
        """Raise if a host of a name that we need is there: it is somebody else's, and may serve another policy."""
        for program in self._file.hosts:
            name = program.serves or ""
            try:
                what = f"runs already (policy {describe_host(name, _QUERY_SECONDS).policy})"
            except HostNotFoundError:
                continue
            except TimedOutError:
                what = "is there already and does not answer"
            where = f"{self._file.path}: program {program.label!r} is to serve as {name!r}, but a host of that name {what}"
            raise HostExistsError(f"{where}. Stop that one ('shmbridge ls' shows it), or choose another name here, for the host and for its runners")

    def _await_hosts(self) -> None:
        deadline = Deadline(self._start_timeout)
        waiting = dict.fromkeys(self._hosts, (_STARTING, time.monotonic()))
        while waiting:
            for host in self._hosts:
                self._check_life(host)
            for host, (said, at) in list(waiting.items()):
                state, seconds = state_of(host.program.serves or ""), deadline.timeout - deadline.remaining
                if state in _UP:
                    self._programs.say(f"{host} is READY after {seconds:.1f} s")
                    del waiting[host]
                elif deadline.passed:
                    raise _Ended(1, f"{host} was not READY within {deadline.timeout:.3g} s: it is {state}; allow more with --start_timeout_ms")
                elif state != said or time.monotonic() - at >= _SAY_SECONDS:
                    self._programs.say(f"{host} is {state}, {seconds:.0f} s")
                    waiting[host] = (state, time.monotonic())
            self._pump(_LOOK_SECONDS if waiting else 0.0)

    def _check_life(self, host: Child) -> None:
        if host.status is not None:
            self._programs.drain(host)
            last = f". The last that it said: {host.tail[-1].strip()}" if host.tail else ""  # all of it was shown as it came
            raise _Ended(host.status or 1, f"{host} {ending(host)} before all hosts were READY{last}")

    def _follow_runners(self) -> Outcome:
        while True:
            self._pump()
            # Runners first: whatever host's death made one fail is then seen below.
            failed = [runner for runner in self._runners if runner.status]
            going = [runner for runner in self._runners if runner.status is None]
            dead = [host for host in self._hosts if host.status]
            self._tell_of_ends(bool(going))
            if dead:
                return self._outcome_of_dead(dead)
            if failed:
                return Outcome(failed[0].status or 1, f"{failed[0]} {ending(failed[0])}")
            if not going:
                return Outcome(0)

    def _outcome_of_dead(self, dead: list[Child]) -> Outcome:
        """Let the runners say what it means to them that hosts are dead."""
        deadline = Deadline(_AFTERMATH_SECONDS)
        while any(runner.status is None for runner in self._runners) and not deadline.passed:
            self._pump()
        self._tell_of_ends(going=False)
        status = next((runner.status for runner in self._runners if runner.status), 1)
        return Outcome(status, "; ".join(f"{host} {ending(host)} under its runners" for host in dead))

    def _follow_hosts(self) -> Outcome:
        """Wait until all hosts have ended, or one fails: what a file without runners is for."""
        self._programs.say("all hosts are READY; Ctrl-C stops them")
        while not any(host.status for host in self._hosts):
            self._pump()
            if all(host.status == 0 for host in self._hosts):
                return Outcome(0)
        failed = next(host for host in self._hosts if host.status)
        return Outcome(failed.status or 1, f"{failed} {ending(failed)}")

    def _tell_of_ends(self, going: bool) -> None:
        """Say once of each program that it has ended, where not all is over anyway."""
        for child in [*self._runners, *self._hosts]:
            if child.status is not None and child.pid not in self._told:
                self._told.add(child.pid)
                if going or child.status:
                    self._programs.say(f"{child} {ending(child)}")

    def _end_everything(self) -> None:
        for role in ENDINGS:
            running = [str(child) for child in self._programs.of_role(role) if child.status is None]
            if running:
                self._programs.say(f"ending {' and '.join(running)}")
            self._programs.end(role)
        for host in self._hosts:
            # A host that could not end by itself leaves its names. Only what no living process holds is removed.
            for finding in collect(host.program.serves):
                if finding.fate is Fate.FAILED:
                    self._programs.say(f"{finding.entry.path} stays behind: {finding.why}")

    def _pump(self, seconds: float = 0.1) -> None:
        """Pass on what programs print for so long, unless someone wants the end."""
        deadline = Deadline(seconds)
        while True:
            self._programs.pump(deadline.remaining)
            self._check()
            if deadline.passed:
                return

    def _check(self) -> None:
        if self._signals.first:
            raise _Ended(*self._interrupted())
        if self._programs.unread:
            raise BrokenPipeError

    def _interrupted(self) -> Outcome:
        number = self._signals.first or signal.SIGINT
        return Outcome(128 + number, _SIGNALLED[number])
