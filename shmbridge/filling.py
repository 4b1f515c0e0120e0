"""How an observation gets into a slot: copied from the caller's arrays, or written in place into a loaned one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from shmbridge.arrays import Arrays
from shmbridge.errors import LocalProtocolError, SpecError
from shmbridge.layout import Slot
from shmbridge.memory.waiting import Deadline
from shmbridge.spec import conformity, flatten, nearest
from shmbridge.stacking import FrameStack
from shmbridge.transport.base import Connection

Observation = Mapping[str, Any]
"""One value per observation spec, flat or nested, ``(num_envs, *shape)``; or a :class:`LoanedSlot`."""


class LoanedSlot(Mapping[str, np.ndarray]):
    """Memory lent to be filled with one observation: writable arrays ``(num_envs, *shape)`` by name, of what the policy asked for.

    Where the policy sees several past observations, this is the newest; those before it
    are put in by the client. What is not written keeps its old content, so write all of it. The slot is spent when given to ``act``, ``infer`` or
    ``submit``; arrays taken out of it must not be used afterwards.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], *, batched: bool) -> None:
        self._arrays = arrays if batched else {name: array[0, ...] for name, array in arrays.items()}
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
    """Lends one slot at a time, fills it, and stacks observations where the policy sees several."""

    def __init__(self, connection: Connection, *, offered: Sequence[str], batched: bool, arrays: Arrays) -> None:
        specs = connection.agreement.specs
        self._connection = connection
        self._specs = specs.observation
        self._spec = {spec.name: spec for spec in specs.observation}
        self._num_envs = connection.agreement.num_envs
        self._offered = frozenset(offered)
        self._batched, self._arrays = batched, arrays
        self._conforms = {spec.name: conformity((self._num_envs, *spec.shape), spec.storage) for spec in specs.observation}
        self._loaned: LoanedSlot | None = None
        self._stack = FrameStack(specs.observation, self._num_envs, specs.observation_steps) if specs.observation_steps > 1 else None

    def begin(self, env_ids: Sequence[int]) -> None:
        """Note that these environments begin an episode, and so have no past."""
        if self._stack is not None:
            self._stack.begin(env_ids)

    def loan(self, deadline: Deadline) -> LoanedSlot | None:
        """Lend the next slot, the same one until it was sent; None if the deadline passes first."""
        slot = self._connection.loan(deadline)
        if slot is not None and self._loaned is None:
            self._loaned = LoanedSlot(self._newest(slot), batched=self._batched)
        return self._loaned

    def fill(self, observation: Observation, deadline: Deadline) -> Slot | None:
        """Return the lent slot with ``observation`` in it, checked; None if the deadline passes first.

        Raises:
            SpecError: A value does not conform. The slot stays lent.
            LocalProtocolError: The loaned slot is spent.
        """
        if type(observation) is LoanedSlot:
            self._check_current(observation)
            values: Mapping[str, Any] = {}
        else:
            values = self._checked(observation)
        slot = self._connection.loan(deadline)
        if slot is None:
            return None
        newest = slot.tensors if self._stack is None else self._newest(slot)
        for name, value in values.items():
            self._arrays.write(value, newest[name])
        if not values:
            self._check_in_place(newest)
        if self._stack is not None:
            self._stack.complete(slot.tensors)
        return slot

    def pass_over(self, observation: Observation) -> None:
        """Take an observation that is not sent; a loaned slot is spent, of others the names are checked.

        Where several are stacked, it is part of the past of those that will be sent, and so it is checked as a whole.

        Raises:
            SpecError: A tensor is missing or unknown, or does not conform where several are stacked.
        """
        if type(observation) is LoanedSlot:
            self._check_current(observation)
        elif self._stack is None:
            self._check_names(flatten(observation))
        if self._stack is not None:
            self._stack.pass_over(self._written(observation), self._arrays.write)
        self.spend(observation)

    def remember(self) -> None:
        """Make the observation filled in last part of the past, because its step is over."""
        if self._stack is not None:
            self._stack.remember()

    def spend(self, observation: Observation) -> None:
        """Take a loaned slot out of the caller's hands: it was sent, or is not needed in this step."""
        if type(observation) is LoanedSlot:
            self._check_current(observation)
        if self._loaned is not None:
            self._loaned.spent = True
            self._loaned = None

    def forget(self) -> None:
        """Let go of a slot still lent, because the session is over."""
        self._loaned = None
        if self._stack is not None:
            self._stack.forget()

    def _check_current(self, loaned: LoanedSlot) -> None:
        if loaned is not self._loaned:
            raise LocalProtocolError("this slot is spent; loan another one")

    def _written(self, observation: Observation) -> Mapping[str, Any]:
        """Return the values of an observation, with the batch axis, checked."""
        if type(observation) is not LoanedSlot:
            return self._checked(observation)
        values = observation if self._batched else {name: array[None] for name, array in observation.items()}
        self._check_in_place(values)
        return values

    def _newest(self, slot: Slot) -> Mapping[str, np.ndarray]:
        return slot.tensors if self._stack is None else {name: array[:, -1] for name, array in slot.tensors.items()}

    def _check_in_place(self, newest: Mapping[str, np.ndarray]) -> None:
        for spec in self._specs:
            if spec.is_floating and not self._conforms[spec.name](newest[spec.name]):
                spec.validate(newest[spec.name], self._num_envs, what="observation")

    def _checked(self, observation: Observation) -> dict[str, Any]:
        flat: Mapping[str, Any] = observation
        if not isinstance(observation, dict) or observation.keys() != self._offered:
            flat = flatten(observation)
            self._check_names(flat)
        if not self._batched:
            flat = {spec.name: _with_batch_axis(flat[spec.name]) for spec in self._specs}
        checked = {}
        for name, conforms in self._conforms.items():
            value = flat[name]
            checked[name] = value if conforms(value) else self._arrays.check(value, self._spec[name], self._num_envs)
        return checked

    def _check_names(self, flat: Mapping[str, Any]) -> None:
        for name in flat:
            if name not in self._offered:
                raise SpecError(f"observation {name!r} was not offered when connecting; {nearest(name, self._offered)}".rstrip("; "))
        for spec in self._specs:
            if spec.name not in flat:
                raise SpecError(f"observation {spec.name!r} is missing, and the policy needs it; given were: {', '.join(sorted(flat))}")


def _with_batch_axis(value: Any) -> Any:
    return value[None] if hasattr(value, "shape") else np.asarray(value)[None]
