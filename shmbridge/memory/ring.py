"""Rings: slots that travel from one producer to one consumer and back, in order.

Two counting semaphores carry everything between the sides, and nothing else orders memory:

* ``full`` counts slots published and not taken. ``publish`` posts it after the last write; ``take`` acquires it before the first read.
* ``free`` counts slots that may be lent. ``release`` posts it after the last read; ``loan`` acquires it before the first write.

Each side counts for itself how many slots it moved, and goes round in order, so no place need be shared. A side killed between two of its
instructions leaves a count one lower than it could be, never one higher: the other side sees a slot that never comes, and learns
of the death elsewhere.

A semaphore is also posted to wake its only waiter when the peer is lost. That post stands for no slot, so ``lost`` is looked at
after every acquire, before anything is read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NoReturn, Protocol

from shmbridge.counters import RingStatistics
from shmbridge.errors import LocalProtocolError, RemoteProtocolError, ShmbridgeError
from shmbridge.layout import Slot
from shmbridge.memory.posix import Semaphore
from shmbridge.memory.waiting import Deadline


class Line(Protocol):
    """What tells whether the peer is lost."""

    ended: ShmbridgeError | None
    """None as long as it is not. Set before the posts that wake a waiter."""

    def raise_ended(self) -> NoReturn:
        """Raise PeerLostError or ClosedError."""


def post(semaphore: Semaphore) -> None:
    """Post a semaphore.

    Raises:
        RemoteProtocolError: It can count no further, so somebody else has written to it.
    """
    try:
        semaphore.release()
    except OSError:
        raise RemoteProtocolError("a semaphore of this session counts to its end: the peer broke it; reconnect") from None


class Producer:
    """The writing end. One thread uses it at a time."""

    def __init__(self, slots: Sequence[Slot], free: Semaphore, full: Semaphore, line: Line) -> None:
        self._slots = slots
        self._free = free
        self._full = full
        self._line = line
        self._moved = 0
        self._lent: Slot | None = None

    def loan(self, deadline: Deadline) -> Slot | None:
        """Lend the next slot to be written, or None if the deadline passes first. The same one until it is published.

        Raises:
            PeerLostError: The consumer is gone.
        """
        if self._line.ended is not None:
            self._line.raise_ended()
        if self._lent is None:
            # SYNC POINT: pairs with Consumer.release. Its reads of this slot happened before our writes to it.
            acquired = self._free.acquire(deadline)
            if self._line.ended is not None:
                self._line.raise_ended()
            self._lent = self._slots[self._moved % len(self._slots)] if acquired else None
        return self._lent

    def try_loan(self) -> Slot | None:
        """As :meth:`loan`, without waiting."""
        if self._lent is None and self._free.try_acquire():
            self._lent = self._slots[self._moved % len(self._slots)]
        return self._lent

    def publish(self) -> None:
        """Give the lent slot to the consumer.

        Raises:
            LocalProtocolError: None is lent.
        """
        if self._lent is None:
            raise LocalProtocolError("nothing is lent: loan a slot before publishing it")
        self._moved += 1
        self._lent = None
        # SYNC POINT: pairs with Consumer.take. All our writes to the slot happen before its reads of it. We moved on
        # first: killed in between, we published nothing; the other order could publish the same slot twice.
        post(self._full)

    def statistics(self) -> RingStatistics:
        """Return where the ring stands, as seen from here. Not while it is being closed."""
        return RingStatistics(len(self._slots), self._free.value, self._full.value, self._moved, int(self._lent is not None))

    def forget(self) -> None:
        """Let go of the slots, and so of their memory. The ring is over."""
        self._slots, self._lent = (), None


class Consumer:
    """The reading end. One thread uses it at a time."""

    def __init__(self, slots: Sequence[Slot], free: Semaphore, full: Semaphore, line: Line) -> None:
        self._slots = slots
        self._free = free
        self._full = full
        self._line = line
        self._moved = 0
        self._leases: deque[Slot] = deque()
        self._ended: set[int] = set()

    @property
    def waiting(self) -> int:
        """How many published slots could be taken now."""
        return int(self._full.value)

    def take(self, deadline: Deadline) -> Slot | None:
        """Return the next published slot, to be read until :meth:`release`; None if the deadline passes first.

        Raises:
            PeerLostError: The producer is gone. What it published and we did not take is not read any more.
        """
        if self._line.ended is not None:
            self._line.raise_ended()
        # SYNC POINT: pairs with Producer.publish.
        acquired = self._full.acquire(deadline)
        if self._line.ended is not None:
            self._line.raise_ended()
        return self._lease() if acquired else None

    def try_take(self) -> Slot | None:
        """As :meth:`take`, without waiting."""
        if not self._full.try_acquire():
            return None
        if self._line.ended is not None:
            self._line.raise_ended()
        return self._lease()

    def release(self, slot: Slot) -> None:
        """End a lease. The slot goes back once all older leases have ended too, so that slots go round in order.

        Raises:
            LocalProtocolError: The slot is not leased.
        """
        if len(self._leases) == 1 and self._leases[0] is slot:  # nearly always
            self._give_back()
            return
        if not any(slot is lease for lease in self._leases) or id(slot) in self._ended:
            raise LocalProtocolError("this slot is not leased: each is released once")
        self._ended.add(id(slot))
        while self._leases and id(self._leases[0]) in self._ended:
            self._ended.remove(id(self._leases[0]))
            self._give_back()

    def statistics(self) -> RingStatistics:
        """Return where the ring stands, as seen from here. Not while it is being closed."""
        return RingStatistics(len(self._slots), self._free.value, self._full.value, self._moved, len(self._leases))

    def forget(self) -> None:
        """Let go of the slots, and so of their memory. The ring is over."""
        self._slots = ()
        self._leases.clear()

    def _give_back(self) -> None:
        self._leases.popleft()
        # SYNC POINT: pairs with Producer.loan.
        post(self._free)

    def _lease(self) -> Slot:
        slot = self._slots[self._moved % len(self._slots)]
        self._moved += 1
        self._leases.append(slot)
        return slot
