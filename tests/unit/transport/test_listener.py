"""A host's place in /dev/shm: taken once, left clean, and free again after a kill."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import Child, open_descriptors, ours_in_shm

from shmbridge.errors import HostExistsError, SegmentError, SpecError
from shmbridge.memory import naming
from shmbridge.memory.sharing import Sharing, our_groups
from shmbridge.transport.listener import LocalListener
from shmbridge.transport.stream import Credentials

LISTEN = """
import sys
from shmbridge.transport.listener import LocalListener
listener = LocalListener(sys.argv[1])
print("listening")
input()
"""


def knock(name: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(naming.socket_path(name))
    return sock


def test_a_listener_has_a_lock_and_a_socket_and_takes_both_away(unique_name: str) -> None:
    listener = LocalListener(unique_name)
    assert ours_in_shm(unique_name) == [f"shmbridge.{unique_name}.lock", f"shmbridge.{unique_name}.sock"]
    listener.close()
    listener.close()
    assert ours_in_shm(unique_name) == []


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_only_its_own_user_can_reach_a_listener(unique_name: str, umask: int) -> None:
    before = os.umask(umask)
    try:
        listener = LocalListener(unique_name)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(naming.socket_path(unique_name)).st_mode) & 0o077 == 0
    assert stat.S_IMODE(os.stat(naming.lock_path(unique_name)).st_mode) & 0o077 == 0
    listener.close()


def test_a_listener_says_who_knocks(unique_name: str) -> None:
    listener = LocalListener(unique_name)
    assert listener.accept() is None
    sock = knock(unique_name)
    accepted = listener.accept()
    assert accepted is not None
    stream, credentials = accepted
    assert credentials == Credentials(os.getpid(), os.geteuid(), frozenset(our_groups()))
    sock.sendall(b"hello")
    assert stream.receive() == b"hello"
    stream.close()
    sock.close()
    listener.close()


def test_a_second_listener_of_the_same_name_is_refused_and_harms_nothing(unique_name: str) -> None:
    first = LocalListener(unique_name)
    before = open_descriptors()
    with pytest.raises(HostExistsError, match=f"a host called '{unique_name}' is running already"):
        LocalListener(unique_name)
    assert open_descriptors() == before
    knock(unique_name).close()
    assert first.accept() is not None
    first.close()


def test_a_name_is_free_again_after_its_listener_was_closed(unique_name: str) -> None:
    for _ in range(3):
        LocalListener(unique_name).close()


def test_names_that_begin_alike_are_kept_apart(unique_name: str) -> None:
    longer = LocalListener(f"{unique_name}-x")
    stale = naming.semaphore_path(naming.new_semaphore_names(f"{unique_name}-x")[0])
    Path(stale).touch()
    LocalListener(unique_name).close()
    assert os.path.exists(stale)
    knock(f"{unique_name}-x").close()
    os.unlink(stale)
    longer.close()


def test_what_a_killed_host_left_is_removed_by_the_next_of_its_name(unique_name: str, start: Callable[..., Child]) -> None:
    child = start(LISTEN, unique_name)
    child.expect("listening")
    child.kill()
    for name in naming.new_semaphore_names(unique_name):
        Path(naming.semaphore_path(name)).touch()
    assert len(ours_in_shm(unique_name)) == 6
    listener = LocalListener(unique_name)
    assert ours_in_shm(unique_name) == [f"shmbridge.{unique_name}.lock", f"shmbridge.{unique_name}.sock"]
    knock(unique_name).close()
    assert listener.accept() is not None
    listener.close()
    assert ours_in_shm(unique_name) == []


def test_a_living_host_of_another_process_keeps_its_name(unique_name: str, start: Callable[..., Child]) -> None:
    child = start(LISTEN, unique_name)
    child.expect("listening")
    with pytest.raises(HostExistsError, match="--name"):
        LocalListener(unique_name)
    child.tell("")
    child.finish()
    LocalListener(unique_name).close()


def test_a_forked_child_does_not_keep_the_name_of_its_dead_parent(unique_name: str, start: Callable[..., Child]) -> None:
    forking = "import os, time\npid = os.fork()\nif not pid:\n    print('forked', os.getpid(), flush=True)\n    time.sleep(600)\ninput()"
    child = start(LISTEN.replace("input()", forking), unique_name)
    grandchild = int(child.expect("forked"))
    os.kill(child.pid, 9)
    child.process.wait()
    os.kill(grandchild, 0)  # it lives
    LocalListener(unique_name).close()


def test_a_name_that_is_none_is_refused_before_anything_is_made() -> None:
    before = open_descriptors()
    with pytest.raises(SpecError):
        LocalListener("a/b")
    assert open_descriptors() == before


def test_a_listener_that_cannot_bind_gives_its_lock_up(unique_name: str) -> None:
    os.mkdir(naming.socket_path(unique_name))
    before = open_descriptors()
    try:
        with pytest.raises(SegmentError, match="Is a directory"):
            LocalListener(unique_name)
        assert open_descriptors() == before
        assert not os.path.exists(naming.lock_path(unique_name))
    finally:
        os.rmdir(naming.socket_path(unique_name))


@pytest.mark.needs_root
def test_a_name_of_another_user_is_refused_as_theirs(unique_name: str, start: Callable[..., Child]) -> None:
    child = start(LISTEN.replace("listener =", "import os\nos.setgid(12345); os.setuid(12345)\nlistener ="), unique_name)
    try:
        child.expect("listening")
        child.kill()
        output = start(
            "import os, sys\nfrom shmbridge.transport.listener import LocalListener\nos.setgid(23456); os.setuid(23456)\n"
            "try: LocalListener(sys.argv[1])\nexcept Exception as error: print('refused', type(error).__name__, error)",
            unique_name,
        ).expect("refused")
        assert output.startswith("HostExistsError")
        assert "uid 12345" in output
    finally:
        for name in ours_in_shm(unique_name):
            os.unlink(f"{naming.SHM}/{name}")


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_a_group_reaches_the_socket_whatever_the_umask_and_never_the_lock(unique_name: str, umask: int) -> None:
    before = os.umask(umask)
    try:
        listener = LocalListener(unique_name, Sharing(os.getegid()))
    finally:
        os.umask(before)
    found = os.stat(naming.socket_path(unique_name))
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, os.getegid())
    assert stat.S_IMODE(os.stat(naming.lock_path(unique_name)).st_mode) & 0o077 == 0
    listener.close()


def test_a_listener_for_a_group_that_is_not_ours_takes_no_name(unique_name: str) -> None:
    with pytest.raises(SpecError, match="no member of that group"):
        LocalListener(unique_name, Sharing(987_654))
    assert ours_in_shm(unique_name) == []


def test_a_listener_that_cannot_be_given_to_its_group_leaves_nothing(unique_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(sharing: Sharing, path: str) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(Sharing, "apply", fail)
    with pytest.raises(SegmentError):
        LocalListener(unique_name)
    assert ours_in_shm(unique_name) == []


@pytest.mark.needs_root
def test_root_takes_no_lock_that_somebody_else_made(unique_name: str) -> None:
    path = Path(naming.lock_path(unique_name))
    path.touch(0o666)
    os.chown(path, 12_345, 12_345)
    try:
        with pytest.raises(HostExistsError, match="uid 12345"):
            LocalListener(unique_name)
    finally:
        path.unlink()
