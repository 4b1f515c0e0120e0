"""Names in /dev/shm: what may be called how, and whose files are whose."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shmbridge.errors import SpecError
from shmbridge.memory import naming


@pytest.mark.parametrize("name", ["default", "a", "gr1_joint-2", "x" * 48, "-", "0"])
def test_a_short_name_of_plain_letters_is_taken(name: str) -> None:
    assert naming.check_name(name) == name


@pytest.mark.parametrize("name", ["", "x" * 49, "Default", "a.b", "a/b", "..", "ä", "a b", "a\n"])
def test_any_other_name_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="cannot name a host"):
        naming.check_name(name)


def test_the_longest_name_still_fits_into_a_socket_address() -> None:
    assert len(naming.socket_path("x" * 48).encode()) <= 107


def test_semaphores_of_a_session_have_fresh_names_that_glibc_finds() -> None:
    first, second = naming.new_semaphore_names("a"), naming.new_semaphore_names("a")
    assert len(first) == len(naming.SEMAPHORES) == 4
    assert not set(first) & set(second)
    assert all(name.startswith("/shmbridge.a.") and "/" not in name[1:] for name in first)
    assert naming.semaphore_path("/shmbridge.a.1.x") == "/dev/shm/sem.shmbridge.a.1.x"


def test_hosts_are_listed_by_their_sockets(unique_name: str, another_name: str) -> None:
    for name in (unique_name, another_name):
        Path(naming.socket_path(name)).touch()
    Path(naming.lock_path(f"{unique_name}-locked")).touch()
    try:
        found = naming.host_names()
        assert [name for name in found if name in (unique_name, another_name)] == sorted([unique_name, another_name])
        assert f"{unique_name}-locked" not in found
    finally:
        for path in (naming.socket_path(unique_name), naming.socket_path(another_name), naming.lock_path(f"{unique_name}-locked")):
            os.unlink(path)
