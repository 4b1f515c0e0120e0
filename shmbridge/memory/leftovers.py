"""What lies in /dev/shm under our names, and how that goes which no living process holds.

Whether a host lives is asked of its lock alone: the kernel drops it with the process, in whatever container that was. Who wants to
remove anything of a name takes its lock first, as a host would, and keeps it until all is gone; so neither a host that is starting nor
another cleaner is ever disturbed. PIDs and ages decide nothing.
"""

from __future__ import annotations

import enum
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from shmbridge.errors import SegmentError
from shmbridge.memory import posix
from shmbridge.memory.naming import SHM, lock_path

_HOST = "(?P<host>[a-z0-9_-]{1,48})"
_PATTERNS = {
    "lock": re.compile(rf"shmbridge\.{_HOST}\.lock"),
    "socket": re.compile(rf"shmbridge\.{_HOST}\.sock"),
    "semaphore": re.compile(rf"sem\.shmbridge\.{_HOST}\.[0-9a-z]{{1,32}}\.[a-z0-9-]{{1,32}}"),
}
_PREFIXES = ("shmbridge.", "sem.shmbridge.")
_BLOCK_BYTES = 512
"""Unit of ``st_blocks``, whatever the file system's own is."""


@dataclass(frozen=True)
class Entry:
    """One file in /dev/shm that is ours by name.

    Attributes:
        path: Where it lies.
        kind: ``lock``, ``socket``, ``semaphore``, or ``unknown`` where only its beginning is like that of our names.
        host: The host it belongs to; empty for an unknown one.
        uid: Its owner.
        nbytes: What it takes.
        seconds: Since it was last written. For people.
    """

    path: str
    kind: str
    host: str
    uid: int
    nbytes: int
    seconds: float


class Fate(str, enum.Enum):
    """What becomes of an entry."""

    HELD = "held"
    """A living process holds the host's lock."""
    LEFT_BEHIND = "left behind"
    """Nobody living holds it. It is still there, because only a look was wanted."""
    REMOVED = "removed"
    FAILED = "failed"
    """It should go, but cannot be removed or its lock not be asked."""
    OF_ANOTHER_USER = "of another user"
    """It belongs to another user, or the lock does that speaks for it. Never touched, not even by root."""
    UNKNOWN = "unknown"
    """It is none of the files that this version makes. Never touched."""


@dataclass(frozen=True)
class Finding:
    """An entry and what became of it. ``why`` says more where it failed."""

    entry: Entry
    fate: Fate
    why: str = ""


def entries() -> list[Entry]:
    """Return all files in /dev/shm that are ours by name, host by host.

    Raises:
        SegmentError: It cannot be looked into.
    """
    try:
        names = os.listdir(SHM)
    except OSError as error:
        raise SegmentError(f"{SHM} cannot be looked into: {error.strerror}; a tmpfs belongs there, which everyone may use (mode 1777)") from None
    found = (_entry(name) for name in names if name.startswith(_PREFIXES))
    return sorted((entry for entry in found if entry is not None), key=lambda entry: (entry.host, entry.path))


def remove_leftovers(host: str) -> None:
    """Remove what a killed host of this name left, but for its lock. Only for whoever holds that.

    Raises:
        SegmentError: /dev/shm cannot be looked into.
        OSError: Something cannot be removed, for example because it belongs to another user.
    """
    for entry in _files_of(host):
        _unlink(entry.path)


def give_up_lock(host: str, descriptor: int) -> None:
    """Remove the lock of a name and let go of it: the last thing to be removed, by whoever holds it.

    Raises:
        OSError: It cannot be removed. It is let go of all the same.
    """
    try:
        # Unlinked while still held: whoever locks the path afterwards made a new file, and lock_file notices the old one.
        _unlink(lock_path(host))
    finally:
        os.close(descriptor)


def survey(only: str | None = None) -> list[Finding]:
    """Look at everything, or at one host's files, and remove nothing."""
    return _treat_all(_survey_host, only)


def collect(only: str | None = None) -> list[Finding]:
    """Remove what is this user's and no living process holds: of all hosts, or of one."""
    return _treat_all(_collect_host, only)


def _treat_all(treat: Callable[[str, list[Entry]], list[Finding]], only: str | None) -> list[Finding]:
    found = entries()
    findings: list[Finding] = []
    for host in sorted({entry.host for entry in found if only in (None, entry.host)}):
        ours, others = _divide([entry for entry in found if entry.host == host], os.geteuid())
        findings += _all(others, Fate.OF_ANOTHER_USER if host else Fate.UNKNOWN)
        findings += treat(host, ours) if ours else []
    return findings


def _divide(group: list[Entry], uid: int) -> tuple[list[Entry], list[Entry]]:
    """Divide a host's files into those that may be treated, and the rest. Without the lock's owner nothing can be known of any."""
    theirs = not group[0].host or any(entry.kind == "lock" and entry.uid != uid for entry in group)
    ours = [entry for entry in group if entry.uid == uid and not theirs]
    return ours, [entry for entry in group if entry not in ours]


def _survey_host(host: str, ours: list[Entry]) -> list[Finding]:
    try:
        descriptor = posix.lock_file(lock_path(host), create=False)
    except FileNotFoundError:
        return _all(ours, Fate.LEFT_BEHIND)
    except OSError as error:
        return _all(ours, Fate.FAILED, f"{lock_path(host)} cannot be asked: {error.strerror}")
    if descriptor is None:
        return _all(ours, Fate.HELD)
    os.close(descriptor)
    return _all(ours, Fate.LEFT_BEHIND)


def _collect_host(host: str, ours: list[Entry]) -> list[Finding]:
    try:
        descriptor = posix.lock_file_patiently(lock_path(host))
    except OSError as error:
        return _all(ours, Fate.FAILED, f"{lock_path(host)} cannot be taken: {error.strerror}")
    if descriptor is None:
        return _all(ours, Fate.HELD)
    locks = [entry for entry in ours if entry.kind == "lock"]
    try:
        # Looked at again, now that nobody else may change it: what was seen before may have been another host's.
        files = [entry for entry in _files_of(host) if entry.uid == os.geteuid()]
        findings = [finding for entry in files for finding in _removed([entry], partial(_unlink, entry.path))]
    finally:
        last = _removed(locks, partial(give_up_lock, host, descriptor))
    return findings + last


def _removed(group: Iterable[Entry], remove: Callable[[], None]) -> list[Finding]:
    try:
        remove()
    except OSError as error:
        return _all(group, Fate.FAILED, error.strerror or str(error))
    return _all(group, Fate.REMOVED)


def _all(group: Iterable[Entry], fate: Fate, why: str = "") -> list[Finding]:
    return [Finding(entry, fate, why) for entry in group]


def _files_of(host: str) -> list[Entry]:
    """Return all files of a host but its lock, and but others' semaphores: the names of ours are random, so they are in nobody's way."""
    return [entry for entry in entries() if entry.host == host and (entry.kind == "socket" or (entry.kind == "semaphore" and entry.uid == os.geteuid()))]


def _entry(name: str) -> Entry | None:
    path = f"{SHM}/{name}"
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None  # it went while we looked
    matches = ((kind, match["host"]) for kind, pattern in _PATTERNS.items() if (match := pattern.fullmatch(name)))
    kind, host = next(matches, ("unknown", ""))
    return Entry(path, kind, host, found.st_uid, found.st_blocks * _BLOCK_BYTES, max(0.0, time.time() - found.st_mtime))


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
