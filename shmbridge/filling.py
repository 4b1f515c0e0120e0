"""How an observation gets into a slot: copied from the caller's arrays, or written in place into a loaned one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from shmbridge.arrays import Arrays
from shmbridge.errors import LocalProtocolError, SpecError
from shmbridge.layout import Slot
from shmbridge.memory.waiting import Deadline
from shmbridge.spec import flatten, nearest
from shmbridge.transport.base import Connection

Observation = Mapping[str, Any]
"""One value per observation spec, flat or nested, ``(num_envs, *shape)``; or a :class:`LoanedSlot`."""


class LoanedSlot(Mapping[str, np.ndarray]):
    """Memory lent to be filled with one observation: writable arrays ``(num_envs, *shape)`` by name, of what the policy asked for.

    What is not written keeps its old content, so write all of it. The slot is spent when given to ``act``, ``infer`` or
    ``submit``; arrays taken out of it must not be used afterwards.
    """

    def __init__(self, slot: Slot, *, batched: bool) -> None:
        self._arrays = slot.tensors if batched else {name: array[0, ...] for name, array in slot.tensors.items()}
        self.spent = False

    def __getitem__(self, name: str) -> np.ndarray:
        if self.spent:
            raise LocalProtocolError("this slot is spent; loan another one")
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


class Filler:
    """Lends one slot at a time and fills it."""

    def __init__(self, connection: Connection, *, offered: Sequence[str], batched: bool, arrays: Arrays) -> None:
        self._connection = connection
        self._specs = connection.agreement.specs.observation
        self._num_envs = connection.agreement.num_envs
        self._offered = frozenset(offered)
        self._batched, self._arrays = batched, arrays
        self._loaned: LoanedSlot | None = None

    def loan(self, deadline: Deadline) -> LoanedSlot | None:
        """Lend the next slot, the same one until it was sent; None if the deadline passes first."""
        slot = self._connection.loan(deadline)
        if slot is not None and self._loaned is None:
            self._loaned = LoanedSlot(slot, batched=self._batched)
        return self._loaned

    def fill(self, observation: Observation, deadline: Deadline) -> Slot | None:
        """Return the lent slot with ``observation`` in it, checked; None if the deadline passes first.

        Raises:
            SpecError: A value does not conform. The slot stays lent.
            LocalProtocolError: The loaned slot is spent.
        """
        if isinstance(observation, LoanedSlot):
            self._check_current(observation)
            slot = self._connection.loan(deadline)
            return slot and self._check_in_place(slot)
        values = self._checked(observation)
        slot = self._connection.loan(deadline)
        if slot is not None:
            for name, value in values.items():
                self._arrays.write(value, slot.tensors[name])
        return slot

    def pass_over(self, observation: Observation) -> None:
        """Take an observation that is not needed in this step; a loaned slot is spent, of others the names are checked.

        Raises:
            SpecError: A tensor is missing or unknown.
        """
        if isinstance(observation, LoanedSlot):
            self.spend(observation)
        else:
            self._check_names(flatten(observation))

    def spend(self, observation: Observation) -> None:
        """Take a loaned slot out of the caller's hands: it was sent, or is not needed in this step."""
        if isinstance(observation, LoanedSlot):
            self._check_current(observation)
        if self._loaned is not None:
            self._loaned.spent = True
            self._loaned = None

    def forget(self) -> None:
        """Let go of a slot still lent, because the session is over."""
        self._loaned = None

    def _check_current(self, loaned: LoanedSlot) -> None:
        if loaned is not self._loaned:
            raise LocalProtocolError("this slot is spent; loan another one")

    def _check_in_place(self, slot: Slot) -> Slot:
        for spec in self._specs:
            if spec.is_floating:
                spec.validate(slot.tensors[spec.name], self._num_envs, what="observation")
        return slot

    def _checked(self, observation: Observation) -> dict[str, Any]:
        flat = flatten(observation)
        self._check_names(flat)
        return {spec.name: self._arrays.check(self._batch(flat[spec.name]), spec, self._num_envs) for spec in self._specs}

    def _check_names(self, flat: Mapping[str, Any]) -> None:
        for name in flat:
            if name not in self._offered:
                raise SpecError(f"observation {name!r} was not offered when connecting; {nearest(name, self._offered)}".rstrip("; "))
        for spec in self._specs:
            if spec.name not in flat:
                raise SpecError(f"observation {spec.name!r} is missing, and the policy needs it; given were: {', '.join(sorted(flat))}")

    def _batch(self, value: Any) -> Any:
        if self._batched:
            return value
        return value[None] if hasattr(value, "shape") else np.asarray(value)[None]
