"""What a process tells of where it runs."""

from __future__ import annotations

import os
import platform

import numpy as np

import shmbridge.surroundings
from shmbridge.connecting import describe_host
from shmbridge.host import serve
from shmbridge.memory.capacity import Room
from shmbridge.memory.mounts import memory_id
from shmbridge.messages import PROTOCOL_VERSION
from shmbridge.surroundings import look_around
from shmbridge.testing import MarkingPolicy
from shmbridge.version import __version__


def test_a_process_tells_what_it_is():
    found = look_around(7)
    assert (found.memory_id, found.protocol, found.version, found.shm_group) == (memory_id(), PROTOCOL_VERSION, __version__, 7)
    assert (found.uid, found.gid, found.groups) == (os.geteuid(), os.getegid(), sorted(os.getgroups()))
    assert (found.kernel, found.python, found.numpy) == (platform.release(), platform.python_version(), np.__version__)
    assert found.mounts == os.readlink("/proc/self/ns/mnt")
    assert found.shm_total is not None and found.shm_free is not None and 0 <= found.shm_free <= found.shm_total
    assert 0 < found.cores <= len(os.sched_getaffinity(0))


def test_limits_are_told_where_there_are_some_and_what_is_not_there_is_left_out(monkeypatch):
    def refuse(*args):
        raise FileNotFoundError

    monkeypatch.setattr(shmbridge.surroundings, "cgroup_room", lambda: Room("", 5, 9))
    monkeypatch.setattr(shmbridge.surroundings, "cgroup_cores", lambda: 0.5)
    monkeypatch.setattr(shmbridge.surroundings, "tmpfs_room", refuse)
    monkeypatch.setattr(shmbridge.surroundings.os, "readlink", refuse)
    found = look_around()
    assert (found.cgroup_free, found.cgroup_total, found.cores, found.shm_free, found.shm_total, found.mounts) == (5, 9, 0.5, None, None, "")


def test_a_host_tells_it_to_whoever_asks_for_details_and_to_nobody_else(unique_name):
    with serve(MarkingPolicy, f"shm://{unique_name}"):
        assert describe_host(unique_name).surroundings is None
        there = describe_host(unique_name, details=True).surroundings
    here = look_around()
    assert there is not None
    assert (there.memory_id, there.mounts, there.uid, there.libc) == (here.memory_id, here.mounts, here.uid, here.libc)
