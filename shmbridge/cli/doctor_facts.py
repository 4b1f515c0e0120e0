"""What ``shmbridge doctor`` looks at. Nothing is judged here; that is doctor_folder.py's and doctor_checks.py's."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import resource
import secrets
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from shmbridge.errors import SegmentError
from shmbridge.memory import naming, posix
from shmbridge.memory.capacity import Room, cgroup_cores, cgroup_room, tmpfs_room
from shmbridge.memory.leftovers import Finding, survey
from shmbridge.memory.mounts import Mount, memory_id, shm_mount
from shmbridge.memory.naming import SHM
from shmbridge.memory.waiting import Deadline
from shmbridge.transport.listener import LocalListener
from shmbridge.version import __version__

NEEDED = {"numpy": "numpy", "posix_ipc": "posix_ipc", "msgspec": "msgspec", "PyYAML": "yaml", "psutil": "psutil"}
OPTIONAL = {"rich": "rich", "torch": "torch", "imageio-ffmpeg": "imageio_ffmpeg", "gymnasium": "gymnasium"}
"""Packages, and what each is imported as."""
PROBES = ("memory without a name", "a semaphore", "a lock and a socket")
_BLOCK_BYTES = 512
_PROBE_BYTES = 4096
_PROBE_SECONDS = 1.0
_LARGEST = 3
_LARGE_BYTES = 1_000_000


class LargeFile(NamedTuple):
    """A file in /dev/shm that takes much."""

    name: str
    nbytes: int
    uid: int


@dataclass(frozen=True)
class Folder:
    """What /dev/shm is.

    Attributes:
        mount: The file system it lies in; None where the kernel does not tell.
        mode: Permission bits.
        uid: Its owner.
        may_change_mode: Whether this process may change these bits.
        is_open: Whether this process may read and write in it.
        room: Bytes free and in all.
        inodes: How many more files there may be; None where there is no limit.
        largest: The largest files in it.
        probes: What was tried there, and why it failed; empty text where it did not.
    """

    mount: Mount | None
    mode: int
    uid: int
    may_change_mode: bool
    is_open: bool
    room: Room
    inodes: int | None
    largest: Sequence[LargeFile]
    probes: Mapping[str, str]


@dataclass(frozen=True)
class Machine:
    """What a machine is, as far as it matters here.

    Attributes:
        folder: /dev/shm; None where it is no folder.
        memory_id: Which memory that is; None where it cannot be told.
        cgroup: What the memory control group leaves; None for no limit.
        memory: Of the machine.
        leftovers: What lies in /dev/shm under our names.
        libc, kernel, machine: As they call themselves.
        python: Version of this interpreter.
        implementation: ``cpython``, most likely.
        is_64_bit_little: Whether pointers have 64 bits and words their low byte first.
        packages: Versions of what must be there, or None where it is not; shmbridge itself first.
        optional: Likewise of what may be there.
        cores: Of the machine.
        allowed: How many of them this process may use.
        quota: How many cores' time its control group allows; None for no limit.
        limits: Resource limits by their names in ``ulimit``; None for no limit.
    """

    folder: Folder | None
    memory_id: str | None
    cgroup: Room | None
    memory: Room
    leftovers: Sequence[Finding]
    libc: str
    kernel: str
    machine: str
    python: tuple[int, int, int]
    implementation: str
    is_64_bit_little: bool
    packages: Mapping[str, str | None]
    optional: Mapping[str, str | None]
    cores: int
    allowed: int
    quota: float | None
    limits: Mapping[str, int | None]


def look_at_machine() -> Machine:
    """Find out everything. Makes and removes a few small files in /dev/shm; nothing else changes, nothing is sent anywhere."""
    return Machine(
        folder=_look_at_folder() if os.path.isdir(SHM) else None,
        memory_id=memory_id(),
        cgroup=cgroup_room(),
        memory=_memory(),
        leftovers=_leftovers(),
        libc=posix.libc_version(),
        kernel=platform.release(),
        machine=platform.machine(),
        python=sys.version_info[:3],
        implementation=sys.implementation.name,
        is_64_bit_little=sys.maxsize > 1 << 32 and sys.byteorder == "little",
        packages={"shmbridge": __version__, **_versions(NEEDED)},
        optional=_versions(OPTIONAL),
        cores=os.cpu_count() or 1,
        allowed=len(os.sched_getaffinity(0)),
        quota=cgroup_cores(),
        limits={name: _limit(number) for name, number in _LIMITS.items()},
    )


def _leftovers() -> list[Finding]:
    try:
        return survey()
    except SegmentError:  # it cannot be looked into; trying to use it tells more
        return []


_LIMITS = {"-n": resource.RLIMIT_NOFILE, "-f": resource.RLIMIT_FSIZE, "-v": resource.RLIMIT_AS}


def _limit(number: int) -> int | None:
    soft, _ = resource.getrlimit(number)
    return None if soft == resource.RLIM_INFINITY else soft


def _versions(packages: Mapping[str, str]) -> dict[str, str | None]:
    return {name: _version(name, module) for name, module in packages.items()}


def _version(name: str, module: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # simulators bring some along that no installer knows of
        return None if importlib.util.find_spec(module) is None else "of unknown version"
    except ImportError:  # Python's own files cannot be read by this user
        return "of unknown version"


def _memory() -> Room:
    import psutil  # takes long to import

    found = psutil.virtual_memory()
    return Room("the machine", found.available, found.total)


def _look_at_folder() -> Folder:
    found, space = os.stat(SHM), os.statvfs(SHM)
    inodes = space.f_favail if space.f_files else None
    probes = {PROBES[0]: _try(_probe_memory), PROBES[1]: _try(_probe_semaphore), PROBES[2]: _try(_probe_listener)}
    is_open, may_change_mode = os.access(SHM, os.R_OK | os.W_OK | os.X_OK), os.geteuid() in (0, found.st_uid)
    return Folder(shm_mount(), stat.S_IMODE(found.st_mode), found.st_uid, may_change_mode, is_open, tmpfs_room(), inodes, _largest(), probes)


def _largest() -> list[LargeFile]:
    found = []
    with contextlib.suppress(PermissionError):  # it cannot be looked into; trying to use it tells more
        for name in os.listdir(SHM):
            with contextlib.suppress(FileNotFoundError):  # it went while we looked
                status = os.lstat(f"{SHM}/{name}")
                found.append(LargeFile(name, status.st_blocks * _BLOCK_BYTES, status.st_uid))
    large = [file for file in found if file.nbytes >= _LARGE_BYTES]
    return sorted(large, key=lambda file: file.nbytes, reverse=True)[:_LARGEST]


def _try(probe: Callable[[], None]) -> str:
    try:
        probe()
    except Exception as error:  # each failure of the system is a finding, whatever its class
        return str(error) or type(error).__name__
    return ""


def _probe_name() -> str:
    return f"doctor-{os.getpid()}-{secrets.token_hex(4)}"


def _probe_memory() -> None:
    """Make memory as a host does for a ring, write through one mapping and read through the other."""
    writable, readable = posix.create_anonymous(_PROBE_BYTES)
    try:
        written = posix.map_file(writable, _PROBE_BYTES, writable=True)
        seen = posix.map_file(readable, _PROBE_BYTES, writable=False)
        written[:4] = b"shm!"
        if seen[:4] != b"shm!":
            raise OSError("what is written through one mapping cannot be read through another")
        posix.unmap(written)
        posix.unmap(seen)
    finally:
        os.close(writable)
        os.close(readable)


def _probe_semaphore() -> None:
    """Make one, open it by name as a client does, and pass one count from one to the other."""
    name = naming.new_semaphore_names(_probe_name())[0]
    made = posix.Semaphore.create(name, 0)
    try:
        opened = posix.Semaphore.open(name)
        made.release()
        passed = opened.acquire(Deadline(_PROBE_SECONDS))
        opened.close()
    finally:
        posix.unlink_semaphore(name)
        made.close()
    if not passed:
        raise OSError("what was posted to a semaphore did not arrive")


def _probe_listener() -> None:
    LocalListener(_probe_name()).close()
