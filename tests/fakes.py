"""A connection without a host: the test decides what is answered, and when."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from shmbridge.counters import RingStatistics
from shmbridge.errors import ClosedError, PeerLostError
from shmbridge.layout import ActionHeader, Change, Outcome, Slot, make_slots
from shmbridge.memory.waiting import Deadline
from shmbridge.messages import Failure, HostState, Status, encode_failure
from shmbridge.transport.base import Agreement, Connection


class FakeConnection(Connection):
    """Publishes into a list and takes from one. With ``automatic`` every observation is answered at once, by itself plus the place in the chunk.

    Where a header says that words were not written, they are neither looked at nor written here either.

    Attributes:
        published: Sequence numbers published, in order.
        observations: What was in them: header, tensors, episodes, rows, resets and instructions.
        ready: Action slots that ``take`` will give.
        lent: How many observation slots may still be lent; fewer than one makes loans time out.
        lost: Raised by every call, once set.
    """

    path, peer = "nowhere", "host 'fake'"

    def __init__(self, agreement: Agreement, *, automatic: bool = True) -> None:
        super().__init__()
        super().__init__()
        self.agreement = agreement
        self.automatic = automatic
        self.published: list[int] = []
        self.observations: list[dict[str, Any]] = []
        self.ready: deque[Slot] = deque()
        self.unanswered: deque[int] = deque()
        self.lent, self.leases, self.closed = 100, 0, 0
        self.stopped = False
        self.lost: Exception | None = None
        self.before_take: Callable[[], None] = lambda: None
        layouts, slots = agreement.layouts, agreement.slots
        self._written = make_slots(layouts.observation, bytearray(layouts.observation.segment_size(slots)), slots, writable=True)
        self._answers = make_slots(layouts.action, bytearray(layouts.action.segment_size(slots)), slots, writable=True)

    def loan(self, deadline: Deadline) -> Slot | None:
        self._raise_if_lost()
        return self._written[len(self.published) % len(self._written)] if self.lent > 0 else None

    def publish(self, sequence: int) -> None:
        self._raise_if_lost()
        slot = self._written[len(self.published) % len(self._written)]
        header = slot.read_header()
        told = self._told(slot) if header.has_changes else {}
        self.observations.append(
            {
                "header": header,
                "tensors": {name: array.copy() for name, array in slot.tensors.items()},
                "episodes": slot.words["@episodes"].tolist(),
                "rows": list(range(self.agreement.num_envs)) if header.all_rows else np.flatnonzero(slot.words["@rows"]).tolist(),
                "resets": told.get(Change.EPISODE, {}),
                "instructions": told.get(Change.INSTRUCTION, {}),
            }
        )
        self.published.append(sequence)
        self.unanswered.append(sequence)
        if self.automatic:
            self.answer()

    def answer(self, *, failure: Failure | None = None, **changes: Any) -> None:
        """Answer the oldest unanswered observation; ``changes`` are made to the header, or to whose ``rows`` are answered."""
        sequence = self.unanswered.popleft()
        seen = self.observations[sequence - 1]
        slot = self._answers[(sequence - 1) % len(self._answers)]
        steps = np.arange(self.agreement.specs.horizon, dtype=np.float32)
        newest = seen["tensors"]["q"] if self.agreement.specs.observation_steps == 1 else seen["tensors"]["q"][:, -1]
        slot.tensors["action"][...] = newest[:, None, :] + steps[None, :, None]
        all_rows = seen["header"].all_rows and "rows" not in changes
        slot.words["@rows"][:] = 0
        slot.words["@rows"][[] if all_rows else changes.pop("rows", seen["rows"])] = 1
        outcome = Outcome.ANSWERED
        if failure is not None:
            outcome, slot.words["@failure"][...] = Outcome.FAILED, encode_failure(failure)
        header = ActionHeader(seen["header"].generation, sequence, outcome, 1_000_000, int(all_rows))
        slot.write_header(header._replace(**changes))
        self.ready.append(slot)

    def take(self, deadline: Deadline) -> Slot | None:
        self._raise_if_lost()
        self.before_take()
        if not self.ready:
            return None
        self.leases += 1
        return self.ready.popleft()

    def release(self, slot: Slot) -> None:
        self.leases -= 1

    @property
    def arrived(self) -> int:
        self._raise_if_lost()
        return len(self.ready)

    def statistics(self) -> tuple[RingStatistics, RingStatistics] | None:
        slots = self.agreement.slots
        taken = len(self.published) - len(self.unanswered) - len(self.ready)
        return (
            RingStatistics(slots, slots - len(self.unanswered), len(self.unanswered), len(self.published), 0),
            RingStatistics(slots, slots - len(self.ready), len(self.ready), taken, self.leases),
        )

    def host_status(self, deadline: Deadline) -> Status | None:
        self._raise_if_lost()
        return Status(HostState.BUSY, 2.5, "observation 3")

    def stop_host(self, deadline: Deadline) -> None:
        self.stopped = True

    def close(self) -> None:
        self.closed += 1
        self.lost = self.lost or ClosedError("closed here")

    def lose(self) -> None:
        """Let the host die."""
        self.lost = PeerLostError("gone", peer=self.peer)

    def _raise_if_lost(self) -> None:
        if self.lost is not None:
            raise self.lost

    @staticmethod
    def _told(slot: Slot) -> dict[int, dict[int, str]]:
        kinds, tasks = slot.words["@changes"], slot.words["@tasks"]
        return {kind: {int(row): tasks[row].decode() for row in np.flatnonzero(kinds == kind)} for kind in (Change.EPISODE, Change.INSTRUCTION)}
