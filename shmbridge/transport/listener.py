"""A host's place in /dev/shm: the lock that proves it lives, and the socket where clients knock."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time

from shmbridge.errors import HostExistsError, SegmentError, ShmbridgeError
from shmbridge.memory import leftovers, naming, posix
from shmbridge.memory.sharing import OWNER_ONLY, PRIVATE, Sharing
from shmbridge.transport.stream import ClosedInChildren, Credentials, Stream, peer_credentials
from shmbridge.transport.trust import owner_name, user_name

logger = logging.getLogger(__name__)

_BACKLOG = 64
_OVERLOAD_SECONDS = 0.05


class LocalListener(ClosedInChildren):
    """The listening socket of one host: its owner's only, or a group's too.

    The order of the steps matters to a host killed between any two of them: the lock comes first and goes last, so only its
    holder ever removes or makes the other files, and the kernel drops the lock with the process.
    """

    def __init__(self, name: str, sharing: Sharing = PRIVATE) -> None:
        """Take the name.

        Args:
            name: Of the host.
            sharing: Who may knock.

        Raises:
            SpecError: We are no member of the group.
            HostExistsError: A living host has it, or its files belong to another user.
        """
        self.name = naming.check_name(name)
        sharing.check_membership()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._lock = -1
        super().__init__()
        path = naming.socket_path(self.name)
        try:
            self._lock = _take_lock(self.name)
            leftovers.remove_leftovers(self.name)
            _bind(self._socket, path, sharing)
        except BaseException as error:
            self._socket.close()
            if self._lock >= 0:
                with contextlib.suppress(OSError):  # it was there before, and could not be removed then either
                    _remove(path)
                self._give_up_lock()
            if isinstance(error, PermissionError):
                raise _not_ours(self.name, path) from None
            if isinstance(error, OSError) and not isinstance(error, ShmbridgeError):
                raise SegmentError(f"{naming.SHM} cannot be used: {error.strerror}; mount a writable tmpfs there, with room left") from None
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def accept(self) -> tuple[Stream, Credentials] | None:
        """Return a new connection and who made it, or None if there is none."""
        try:
            sock, _ = self._socket.accept()
        except (BlockingIOError, ConnectionError):
            return None
        except OSError as error:
            # Out of descriptors or memory, most likely: those served go on, and whoever knocks is let in when there is room again.
            logger.warning("host %r cannot let a client in: %s", self.name, error.strerror)
            time.sleep(_OVERLOAD_SECONDS)
            return None
        return Stream(sock), peer_credentials(sock)

    def close(self) -> None:
        """Remove the socket, then the lock. May be called twice."""
        if self._lock >= 0:
            self._socket.close()
            try:
                _remove(naming.socket_path(self.name))
            finally:
                self._give_up_lock()

    def close_descriptors(self) -> None:
        if self._lock >= 0:
            self._socket.close()
            os.close(self._lock)
            self._lock = -1

    def _give_up_lock(self) -> None:
        descriptor, self._lock = self._lock, -1
        leftovers.give_up_lock(self.name, descriptor)


def _take_lock(name: str) -> int:
    path = naming.lock_path(name)
    try:
        descriptor = posix.lock_file_patiently(path)
    except PermissionError:
        raise _not_ours(name, path) from None
    if descriptor is None:
        raise HostExistsError(f"a host called {name!r} is running already on this machine; stop it, or start this one with another --name")
    return descriptor


def _not_ours(name: str, path: str) -> HostExistsError:
    owner = owner_name(path) if os.path.lexists(path) else "nobody, but its folder is not writable"
    return HostExistsError(f"{path} belongs to {owner}: the name {name!r} cannot be had by {user_name(os.geteuid())}; take another one with --name")


def _bind(sock: socket.socket, path: str, sharing: Sharing) -> None:
    # Before bind, which makes the file with the socket's own mode: there is no moment at which others could connect.
    os.fchmod(sock.fileno(), OWNER_ONLY)
    sock.bind(path)
    sharing.apply(path)
    sock.listen(_BACKLOG)
    sock.setblocking(False)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
