"""Machines as a test describes them, for those who judge machines."""

from __future__ import annotations

from typing import Any

from shmbridge.cli.doctor_facts import PROBES, Folder, Machine
from shmbridge.memory.capacity import Room
from shmbridge.memory.mounts import Mount
from shmbridge.messages import Surroundings

MB, GB = 1_000_000, 1_000_000_000


def make_folder(**changes: Any) -> Folder:
    """A /dev/shm as it should be, but for what is given."""
    given: dict[str, Any] = {
        "mount": Mount("/dev/shm", "tmpfs", ("rw", "nosuid", "nodev", "noexec"), "tmpfs"),
        "mode": 0o1777,
        "uid": 0,
        "may_change_mode": True,
        "is_open": True,
        "room": Room("/dev/shm", 8 * GB, 9 * GB),
        "inodes": 1000,
        "largest": [],
        "probes": dict.fromkeys(PROBES, ""),
    }
    return Folder(**given | changes)


def make_machine(folder: Folder | None = None, **changes: Any) -> Machine:
    """A machine as it should be, but for what is given."""
    given: dict[str, Any] = {
        "folder": folder or make_folder(),
        "memory_id": "0123-4567",
        "cgroup": None,
        "memory": Room("the machine", 8 * GB, 16 * GB),
        "leftovers": [],
        "libc": "glibc 2.36",
        "kernel": "6.1.0-13-amd64",
        "machine": "x86_64",
        "python": (3, 11, 7),
        "implementation": "cpython",
        "is_64_bit_little": True,
        "packages": {"shmbridge": "1.2", "numpy": "2.0", "posix_ipc": "1.3"},
        "optional": {"rich": "13", "torch": None},
        "cores": 8,
        "allowed": 8,
        "quota": None,
        "limits": {"-n": 1024, "-f": None, "-v": None},
    }
    return Machine(**given | changes)


def make_surroundings(**changes: Any) -> Surroundings:
    """What one side tells of where it runs, but for what is given."""
    given: dict[str, Any] = {
        "memory_id": "0123-4567",
        "mounts": "mnt:[4026531841]",
        "protocol": 2,
        "version": "1.2",
        "libc": "glibc 2.36",
        "kernel": "6.1.0-13-amd64",
        "python": "3.11.7",
        "numpy": "2.0",
        "uid": 987_600,  # nobody's name
        "gid": 987_600,
        "groups": [987_600],
        "shm_group": None,
        "shm_free": 8 * GB,
        "shm_total": 9 * GB,
        "cgroup_free": None,
        "cgroup_total": None,
        "cores": 8.0,
    }
    return Surroundings(**given | changes)
