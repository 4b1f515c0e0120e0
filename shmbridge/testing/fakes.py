"""A policy whose actions tell where they came from, so that a stale or misplaced one shows."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shmbridge.policy import Policy, PolicySpecs
from shmbridge.spec import TensorSpec

MARK = TensorSpec("mark", (), "float64")
"""The observation that :class:`MarkingPolicy` needs: any number, which comes back in its actions."""
FAIL_AT = -1.0
"""A mark at which the policy raises."""
BLOCK_AT = -2.0
"""A mark at which the policy waits for its ``gate``."""


class MarkingPolicy(Policy):
    """Answers each environment with ``(mark, env_id, resets, place in the chunk)``, the mark being that of the newest observation.

    Attributes:
        gate: Set at first; where it is cleared, an observation marked :data:`BLOCK_AT` waits for it, at most ten seconds.
        tasks: Every reset, as ``(env_id, task)``.
        instructions: Every instruction within an episode, likewise.
        stacks: Per inference, the marks that were seen, ``(len(env_ids), observation_steps)``; kept where there are several steps.
    """

    def __init__(self, config: Any = None, *, horizon: int = 1, observation_steps: int = 1) -> None:
        super().__init__(config)
        self.horizon, self.observation_steps = horizon, observation_steps
        self.gate = threading.Event()
        self.gate.set()
        self.tasks: list[tuple[int, str]] = []
        self.instructions: list[tuple[int, str]] = []
        self.stacks: list[list[list[float]]] = []

    def specs(self, offered: Mapping[str, TensorSpec]) -> PolicySpecs:
        action = [TensorSpec("action", (4,), "float64")]
        return PolicySpecs([MARK], action, horizon=self.horizon, observation_steps=self.observation_steps)

    def new_session(self, num_envs: int) -> np.ndarray:
        return np.zeros(num_envs)

    def reset(self, session: np.ndarray, env_ids: Sequence[int], task: Sequence[str]) -> None:
        session[list(env_ids)] += 1
        self.tasks += zip(env_ids, task, strict=True)

    def instruct(self, session: np.ndarray, env_ids: Sequence[int], task: Sequence[str]) -> None:
        self.instructions += zip(env_ids, task, strict=True)

    def infer(self, session: np.ndarray, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> Mapping[str, np.ndarray]:
        marks = observation["mark"].copy()
        if self.observation_steps > 1:
            self.stacks.append(marks.tolist())
            marks = marks[:, -1]
        if (marks == FAIL_AT).any():
            raise ValueError(f"marked {FAIL_AT}")
        if (marks == BLOCK_AT).any():
            self.gate.wait(10)
        chunk = np.empty((len(env_ids), self.horizon, 4))
        chunk[..., 0] = marks[:, None]
        chunk[..., 1] = np.asarray(env_ids)[:, None]
        chunk[..., 2] = session[list(env_ids), None]
        chunk[..., 3] = np.arange(self.horizon)
        return {"action": chunk}


def marks_of(action: np.ndarray) -> list[float]:
    """Return the marks that a :class:`MarkingPolicy`'s actions answer, ``(num_envs, 4)`` or ``(num_envs, horizon, 4)``."""
    return [float(mark) for mark in action.reshape(len(action), -1)[:, 0]]
