"""Zeros, whatever it sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

import shmbridge

__all__ = ["ZeroConfig", "ZeroPolicy"]


@dataclass(frozen=True)
class ZeroConfig:
    """The action to give.

    Attributes:
        action_name: Its name in the simulator's specs.
        action_shape: For one environment and one step; empty for a scalar.
        dtype: As in :class:`shmbridge.TensorSpec`.
        horizon: Steps in an action chunk.
    """

    action_name: str = "action"
    action_shape: list[int] = field(default_factory=lambda: [1])
    dtype: str = "float32"
    horizon: int = 1


@shmbridge.register_policy("zero")
class ZeroPolicy(shmbridge.Policy):
    """Asks for all that is offered, so that everything is exercised but deciding, and answers with zeros."""

    config_type = ZeroConfig

    def __init__(self, config: ZeroConfig | None = None) -> None:
        config = config or ZeroConfig()
        super().__init__(config)
        self._action = shmbridge.TensorSpec(config.action_name, tuple(config.action_shape), config.dtype)
        self._horizon = config.horizon

    def specs(self, offered: Mapping[str, shmbridge.TensorSpec]) -> shmbridge.PolicySpecs:
        return shmbridge.PolicySpecs(observation=list(offered.values()), action=[self._action], horizon=self._horizon)

    def instruct(self, session: None, env_ids: Sequence[int], task: Sequence[str]) -> None:
        """Go on as before: no instruction makes a difference."""

    def infer(self, session: None, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> dict[str, np.ndarray]:
        return {self._action.name: np.zeros((len(env_ids), self._horizon, *self._action.shape), self._action.storage)}
