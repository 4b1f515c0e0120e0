"""Requests and answers of one session, by number. What guarantees that a late answer is never taken for a current one.

Each published observation has a sequence number; answers come back in the same order and carry it. A request whose caller gave up is
abandoned: its answer is taken out of the ring and dropped. No more requests are under way than there are action slots, so the host, which
never waits, always finds a free one.
"""

from __future__ import annotations

import time
from collections import deque

import numpy as np

from shmbridge.errors import LocalProtocolError, RemoteProtocolError, ShmbridgeError
from shmbridge.layout import Change, Outcome, Slot
from shmbridge.memory.waiting import Deadline
from shmbridge.messages import decode_failure, exception_from_failure
from shmbridge.reply import Timing
from shmbridge.tasks import TaskChanges
from shmbridge.transport.base import Connection


class Request:
    """One published observation and, once it came, its answer. Times are seconds on ``perf_counter``'s clock.

    Attributes:
        sequence: Its number.
        step: The caller's count.
        rows: (num_envs,) bool: environments that asked; None for all.
        episodes: (num_envs,) uint64: which they were in; never changed.
        write: Seconds it took to write.
        published, arrived, read: When it was published, when its answer arrived, and when that was read.
        infer: Seconds the policy took.
        actions: Copies of what came back.
        answered: (num_envs,) bool: environments that were answered; None for all.
    """

    __slots__ = ("actions", "answered", "arrived", "episodes", "infer", "published", "read", "rows", "sequence", "step", "write")

    actions: dict[str, np.ndarray]
    answered: np.ndarray | None
    arrived: float
    infer: float
    published: float
    read: float
    write: float

    def __init__(self, sequence: int, step: int, rows: np.ndarray | None, episodes: np.ndarray) -> None:
        self.sequence, self.step, self.rows, self.episodes = sequence, step, rows, episodes

    @property
    def timing(self) -> Timing:
        """Where its time went. Only once it is answered."""
        wait = max(0.0, self.arrived - self.published - self.infer)
        return Timing(self.write, wait, self.infer, self.read - self.arrived)


class Exchange:
    """The numbers of one session.

    Attributes:
        sequence: Number of the last request; 0 before the first.
        rows: Environments asked for, summed over the requests.
        discarded: Answers that came when nobody wanted them any more.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._generation = connection.agreement.generation
        self._num_envs = connection.agreement.num_envs
        self._slots = connection.agreement.slots
        self._under_way: deque[Request] = deque()
        self._abandoned = 0
        self.sequence = self.rows = self.discarded = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way, not even what nobody wants any more."""
        return not self._under_way

    @property
    def outstanding(self) -> int:
        """Requests whose answer somebody still wants."""
        return sum(request.sequence > self._abandoned for request in self._under_way)

    @property
    def is_full(self) -> bool:
        """Whether one more request could find the host without a free action slot."""
        return len(self._under_way) >= self._slots

    @property
    def is_awaited(self) -> bool:
        """Whether the host has yet to answer a request. Its answer is what asks for the next one where only the latest counts."""
        return len(self._under_way) > self._connection.arrived

    def publish(self, slot: Slot, *, rows: np.ndarray | None, episodes: np.ndarray, changes: TaskChanges, step: int, write: float) -> None:
        """Number the lent slot and send it.

        Args:
            slot: Filled with tensors; the words are written here.
            rows: (num_envs,) bool: environments that ask for an action; None for all.
            episodes: (num_envs,) uint64. Kept, so it must never be changed: a reset makes another one.
            changes: What environments are told with it.
            step: The caller's count of observations.
            write: Seconds that filling the slot took.

        Raises:
            LocalProtocolError: As many requests as there are slots are under way. Nothing changed.
        """
        if self.is_full:
            raise LocalProtocolError(f"{len(self._under_way)} answers are outstanding, as many as there are slots: poll before submitting more")
        if slot.episodes_held is not episodes:
            np.copyto(slot.words["@episodes"], episodes)
            slot.episodes_held = episodes
        if rows is not None:
            np.copyto(slot.words["@rows"], rows)
        if changes.waiting:
            _write_changes(slot, changes)
        sequence = self.sequence = self.sequence + 1
        # Plain numbers in the order of ObservationHeader.
        slot.write_words(self._generation, sequence, int(changes.waiting), int(rows is None))
        published = time.perf_counter()
        self._connection.publish(sequence)
        request = Request(sequence, step, rows, episodes)
        request.write, request.published = write, published
        self._under_way.append(request)
        self.rows += self._num_envs if rows is None else int(rows.sum())

    def abandon_all(self) -> None:
        """Give up waiting for every request so far; their answers will be dropped."""
        self._abandoned = self.sequence

    def abandon_oldest(self) -> None:
        """Give up waiting for the oldest request; its answer will be dropped."""
        if self._under_way:
            self._abandoned = max(self._abandoned, self._under_way[0].sequence)

    def abandon_all_but_newest_arrived(self) -> None:
        """Give up every answer that is there already but the newest of them."""
        arrived = min(self._connection.arrived, len(self._under_way))
        if arrived > 1:
            self._abandoned = max(self._abandoned, self._under_way[arrived - 2].sequence)

    def drop_abandoned(self, deadline: Deadline) -> bool:
        """Take abandoned answers out of the ring, waiting for one only if it is full; False if it is still full at the deadline."""
        while self._under_way and self._under_way[0].sequence <= self._abandoned:
            is_full = self.is_full
            if not self._drop_next(deadline if is_full else Deadline(0.0)):
                return not is_full
        return True

    def take_next(self, deadline: Deadline) -> Request | None:
        """Return the oldest request that is not abandoned, of which there must be one, answered; None if the deadline passes first.

        Raises:
            PolicyRaisedError: The policy failed on it.
            RemoteProtocolError: The answer has the wrong number. The session is dead.
        """
        while self._under_way[0].sequence <= self._abandoned:
            if not self._drop_next(deadline):
                return None
        slot = self._connection.take(deadline)
        if slot is None:
            return None
        arrived = time.perf_counter()
        try:
            answer = self._read(slot, arrived)
        finally:
            self._connection.release(slot)
        del slot  # what is raised here holds this frame, and must not hold the slot's memory
        if isinstance(answer, ShmbridgeError):
            raise answer
        return answer

    def _drop_next(self, deadline: Deadline) -> bool:
        slot = self._connection.take(deadline)
        if slot is None:
            return False
        self._check_number(*slot.read_words()[:2])
        self._connection.release(slot)
        self.discarded += 1
        return True

    def _check_number(self, generation: int, sequence: int) -> Request:
        expected = self._under_way[0].sequence if self._under_way else 0
        if generation != self._generation or sequence != expected:
            found = f"{sequence} of {generation:x}"
            raise RemoteProtocolError(f"expected the answer to observation {expected} of generation {self._generation:x}, found {found}; reconnect")
        return self._under_way.popleft()

    def _read(self, slot: Slot, arrived: float) -> Request | ShmbridgeError:
        generation, sequence, outcome, infer_ns, all_rows = slot.read_words()
        request = self._check_number(generation, sequence)
        if outcome != Outcome.ANSWERED:
            return self._failure(slot)
        request.actions = actions = {}
        for name, array in slot.tensors.items():
            actions[name] = array.copy()
        request.answered = None if all_rows else slot.words["@rows"].astype(np.bool_)
        request.arrived, request.infer = arrived, infer_ns / 1e9
        request.read = time.perf_counter()
        return request

    def _failure(self, slot: Slot) -> ShmbridgeError:
        return exception_from_failure(decode_failure(bytes(slot.words["@failure"][()])))


def _write_changes(slot: Slot, changes: TaskChanges) -> None:
    kinds, tasks = slot.words["@changes"], slot.words["@tasks"]
    kinds[:] = Change.NONE
    for kind, told in ((Change.EPISODE, changes.episodes), (Change.INSTRUCTION, changes.instructions)):
        for env_id, task in told.items():
            kinds[env_id], tasks[env_id] = kind, task.encode()
