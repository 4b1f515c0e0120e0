"""Semaphores, anonymous memory and locks: the ways in which the operating system bites."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
from helpers import Child, open_descriptors, run_python

from shmbridge.errors import SegmentNotReadyError
from shmbridge.memory import naming, posix
from shmbridge.memory.posix import Semaphore
from shmbridge.memory.sharing import OWNER_ONLY, Sharing
from shmbridge.memory.waiting import Deadline


@pytest.fixture
def sem_name(unique_name: str) -> Iterator[str]:
    name = f"/shmbridge.{unique_name}.0.test"
    yield name
    posix.unlink_semaphore(name)


@pytest.fixture(params=["clockwait", "slices"])
def blocking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of blocking: glibc's with the monotonic clock, and the one for older glibc."""
    if request.param == "slices":
        monkeypatch.setattr(posix, "_HAS_CLOCKWAIT", False)
    elif not posix._HAS_CLOCKWAIT:
        pytest.skip("this glibc is older than 2.30 and has no sem_clockwait")
    return str(request.param)


@pytest.fixture
def semaphore(sem_name: str) -> Iterator[Semaphore]:
    made = Semaphore.create(sem_name, 0)
    yield made
    made.close()


def test_a_semaphore_counts(sem_name: str) -> None:
    semaphore = Semaphore.create(sem_name, 2)
    assert [semaphore.try_acquire() for _ in range(3)] == [True, True, False]
    semaphore.release()
    assert semaphore.value == 1
    assert semaphore.acquire(Deadline(0.0))
    semaphore.close()


def test_both_openers_of_a_name_share_one_count(semaphore: Semaphore, sem_name: str) -> None:
    other = Semaphore.open(sem_name)
    other.release()
    assert semaphore.try_acquire()
    other.close()
    semaphore.release()
    assert semaphore.try_acquire()


def test_a_semaphore_works_on_after_its_name_is_gone(semaphore: Semaphore, sem_name: str) -> None:
    other = Semaphore.open(sem_name)
    posix.unlink_semaphore(sem_name)
    assert not os.path.exists(naming.semaphore_path(sem_name))
    other.release()
    assert semaphore.acquire(Deadline(60.0))
    other.close()


def test_taking_a_name_away_twice_is_fine(semaphore: Semaphore, sem_name: str) -> None:
    posix.unlink_semaphore(sem_name)
    posix.unlink_semaphore(sem_name)


def test_closing_a_semaphore_twice_is_fine(sem_name: str) -> None:
    semaphore = Semaphore.create(sem_name, 0)
    semaphore.close()
    semaphore.close()


def test_an_empty_semaphore_file_is_refused_before_it_kills_the_process(sem_name: str) -> None:
    Path(naming.semaphore_path(sem_name)).touch()
    with pytest.raises(SegmentNotReadyError, match="is unfinished: its maker died"):
        Semaphore.open(sem_name)


def test_a_missing_semaphore_says_that_the_tmpfs_must_be_the_same(sem_name: str) -> None:
    with pytest.raises(SegmentNotReadyError, match="mount the same tmpfs at /dev/shm"):
        Semaphore.open(sem_name)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_the_umask_does_not_change_who_may_open_a_semaphore(sem_name: str, umask: int) -> None:
    before = os.umask(umask)
    try:
        semaphore = Semaphore.create(sem_name, 0)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(naming.semaphore_path(sem_name)).st_mode) == OWNER_ONLY
    Semaphore.open(sem_name).close()
    semaphore.close()


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_a_semaphore_for_a_group_is_open_to_it_whatever_the_umask(sem_name: str, umask: int) -> None:
    before = os.umask(umask)
    try:
        semaphore = Semaphore.create(sem_name, 0, Sharing(os.getegid()))
    finally:
        os.umask(before)
    found = os.stat(naming.semaphore_path(sem_name))
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, os.getegid())
    semaphore.close()


def test_a_semaphore_is_made_anew_or_not_at_all(semaphore: Semaphore, sem_name: str) -> None:
    with pytest.raises(Exception, match=r"(?i)exist"):
        Semaphore.create(sem_name, 5)
    assert semaphore.value == 0


def test_waiting_ends_with_the_deadline_and_not_before(semaphore: Semaphore, blocking: str) -> None:
    deadline = Deadline(0.3)
    assert not semaphore.acquire(deadline)
    assert deadline.passed


def test_a_deadline_that_has_passed_still_takes_what_is_there(semaphore: Semaphore, blocking: str) -> None:
    semaphore.release()
    assert semaphore.acquire(Deadline(0.0))
    assert not semaphore.acquire(Deadline(0.0))


def test_a_blocked_wait_ends_when_another_thread_posts(semaphore: Semaphore, blocking: str) -> None:
    timer = threading.Timer(0.4, semaphore.release)  # longer than spinning, and than one slice
    timer.start()
    assert semaphore.acquire(Deadline(60.0))
    timer.join()


class Pressed(Exception):
    pass


def with_signal_after(seconds: float, handler: Callable[[int, FrameType | None], None]) -> Callable[[], None]:
    """Install ``handler`` and let the kernel signal this thread once; return what undoes it."""
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)

    def undo() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    return undo


def test_what_a_signal_handler_raises_comes_out_of_a_blocked_wait(semaphore: Semaphore, blocking: str) -> None:
    def press(number: int, frame: FrameType | None) -> None:
        raise Pressed

    undo = with_signal_after(0.1, press)
    try:
        with pytest.raises(Pressed):
            semaphore.acquire(Deadline(60.0))
    finally:
        undo()


def test_a_signal_handler_that_does_nothing_does_not_end_the_wait(semaphore: Semaphore, blocking: str) -> None:
    calls: list[int] = []
    undo = with_signal_after(0.1, lambda number, frame: calls.append(number))
    timer = threading.Timer(0.5, semaphore.release)
    timer.start()
    try:
        assert semaphore.acquire(Deadline(60.0))
    finally:
        undo()
    timer.join()
    assert calls == [signal.SIGALRM]


def test_a_signal_handler_that_does_nothing_does_not_shorten_the_wait(semaphore: Semaphore, blocking: str) -> None:
    undo = with_signal_after(0.05, lambda number, frame: None)
    deadline = Deadline(0.3)
    try:
        assert not semaphore.acquire(deadline)
    finally:
        undo()
    assert deadline.passed


def test_no_post_of_another_process_is_lost(start: Callable[..., Child], semaphore: Semaphore, sem_name: str) -> None:
    start(f"from shmbridge.memory.posix import Semaphore\nsem = Semaphore.open({sem_name!r})\nfor _ in range(5000): sem.release()")
    assert all(semaphore.acquire(Deadline(60.0)) for _ in range(5000))
    assert not semaphore.acquire(Deadline(0.0))


def test_reserved_memory_has_no_name_and_is_shared(unique_name: str) -> None:
    before = set(os.listdir(naming.SHM))
    writable, readable = posix.create_anonymous(8192)
    assert not [name for name in set(os.listdir(naming.SHM)) - before if unique_name in name or name.startswith("#")]
    ours = posix.map_file(writable, 8192, writable=True)
    theirs = posix.map_file(readable, 8192, writable=False)
    ours[4000:4005] = b"hello"
    assert theirs[4000:4005] == b"hello"
    for mapping, descriptor in ((ours, writable), (theirs, readable)):
        assert posix.unmap(mapping)
        os.close(descriptor)


def test_the_readers_descriptor_cannot_write(unique_name: str) -> None:
    writable, readable = posix.create_anonymous(4096)
    try:
        with pytest.raises(OSError, match=r"(?i)bad file descriptor"):
            os.write(readable, b"x")
        with pytest.raises(PermissionError):
            posix.map_file(readable, 4096, writable=True)
        with pytest.raises(OSError, match=r"(?i)invalid|bad"):
            os.ftruncate(readable, 0)
        mapping = posix.map_file(readable, 4096, writable=False)
        with pytest.raises(TypeError):
            mapping[0] = 1
        mapping.close()
    finally:
        os.close(writable)
        os.close(readable)


@pytest.mark.parametrize("size", [0, 4095, 4097, 8192])
def test_memory_of_another_size_is_refused(size: int) -> None:
    writable, readable = posix.create_anonymous(4096)
    try:
        with pytest.raises(SegmentNotReadyError, match=f"has 4096 bytes, expected {size}"):
            posix.map_file(readable, size, writable=False)
    finally:
        os.close(writable)
        os.close(readable)


def test_memory_is_reserved_not_only_promised() -> None:
    writable, readable = posix.create_anonymous(1 << 20)
    assert os.fstat(writable).st_blocks * 512 >= 1 << 20
    os.close(writable)
    os.close(readable)


def test_unmapping_says_whether_somebody_still_looks() -> None:
    writable, readable = posix.create_anonymous(4096)
    mapping = posix.map_file(writable, 4096, writable=True)
    array = np.frombuffer(mapping, np.uint8)
    assert not posix.unmap(mapping)
    assert array[0] == 0
    del array
    assert posix.unmap(mapping)
    os.close(writable)
    os.close(readable)


def test_descriptors_do_not_leak_into_programs_that_are_started() -> None:
    for descriptor in posix.create_anonymous(4096):
        assert fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        os.close(descriptor)


IN_A_SMALL_TMPFS = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=$0 tmpfs /dev/shm && exec "$@"', "1m"]


@pytest.mark.needs_root
def test_a_full_tmpfs_is_an_error_that_keeps_nothing_reserved() -> None:
    output = run_python(
        """
import os
from shmbridge.errors import SharedMemoryFullError
from shmbridge.memory import posix
from shmbridge.memory.capacity import tmpfs_room
before, descriptors = tmpfs_room(), os.listdir("/proc/self/fd")
try:
    posix.create_anonymous(2 << 20)
except SharedMemoryFullError as error:
    print("needed", error.needed, "--shm-size" in str(error), "filled up" in str(error))
print("kept", before.free - tmpfs_room().free, len(os.listdir("/proc/self/fd")) - len(descriptors))
""",
        prefix=IN_A_SMALL_TMPFS,
    )
    assert output.splitlines() == [f"needed {2 << 20} True True", "kept 0 0"]


@pytest.mark.needs_root
def test_a_semaphore_that_finds_no_page_is_an_error() -> None:
    output = run_python(
        """
import os
from shmbridge.errors import SharedMemoryFullError
from shmbridge.memory import posix
from shmbridge.memory.capacity import tmpfs_room
writable, readable = posix.create_anonymous(tmpfs_room().free)
try:
    posix.Semaphore.create("/shmbridge.full.0.test", 1)
except SharedMemoryFullError as error:
    print("--shm-size" in str(error))
print(os.listdir("/dev/shm"))
""",
        prefix=IN_A_SMALL_TMPFS,
    )
    assert output.splitlines() == ["True", "[]"]


@pytest.fixture
def lock_path(unique_name: str) -> Iterator[str]:
    path = naming.lock_path(unique_name)
    yield path
    if os.path.exists(path):
        os.unlink(path)


def test_a_lock_is_taken_once(lock_path: str) -> None:
    first = posix.lock_file(lock_path)
    assert first is not None
    assert posix.lock_file(lock_path) is None
    os.close(first)
    second = posix.lock_file(lock_path)
    assert second is not None
    os.close(second)


def test_a_lock_that_is_not_to_be_made_is_missing_where_it_is_missing(lock_path: str) -> None:
    with pytest.raises(FileNotFoundError):
        posix.lock_file(lock_path, create=False)
    assert not os.path.exists(lock_path)
    first = posix.lock_file(lock_path)
    assert first is not None
    os.close(first)
    second = posix.lock_file(lock_path, create=False)
    assert second is not None
    os.close(second)


def test_a_refused_lock_leaves_no_descriptor(lock_path: str) -> None:
    held = posix.lock_file(lock_path)
    assert held is not None
    before = open_descriptors()
    assert posix.lock_file(lock_path) is None
    assert open_descriptors() == before
    os.close(held)


def test_a_lock_on_a_file_that_was_unlinked_locks_out_nobody(lock_path: str) -> None:
    old = posix.lock_file(lock_path)
    os.unlink(lock_path)
    new = posix.lock_file(lock_path)
    assert old is not None and new is not None
    assert not os.path.samestat(os.fstat(old), os.fstat(new))
    os.close(old)
    assert posix.lock_file(lock_path) is None
    os.close(new)


def test_a_file_unlinked_between_opening_and_locking_is_not_taken_for_the_lock(lock_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flock, meddled = fcntl.flock, []

    def flock_too_late(descriptor: int, operation: int) -> None:
        if not meddled:
            meddled.append(descriptor)
            os.unlink(lock_path)  # as the former owner does on its way out
        flock(descriptor, operation)

    monkeypatch.setattr(posix.fcntl, "flock", flock_too_late)
    descriptor = posix.lock_file(lock_path)
    assert descriptor is not None
    assert os.path.samestat(os.fstat(descriptor), os.stat(lock_path))
    os.close(descriptor)


def test_the_kernel_drops_the_lock_of_a_killed_process(lock_path: str, start: Callable[..., Child]) -> None:
    child = start(f"from shmbridge.memory import posix\nprint('has', posix.lock_file({lock_path!r}))\ninput()")
    child.expect("has")
    assert posix.lock_file(lock_path) is None
    child.kill()
    descriptor = posix.lock_file(lock_path)
    assert descriptor is not None
    os.close(descriptor)


def test_only_one_of_many_who_race_for_a_lock_has_it(lock_path: str) -> None:
    barrier, winners = threading.Barrier(8), []

    def race() -> None:
        barrier.wait()
        descriptor = posix.lock_file(lock_path)
        if descriptor is not None:
            winners.append(descriptor)

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
    os.close(winners[0])


def test_the_c_library_is_named() -> None:
    assert posix.libc_version().startswith("glibc 2.")
