"""What ``shmbridge doctor`` makes of a machine: each check takes facts and returns findings, and touches nothing."""

from __future__ import annotations

import enum
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shmbridge.cli.doctor_facts import Folder, Machine
from shmbridge.cli.wording import files, printable, size, user
from shmbridge.memory.leftovers import Fate
from shmbridge.memory.naming import SHM
from shmbridge.memory.posix import HOW_TO_GROW

_MiB = 1 << 20
_LITTLE_ROOM = 64 * _MiB
_LITTLE_FREE = 16 * _MiB
_NO_ROOM = 64 * 1024
"""Not even a session of a few numbers fits."""
_FEW_FILES = 256
_MOUNT = f"mount -t tmpfs -o size=1g,mode=1777 tmpfs {SHM}"
_IN_CONTAINERS = f"docker and podman make one with --shm-size=512m; a volume for two containers needs type=tmpfs; by hand: {_MOUNT}"


class Level(str, enum.Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """Works, but not as it should."""
    PROBLEM = "problem"
    """Does not work."""


@dataclass(frozen=True)
class Finding:
    """What one check came to.

    Attributes:
        check: What was looked at.
        level: How bad it is.
        found: What was found.
        expected: What was expected; empty where that was found.
        remedy: What to type or change; empty where nothing.
    """

    check: str
    level: Level
    found: str
    expected: str = ""
    remedy: str = ""


def check_machine(machine: Machine, *, needs_are_known: bool = False) -> list[Finding]:
    """Return what all checks came to, in order.

    Args:
        machine: What was found.
        needs_are_known: Whether it is checked elsewhere that there is room for what is to run; then no guess is made at it here.
    """
    groups = [_check_folder(machine, needs_are_known), *(check(machine) for check in _CHECKS)]
    return [finding for group in groups for finding in group]


def _ok(check: str, found: str) -> list[Finding]:
    return [Finding(check, Level.OK, found)]


def _warning(check: str, found: str, expected: str, remedy: str) -> list[Finding]:
    return [Finding(check, Level.WARNING, found, expected, remedy)]


def _problem(check: str, found: str, expected: str, remedy: str) -> list[Finding]:
    return [Finding(check, Level.PROBLEM, found, expected, remedy)]


def _check_folder(machine: Machine, needs_are_known: bool) -> list[Finding]:
    if machine.folder is None:
        return _problem(SHM, "there is no such folder", "a tmpfs, where glibc looks for semaphores", _IN_CONTAINERS)
    folder = machine.folder
    return [*_check_mount(folder), *_check_rights(folder), *_check_room(folder, needs_are_known), *_check_probes(folder)]


def _check_mount(folder: Folder) -> list[Finding]:
    mount = folder.mount
    if mount is None:
        return _warning(SHM, "the kernel does not say what is mounted there", "a tmpfs", f"look with: findmnt -T {SHM}")
    if mount.kind != "tmpfs":
        where = "" if mount.point == SHM else f", as a part of {printable(mount.point)}"
        expected = "a tmpfs, which is memory: on a disk everything works, but is written out, slow, and wears the disk"
        return _problem(SHM, f"lies in a file system of type {printable(mount.kind)}{where}", expected, _IN_CONTAINERS)
    if _is_read_only(folder):
        return _problem(
            SHM, "is mounted read-only", "a writable tmpfs", f"mount -o remount,rw {SHM}; in a container, give it a tmpfs there that is not read-only"
        )
    inherited = "" if mount.point == SHM else f" of {printable(mount.point)}"
    return _ok(SHM, f"is a tmpfs{inherited} ({printable(','.join(mount.options))})")


def _is_read_only(folder: Folder) -> bool:
    return folder.mount is not None and "ro" in folder.mount.options


def _check_rights(folder: Folder) -> list[Finding]:
    check, mode = f"rights of {SHM}", f"mode {folder.mode:04o}, owner {user(folder.uid)}"
    if not folder.is_open and not _is_read_only(folder):
        return _problem(check, f"{mode}; closed to this user", "1777: a folder in which everyone may make files", f"chmod 1777 {SHM}, as its owner")
    if folder.mode & stat.S_IWOTH and not folder.mode & stat.S_ISVTX:
        return _warning(check, mode, "1777: without the sticky bit any user may remove another's socket", f"chmod 1777 {SHM}")
    return _ok(check, mode)


def _check_room(folder: Folder, needs_are_known: bool) -> list[Finding]:
    check, room = f"size of {SHM}", folder.room
    found = f"{size(room.free)} free of {size(room.total)}"
    if folder.inodes == 0:  # not None, which is no limit
        return _problem(check, f"{found}, but not one more file may be made there", "some free inodes", f"mount -o remount,nr_inodes=0 {SHM}")
    little = not needs_are_known and (room.total <= _LITTLE_ROOM or room.free < _LITTLE_FREE)
    if little or room.free < _NO_ROOM:
        expected = "two slots of all cameras: 37 MB for 10 environments with two of 480×640. What a launch file needs: shmbridge doctor FILE.yaml"
        return [Finding(check, Level.PROBLEM if room.free < _NO_ROOM else Level.WARNING, found, expected, f"{HOW_TO_GROW}{say_largest(folder)}")]
    return _ok(check, found)


def say_largest(folder: Folder) -> str:
    """Return a hint at the largest files, where there are large ones."""
    named = ", ".join(f"{printable(file.name, 60)} ({size(file.nbytes)}, {user(file.uid)})" for file in folder.largest)
    return f". The largest files in {SHM}: {named}" if named else ""


def _check_probes(folder: Folder) -> list[Finding]:
    check, works = f"use of {SHM}", [what for what, why in folder.probes.items() if not why]
    findings = _ok(check, f"can be made and used: {', '.join(works)}") if works else []
    failed = "; ".join(f"{what} ({printable(why, 500)})" for what, why in folder.probes.items() if why)
    if failed:
        findings += _problem(
            check, f"cannot be made or used: {failed}", "that it works", f"look at its rights and room: ls -ld {SHM}; df -h {SHM}; df -i {SHM}"
        )
    return findings


def _check_cgroup(machine: Machine) -> list[Finding]:
    check, room = "memory control group", machine.cgroup
    if room is None:
        return _ok(check, "sets no limit")
    found = f"{size(room.free)} free of {size(room.total)}"
    if room.free < _LITTLE_FREE:
        return _warning(
            check, found, "room for the tensors of all sessions; beyond the limit the kernel kills processes", "raise --memory of docker or podman run"
        )
    return _ok(check, found)


def _check_memory(machine: Machine) -> list[Finding]:
    room = machine.memory
    found = f"{size(room.free)} available of {size(room.total)}"
    if room.free < _LITTLE_FREE:
        return _warning("memory", found, "room for the tensors of all sessions", "end what takes it; see: ps aux --sort=-rss | head")
    return _ok("memory", found)


def _check_leftovers(machine: Machine) -> list[Finding]:
    left = [finding.entry for finding in machine.leftovers if finding.fate is Fate.LEFT_BEHIND]
    if not left:
        return _ok("leftovers", "none of this user's")
    found = f"{files(len(left))}, {size(sum(entry.nbytes for entry in left))}, left by hosts that are gone: {', '.join(sorted({entry.host for entry in left}))}"
    return _warning("leftovers", found, "none", "shmbridge gc")


def _check_libc(machine: Machine) -> list[Finding]:
    name, _, version = machine.libc.partition(" ")
    if name != "glibc":
        return _problem(
            "C library", machine.libc, "glibc: others lay out semaphores differently", "use an image that is based on glibc, such as Debian, not Alpine"
        )
    if _numbers(version) < (2, 30):
        return _warning("C library", machine.libc, "2.30 or newer: before, waits follow the wall clock", "use a newer image")
    return _ok("C library", machine.libc)


def _check_kernel(machine: Machine) -> list[Finding]:
    found = f"Linux {machine.kernel}, {machine.machine}"
    if not machine.is_64_bit_little:
        return _problem("kernel", found, "64 bits, little-endian", "use another machine")
    if _numbers(machine.kernel) < (5, 14):
        expected = "5.14 or newer: before, memory cannot be touched beforehand, so that the first use of each slot is slow"
        return _warning("kernel", found, expected, "use a newer kernel, if the first steps matter")
    return _ok("kernel", found)


def _check_python(machine: Machine) -> list[Finding]:
    found = f"{machine.implementation} {'.'.join(map(str, machine.python))}"
    if machine.implementation != "cpython" or not (3, 10) <= machine.python[:2] <= (3, 13):
        return _warning("Python", found, "CPython 3.10 to 3.13: no other is tested", "make the environment with one of them")
    return _ok("Python", found)


def _check_packages(machine: Machine) -> list[Finding]:
    missing = [name for name, version in machine.packages.items() if version is None]
    if missing:
        return _problem("packages", f"not installed: {', '.join(missing)}", "all that shmbridge needs", f"pip install {' '.join(missing)}")
    optional = {name: version for name, version in machine.optional.items() if version is not None}
    absent = [name for name, version in machine.optional.items() if version is None]
    more = f"; optional: {_versions(optional) or 'none'}" + (f" (not here: {', '.join(absent)})" if absent else "")
    return _ok("packages", f"{_versions(machine.packages)}{more}")


def _versions(packages: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def _check_cores(machine: Machine) -> list[Finding]:
    limits = [f"{machine.allowed} allowed"] if machine.allowed != machine.cores else []
    limits += [f"time for {machine.quota:g}"] if machine.quota is not None else []
    found = f"{machine.cores}" + (f" ({', '.join(limits)})" if limits else "")
    usable = min(machine.allowed, machine.quota if machine.quota is not None else machine.allowed)
    if usable < 2:
        expected = "2 or more: on one, simulator and policy take turns, and each exchange costs a switch"
        return _warning("cores", found, expected, "give the container more (--cpus, --cpuset-cpus), or leave taskset out")
    return _ok("cores", found)


def _check_limits(machine: Machine) -> list[Finding]:
    findings: list[Finding] = []
    open_files = machine.limits["-n"]
    if open_files is not None and open_files < _FEW_FILES:
        findings += _warning("limits", f"{open_files} open files", f"{_FEW_FILES} or more: each client takes some", "ulimit -n 1024")
    for flag, what in (("-f", "the size of a file"), ("-v", "the address space")):
        limit = machine.limits[flag]
        if limit is not None:
            findings += _warning("limits", f"{what} is limited to {size(limit)}", "no limit: rings are files that are mapped", f"ulimit {flag} unlimited")
    return findings or _ok("limits", "no limit on open files" if open_files is None else f"{open_files:,} open files")


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
