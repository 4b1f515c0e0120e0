"""Sessions within one process: the policy answers at once, in the caller's thread. Slots and rules are those of shared memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from shmbridge.errors import ClosedError, LocalProtocolError
from shmbridge.layout import PAGE, Layout, Slot, make_slots
from shmbridge.memory.waiting import Deadline
from shmbridge.messages import HostState, Status
from shmbridge.transport.base import Agreement, Connection

Answer = Callable[[Slot, Slot], None]
"""Reads an observation slot, writes an action slot."""


class LocalConnection(Connection):
    """A session with a policy in this process. Deadlines do not apply: nothing is waited for."""

    path = "in process"
    peer = "the policy in this process"

    def __init__(self, agreement: Agreement, answer: Answer) -> None:
        super().__init__()
        self.agreement = agreement
        self._answer = answer
        layouts, slots = agreement.layouts, agreement.slots
        memory = _aligned(layouts.observation, slots), _aligned(layouts.action, slots)
        self._written = make_slots(layouts.observation, memory[0], slots, writable=True)
        self._read = make_slots(layouts.observation, memory[0], slots, writable=False)
        self._answers = make_slots(layouts.action, memory[1], slots, writable=True)
        self._ready: deque[Slot] = deque()
        self._published = self._released = 0
        self._closed = False

    def loan(self, deadline: Deadline) -> Slot | None:
        self._raise_if_closed()
        return self._written[self._published % len(self._written)]

    def publish(self, sequence: int) -> None:
        self._raise_if_closed()
        if self._published - self._released >= len(self._answers):
            raise LocalProtocolError("every action slot is in use: poll the answers before submitting more")
        place = self._published % len(self._written)
        self._answer(self._read[place], self._answers[place])
        self._ready.append(self._answers[place])
        self._published += 1

    def take(self, deadline: Deadline) -> Slot | None:
        self._raise_if_closed()
        return self._ready.popleft() if self._ready else None

    def release(self, slot: Slot) -> None:
        self._released += 1

    @property
    def arrived(self) -> int:
        self._raise_if_closed()
        return len(self._ready)

    def statistics(self) -> None:
        return None

    def host_status(self, deadline: Deadline) -> Status | None:
        self._raise_if_closed()
        return Status(HostState.READY, 0.0)

    def stop_host(self, deadline: Deadline) -> None:
        raise LocalProtocolError("the policy runs in this process; there is no host to stop")

    def close(self) -> None:
        self._closed = True

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise ClosedError("this session was closed here")


def _aligned(layout: Layout, slots: int) -> memoryview:
    """Return memory that starts on a page, as a mapping does, so that vectorised sums come out bit for bit the same."""
    size = layout.segment_size(slots)
    memory = bytearray(size + PAGE)
    start = -_address(memory) % PAGE
    return memoryview(memory)[start : start + size]


def _address(memory: bytearray) -> int:
    return int(np.frombuffer(memory, np.uint8).ctypes.data)
