"""Uniformly random actions, the same ones in every run of one seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

import shmbridge

__all__ = ["RandomConfig", "RandomPolicy"]


@dataclass(frozen=True)
class RandomConfig:
    """The action to give.

    Attributes:
        action_name: Its name in the simulator's specs.
        action_shape: For one environment and one step; empty for a scalar.
        dtype: A real number type, as in :class:`shmbridge.TensorSpec`.
        horizon: Steps in an action chunk.
        low: Smallest value.
        high: Largest value; of whole numbers it is drawn too.
        random_seed: Of the generators; each environment has its own.
    """

    action_name: str = "action"
    action_shape: list[int] = field(default_factory=lambda: [1])
    dtype: str = "float32"
    horizon: int = 1
    low: float = -1.0
    high: float = 1.0
    random_seed: int = 0


@shmbridge.register_policy("random")
class RandomPolicy(shmbridge.Policy):
    """Asks for all that is offered and ignores it. What an environment gets depends on the seed and on its own past alone."""

    config_type = RandomConfig

    def __init__(self, config: RandomConfig | None = None) -> None:
        config = config or RandomConfig()
        super().__init__(config)
        self._config = config
        self._action = shmbridge.TensorSpec(config.action_name, tuple(config.action_shape), config.dtype)
        if self._action.dtype == "bfloat16" or self._action.storage.kind not in "biuf":
            raise shmbridge.SpecError(f"random actions cannot be of {config.dtype}: give a real number type of numpy")

    def specs(self, offered: Mapping[str, shmbridge.TensorSpec]) -> shmbridge.PolicySpecs:
        return shmbridge.PolicySpecs(observation=list(offered.values()), action=[self._action], horizon=self._config.horizon)

    def new_session(self, num_envs: int) -> list[np.random.Generator]:
        return [np.random.default_rng([self._config.random_seed, env_id]) for env_id in range(num_envs)]

    def instruct(self, session: list[np.random.Generator], env_ids: Sequence[int], task: Sequence[str]) -> None:
        """Go on as before: no instruction makes a difference."""

    def infer(
        self,
        session: list[np.random.Generator],
        observation: Mapping[str, np.ndarray],
        env_ids: Sequence[int],
    ) -> dict[str, np.ndarray]:
        return {self._action.name: np.stack([self._draw(session[env_id]) for env_id in env_ids])}

    def _draw(self, generator: np.random.Generator) -> np.ndarray:
        shape = (self._config.horizon, *self._action.shape)
        if self._action.is_floating:
            return generator.uniform(self._config.low, self._config.high, shape).astype(self._action.storage)
        return generator.integers(int(self._config.low), int(self._config.high), shape, endpoint=True).astype(self._action.storage)
