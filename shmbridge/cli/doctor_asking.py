"""What ``shmbridge doctor`` asks the programs of a launch file, each in its own environment. Nothing is judged here; that is doctor_launch.py's."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shmbridge.cli.flags import with_underscores
from shmbridge.cli.launch import check_interpreter
from shmbridge.cli.launch_file import LaunchFile, Program, flag_value
from shmbridge.cli.launch_programs import environment_of
from shmbridge.cli.wording import printable
from shmbridge.errors import SpecError
from shmbridge.memory.leftovers import Fate, survey
from shmbridge.memory.naming import DEFAULT_NAME, check_name

logger = logging.getLogger(__name__)

_VERSION_SECONDS = 60.0
_MAX_BYTES = 1 << 60


@dataclass(frozen=True)
class Answer:
    """What a command came to: its exit status, None where it was ended for taking too long, and what it printed."""

    status: int | None
    out: str = ""
    err: str = ""

    @property
    def last_line(self) -> str:
        """The last thing it said."""
        said = [line.strip() for text in (self.out, self.err) for line in text.splitlines() if line.strip()]
        return printable(said[-1], 400) if said else "it said nothing"


@dataclass(frozen=True)
class Asked:
    """One program, and what was found out about it.

    Attributes:
        program: As the launch file says.
        interpreter_problem: Why its interpreter cannot be used; empty where it can.
        version: What ``shmbridge --version`` says there; None for a script, which need not have it.
        policy: What a host's command says with ``--check``, which makes all but the policy; None for others.
        description: What ``shmbridge run --describe`` says; None for what is no ``run``.
    """

    program: Program
    interpreter_problem: str = ""
    version: Answer | None = None
    policy: Answer | None = None
    description: Answer | None = None


@dataclass(frozen=True)
class Names:
    """Host names that somebody has now: those of living hosts of ours, and the owners of other users' ones."""

    living: frozenset[str]
    others: Mapping[str, int]


def ask_programs(file: LaunchFile, timeout: float) -> list[Asked]:
    """Ask each program of a launch file for its version, and each runner for what it needs, in its own environment.

    Args:
        file: The launch file.
        timeout: Seconds that one may take to say it; the simulator of a runner is built for that, the policy's module is imported.
    """
    return [_ask(file, program, timeout) for program in file.programs]


def _ask(file: LaunchFile, program: Program, timeout: float) -> Asked:
    try:
        check_interpreter(program, file.path)
    except SpecError as error:
        return Asked(program, str(error).removeprefix(f"{file.path}: program {program.label!r}, "))
    if not program.words:
        return Asked(program)
    version = _ask_shmbridge(program, ["--version"], _VERSION_SECONDS)
    if version.status != 0:
        return Asked(program, version=version)
    if program.serves is not None:
        return Asked(program, version=version, policy=_ask_shmbridge(program, [*program.words, "--check"], timeout))
    if with_underscores(program.words)[0] != "run":
        return Asked(program, version=version)
    logger.info("asking %s what it needs; its environment is built for that (up to %.0f s)", program.label, timeout)
    return Asked(program, version=version, description=_ask_shmbridge(program, ["run", "--describe", "--json", *program.words[1:]], timeout))


def _ask_shmbridge(program: Program, words: Sequence[str], timeout: float) -> Answer:
    return run_command([str(program.python), "-m", "shmbridge", *words], program, timeout)


def run_command(command: Sequence[str], program: Program, timeout: float) -> Answer:
    """Run a command in a program's folder and environment; end it, and all it started, when ``timeout`` seconds are over."""
    folder = next(folder for folder in (program.folder, *program.folder.parents) if folder.is_dir())  # launch would make it
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "errors": "replace"}
    try:
        process = subprocess.Popen(command, cwd=folder, env=environment_of(program, os.environ), start_new_session=True, **options)
    except OSError as error:
        return Answer(127, err=f"{command[0]} cannot be started: {error.strerror}")
    with process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            return Answer(None)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return Answer(process.returncode, out, err)


def look_at_names(file: LaunchFile) -> Names:
    """Find out which of the names that a launch file speaks of somebody has."""
    names = {name for program in file.programs if (name := program.serves or host_of(program)) is not None}
    found = {name: survey(name) for name in names}
    living = frozenset(name for name, findings in found.items() if any(finding.fate is Fate.HELD for finding in findings))
    others = {name: finding.entry.uid for name, findings in found.items() for finding in findings if finding.fate is Fate.OF_ANOTHER_USER}
    return Names(living, others)


def host_of(program: Program) -> str | None:
    """Return the host that a program begins a session with, or None for one that begins none that we know of."""
    words = with_underscores(program.words)
    if not words or words[0] != "run" or flag_value(words, "--policy_deployment") != "remote":
        return None
    try:
        return check_name(flag_value(words, "--name") or DEFAULT_NAME)
    except SpecError:
        return None  # asking it what it needs tells why


def bytes_at_most(answer: Answer) -> int | None:
    """Return the bytes out of what ``run --describe --json`` printed; None where there are none. Simulators print before it."""
    start = f"\n{answer.out}".rfind("\n{")
    if answer.status != 0 or start < 0:
        return None
    try:
        told = json.JSONDecoder().raw_decode(answer.out[start:])[0].get("bytes_at_most")
    except ValueError:
        return None
    return told if isinstance(told, int) and not isinstance(told, bool) and 0 <= told <= _MAX_BYTES else None
