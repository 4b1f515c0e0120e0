"""Requests and answers of one session, by number. What guarantees that a late answer is never taken for a current one.

Each published observation has a sequence number; answers come back in the same order and carry it. A request whose caller gave up is
abandoned: its answer is taken out of the ring and dropped. No more requests are under way than there are action slots, so the host, which
never waits, always finds a free one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shmbridge.errors import LocalProtocolError, RemoteProtocolError, ShmbridgeError
from shmbridge.layout import ObservationHeader, Outcome, Slot
from shmbridge.memory.waiting import Deadline
from shmbridge.messages import decode_failure, exception_from_failure
from shmbridge.reply import Timing
from shmbridge.transport.base import Connection


@dataclass(frozen=True)
class Request:
    """One published observation: its number, the caller's step, seconds it took to write, and when it was published."""

    sequence: int
    step: int
    write: float
    published: float


class Answer(NamedTuple):
    """What came back for one request. The arrays are copies."""

    request: Request
    actions: dict[str, np.ndarray]
    rows: np.ndarray
    episodes: np.ndarray
    timing: Timing


class Exchange:
    """The numbers of one session.

    Attributes:
        sequence: Number of the last request; 0 before the first.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._generation = connection.agreement.generation
        self._under_way: deque[Request] = deque()
        self._abandoned = 0
        self.sequence = 0

    @property
    def outstanding(self) -> int:
        """Requests whose answer somebody still wants."""
        return sum(request.sequence > self._abandoned for request in self._under_way)

    @property
    def is_full(self) -> bool:
        """Whether one more request could find the host without a free action slot."""
        return len(self._under_way) >= self._connection.agreement.slots

    def publish(self, slot: Slot, *, rows: np.ndarray, episodes: np.ndarray, resets: Mapping[int, str], step: int, write: float) -> None:
        """Number the lent slot and send it.

        Args:
            slot: Filled with tensors; the words are written here.
            rows: (num_envs,) bool: environments that ask for an action.
            episodes: (num_envs,) uint64.
            resets: Environments that begin an episode, and their tasks.
            step: The caller's count of observations.
            write: Seconds that filling the slot took.

        Raises:
            LocalProtocolError: As many requests as there are slots are under way. Nothing changed.
        """
        if self.is_full:
            raise LocalProtocolError(f"{len(self._under_way)} answers are outstanding, as many as there are slots: poll before submitting more")
        all_rows = bool(rows.all())
        _write_words(slot, None if all_rows else rows, episodes, resets)
        self.sequence += 1
        slot.write_header(ObservationHeader(self._generation, self.sequence, int(bool(resets)), int(all_rows)))
        self._under_way.append(Request(self.sequence, step, write, time.perf_counter()))
        self._connection.publish(self.sequence)

    def abandon(self, sequence: int) -> None:
        """Give up waiting for all requests up to ``sequence``; their answers will be dropped."""
        self._abandoned = max(self._abandoned, sequence)

    def drop_abandoned(self, deadline: Deadline) -> bool:
        """Take abandoned answers out of the ring, waiting for one only if it is full; False if it is still full at the deadline."""
        while self._under_way and self._under_way[0].sequence <= self._abandoned:
            is_full = self.is_full
            if not self._drop_next(deadline if is_full else Deadline(0.0)):
                return not is_full
        return True

    def take_next(self, deadline: Deadline) -> Answer | None:
        """Return the answer to the oldest request that is not abandoned; None if the deadline passes first.

        Raises:
            PolicyRaisedError: The policy failed on it.
            RemoteProtocolError: The answer has the wrong number. The session is dead.
        """
        while self._under_way and self._under_way[0].sequence <= self._abandoned:
            if not self._drop_next(deadline):
                return None
        slot = self._connection.take(deadline)
        if slot is None:
            return None
        arrived = time.perf_counter()
        request = self._check_number(slot)
        try:
            return self._read(slot, request, arrived)
        finally:
            self._connection.release(slot)

    def _drop_next(self, deadline: Deadline) -> bool:
        slot = self._connection.take(deadline)
        if slot is None:
            return False
        self._check_number(slot)
        self._connection.release(slot)
        return True

    def _check_number(self, slot: Slot) -> Request:
        header = slot.read_header()
        expected = self._under_way[0].sequence if self._under_way else 0
        if header.generation != self._generation or header.sequence != expected:
            found = f"{header.sequence} of {header.generation:x}"
            raise RemoteProtocolError(f"expected the answer to observation {expected} of generation {self._generation:x}, found {found}; reconnect")
        return self._under_way.popleft()

    def _read(self, slot: Slot, request: Request, arrived: float) -> Answer:
        header = slot.read_header()
        if header.outcome != Outcome.ANSWERED:
            raise self._failure(slot)
        actions = {name: array.copy() for name, array in slot.tensors.items()}
        rows, episodes = slot.words["@rows"].astype(np.bool_), slot.words["@episodes"].copy()
        infer = header.infer_ns / 1e9
        wait = max(0.0, arrived - request.published - infer)
        return Answer(request, actions, rows, episodes, Timing(request.write, wait, infer, time.perf_counter() - arrived))

    def _failure(self, slot: Slot) -> ShmbridgeError:
        return exception_from_failure(decode_failure(bytes(slot.words["@failure"][()])))


def _write_words(slot: Slot, rows: np.ndarray | None, episodes: np.ndarray, resets: Mapping[int, str]) -> None:
    words = slot.words
    np.copyto(words["@episodes"], episodes)
    if rows is not None:
        np.copyto(words["@rows"], rows)
    if resets:
        words["@resets"][:] = 0
        for row, task in resets.items():
            words["@resets"][row] = 1
            words["@tasks"][row] = task.encode()
