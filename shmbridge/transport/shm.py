"""Sessions over shared memory: both ends of the handshake's last part, and both ends of the rings.

The host makes two segments, four semaphores and lends its doorbell. The client maps the segments from descriptors that came over
the control socket and opens the semaphores by name; then it says so, and the names go. From there on only the semaphores order
anything, except that the doorbell, an eventfd, tells the host's worker to look: a lost or spurious ring changes nothing but time.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from typing import NoReturn

from shmbridge.counters import RingStatistics
from shmbridge.errors import ClosedError, LayoutMismatchError, RemoteProtocolError, ShmbridgeError
from shmbridge.layout import Slot
from shmbridge.memory import naming
from shmbridge.memory.capacity import check_room, megabytes
from shmbridge.memory.posix import Semaphore, unlink_semaphore
from shmbridge.memory.ring import Consumer, Producer
from shmbridge.memory.segment import CreatedSegment, Segment
from shmbridge.memory.sharing import PRIVATE, Sharing
from shmbridge.memory.waiting import Deadline
from shmbridge.messages import Attached, Status, Welcome
from shmbridge.transport.base import Agreement, Connection, HostEnd
from shmbridge.transport.control import Control

_LEAVE_SECONDS = 1.0
_DESCRIPTORS = 3
"""Beside a welcome: observation ring (writable), action ring (readable), doorbell."""


class ShmConnection(Connection):
    """The client's end: writes observations, reads actions."""

    path = "shared memory"

    def __init__(self, control: Control, welcome: Welcome, agreement: Agreement, peer: str) -> None:
        """Attach to what a welcome names, and tell the host so.

        Raises:
            LayoutMismatchError: The two sides lay the same specs out differently.
            SegmentNotReadyError: Memory or a semaphore is missing here.
        """
        super().__init__()
        self.agreement, self.peer = agreement, peer
        self._control = control
        self._closed = False
        # Signal handlers may come back to both within one thread.
        self._closing, self._looking = threading.RLock(), threading.RLock()
        _check_digests(welcome, agreement)
        with contextlib.ExitStack() as undo:
            self._attach(control.take_descriptors(_DESCRIPTORS), welcome.semaphores, undo)
            control.say(Attached())
            control.watch(self._wake_waiters)
            self._undo = undo.pop_all()

    def _attach(self, descriptors: Sequence[int], semaphores: Sequence[str], undo: contextlib.ExitStack) -> None:
        """Map the memory and open the semaphores; ``undo`` lets go of all of it, in reverse."""
        observation, action, self._bell = descriptors
        agreement = self.agreement
        undo.callback(os.close, self._bell)
        with contextlib.ExitStack() as mapped:
            for descriptor in (observation, action):
                mapped.callback(os.close, descriptor)
            self._observations = Segment(agreement.layouts.observation, agreement.slots, observation, writable=True)
            undo.callback(self._observations.close)
            self._actions = Segment(agreement.layouts.action, agreement.slots, action, writable=False)
            undo.callback(self._actions.close)
        self._semaphores = _open_all(semaphores, undo)
        free, full, action_free, action_full = self._semaphores
        self._producer = Producer(self._observations.slots, free, full, self._control)
        self._consumer = Consumer(self._actions.slots, action_free, action_full, self._control)

    def loan(self, deadline: Deadline) -> Slot | None:
        self._control.phase = "waiting for a free observation slot"
        return self._producer.loan(deadline)

    def publish(self, sequence: int) -> None:
        self._control.sequence = sequence
        self._producer.publish()
        try:
            os.eventfd_write(self._bell, 1)
        except BlockingIOError:
            pass  # so often rung that it cannot count on: it rings all the same

    def take(self, deadline: Deadline) -> Slot | None:
        self._control.phase = "waiting for an action"
        return self._consumer.take(deadline)

    def release(self, slot: Slot) -> None:
        self._consumer.release(slot)

    @property
    def arrived(self) -> int:
        self._raise_if_lost()
        return self._consumer.waiting

    def statistics(self) -> tuple[RingStatistics, RingStatistics] | None:
        with self._looking:  # or they could be closed meanwhile; not in_use, which a call may hold for long
            return None if self._control.ended is not None else (self._producer.statistics(), self._consumer.statistics())

    def host_status(self, deadline: Deadline) -> Status | None:
        self._raise_if_lost()
        return self._control.status(deadline)

    def stop_host(self, deadline: Deadline) -> None:
        self._raise_if_lost()
        self._control.stop_host(deadline)

    def close(self) -> None:
        with self._closing:
            if not self._closed:
                self._let_go()

    def _let_go(self) -> None:
        # First the I/O thread, which on its way out wakes a thread of ours that waits on a semaphore. Only when that has left may
        # the semaphores go; should it not leave in time, leaking them is better than pulling them from under it. Every step may be
        # done twice, so that a close that was interrupted can be repeated.
        self._control.close()
        left = False
        try:
            left = self.in_use.acquire(timeout=_LEAVE_SECONDS)
            if left:
                self._producer.forget()
                self._consumer.forget()
                with self._looking:
                    self._undo.close()
                self._closed = True
        finally:
            if left:
                self.in_use.release()

    def _wake_waiters(self) -> None:
        # Only this process waits on these two. Each post stands for no slot: the rings look whether the line has ended before they read anything.
        free, _, _, action_full = self._semaphores
        for semaphore in (free, action_full):
            with contextlib.suppress(OSError):  # a peer that scribbled on it: then nobody waits on it, for it is full
                semaphore.release()

    def _raise_if_lost(self) -> None:
        if self._control.ended is not None:
            self._control.raise_ended()


class ShmHostEnd(HostEnd):
    """The host's end: reads observations, writes actions. Made and used by the host's worker thread, but for two methods."""

    def __init__(self, agreement: Agreement, client: str, host_name: str, bell: int, sharing: Sharing = PRIVATE) -> None:
        """Reserve memory and semaphores.

        Raises:
            SharedMemoryFullError: There is too little. Nothing stays reserved.
        """
        self.agreement, self.client = agreement, client
        self.ended: ShmbridgeError | None = None
        self._looking = threading.Lock()
        self._segments: list[CreatedSegment] = []
        self._semaphores: list[Semaphore] = []
        self._rings: list[Consumer | Producer] = []
        self._names = naming.new_semaphore_names(host_name)
        self._bell, self._sharing = bell, sharing
        self.nbytes = check_agreement_fits(agreement)
        try:
            self._reserve()
        except BaseException:
            self.forget_names()
            self.close()
            raise

    def _reserve(self) -> None:
        layouts, slots = self.agreement.layouts, self.agreement.slots
        for layout, writable_here in ((layouts.observation, False), (layouts.action, True)):
            self._segments.append(CreatedSegment(layout, slots, writable_here=writable_here))
        for name, value in zip(self._names, (slots, 0, slots, 0), strict=True):
            self._semaphores.append(Semaphore.create(name, value, self._sharing))
        free, self._full, action_free, action_full = self._semaphores
        self._consumer = Consumer(self._segments[0].slots, free, self._full, self)
        self._producer = Producer(self._segments[1].slots, action_free, action_full, self)
        self._rings = [self._consumer, self._producer]

    def welcome(self) -> tuple[Welcome, Sequence[int]]:
        """Return the message that lets the client attach, and the descriptors to go beside it, which stay ours."""
        agreed = self.agreement
        message = Welcome(
            generation=agreed.generation,
            policy=agreed.policy,
            config_digest=agreed.config_digest,
            observation=list(agreed.specs.observation),
            action=list(agreed.specs.action),
            horizon=agreed.specs.horizon,
            observation_steps=agreed.specs.observation_steps,
            slots=agreed.slots,
            observation_digest=agreed.layouts.observation.digest,
            action_digest=agreed.layouts.action.digest,
            semaphores=self._names,
        )
        return message, [*(segment.for_peer for segment in self._segments), self._bell]

    def forget_names(self) -> None:
        """Take the names and the peer's descriptors away, once the client opened everything or never will.

        Only the thread that holds the conversation calls it; everything else here is the worker's.
        """
        for name in self._names:
            unlink_semaphore(name)
        for segment in self._segments:
            segment.forget_descriptor()

    @property
    def waiting(self) -> int:
        return self._full.value if self._semaphores else 0

    def try_take(self) -> Slot | None:
        return self._consumer.try_take()

    def release(self, slot: Slot) -> None:
        self._consumer.release(slot)

    def try_loan(self) -> Slot | None:
        return self._producer.try_loan()

    def publish(self) -> None:
        self._producer.publish()

    def statistics(self) -> tuple[RingStatistics, RingStatistics] | None:
        with self._looking:
            return (self._consumer.statistics(), self._producer.statistics()) if self._semaphores else None

    def mark_lost(self, reason: str) -> None:
        """Say that the client is gone; from now on nothing of it is read. Any thread may call it."""
        self.ended = ClosedError(f"the session of {self.client} is over: {reason}")

    def raise_ended(self) -> NoReturn:
        """Raise why the session is over."""
        raise ClosedError(str(self.ended))  # a new one: an exception that was raised holds on to the frames it passed, and they to the memory

    def close(self) -> None:
        if self.ended is None:
            self.mark_lost("closed")
        with self._looking:  # or another thread would ask a closed semaphore for its value
            semaphores, self._semaphores = self._semaphores, []
        for end in self._rings:
            end.forget()
        for semaphore in semaphores:
            semaphore.close()
        for segment in self._segments:
            segment.close()
        self._rings = []  # but not the segments: their descriptors for the peer are forgotten by another thread, perhaps later


def _check_digests(welcome: Welcome, agreement: Agreement) -> None:
    ours = (agreement.layouts.observation.digest, agreement.layouts.action.digest)
    theirs = (welcome.observation_digest, welcome.action_digest)
    if ours != theirs:
        digests = f"digests {theirs[0][:12]}, {theirs[1][:12]}; here {ours[0][:12]}, {ours[1][:12]}"
        raise LayoutMismatchError(f"the host lays slots out differently ({digests}): install one version of shmbridge on both sides")


def _open_all(names: Sequence[str], undo: contextlib.ExitStack) -> list[Semaphore]:
    if len(names) != len(naming.SEMAPHORES):
        raise RemoteProtocolError(f"the host named {len(names)} semaphores, expected {len(naming.SEMAPHORES)}")
    if not all(map(naming.is_semaphore_name, names)):
        raise RemoteProtocolError(f"the host named semaphores that are none of ours: {names}")
    opened: list[Semaphore] = []
    for name in names:
        opened.append(Semaphore.open(name))
        undo.callback(opened[-1].close)
    return opened


def check_agreement_fits(agreement: Agreement) -> int:
    """Return the bytes that a session takes.

    Raises:
        SharedMemoryFullError: There is not so much. Nothing was reserved.
    """
    sizes = [layout.segment_size(agreement.slots) for layout in agreement.layouts]
    parts = zip(("observations", "actions"), agreement.layouts, strict=True)
    purpose = " + ".join(f"{agreement.slots} slots of {megabytes(layout.stride)} for {what}" for what, layout in parts)
    check_room(sum(sizes), f"{agreement.num_envs} environments: {purpose}")
    return sum(sizes)
