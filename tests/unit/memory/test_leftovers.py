"""What lies in /dev/shm under our names: whose it is, whether anyone living holds it, and what goes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import Child, open_descriptors, ours_in_shm

from shmbridge.memory import leftovers, naming, posix
from shmbridge.memory.leftovers import Entry, Fate, Finding, collect, entries, give_up_lock, remove_leftovers, survey

SOMEBODY_ELSE = 12345


@pytest.fixture(autouse=True)
def only_what_this_run_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be seen, and so collected, that another run of tests on this machine has just made."""
    listdir = os.listdir

    def list_ours(folder: str) -> list[str]:
        return [name for name in listdir(folder) if f"test-{os.getpid()}-" in name]

    monkeypatch.setattr(leftovers, "os", SimpleNamespace(**{**vars(os), "listdir": list_ours}))


@pytest.fixture
def dead(unique_name: str) -> Iterator[str]:
    """What a host leaves that was killed while two clients attached."""
    yield make_leftovers(unique_name)
    remove_all(unique_name)


def make_leftovers(name: str) -> str:
    semaphores = [naming.semaphore_path(semaphore) for _ in range(2) for semaphore in naming.new_semaphore_names(name)]
    for path in [naming.lock_path(name), naming.socket_path(name), *semaphores]:
        Path(path).touch(mode=0o600)
    return name


def remove_all(name: str) -> None:
    for left in ours_in_shm(name):
        path = Path(naming.SHM, left)
        path.rmdir() if path.is_dir() else path.unlink()


def of(name: str, findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if f"shmbridge.{name}." in finding.entry.path]


def fates(name: str, findings: list[Finding]) -> set[Fate]:
    return {finding.fate for finding in of(name, findings)}


def hold(name: str) -> int:
    descriptor = posix.lock_file(naming.lock_path(name))
    assert descriptor is not None
    return descriptor


def test_files_are_told_apart_by_their_names(dead: str) -> None:
    found = [entry for entry in entries() if entry.host == dead]
    assert sorted(entry.kind for entry in found) == ["lock", *["semaphore"] * 8, "socket"]
    assert {entry.uid for entry in found} == {os.geteuid()}
    assert all(entry.seconds >= 0 for entry in found)


def test_the_size_of_a_file_is_what_it_takes(dead: str) -> None:
    Path(naming.socket_path(dead)).write_bytes(b"x" * 5000)
    sizes = {entry.kind: entry.nbytes for entry in entries() if entry.host == dead}
    assert sizes == {"lock": 0, "semaphore": 0, "socket": 8192}


@pytest.mark.parametrize("name", ["shmbridge.{}.txt", "sem.shmbridge.{}.0.a.b", "shmbridge.{}.x.lock", "shmbridge.{}.lock~", "sem.shmbridge.{}"])
def test_a_file_that_only_begins_like_ours_is_told_of_and_left(unique_name: str, name: str) -> None:
    path = Path(naming.SHM, name.format(unique_name))
    path.touch()
    try:
        for look in (survey, collect):
            found = [finding for finding in look() if finding.entry.path == str(path)]
            assert [(finding.entry.kind, finding.entry.host, finding.fate) for finding in found] == [("unknown", "", Fate.UNKNOWN)]
        assert path.exists()
    finally:
        path.unlink()


def test_a_file_that_vanishes_while_it_is_looked_at_is_passed_over(monkeypatch: pytest.MonkeyPatch, unique_name: str) -> None:
    monkeypatch.setattr(leftovers.os, "listdir", lambda folder: [f"shmbridge.{unique_name}.sock"])
    assert entries() == []


def test_what_nobody_holds_is_seen_and_left_by_a_look(dead: str) -> None:
    before = ours_in_shm(dead)
    assert fates(dead, survey()) == {Fate.LEFT_BEHIND}
    assert ours_in_shm(dead) == before
    os.close(hold(dead))  # and the look did not keep the lock


def test_what_nobody_holds_is_collected(dead: str) -> None:
    findings = of(dead, collect())
    assert len(findings) == 10
    assert {finding.fate for finding in findings} == {Fate.REMOVED}
    assert ours_in_shm(dead) == []


def test_collecting_keeps_no_descriptor(dead: str) -> None:
    before = open_descriptors()
    survey()
    collect()
    assert open_descriptors() == before


def test_what_a_living_process_holds_stays(dead: str) -> None:
    descriptor = hold(dead)
    before = ours_in_shm(dead)
    for look in (survey, collect):
        assert fates(dead, look()) == {Fate.HELD}
    assert ours_in_shm(dead) == before
    os.close(descriptor)
    assert fates(dead, collect()) == {Fate.REMOVED}


def test_a_kill_frees_what_a_process_held(dead: str, start: Callable[..., Child]) -> None:
    child = start(f"from shmbridge.memory import posix\nprint('has', posix.lock_file({naming.lock_path(dead)!r}))\ninput()")
    child.expect("has")
    assert fates(dead, collect()) == {Fate.HELD}
    child.kill()
    assert fates(dead, collect()) == {Fate.REMOVED}


def test_one_host_can_be_asked_for_alone(dead: str, another_name: str) -> None:
    make_leftovers(another_name)
    try:
        before = ours_in_shm(another_name)
        assert {finding.entry.host for look in (survey, collect) for finding in look(only=dead)} == {dead}
        assert (ours_in_shm(dead), ours_in_shm(another_name)) == ([], before)
        assert survey(only=dead) == []
    finally:
        remove_all(another_name)


def test_leftovers_without_a_lock_are_nobodys(dead: str) -> None:
    os.unlink(naming.lock_path(dead))
    assert fates(dead, survey()) == {Fate.LEFT_BEHIND}
    assert not os.path.exists(naming.lock_path(dead))
    assert fates(dead, collect()) == {Fate.REMOVED}
    assert ours_in_shm(dead) == []


def test_a_name_that_begins_like_another_is_another(dead: str) -> None:
    sibling = make_leftovers(f"{dead[:40]}-x")
    try:
        descriptor = hold(sibling)
        before = ours_in_shm(sibling)
        collect()
        assert (ours_in_shm(dead), ours_in_shm(sibling)) == ([], before)
        os.close(descriptor)
    finally:
        remove_all(sibling)


def test_a_host_that_starts_between_look_and_lock_keeps_all_it_has(dead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked, held = leftovers.entries, []

    def look_and_let_a_host_start() -> list[Entry]:
        found = looked()
        if not held:
            held.append(hold(dead))
        return found

    monkeypatch.setattr(leftovers, "entries", look_and_let_a_host_start)
    before = ours_in_shm(dead)
    assert fates(dead, collect()) == {Fate.HELD}
    assert ours_in_shm(dead) == before
    os.close(held[0])


def test_a_host_cannot_start_while_its_name_is_being_cleaned(dead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    removed, tried = leftovers._unlink, []

    def try_to_start_and_remove(path: str) -> None:
        if f".{dead}." in path:
            tried.append(posix.lock_file(naming.lock_path(dead)))
        removed(path)

    monkeypatch.setattr(leftovers, "_unlink", try_to_start_and_remove)
    collect()
    assert tried == [None] * 10
    os.close(hold(dead))


def test_what_cannot_be_removed_is_told_with_the_reason_and_the_rest_goes(dead: str) -> None:
    os.unlink(naming.socket_path(dead))
    os.mkdir(naming.socket_path(dead))
    failed = [finding for finding in of(dead, collect()) if finding.fate is not Fate.REMOVED]
    assert [(finding.entry.kind, finding.fate, finding.why) for finding in failed] == [("socket", Fate.FAILED, "Is a directory")]
    assert ours_in_shm(dead) == [f"shmbridge.{dead}.sock"]


def test_a_lock_that_cannot_be_taken_leaves_everything_and_says_why(dead: str) -> None:
    os.unlink(naming.lock_path(dead))
    os.mkdir(naming.lock_path(dead))
    before = ours_in_shm(dead)
    for look in (survey, collect):
        findings = of(dead, look())
        assert {finding.fate for finding in findings} == {Fate.FAILED}
        assert naming.lock_path(dead) in findings[0].why
        assert "Is a directory" in findings[0].why
    assert ours_in_shm(dead) == before


def test_a_link_in_the_place_of_a_lock_leads_nowhere(dead: str, tmp_path: Path) -> None:
    os.unlink(naming.lock_path(dead))
    os.symlink(tmp_path / "elsewhere", naming.lock_path(dead))
    assert fates(dead, collect()) == {Fate.FAILED}
    assert not (tmp_path / "elsewhere").exists()


needs_chown = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@needs_chown
def test_files_of_another_user_are_told_of_and_left_even_by_root(dead: str) -> None:
    for name in ours_in_shm(dead):
        os.chown(f"{naming.SHM}/{name}", SOMEBODY_ELSE, -1)
    before = ours_in_shm(dead)
    for look in (survey, collect):
        findings = of(dead, look())
        assert {(finding.fate, finding.entry.uid) for finding in findings} == {(Fate.OF_ANOTHER_USER, SOMEBODY_ELSE)}
    assert ours_in_shm(dead) == before


@needs_chown
def test_a_lock_of_another_user_speaks_for_all_files_of_its_name(dead: str) -> None:
    os.chown(naming.lock_path(dead), SOMEBODY_ELSE, -1)
    before = ours_in_shm(dead)
    assert fates(dead, collect()) == {Fate.OF_ANOTHER_USER}
    assert ours_in_shm(dead) == before


@needs_chown
def test_one_file_of_another_user_stays_and_the_rest_of_the_name_goes(dead: str) -> None:
    os.chown(naming.socket_path(dead), SOMEBODY_ELSE, -1)
    findings = of(dead, collect())
    assert [finding.entry.kind for finding in findings if finding.fate is Fate.OF_ANOTHER_USER] == ["socket"]
    assert {finding.fate for finding in findings if finding.entry.kind != "socket"} == {Fate.REMOVED}
    assert ours_in_shm(dead) == [f"shmbridge.{dead}.sock"]


@needs_chown
def test_no_lock_is_made_in_a_name_of_which_nothing_is_ours(dead: str) -> None:
    os.unlink(naming.lock_path(dead))
    for name in ours_in_shm(dead):
        os.chown(f"{naming.SHM}/{name}", SOMEBODY_ELSE, -1)
    before = ours_in_shm(dead)
    collect()
    assert ours_in_shm(dead) == before


def test_two_that_collect_at_once_get_in_nobodys_way(unique_name: str) -> None:
    names = [make_leftovers(f"{unique_name[:40]}-{number}") for number in range(20)]
    barrier, found, errors = threading.Barrier(4), [], []

    def collect_all() -> None:
        barrier.wait()
        try:
            found.extend(collect())
        except Exception as error:  # what went wrong in a thread must reach the test
            errors.append(error)

    threads = [threading.Thread(target=collect_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert not errors
        assert [name for name in names if ours_in_shm(name)] == []
        removed = [finding.entry.path for finding in found if finding.fate is Fate.REMOVED and finding.entry.kind != "lock"]
        assert len([path for path in removed if unique_name[:40] in path]) >= 20 * 9
    finally:
        for name in names:
            remove_all(name)


def test_leftovers_of_a_name_are_removed_but_for_the_lock_that_is_given_up_last(dead: str) -> None:
    descriptor = hold(dead)
    remove_leftovers(dead)
    assert ours_in_shm(dead) == [f"shmbridge.{dead}.lock"]
    give_up_lock(dead, descriptor)
    assert ours_in_shm(dead) == []


def test_removing_leftovers_where_there_are_none_is_fine(unique_name: str) -> None:
    remove_leftovers(unique_name)


def test_a_lock_that_cannot_be_removed_is_let_go_of_all_the_same(dead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(1, "Operation not permitted")

    descriptor = hold(dead)
    monkeypatch.setattr(leftovers, "_unlink", refuse)
    with pytest.raises(PermissionError):
        give_up_lock(dead, descriptor)
    os.close(hold(dead))
