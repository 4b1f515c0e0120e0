"""Machines as a test describes them, for those who judge machines."""

from __future__ import annotations

from typing import Any

from shmbridge.cli.doctor_facts import PROBES, Folder, Machine, Mount
from shmbridge.memory.capacity import Room

MB, GB = 1_000_000, 1_000_000_000


def make_folder(**changes: Any) -> Folder:
    """A /dev/shm as it should be, but for what is given."""
    given: dict[str, Any] = {
        "mount": Mount("/dev/shm", "tmpfs", ("rw", "nosuid", "nodev", "noexec")),
        "mode": 0o1777,
        "uid": 0,
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
