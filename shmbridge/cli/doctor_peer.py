"""What ``shmbridge doctor --peer`` finds out about a host: its files, and what it tells. Nothing is judged here; that is doctor_peer_checks.py's."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import NamedTuple

from shmbridge.connecting import describe_host
from shmbridge.errors import SegmentError, ShmbridgeError
from shmbridge.memory.leftovers import Fate, survey
from shmbridge.memory.naming import host_names, socket_path
from shmbridge.messages import Description, Surroundings
from shmbridge.surroundings import look_around


class SocketFile(NamedTuple):
    """A host's socket, as the kernel tells."""

    uid: int
    gid: int
    mode: int


@dataclass(frozen=True)
class Peer:
    """What is known of a host from here.

    Attributes:
        name: Of the host.
        here: Where this process runs.
        socket: Its socket; None where there is none in this /dev/shm.
        is_held: Whether a living process holds its lock; None where that cannot be asked.
        told: What it says of itself; None where it says nothing.
        refusal: Why it says nothing; None where it does.
        others: The hosts that are here beside it, living or not.
    """

    name: str
    here: Surroundings
    socket: SocketFile | None = None
    is_held: bool | None = None
    told: Description | None = None
    refusal: Exception | None = None
    others: tuple[str, ...] = ()

    @property
    def there(self) -> Surroundings | None:
        """Where the host runs, as it tells; None where it does not."""
        return None if self.told is None else self.told.surroundings


def look_at_peer(name: str, timeout: float, shm_group: int | None = None) -> Peer:
    """Ask a host who it is and where it runs; no session is begun.

    Args:
        name: Of the host.
        timeout: Seconds that it may take to answer.
        shm_group: The group whose members are trusted to be the host; None for this user only.
    """
    here, found = look_around(shm_group), _socket_file(name)
    told, refusal = _ask(name, timeout, shm_group)
    return Peer(name, here, found, _is_held(name), told, refusal, tuple(other for other in _names() if other != name))


def _ask(name: str, timeout: float, shm_group: int | None) -> tuple[Description | None, Exception | None]:
    try:
        return describe_host(name, timeout, details=True, shm_group=shm_group), None
    except (ShmbridgeError, OSError) as error:  # the latter where /dev/shm itself is closed to us
        return None, error


def _socket_file(name: str) -> SocketFile | None:
    try:
        found = os.lstat(socket_path(name))
    except OSError:
        return None
    return SocketFile(found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))


def _is_held(name: str) -> bool | None:
    try:
        fates = {finding.fate for finding in survey(name)}
    except SegmentError:
        return None
    if Fate.HELD in fates:
        return True
    return None if fates & {Fate.OF_ANOTHER_USER, Fate.FAILED} else False


def _names() -> list[str]:
    try:
        return host_names()
    except OSError:
        return []
