"""Whether there is room: what the tmpfs and the control group still allow, asked before anything is reserved."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from shmbridge.errors import SharedMemoryFullError
from shmbridge.memory.naming import SHM

SEMAPHORE_BYTES = 4 * 4096
"""Four semaphores, a page each."""
_STEP_MIB = 64
"""Sizes that people are told are multiples of this."""
_PAGES_PER_MIB = (1 << 20) // 4096
_OR_LESS = "or use fewer environments or smaller cameras"


class Room(NamedTuple):
    """Bytes still free somewhere, out of how many."""

    where: str
    free: int
    total: int

    @property
    def used(self) -> int:
        """Bytes that are taken."""
        return self.total - self.free


def tmpfs_room(path: str = SHM) -> Room:
    """Return what is free in the file system of ``path``."""
    found = os.statvfs(path)
    return Room(path, found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)


def cgroup_room(root: str = "/sys/fs/cgroup", membership: str = "/proc/self/cgroup") -> Room | None:
    """Return what this process's memory control group still allows, or None where none limits it.

    Pages of the file cache that can be dropped count as free, as in the ``working set`` of Kubernetes: limit − (usage −
    inactive_file).
    """
    rooms = [room for group in _cgroups("memory", root, membership) if (room := _read_memory(group)) is not None]
    return min(rooms, key=lambda room: room.free, default=None)


def cgroup_cores(root: str = "/sys/fs/cgroup", membership: str = "/proc/self/cgroup") -> float | None:
    """Return how many cores' time this process's control group allows, or None where none limits it."""
    return min((cores for group in _cgroups("cpu", root, membership) if (cores := _read_cores(group)) is not None), default=None)


def check_room(needed: int, purpose: str) -> None:
    """Raise unless ``needed`` bytes of shared memory can be had.

    Args:
        needed: Bytes, without the semaphores.
        purpose: The sum in words, for the message.

    Raises:
        SharedMemoryFullError: With the bytes needed and free, and the flag that mends it. Nothing was reserved.
    """
    needed += SEMAPHORE_BYTES
    for room in filter(None, (tmpfs_room(), cgroup_room())):
        if needed > room.free:
            raise SharedMemoryFullError(_too_little(needed, purpose, room), needed=needed, free=room.free)


def how_to_grow(total: int) -> str:
    """Return what makes /dev/shm large enough for ``total`` bytes, those included that are taken already."""
    size = _round_up(total)
    pages = size * _PAGES_PER_MIB
    return (
        f"give it at least {size} MiB: --shm-size={size}m for docker and podman run, shm_size: {size}m in a compose file; a shared volume made anew with "
        f"nr_blocks={pages} (--shm NAME:{size} of docker/run_policy_host.sh, SHM_PAGES={pages} of docker/compose.yaml); sizeLimit: {size}Mi in a pod; "
        f"{_OR_LESS}"
    )


def how_to_raise_limit(total: int) -> str:
    """Return what makes a memory limit large enough for ``total`` bytes, those included that are taken already."""
    size = _round_up(total)
    return (
        f"raise the memory limit to at least {size} MiB (--memory={size}m for docker and podman run, mem_limit: {size}m in a compose file, "
        f"resources.limits.memory: {size}Mi in a pod), {_OR_LESS}"
    )


def _round_up(size: int) -> int:
    return -(-size // (_STEP_MIB << 20)) * _STEP_MIB


def megabytes(size: int) -> str:
    """Return a size as people read it: ``18.4 MB``, or kB below one."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def _too_little(needed: int, purpose: str, room: Room) -> str:
    remedy = (how_to_grow if room.where == SHM else how_to_raise_limit)(room.used + needed)
    has = f"{room.where} has {megabytes(room.free)} free of {megabytes(room.total)}"
    return f"this session needs {megabytes(needed)} of shared memory ({purpose}), but {has}; {remedy}"


_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


class _Group(NamedTuple):
    """A control group's folder, and whether it is one of version 2, which names its files differently."""

    folder: Path
    is_v2: bool


def _cgroups(controller: str, root: str, membership: str) -> list[_Group]:
    # Inside a container's own namespace the group is the mount's root; outside it lies at the path told. Ancestors limit too.
    groups: list[_Group] = []
    for line in _read(Path(membership)).splitlines():
        _, controllers, path = line.split(":", 2)
        is_v2 = not controllers
        base = Path(root) if is_v2 else Path(root, controller)
        if is_v2 or controller in controllers.split(","):
            groups += [_Group(folder, is_v2) for folder in (base, *(Path(f"{base}{step}") for step in _ancestors(path)))]
    return groups


def _ancestors(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return ["/" + "/".join(parts[: i + 1]) for i in range(len(parts))]


def _read_memory(group: _Group) -> Room | None:
    folder, names = group.folder, _V2 if group.is_v2 else _V1
    limit, usage = _read(folder / names[0]).strip(), _read(folder / names[1]).strip()
    if not limit.isdigit() or not usage.isdigit() or int(limit) > 1 << 60:
        return None
    statistics = dict(line.split(" ", 1) for line in _read(folder / "memory.stat").splitlines() if " " in line)
    used = int(usage) - int(statistics.get(names[2], "0"))
    return Room("the memory control group", max(0, int(limit) - used), int(limit))


def _read_cores(group: _Group) -> float | None:
    files = ["cpu.max"] if group.is_v2 else ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
    words = [word for name in files for word in _read(group.folder / name).split()]
    if len(words) != 2 or not all(word.isdigit() for word in words) or int(words[1]) == 0:
        return None  # "max" or -1: no limit
    return int(words[0]) / int(words[1])


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
