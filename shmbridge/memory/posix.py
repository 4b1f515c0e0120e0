"""The operating system's shared memory and semaphores. The only importer of posix_ipc and mmap."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import time
from typing import Any

import posix_ipc  # type: ignore[import-not-found, unused-ignore]  # ships no types

from shmbridge.errors import SegmentNotReadyError, SharedMemoryFullError
from shmbridge.memory.naming import SHM, semaphore_path
from shmbridge.memory.sharing import OWNER_ONLY, PRIVATE, Sharing
from shmbridge.memory.waiting import SPIN_SECONDS, YIELDING_SECONDS, Deadline

_SEM_T_BYTES = 32
"""``sizeof(sem_t)`` in 64-bit glibc. Opening a shorter file (one whose creator died in between) ends in SIGBUS."""
_MADV_POPULATE_READ = 22
_MADV_POPULATE_WRITE = 23
"""Linux 5.14; asm-generic/mman-common.h."""
_SLICE_SECONDS = 0.25
_ASKING_SECONDS = 0.2


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


_libc = ctypes.CDLL(None, use_errno=True)
_libc.sem_open.restype = ctypes.c_void_p
_libc.sem_open.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.sem_close.argtypes = (ctypes.c_void_p,)
_libc.sem_timedwait.argtypes = (ctypes.c_void_p, ctypes.POINTER(_Timespec))
_HAS_CLOCKWAIT = hasattr(_libc, "sem_clockwait")
if _HAS_CLOCKWAIT:
    _libc.sem_clockwait.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Timespec))


class Semaphore(posix_ipc.Semaphore):  # type: ignore[misc, unused-ignore]  # of a class without types
    """A POSIX semaphore shared between processes: ``release`` is a release, ``acquire`` an acquire in the memory model's sense.

    posix_ipc posts (``release``), looks (``value``) and tries. Blocking goes through glibc on the very same ``sem_t`` (``sem_open`` of
    one name returns one address within a process), because posix_ipc's own wait swallows what a signal handler raises, Ctrl-C
    included, and follows the wall clock. A subclass and not a wrapper, because each look costs three times as much through one.
    """

    _try = posix_ipc.Semaphore.acquire
    _address: int | None = None

    @classmethod
    def create(cls, name: str, value: int, sharing: Sharing = PRIVATE) -> Semaphore:
        """Make a new semaphore.

        Raises:
            SharedMemoryFullError: No page was left for it.
        """
        try:
            made = cls(name, posix_ipc.O_CREX, mode=OWNER_ONLY, initial_value=value)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.ENOMEM):
                raise SharedMemoryFullError(f"{SHM} has no page left for a semaphore; {HOW_TO_GROW}") from None
            raise
        sharing.apply(semaphore_path(name))  # the umask took bits away from the mode above
        return made._found(name)

    @classmethod
    def open(cls, name: str) -> Semaphore:
        """Open a semaphore that the peer made.

        Raises:
            SegmentNotReadyError: There is none of that name here, or it is unfinished.
        """
        path = semaphore_path(name)
        try:
            if os.stat(path).st_size < _SEM_T_BYTES:
                raise SegmentNotReadyError(f"{path} is unfinished: its maker died while making it")
            return cls(name)._found(name)
        except (FileNotFoundError, posix_ipc.ExistentialError):
            text = f"{path} is not here: the host has another {SHM}. Both containers must mount the same tmpfs at {SHM}"
            raise SegmentNotReadyError(text) from None
        except posix_ipc.PermissionsError:
            raise SegmentNotReadyError(f"{path} is closed to this user; run both sides as the same user, or give both --shm_group GID") from None

    def _found(self, name: str) -> Semaphore:
        self._address = _libc.sem_open(name.encode(), 0)
        if not self._address:
            number = ctypes.get_errno()
            super().close()
            raise SegmentNotReadyError(f"semaphore {name} vanished while it was opened: {os.strerror(number)}")
        return self

    def try_acquire(self) -> bool:
        """Take one if there is one. Looks first, because a failed try costs an exception."""
        if self.value <= 0:
            return False
        try:
            self._try(0)
        except posix_ipc.BusyError:
            return False
        return True

    def acquire(self, deadline: Deadline) -> bool:
        """Take one, waiting for it; return False if the deadline passes first. Exceptions of signal handlers come through."""
        spin_end = 0.0
        while self.value <= 0:
            now = time.monotonic()
            spin_end = spin_end or now + SPIN_SECONDS
            if now >= spin_end or now >= deadline.at:
                return self._block(deadline)
            if spin_end - now <= YIELDING_SECONDS:
                os.sched_yield()
        try:
            self._try(0)
        except posix_ipc.BusyError:  # somebody else took it: not in a ring, where each semaphore has one waiter
            return self.acquire(deadline)
        return True

    def _block(self, deadline: Deadline) -> bool:
        while not deadline.passed:
            if (self._block_until if _HAS_CLOCKWAIT else self._block_a_slice)(deadline):
                return True
        return self.try_acquire()

    def close(self) -> None:
        """Let go of it. No thread may be in :meth:`acquire`: that would be a segmentation fault."""
        if self._address:
            _libc.sem_close(self._address)
            super().close()
            self._address = None

    def _block_until(self, deadline: Deadline) -> bool:
        # A signal ends the call with EINTR; its Python handler runs on return, and we come back here unless it raised. One that arrives
        # just before the call is seen at its end, so the call is kept short.
        until = time.monotonic() + min(_SLICE_SECONDS, deadline.remaining)
        return bool(_libc.sem_clockwait(self._address, time.CLOCK_MONOTONIC, ctypes.byref(_timespec(until))) == 0)

    def _block_a_slice(self, deadline: Deadline) -> bool:
        # glibc before 2.30 knows only the wall clock; short slices bound what a step of it can do.
        until = time.time() + min(_SLICE_SECONDS, deadline.remaining)
        return bool(_libc.sem_timedwait(self._address, ctypes.byref(_timespec(until))) == 0)


def unlink_semaphore(name: str) -> None:
    """Take a semaphore's name away; whoever has it open keeps it. Fine where the name is gone already."""
    try:
        posix_ipc.unlink_semaphore(name)
    except posix_ipc.ExistentialError:
        pass


HOW_TO_GROW = (
    "give the container more (--shm-size for docker and podman run, shm_size in a compose file, the size of the shared tmpfs volume), "
    "or use fewer environments or smaller cameras"
)
"""Without a number: what ran out while it was being taken says no sum. Where the sum is known, it is in the flag (capacity.py)."""


def create_anonymous(size: int) -> tuple[int, int]:
    """Make and reserve ``size`` bytes of shared memory without a name.

    Returns:
        A descriptor to write through and one that can only read, both the caller's to close.

    Raises:
        SharedMemoryFullError: The tmpfs is too full. Nothing stays reserved.
    """
    writable = os.open(SHM, os.O_TMPFILE | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, OWNER_ONLY)  # exclusive: it can never be given a name
    try:
        os.fchmod(writable, OWNER_ONLY)  # the umask may have left too little to open it again
        _reserve(writable, size)
        return writable, os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
    except BaseException:
        os.close(writable)
        raise


def _reserve(descriptor: int, size: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.ENOMEM):
            raise
        raise SharedMemoryFullError(f"{SHM} filled up while {size} bytes were reserved; {HOW_TO_GROW}", needed=size) from None


def map_file(descriptor: int, size: int, *, writable: bool) -> mmap.mmap:
    """Map a whole reserved file and touch its pages, so that the first use is not slow.

    Raises:
        SegmentNotReadyError: The file is not ``size`` bytes long.
    """
    found = os.fstat(descriptor).st_size
    if found != size:
        raise SegmentNotReadyError(f"the shared memory has {found} bytes, expected {size}: the two sides disagree about the layout")
    protection = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
    mapping = mmap.mmap(descriptor, size, mmap.MAP_SHARED, protection)
    _populate(mapping, _MADV_POPULATE_WRITE if writable else _MADV_POPULATE_READ)
    return mapping


def _populate(mapping: mmap.mmap, advice: int) -> None:
    try:
        mapping.madvise(advice)
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: Linux before 5.14, where the first use faults the pages in
            raise SharedMemoryFullError(f"the reserved memory cannot be touched: {error.strerror}; {HOW_TO_GROW}") from None


def unmap(mapping: mmap.mmap) -> bool:
    """Unmap; return False where arrays still look at it, which then keep it alive until they are gone."""
    try:
        mapping.close()
    except BufferError:
        return False
    return True


def lock_file_patiently(path: str) -> int | None:
    """As :func:`lock_file`, asking again for a moment: one who only asks whether a host lives holds its lock for an instant."""
    asking = Deadline(_ASKING_SECONDS)
    while (descriptor := lock_file(path)) is None and not asking.passed:
        time.sleep(_ASKING_SECONDS / 50)
    return descriptor


def lock_file(path: str, *, create: bool = True) -> int | None:
    """Take the lock at ``path``, making the file if need be; return its descriptor, or None if a living process has it.

    The kernel releases it when the process ends, however that happens.

    Raises:
        FileNotFoundError: There is no such file, and none is to be made.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    while True:
        descriptor = os.open(path, flags, OWNER_ONLY)
        try:
            if os.fstat(descriptor).st_uid != os.geteuid():  # root can open what others made, but must not trust it to be a lock
                raise PermissionError(errno.EACCES, "it belongs to another user", path)
            if create:
                os.fchmod(descriptor, OWNER_ONLY)  # the umask may have left too little for whoever asks for the lock next
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The former owner may have unlinked the file between our open and our lock: then ours locks nothing.
            if _is_same_file(descriptor, path):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_same_file(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def libc_version() -> str:
    """Return the C library's name and version, for example ``glibc 2.36``; two sides that share semaphores must both have glibc."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or "unknown"
    except (ValueError, OSError):
        return "not glibc"


def _timespec(seconds: float) -> Any:
    whole = int(seconds)
    return _Timespec(whole, int((seconds - whole) * 1e9))
