"""Action chunks per environment: who is to be asked for a new one, from when on it counts, and which action comes next.

Time is counted in steps. A chunk made from the observation of step s holds the actions for the steps s, s + 1, … and counts from step
s + latency on; an environment's first chunk of an episode counts at once, because an episode begins when its policy is ready. A new
one is asked for as soon as none that was asked for covers the step at which it would begin to count. All of it is counted, nothing is
timed, so two runs take the same actions.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shmbridge.errors import SpecError
from shmbridge.spec import TensorSpec

MAX_LATENCY_STEPS = 1000


class Refill(str, enum.Enum):
    """Who is asked for when a chunk is used up."""

    EMPTY = "empty"
    """Only the environments whose own chunk is."""
    ALL = "all"
    """All of them: for policies that are compiled for one batch size."""


@dataclass(frozen=True)
class ChunkRules:
    """How chunks are asked for and played.

    Attributes:
        refill: Who is asked for when a chunk is used up.
        replan_steps: Only the first so many actions of a chunk are meant to be played; None for all of them.
        latency_steps: Steps between an observation and the first action taken from it.
    """

    refill: Refill = Refill.EMPTY
    replan_steps: int | None = None
    latency_steps: int = 0

    def __post_init__(self) -> None:
        for name in ("latency_steps", "replan_steps"):
            if type(getattr(self, name)) not in (int, type(None)):
                raise SpecError(f"{name} is a number of steps, found {getattr(self, name)!r}")
        if not 0 <= self.latency_steps <= MAX_LATENCY_STEPS:
            raise SpecError(f"latency_steps must lie between 0 and {MAX_LATENCY_STEPS}, not {self.latency_steps}")
        if self.replan_steps is not None and self.replan_steps < 1:
            raise SpecError(f"replan_steps must be at least 1, not {self.replan_steps}")


class _Pending(NamedTuple):
    """A chunk that does not count yet."""

    step: int
    rows: np.ndarray
    chunks: Mapping[str, np.ndarray]


class ChunkQueues:
    """The chunk that each environment plays, all of them in one array per tensor, and those that do not count yet."""

    def __init__(self, specs: Sequence[TensorSpec], num_envs: int, horizon: int, rules: ChunkRules = ChunkRules()) -> None:
        self._chunks = {spec.name: np.zeros((num_envs, horizon, *spec.shape), spec.storage) for spec in specs}
        self._rules = rules
        self._last = horizon - 1
        self._planned = min(horizon, rules.replan_steps or horizon)
        self._made_at = np.zeros(num_envs, np.int64)
        self._covered_until = np.zeros(num_envs, np.int64)
        self._has_none = np.ones(num_envs, np.bool_)
        self._pending: deque[_Pending] = deque()
        self._rows = np.arange(num_envs)

    def wanted(self, step: int) -> np.ndarray:
        """(num_envs,) bool: the environments to be asked for at this step. Owned by the caller."""
        wanted: np.ndarray = self._covered_until <= step + self._rules.latency_steps
        if self._rules.refill is Refill.ALL and wanted.any():
            wanted[:] = True
        return wanted

    def put(self, chunks: Mapping[str, np.ndarray], rows: np.ndarray, step: int) -> None:
        """Take in what was asked for.

        Args:
            chunks: ``(num_envs, horizon, *spec.shape)`` each; kept if they do not count yet, so the caller must not change them.
            rows: (num_envs,) bool: whose rows are there.
            step: Step of the observation they were made from.
        """
        self._covered_until[rows] = step + self._planned
        if self._rules.latency_steps:
            self._pending.append(_Pending(step, rows & ~self._has_none, chunks))
            rows = rows & self._has_none
        self._begin(chunks, rows, step)

    def clear(self, env_ids: Sequence[int]) -> None:
        """Drop all chunks of these environments, because an episode ended."""
        self.ask_again(env_ids)
        self._has_none[list(env_ids)] = True

    def ask_again(self, env_ids: Sequence[int]) -> None:
        """Ask for these environments next, because what they were asked for has changed. Until that counts, the old chunk is played."""
        self._covered_until[list(env_ids)] = 0
        for pending in self._pending:
            pending.rows[list(env_ids)] = False

    def pop(self, step: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return the action of every environment for this step. A chunk that has ended holds its last action.

        Returns:
            ``(num_envs, *spec.shape)`` per tensor, and the (num_envs,) int64 steps whose observations they answer. Owned by the caller.
        """
        while self._pending and self._pending[0].step + self._rules.latency_steps <= step:
            ready = self._pending.popleft()
            self._begin(ready.chunks, ready.rows, ready.step)
        place = np.minimum(step - self._made_at, self._last)
        actions = {name: chunk[self._rows, place] for name, chunk in self._chunks.items()}
        return actions, self._made_at.copy()

    def _begin(self, chunks: Mapping[str, np.ndarray], rows: np.ndarray, step: int) -> None:
        for name, chunk in chunks.items():
            self._chunks[name][rows] = chunk[rows]
        self._made_at[rows] = step
        self._has_none[rows] = False
