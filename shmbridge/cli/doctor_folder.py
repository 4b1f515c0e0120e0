"""What ``shmbridge doctor`` makes of /dev/shm: each check takes facts and returns findings, and touches nothing."""

from __future__ import annotations

import stat

from shmbridge.cli.doctor_facts import Folder, Machine
from shmbridge.cli.doctor_findings import COMMAND, Finding, Level, Slug, ok, problem, warning
from shmbridge.cli.wording import printable, size, user
from shmbridge.memory.capacity import Room, how_to_grow
from shmbridge.memory.mounts import MAKE_VOLUME, VOLUME, is_engines_own
from shmbridge.memory.naming import SHM

_MiB = 1 << 20
_LITTLE_ROOM = 64 * _MiB
_LITTLE_FREE = 16 * _MiB
_NO_ROOM = 64 * 1024
"""Not even a session of a few numbers fits."""
_USUAL_BYTES = 512 * _MiB
"""What the scripts and files in docker/ give."""
_MOUNT = f"mount -t tmpfs -o size=1g,mode=1777 tmpfs {SHM}"
_IN_CONTAINERS = f"""for two containers, a volume, mounted in both with -v {VOLUME}:{SHM}:
{COMMAND}{MAKE_VOLUME}
for one alone, --shm-size=512m of docker and podman run; by hand:
{COMMAND}{_MOUNT}"""


def check_folder(machine: Machine, *, needs_are_known: bool) -> list[Finding]:
    """Return what all checks of /dev/shm came to, in order."""
    if machine.folder is None:
        return [
            problem(Slug.NO_MEMORY, SHM, "there is no such folder", "everything is shared there, and glibc looks for semaphores nowhere else", _IN_CONTAINERS)
        ]
    folder = machine.folder
    return [
        _check_mount(folder),
        _check_identity(machine.memory_id, folder),
        _check_rights(folder),
        _check_room(folder, needs_are_known),
        *_check_probes(folder),
    ]


def say_largest(folder: Folder) -> str:
    """Return a hint at the largest files, where there are large ones."""
    named = ", ".join(f"{printable(file.name, 60)} ({size(file.nbytes)}, {user(file.uid)})" for file in folder.largest)
    return f". The largest files in {SHM}: {named}" if named else ""


def _check_mount(folder: Folder) -> Finding:
    mount = folder.mount
    if mount is None:
        why = "it should be a tmpfs, which is memory; on a disk all is slow"
        return warning(Slug.UNKNOWN_MOUNT, SHM, "the kernel does not say what is mounted there", why, f"look with: findmnt -T {SHM}")
    if mount.kind != "tmpfs":
        where = "" if mount.point == SHM else f", as a part of {printable(mount.point)}"
        why = "that is no tmpfs, which is memory: on a disk everything works, but is written out, slow, and wears the disk"
        return problem(Slug.DISK, SHM, f"lies in a file system of type {printable(mount.kind)}{where}", why, _IN_CONTAINERS)
    if _is_read_only(folder):
        do = f"mount -o remount,rw {SHM}; for a container, leave 'ro' out of the volume mounted there (--read-only alone leaves {SHM} writable)"
        return problem(Slug.READ_ONLY, SHM, "is mounted read-only", "both sides write there: sockets, semaphores, tensors", do)
    inherited = "" if mount.point == SHM else f" of {printable(mount.point)}"
    return ok(SHM, f"is a tmpfs{inherited} ({printable(','.join(mount.options))})")


def _is_read_only(folder: Folder) -> bool:
    return folder.mount is not None and "ro" in folder.mount.options


def _check_identity(memory_id: str | None, folder: Folder) -> Finding:
    if memory_id is None:
        return ok("memory id", "this kernel tells none, so that only a session shows whether two sides have the same memory")
    whose = "; made by the container engine for this container or pod alone" if is_engines_own(folder.mount) else ""
    return ok("memory id", f"{memory_id}: of this {SHM}; two sides meet only where both print the same{whose}")


def _check_rights(folder: Folder) -> Finding:
    check, mode = f"rights of {SHM}", f"mode {folder.mode:04o}, owner {user(folder.uid)}"
    is_mount = folder.mount is not None and folder.mount.point == SHM
    if not folder.is_open and not _is_read_only(folder):
        why = "everyone who takes part must make files there: mode 1777"
        do = f"chmod 1777 {SHM}, as its owner; for a volume, mode=1777 among its options"
        return problem(Slug.CLOSED_MEMORY, check, f"{mode}; closed to this user", why, do)
    if folder.mode & stat.S_IWOTH and not folder.mode & stat.S_ISVTX:
        if is_mount and not folder.may_change_mode:
            return ok(check, f"{mode}; without the sticky bit, as in every pod: users of these containers can remove each other's sockets")
        return warning(Slug.NOT_STICKY, check, mode, "without the sticky bit any user may remove another's socket", f"chmod 1777 {SHM}")
    return ok(check, mode)


def _check_room(folder: Folder, needs_are_known: bool) -> Finding:
    check, room = f"size of {SHM}", folder.room
    found = f"{size(room.free)} free of {size(room.total)}"
    if folder.inodes == 0:  # not None, which is no limit
        why = "a socket, a lock and four semaphores are files"
        return problem(Slug.NO_FILES, check, f"{found}, but not one more file may be made there", why, f"mount -o remount,nr_inodes=0 {SHM}, or remove some")
    little = not needs_are_known and (room.total <= _LITTLE_ROOM or room.free < _LITTLE_FREE)
    if little or room.free < _NO_ROOM:
        why = (
            "a session takes two slots of all its cameras: 37 MB for 10 environments with two of 480×640; one that finds no room is refused. "
            "What a launch file needs: shmbridge doctor FILE.yaml"
        )
        level = Level.PROBLEM if room.free < _NO_ROOM else Level.WARNING
        return Finding(check, level, found, why, f"{how_to_grow(_enough(room))}{say_largest(folder)}", Slug.SMALL_MEMORY)
    return ok(check, found)


def _enough(room: Room) -> int:
    """Return a size for sessions that nobody knows yet."""
    return max(_USUAL_BYTES, room.used + _USUAL_BYTES // 2)


def _check_probes(folder: Folder) -> list[Finding]:
    check, works = f"use of {SHM}", [what for what, why in folder.probes.items() if not why]
    findings = [ok(check, f"can be made and used: {', '.join(works)}")] if works else []
    failed = "; ".join(f"{what} ({printable(why, 500)})" for what, why in folder.probes.items() if why)
    if failed:
        why = "a host makes all of these, and a client uses them"
        do = f"look at its rights and room: ls -ld {SHM}; df -h {SHM}; df -i {SHM}"
        findings.append(problem(Slug.UNUSABLE_MEMORY, check, f"cannot be made or used: {failed}", why, do))
    return findings
