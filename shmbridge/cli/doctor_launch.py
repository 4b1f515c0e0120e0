"""What ``shmbridge doctor`` makes of a launch file: whether all it names is there, fits together, and finds room."""

from __future__ import annotations

from collections.abc import Sequence

from shmbridge.cli.doctor_asking import Answer, Asked, Names, bytes_at_most, host_of
from shmbridge.cli.doctor_facts import Machine
from shmbridge.cli.doctor_findings import Finding, Slug, ok, problem
from shmbridge.cli.doctor_folder import say_largest
from shmbridge.cli.flags import with_underscores
from shmbridge.cli.launch_file import LaunchFile, flag_value
from shmbridge.cli.wording import counted, size, user
from shmbridge.memory.capacity import SEMAPHORE_BYTES, Room, how_to_grow, how_to_raise_limit
from shmbridge.memory.naming import SHM

_BESIDE_OBSERVATIONS = 256 * 1024 + SEMAPHORE_BYTES
"""What a session takes for actions, texts of failures and semaphores; only very long chunks take more."""


def check_launch(file: LaunchFile, asked: Sequence[Asked], names: Names, machine: Machine) -> list[Finding]:
    """Return what all checks of a launch file came to."""
    name = file.path.name
    return [
        *_check_interpreters(name, asked),
        *_check_versions(name, asked),
        *_check_policies(name, asked),
        *_check_scripts(name, asked),
        *_check_names(name, file, names),
        *_check_places(name, file),
        *_check_needs(name, asked, machine),
    ]


def _check_interpreters(name: str, asked: Sequence[Asked]) -> list[Finding]:
    why, do = "each program runs in the environment that the file names for it", "mend 'python' in the file, or make that environment"
    return [problem(Slug.INTERPRETER, f"{name}: {one.program.label}", one.interpreter_problem, why, do) for one in asked if one.interpreter_problem]


def _check_versions(name: str, asked: Sequence[Asked]) -> list[Finding]:
    findings, versions = [], {}
    for one in asked:
        if one.version is not None and one.version.status == 0:
            versions[one.program.label] = one.version.last_line
        elif one.version is not None:
            reason = "takes too long to start" if one.version.status is None else one.version.last_line
            found, do = f"shmbridge cannot be used there: {reason}", f"{one.program.python} -m pip install shmbridge"
            findings.append(problem(Slug.MISSING_PACKAGES, f"{name}: {one.program.label}", found, "the program needs it in its own environment", do))
    if len(set(versions.values())) > 1:
        found = ", ".join(f"{label}: {version}" for label, version in versions.items())
        why, do = "only the same version is sure to understand the other side", "install the same in all environments"
        return [*findings, problem(Slug.DIFFERENT_VERSIONS, f"{name}: versions", found, why, do)]
    return [*findings, *(ok(f"{name}: versions", f"{version} everywhere") for version in set(versions.values()))]


def _check_policies(name: str, asked: Sequence[Asked]) -> list[Finding]:
    do = "see the whole text: shmbridge serve … --check, in its environment; what policies there are: shmbridge policies"
    findings = []
    for one in asked:
        if one.policy is not None and one.policy.status != 0:
            reason = "it is not imported in time" if one.policy.status is None else one.policy.last_line
            findings.append(
                problem(Slug.POLICY, f"{name}: {one.program.label}", f"it cannot serve: {reason}", "the host would end as soon as it is started", do)
            )
    return findings


def _check_scripts(name: str, asked: Sequence[Asked]) -> list[Finding]:
    scripts = [one.program.label for one in asked if not one.program.words and not one.interpreter_problem]
    return [ok(f"{name}: {label}", "is a script: what it needs is not known") for label in scripts]


def _check_names(name: str, file: LaunchFile, names: Names) -> list[Finding]:
    findings = []
    served = {program.serves for program in file.hosts}
    for program in file.programs:
        check, host = f"{name}: {program.label}", program.serves or host_of(program)
        if host is not None and host in names.others:
            found, why = f"the name {host!r} belongs to {user(names.others[host])}", "a host is one user's"
            findings.append(problem(Slug.NAME_TAKEN, check, found, why, "take another --name, on both sides"))
        elif program.serves in names.living:
            do = f"stop it, or take another --name, on both sides; who it is: shmbridge ls --name {host}"
            findings.append(problem(Slug.NAME_TAKEN, check, f"a host called {host!r} is running already", "no two hosts can have one name", do))
        elif host is not None and program.serves is None and host not in served | names.living:
            there = ", ".join(sorted(filter(None, served))) or "no host at all"
            do = f"--name of one that this file serves ({there}), or start it before: shmbridge serve --name {host} …"
            findings.append(problem(Slug.NO_HOST, check, f"is to use the host {host!r}, which is not there", "it would wait for it in vain", do))
    return findings


def _check_places(name: str, file: LaunchFile) -> list[Finding]:
    findings = []
    for program in [host for host in file.hosts if host.words]:
        runners = [runner.label for runner in file.runners if host_of(runner) == program.serves]
        places = flag_value(with_underscores(program.words), "--max_sessions") or "1"
        if places.isdigit() and int(places) < len(runners):
            found = f"takes {counted(int(places), 'client')} at a time, but {len(runners)} are started: {', '.join(runners)}"
            do = f"give it --max_sessions {len(runners)}"
            findings.append(problem(Slug.NO_PLACE, f"{name}: {program.label}", found, "a client for whom there is no place is refused", do))
    return findings


def _check_needs(name: str, asked: Sequence[Asked], machine: Machine) -> list[Finding]:
    findings, needed = [], 0
    for one in asked:
        if one.description is not None:
            nbytes, check = bytes_at_most(one.description), f"{name}: {one.program.label}"
            if nbytes is None:
                findings.append(_undescribed(check, one.description))
            elif host_of(one.program) is None:
                findings.append(ok(check, "runs its policy itself, and needs no shared memory"))
            else:
                needed += nbytes + _BESIDE_OBSERVATIONS
    if needed:
        findings += _check_room(f"{name}: memory", needed, machine)
    return findings


def _undescribed(check: str, answer: Answer) -> Finding:
    if answer.status is None:
        found, why = "it does not say in time what it needs", "so it is not known whether there is room for it"
        return problem(Slug.UNDESCRIBED, check, found, why, "allow more with --describe_timeout_s")
    found, why = f"it cannot say what it needs: {answer.last_line}", "so it will not start either"
    return problem(Slug.UNDESCRIBED, check, found, why, "see the whole text: shmbridge run --describe …, in its environment")


def _check_room(check: str, needed: int, machine: Machine) -> list[Finding]:
    if machine.folder is None:
        return []  # said already
    folder, cgroup = machine.folder, machine.cgroup
    rooms: list[tuple[Slug, Room, str]] = [(Slug.SMALL_MEMORY, folder.room, f"{how_to_grow(folder.room.used + needed)}{say_largest(folder)}")]
    rooms += [] if cgroup is None else [(Slug.MEMORY_LIMIT, cgroup, how_to_raise_limit(cgroup.used + needed))]
    rooms.append((Slug.LITTLE_MEMORY, machine.memory, "end what takes the memory, or use fewer environments or smaller cameras"))
    why = f"the sessions need {size(needed)} if the policies take all that is offered; more, where a policy looks back over several observations"
    findings = [
        problem(slug, check, f"{room.where} has {size(room.free)} free of {size(room.total)}", why, do) for slug, room, do in rooms if needed > room.free
    ]
    back = "a policy that looks back over several observations takes that many times as much"
    return findings or [ok(check, f"its sessions need at most {size(needed)}; {SHM} has {size(folder.room.free)} free ({back})")]
