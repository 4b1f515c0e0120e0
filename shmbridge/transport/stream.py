"""A stream socket that never blocks, with descriptors that may travel beside the bytes."""

from __future__ import annotations

import logging
import os
import select
import socket
import struct
import weakref
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from shmbridge.memory.waiting import Deadline

logger = logging.getLogger(__name__)

MAX_DESCRIPTORS = 8
_RECEIVE_BYTES = 65_536
_UCRED = struct.Struct("iII")
_SO_PEERGROUPS = 59
"""asm-generic/socket.h, since Linux 4.13; Python has no name for it."""
_MOST_GROUPS = 256
"""As many numbers as Python's getsockopt takes."""

# A forked child inherits every socket and lock, and would keep its dead parent alive in the eyes of the peer. There is one
# fork hook per process, hence this one set of all that must be closed in a child.
_closed_in_children: weakref.WeakSet[ClosedInChildren] = weakref.WeakSet()


class ClosedInChildren:
    """Base of what a forked child must let go of."""

    def __init__(self) -> None:
        _closed_in_children.add(self)

    def close_descriptors(self) -> None:
        """Close the descriptors in this process, saying nothing to anyone."""
        raise NotImplementedError


def _close_in_child() -> None:
    for held in list(_closed_in_children):
        try:
            held.close_descriptors()
        except Exception:  # one that was being closed or made during the fork must not keep the others open
            logger.debug("a descriptor could not be closed in a child", exc_info=True)


os.register_at_fork(after_in_child=_close_in_child)


class Credentials(NamedTuple):
    """Who is at the other end of a Unix socket, according to the kernel. The pid is 0 across PID namespaces."""

    pid: int
    uid: int
    groups: frozenset[int]
    """All groups that it is a member of, its own first one included."""


def peer_credentials(sock: socket.socket) -> Credentials:
    """Return who opened the other end."""
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Credentials(pid, uid, frozenset((gid, *_other_groups(sock))))


def _other_groups(sock: socket.socket) -> Sequence[int]:
    try:
        found = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MOST_GROUPS)
    except OSError:  # an older kernel, or more groups than we have room for: then only the first one counts
        return ()
    return struct.unpack(f"{len(found) // 4}I", found)


class Stream(ClosedInChildren):
    """A connected Unix socket. One thread uses it at a time.

    Attributes:
        descriptors: What arrived beside the bytes, in order; whoever takes one out must close it.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        sock.setblocking(False)
        self._socket = sock
        self._outgoing: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self.descriptors: list[int] = []

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def wants_to_write(self) -> bool:
        """Whether something queued has not been sent."""
        return bool(self._outgoing)

    def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Queue bytes, with descriptors beside the first of them, and send what the kernel takes now.

        Args:
            data: Not empty.
            descriptors: Kept open by the caller until :attr:`wants_to_write` is False.

        Raises:
            ConnectionError: The peer is gone.
        """
        self._outgoing.append((data, tuple(descriptors)))
        self.flush()

    def flush(self) -> None:
        """Send what the kernel takes now."""
        while self._outgoing:
            data, descriptors = self._outgoing[0]
            try:
                # Python ignores SIGPIPE, so a dead peer is an exception here, not a signal.
                sent = socket.send_fds(self._socket, [data], descriptors) if descriptors else self._socket.send(data)
            except BlockingIOError:
                return
            self._outgoing.popleft()
            if sent < len(data):
                self._outgoing.appendleft((data[sent:], ()))

    def give_up_sending(self) -> None:
        """Forget what has not been sent. What the peer said is still to be received."""
        self._outgoing.clear()

    def receive(self) -> bytes | None:
        """Return what has arrived, ``b""`` once the peer is gone, None if nothing is there yet."""
        try:
            data, found, _, _ = socket.recv_fds(self._socket, _RECEIVE_BYTES, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        except ConnectionError:
            return b""
        self.descriptors += found
        return data

    def wait_readable(self, deadline: Deadline) -> bool:
        """Return whether something arrived, or the peer went, before the deadline."""
        poller = select.poll()
        poller.register(self._socket, select.POLLIN | (select.POLLOUT if self._outgoing else 0))
        return bool(poller.poll(deadline.remaining * 1000))

    def drop_descriptors(self) -> None:
        """Close every descriptor that nobody took."""
        while self.descriptors:
            os.close(self.descriptors.pop())

    def close(self) -> None:
        """Close the socket and every descriptor that nobody took. May be called twice."""
        self._outgoing.clear()
        self.drop_descriptors()
        self._socket.close()

    def close_descriptors(self) -> None:
        self.close()
