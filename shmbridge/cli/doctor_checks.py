"""What ``shmbridge doctor`` makes of a machine beside its /dev/shm: each check takes facts and returns findings, and touches nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from shmbridge.cli.doctor_facts import Machine
from shmbridge.cli.doctor_findings import Finding, Slug, ok, problem, warning
from shmbridge.cli.doctor_folder import check_folder
from shmbridge.cli.wording import files, printable, size, user
from shmbridge.memory.leftovers import Entry, Fate
from shmbridge.memory.naming import SHM

_LITTLE_FREE = 16 * (1 << 20)
_FEW_FILES = 256


def check_machine(machine: Machine, *, needs_are_known: bool = False) -> list[Finding]:
    """Return what all checks came to, in order.

    Args:
        machine: What was found.
        needs_are_known: Whether it is checked elsewhere that there is room for what is to run; then no guess is made at it here.
    """
    return [*check_folder(machine, needs_are_known=needs_are_known), *(finding for check in _CHECKS for finding in check(machine))]


def _check_cgroup(machine: Machine) -> list[Finding]:
    check, room = "memory control group", machine.cgroup
    if room is None:
        return [ok(check, "sets no limit")]
    found = f"{size(room.free)} free of {size(room.total)}"
    if room.free < _LITTLE_FREE:
        why = "tensors count there, of all sessions that a host in this group serves; a session that finds no room is refused"
        return [
            warning(Slug.MEMORY_LIMIT, check, found, why, "raise --memory of docker and podman run (mem_limit in a compose file, resources.limits in a pod)")
        ]
    return [ok(check, found)]


def _check_memory(machine: Machine) -> list[Finding]:
    room = machine.memory
    found = f"{size(room.free)} available of {size(room.total)}"
    if room.free < _LITTLE_FREE:
        return [
            warning(
                Slug.LITTLE_MEMORY, "memory", found, "a tmpfs is memory: the tensors of all sessions lie in it", "end what takes it: ps aux --sort=-rss | head"
            )
        ]
    return [ok("memory", found)]


def _check_leftovers(machine: Machine) -> list[Finding]:
    left = [finding.entry for finding in machine.leftovers if finding.fate is Fate.LEFT_BEHIND]
    others = [finding.entry for finding in machine.leftovers if finding.fate is Fate.OF_ANOTHER_USER]
    failed = [finding for finding in machine.leftovers if finding.fate is Fate.FAILED]
    findings = [_others([entry for entry in others if entry.uid == uid]) for uid in sorted({entry.uid for entry in others})]
    if left:
        found = f"{_sum(left)}, left by hosts of user {user(left[0].uid)} that are gone: {_hosts(left)}"
        why = "they take files and pages, and look like hosts; a new host of the same name removes its own"
        findings.append(warning(Slug.LEFTOVERS, "leftovers", found, why, "shmbridge gc"))
    if failed:
        found = "; ".join(printable(one.why, 500) for one in failed)
        findings.append(warning(Slug.LEFTOVERS, "leftovers", found, "it cannot be told whether a host still uses them", f"look at their rights: ls -l {SHM}"))
    return findings or [ok("leftovers", "none")]


def _others(entries: Sequence[Entry]) -> Finding:
    """Name what belongs to another user. Whether it is in use, only they can ask."""
    who = f"user {user(entries[0].uid)}"
    return ok(
        "others' files", f"of {who}, who alone can tell whether they are in use: {_hosts(entries)} ({_sum(entries)})", f"as {who}: shmbridge gc --dry_run"
    )


def _hosts(entries: Sequence[Entry]) -> str:
    return ", ".join(sorted({entry.host for entry in entries}))


def _sum(entries: Sequence[Entry]) -> str:
    return f"{files(len(entries))}, {size(sum(entry.nbytes for entry in entries))}"


def _check_libc(machine: Machine) -> list[Finding]:
    name, _, version = machine.libc.partition(" ")
    if name != "glibc":
        why, do = "semaphores are shared, and others than glibc lay them out differently", "use an image that is based on glibc, such as Debian, not Alpine"
        return [problem(Slug.OTHER_LIBC, "C library", machine.libc, why, do)]
    if _numbers(version) < (2, 30):
        return [warning(Slug.OLD_LIBC, "C library", machine.libc, "before 2.30, waits follow the wall clock, which may be set", "use a newer image")]
    return [ok("C library", machine.libc)]


def _check_kernel(machine: Machine) -> list[Finding]:
    found = f"Linux {machine.kernel}, {machine.machine}"
    if not machine.is_64_bit_little:
        return [problem(Slug.OTHER_MACHINE, "kernel", found, "slots and semaphores are those of 64 bits, little-endian", "use another machine")]
    if _numbers(machine.kernel) < (5, 14):
        why = "before 5.14 memory cannot be touched beforehand, so that the first use of each slot is slow"
        return [warning(Slug.OLD_KERNEL, "kernel", found, why, "use a newer kernel, if the first steps matter")]
    return [ok("kernel", found)]


def _check_python(machine: Machine) -> list[Finding]:
    found = f"{machine.implementation} {'.'.join(map(str, machine.python))}"
    if machine.implementation != "cpython" or not (3, 10) <= machine.python[:2] <= (3, 13):
        return [warning(Slug.UNTESTED_PYTHON, "Python", found, "only CPython 3.10 to 3.13 are tested", "make the environment with one of them")]
    return [ok("Python", found)]


def _check_packages(machine: Machine) -> list[Finding]:
    missing = [name for name, version in machine.packages.items() if version is None]
    if missing:
        found = f"not installed: {', '.join(missing)}"
        return [problem(Slug.MISSING_PACKAGES, "packages", found, "shmbridge needs all of them", f"pip install {' '.join(missing)}")]
    optional = {name: version for name, version in machine.optional.items() if version is not None}
    absent = [name for name, version in machine.optional.items() if version is None]
    more = f"; optional: {_versions(optional) or 'none'}" + (f" (not here: {', '.join(absent)})" if absent else "")
    return [ok("packages", f"{_versions(machine.packages)}{more}")]


def _versions(packages: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def _check_cores(machine: Machine) -> list[Finding]:
    limits = [f"{machine.allowed} allowed"] if machine.allowed != machine.cores else []
    limits += [f"time for {machine.quota:g}"] if machine.quota is not None else []
    found = f"{machine.cores}" + (f" ({', '.join(limits)})" if limits else "")
    usable = min(machine.allowed, machine.quota if machine.quota is not None else machine.allowed)
    if usable < 2:
        why = "on one core, simulator and policy take turns, and each exchange costs a switch"
        return [warning(Slug.ONE_CORE, "cores", found, why, "give the container more (--cpus, --cpuset-cpus), or leave taskset out")]
    return [ok("cores", found)]


def _check_limits(machine: Machine) -> list[Finding]:
    findings: list[Finding] = []
    open_files = machine.limits["-n"]
    if open_files is not None and open_files < _FEW_FILES:
        why = f"each client takes some: {_FEW_FILES} are plenty"
        findings.append(warning(Slug.LIMITS, "limits", f"{open_files} open files", why, "ulimit -n 1024 (--ulimit nofile=1024 of docker and podman run)"))
    for flag, what in (("-f", "the size of a file"), ("-v", "the address space")):
        limit = machine.limits[flag]
        if limit is not None:
            why = "rings are files that are mapped"
            findings.append(warning(Slug.LIMITS, "limits", f"{what} is limited to {size(limit)}", why, f"ulimit {flag} unlimited"))
    return findings or [ok("limits", "no limit on open files" if open_files is None else f"{open_files:,} open files")]


def _numbers(version: str) -> tuple[int, ...]:
    """Return a version's first two numbers; what is no number is 0."""
    return tuple(int(part) if part.isdigit() else 0 for part in version.replace("-", ".").split(".")[:2])


_CHECKS: tuple[Callable[[Machine], list[Finding]], ...] = (
    _check_cgroup,
    _check_memory,
    _check_leftovers,
    _check_libc,
    _check_kernel,
    _check_python,
    _check_packages,
    _check_cores,
    _check_limits,
)
