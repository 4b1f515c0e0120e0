"""What an environment is: the contract a simulator adapter implements.

An environment steps ``num_envs`` copies at once and writes its observations into arrays it is given. Those arrays are the slot
that the policy will read, so a camera can render straight into shared memory.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from shmbridge.spec import TensorSpec, as_tuple_of_specs

Info = Mapping[str, Any]


class Autoreset(enum.Enum):
    """When a finished environment begins its next episode, as gymnasium (1.1 and later) names it."""

    DISABLED = "disabled"
    """Only by :meth:`Environment.reset` with ``reset_mask``."""
    NEXT_STEP = "next_step"
    """By itself, in the step after the last one; that step ignores its action and returns the first observation."""
    SAME_STEP = "same_step"
    """By itself, within the last step, which already returns the next episode's first observation."""


@dataclass(frozen=True)
class EnvironmentSpecs:
    """What an environment offers to be observed, and the actions it takes; both per environment."""

    observation: Sequence[TensorSpec]
    action: Sequence[TensorSpec]

    def __post_init__(self) -> None:
        object.__setattr__(self, "observation", as_tuple_of_specs(self.observation, "observation"))
        object.__setattr__(self, "action", as_tuple_of_specs(self.action, "action"))


class Step(NamedTuple):
    """What one step returned, apart from the observation: a row per environment."""

    reward: np.ndarray
    """(num_envs,) float64"""
    terminated: np.ndarray
    """(num_envs,) bool: the task itself ended."""
    truncated: np.ndarray
    """(num_envs,) bool: it was cut off, by a time limit for example."""
    info: Sequence[Info]
    """One mapping per environment; where an episode ended, what :meth:`Environment.episode_metrics` needs."""


class Environment(ABC):
    """``num_envs`` copies of one simulated task.

    ``config_type`` names a dataclass (or ``msgspec.Struct``) whose fields become the environment's own flags of ``shmbridge
    run``; without one, ``config`` is None.
    """

    config_type: ClassVar[type | None] = None
    autoreset: Autoreset = Autoreset.DISABLED

    def __init__(self, config: Any = None, *, num_envs: int = 1, enable_cameras: bool = False, headless: bool = True, device: str = "cpu") -> None:
        """Build the simulator.

        Args:
            config: An instance of ``config_type``, or None.
            num_envs: Copies stepped together.
            enable_cameras: Offer the cameras as observations.
            headless: Open no window.
            device: Where the simulator computes, for example ``cpu`` or ``cuda:0``.
        """
        self.config = config
        self.num_envs = num_envs

    @property
    @abstractmethod
    def specs(self) -> EnvironmentSpecs:
        """What is offered and what is taken. Constant over the environment's life."""

    @abstractmethod
    def reset(self, *, seed: Sequence[int | None], options: Mapping[str, Any], out: Mapping[str, np.ndarray]) -> Sequence[Info]:
        """Begin new episodes and write their first observations.

        Args:
            seed: One per environment; None leaves that environment's generator as it is.
            options: ``reset_mask``, a (num_envs,) bool array, names the environments to reset; absent means all. Rows of the
                others stay as they are, in the simulator and in ``out``.
            out: One writable array per observation that the policy asked for, ``(num_envs, *spec.shape)``; possibly fewer
                than ``specs`` offers. Write every row that is reset, and keep none of the arrays.

        Returns:
            One mapping per environment. The text under ``task``, where there is one, is the task given to the policy.
        """

    @abstractmethod
    def step(self, action: Mapping[str, np.ndarray], *, out: Mapping[str, np.ndarray]) -> Step:
        """Apply one action per environment and write the observations that follow.

        Args:
            action: One array per action spec, ``(num_envs, *spec.shape)``.
            out: As in :meth:`reset`; every row is written.
        """

    def episode_metrics(self, info: Info) -> dict[str, float]:
        """The numbers reported for one finished episode, from the ``info`` of its last step; for example ``success_rate``.

        The run prints the mean of each over the finished episodes, under the very name given here.
        """
        return {}

    def close(self) -> None:
        """Let go of the simulator. May be called twice."""
