"""Environments made of copies that know nothing of each other, stepped one after the other: what needs no simulator."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import shmbridge


class Copy:
    """One simulated environment, and how its episode stands. A finished episode stands still until the next reset.

    Attributes:
        reward: Of the last step.
        success: Whether the task is done, which ends the episode.
        steps: Taken in this episode.
    """

    def __init__(self, max_episode_steps: int) -> None:
        self.reward, self.success, self.steps = 0.0, False, 0
        self._limit = max_episode_steps

    @property
    def out_of_time(self) -> bool:
        """Whether the episode is cut off here."""
        return not self.success and self.steps >= self._limit

    def reset(self, seed: int | None) -> None:
        """Begin an episode; None goes on with the copy's own generator."""
        self.reward, self.success, self.steps = 0.0, False, 0
        self.begin(seed)

    def step(self, action: Mapping[str, np.ndarray]) -> None:
        """Take one action, without a batch axis, unless the episode is over."""
        if self.success or self.out_of_time:
            return
        self.steps += 1
        self.reward, self.success = self.advance(action)

    def metrics(self) -> dict[str, float]:
        """Return the episode's numbers so far, under the names that are printed."""
        return {"success_rate": float(self.success)}

    def begin(self, seed: int | None) -> None:
        """Let the simulator begin an episode."""
        raise NotImplementedError

    def advance(self, action: Mapping[str, np.ndarray]) -> tuple[float, bool]:
        """Let the simulator take one action; return the reward, and whether the task is done."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the simulator. May be called twice."""


class OneByOneEnvironment(shmbridge.Environment):
    """Resets and steps the copies. A subclass says in :meth:`write` what there is to see.

    Args:
        config: Of the subclass.
        copies: One per environment.
        task: Text given to the policy with every episode.
    """

    autoreset = shmbridge.Autoreset.DISABLED

    def __init__(self, config: Any, copies: Sequence[Copy], task: str) -> None:
        super().__init__(config, num_envs=len(copies))
        self._all, self._task = copies, task

    @abstractmethod
    def write(self, name: str, row: int, out: np.ndarray) -> None:
        """Write the tensor called ``name``, as copy number ``row`` has it, into ``out``, which has no batch axis."""

    def reset(
        self,
        *,
        seed: Sequence[int | None],
        options: Mapping[str, Any],
        out: Mapping[str, np.ndarray],
    ) -> Sequence[Mapping[str, Any]]:
        chosen = np.flatnonzero(options.get("reset_mask", np.ones(self.num_envs, bool)))
        for row in chosen.tolist():
            self._all[row].reset(seed[row])
            self._write_all(row, out)
        return [{"task": self._task}] * self.num_envs

    def step(self, action: Mapping[str, np.ndarray], *, out: Mapping[str, np.ndarray]) -> shmbridge.Step:
        for row, copy in enumerate(self._all):
            copy.step({name: array[row] for name, array in action.items()})
            self._write_all(row, out)
        return shmbridge.Step(
            reward=np.array([copy.reward for copy in self._all]),
            terminated=np.array([copy.success for copy in self._all]),
            truncated=np.array([copy.out_of_time for copy in self._all]),
            info=[copy.metrics() for copy in self._all],
        )

    def episode_metrics(self, info: Mapping[str, Any]) -> dict[str, float]:
        return dict(info)

    def close(self) -> None:
        for copy in self._all:
            copy.close()

    def _write_all(self, row: int, out: Mapping[str, np.ndarray]) -> None:
        for name, array in out.items():
            # Indexed with "...", so that a scalar is a view too.
            self.write(name, row, array[row, ...])
