"""What ``shmbridge doctor`` asks about a launch file: whether all it names is there, fits together, and finds room."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shmbridge.cli.doctor_checks import Finding, Level, say_largest
from shmbridge.cli.doctor_facts import Machine
from shmbridge.cli.flags import with_underscores
from shmbridge.cli.launch import check_interpreter
from shmbridge.cli.launch_file import LaunchFile, Program, flag_value
from shmbridge.cli.launch_programs import environment_of
from shmbridge.cli.wording import counted, printable, size, user
from shmbridge.errors import SpecError
from shmbridge.memory.capacity import SEMAPHORE_BYTES, Room
from shmbridge.memory.leftovers import Fate, survey
from shmbridge.memory.naming import DEFAULT_NAME, SHM, check_name
from shmbridge.memory.posix import HOW_TO_GROW

logger = logging.getLogger(__name__)

_VERSION_SECONDS = 60.0
_KILLED_SECONDS = 5.0
_BESIDE_OBSERVATIONS = 256 * 1024 + SEMAPHORE_BYTES
"""What a session takes for actions, texts of failures and semaphores; only very long chunks take more."""
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


def check_launch(file: LaunchFile, asked: Sequence[Asked], names: Names, machine: Machine) -> list[Finding]:
    """Return what all checks of a launch file came to."""
    name = file.path.name
    return [
        *(Finding(f"{name}: {one.program.label}", Level.PROBLEM, one.interpreter_problem) for one in asked if one.interpreter_problem),
        *_check_versions(name, asked),
        *_check_policies(name, asked),
        *_check_scripts(name, asked),
        *_check_names(name, file, names),
        *_check_places(name, file),
        *_check_needs(name, asked, machine),
    ]


def _check_versions(name: str, asked: Sequence[Asked]) -> list[Finding]:
    findings, versions = [], {}
    for one in asked:
        if one.version is not None and one.version.status == 0:
            versions[one.program.label] = one.version.last_line
        elif one.version is not None:
            why = "takes too long to start" if one.version.status is None else one.version.last_line
            found, remedy = f"shmbridge cannot be used there: {why}", f"{one.program.python} -m pip install shmbridge"
            findings.append(Finding(f"{name}: {one.program.label}", Level.PROBLEM, found, "shmbridge in its environment", remedy))
    if len(set(versions.values())) > 1:
        found = ", ".join(f"{label}: {version}" for label, version in versions.items())
        return [*findings, Finding(f"{name}: versions", Level.PROBLEM, found, "one version on both sides", "install the same in all environments")]
    return [*findings, *(Finding(f"{name}: versions", Level.OK, f"{version} everywhere") for version in set(versions.values()))]


def _check_policies(name: str, asked: Sequence[Asked]) -> list[Finding]:
    findings = []
    for one in asked:
        if one.policy is not None and one.policy.status != 0:
            why = "it is not imported in time" if one.policy.status is None else one.policy.last_line
            found, remedy = (
                f"it cannot serve: {why}",
                "see the whole text: shmbridge serve … --check, in its environment; what policies there are: shmbridge policies",
            )
            findings.append(Finding(f"{name}: {one.program.label}", Level.PROBLEM, found, "a host that can be started there", remedy))
    return findings


def _check_scripts(name: str, asked: Sequence[Asked]) -> list[Finding]:
    scripts = [one.program.label for one in asked if not one.program.words and not one.interpreter_problem]
    return [Finding(f"{name}: {label}", Level.OK, "is a script: what it needs is not known") for label in scripts]


def _check_names(name: str, file: LaunchFile, names: Names) -> list[Finding]:
    findings = []
    served = {program.serves for program in file.hosts}
    for program in file.programs:
        check, host = f"{name}: {program.label}", program.serves or host_of(program)
        if host is not None and host in names.others:
            found = f"the name {host!r} belongs to {user(names.others[host])}"
            findings.append(Finding(check, Level.PROBLEM, found, "a name that is free, or our own", "take another --name, on both sides"))
        elif program.serves in names.living:
            remedy = f"stop it, or take another --name, on both sides; who it is: shmbridge ls --name {host}"
            findings.append(Finding(check, Level.PROBLEM, f"a host called {host!r} is running already", "a name that is free", remedy))
        elif host is not None and program.serves is None and host not in served | names.living:
            there = ", ".join(sorted(filter(None, served))) or "no host at all"
            remedy = f"--name of one of them, or start it before: shmbridge serve --name {host} …"
            findings.append(Finding(check, Level.PROBLEM, f"is to use the host {host!r}, which is not there", f"one that this file serves: {there}", remedy))
    return findings


def _check_places(name: str, file: LaunchFile) -> list[Finding]:
    findings = []
    for program in [host for host in file.hosts if host.words]:
        runners = [runner.label for runner in file.runners if host_of(runner) == program.serves]
        places = flag_value(with_underscores(program.words), "--max_sessions") or "1"
        if places.isdigit() and int(places) < len(runners):
            found = f"takes {counted(int(places), 'client')} at a time, but {len(runners)} are started: {', '.join(runners)}"
            findings.append(Finding(f"{name}: {program.label}", Level.PROBLEM, found, "a place for each", f"give it --max_sessions {len(runners)}"))
    return findings


def _check_needs(name: str, asked: Sequence[Asked], machine: Machine) -> list[Finding]:
    findings, needed = [], 0
    for one in asked:
        if one.description is not None:
            nbytes, check = bytes_at_most(one.description), f"{name}: {one.program.label}"
            if nbytes is None:
                findings.append(_undescribed(check, one.description))
            elif host_of(one.program) is None:
                findings.append(Finding(check, Level.OK, "runs its policy itself, and needs no shared memory"))
            else:
                needed += nbytes + _BESIDE_OBSERVATIONS
    if needed:
        findings += _check_room(f"{name}: memory", needed, machine)
    return findings


def _undescribed(check: str, answer: Answer) -> Finding:
    if answer.status is None:
        found = "it does not say in time what it needs"
        return Finding(check, Level.PROBLEM, found, "its environment built before the deadline", "allow more with --describe_timeout_s")
    found = f"it cannot say what it needs, so it will not start either: {answer.last_line}"
    return Finding(check, Level.PROBLEM, found, "the description of its tensors", "see the whole text: shmbridge run --describe …, in its environment")


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


def _check_room(check: str, needed: int, machine: Machine) -> list[Finding]:
    if machine.folder is None:
        return []  # said already
    smaller = "use fewer environments or smaller cameras"
    rooms: list[tuple[Room, str]] = [(machine.folder.room, f"{HOW_TO_GROW}{say_largest(machine.folder)}")]
    rooms += [] if machine.cgroup is None else [(machine.cgroup, f"raise the memory limit (--memory of docker and podman run), or {smaller}")]
    rooms.append((machine.memory, f"end what takes the memory, or {smaller}"))
    findings = []
    for room, remedy in rooms:
        if needed > room.free:
            found = f"{room.where} has {size(room.free)} free of {size(room.total)}"
            findings.append(Finding(check, Level.PROBLEM, found, f"{size(needed)}, if the policies take all that is offered", remedy))
    return findings or [Finding(check, Level.OK, f"its sessions need at most {size(needed)}; {SHM} has {size(machine.folder.room.free)} free")]
