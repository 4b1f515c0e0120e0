"""What a client gets back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from shmbridge.spec import flatten


class Timing(NamedTuple):
    """Where the time of one request went, in seconds."""

    write: float
    """Checking the observation and copying it into the slot."""
    wait: float
    """From publishing to the answer, without ``infer``: transport, and the host being busy with others."""
    infer: float
    """The policy, as the host measured it."""
    read: float
    """Copying the action out."""

    @property
    def total(self) -> float:
        return self.write + self.wait + self.infer + self.read


class Asked(Protocol):
    """The request that a reply answers."""

    sequence: int

    @property
    def timing(self) -> Timing: ...


class Reply:
    """Actions, and what they answer.

    Attributes:
        actions: One array per action spec; copies, the caller's to keep. Nested dictionaries of tensors with ``array="torch"``.
    """

    __slots__ = ("_asked", "_now", "_policy", "_shape", "_step", "_valid", "actions")

    def __init__(  # noqa: PLR0917  # by place: one is made for every request, and keywords cost
        self, actions: Mapping[str, Any], shape: tuple[int, ...], step: int | np.ndarray, now: int, valid: np.ndarray | None, asked: Asked | None, policy: str
    ) -> None:
        """Say what the actions answer. What that means in arrays is worked out when it is asked for.

        Args:
            actions: Kept.
            shape: ``(num_envs,)``, or ``()`` without a batch axis.
            step: Which step's observation: one for all rows, or ``shape``.
            now: The step that was made last.
            valid: ``shape`` bool; None for True in every row.
            asked: What was asked for it; None where nothing had to be.
            policy: Name of the policy.
        """
        self.actions, self._shape, self._step, self._now, self._valid, self._asked, self._policy = actions, shape, step, now, valid, asked, policy

    @property
    def timing(self) -> Timing | None:
        """Where the time of the request went; None where nothing had to be asked."""
        return None if self._asked is None else self._asked.timing

    @property
    def info(self) -> dict[str, Any]:
        """``sequence`` of the request, ``policy`` that answered; empty where nothing had to be asked."""
        return {} if self._asked is None else {"sequence": self._asked.sequence, "policy": self._policy}

    @property
    def step(self) -> np.ndarray:
        """(num_envs,) int64: the step whose observation each row answers; a scalar without a batch axis. Owned by the caller."""
        return np.array(np.broadcast_to(self._step, self._shape), np.int64)

    @property
    def age(self) -> np.ndarray:
        """(num_envs,) int64: how many steps ago that was; 0 is the observation given last."""
        return np.asarray(self._now - self.step)

    @property
    def valid(self) -> np.ndarray:
        """(num_envs,) bool: rows that were asked for and were made in the episode that is running now."""
        return np.array(np.broadcast_to(True if self._valid is None else self._valid, self._shape))

    def __getitem__(self, name: str) -> Any:
        if name in self.actions:
            return self.actions[name]
        return flatten(self.actions)[name]

    def __repr__(self) -> str:
        return f"<Reply to step {self.step.tolist()}, {self.age.tolist()} steps old, valid {self.valid.tolist()}: {', '.join(self.actions)}>"
