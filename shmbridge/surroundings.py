"""Where this process runs, as far as it matters to a peer: told by a host that is asked for details, and compared by ``shmbridge doctor``."""

from __future__ import annotations

import contextlib
import os
import platform

import numpy as np

from shmbridge.memory.capacity import Room, cgroup_cores, cgroup_room, tmpfs_room
from shmbridge.memory.mounts import memory_id
from shmbridge.memory.posix import libc_version
from shmbridge.messages import PROTOCOL_VERSION, Surroundings
from shmbridge.version import __version__


def look_around(shm_group: int | None = None) -> Surroundings:
    """Return where this process runs. Reads a few small files and changes nothing.

    Args:
        shm_group: The group that this process trusts, to be told along.
    """
    shm, cgroup = _shm_room(), cgroup_room()
    return Surroundings(
        memory_id=memory_id(),
        mounts=_mount_namespace(),
        protocol=PROTOCOL_VERSION,
        version=__version__,
        libc=libc_version(),
        kernel=platform.release(),
        python=platform.python_version(),
        numpy=np.__version__,
        uid=os.geteuid(),
        gid=os.getegid(),
        groups=sorted(os.getgroups()),
        shm_group=shm_group,
        shm_free=None if shm is None else shm.free,
        shm_total=None if shm is None else shm.total,
        cgroup_free=None if cgroup is None else cgroup.free,
        cgroup_total=None if cgroup is None else cgroup.total,
        cores=_cores(),
    )


def _shm_room() -> Room | None:
    try:
        return tmpfs_room()
    except OSError:
        return None


def _mount_namespace() -> str:
    """Return what is the same for all processes of one container and, on one kernel, differs between two."""
    with contextlib.suppress(OSError):  # no /proc, or a kernel that has no namespaces
        return os.readlink("/proc/self/ns/mnt")
    return ""


def _cores() -> float:
    allowed, quota = len(os.sched_getaffinity(0)), cgroup_cores()
    return float(allowed) if quota is None else min(float(allowed), quota)
