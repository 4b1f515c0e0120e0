"""What it sees, as actions: for tests of everything between a simulator and a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

import shmbridge

__all__ = ["EchoPolicy"]


@shmbridge.register_policy("echo")
class EchoPolicy(shmbridge.Policy):
    """Gives every offered tensor back under its own name, one step at a time."""

    def specs(self, offered: Mapping[str, shmbridge.TensorSpec]) -> shmbridge.PolicySpecs:
        return shmbridge.PolicySpecs(observation=list(offered.values()), action=list(offered.values()))

    def instruct(self, session: None, env_ids: Sequence[int], task: Sequence[str]) -> None:
        """Go on as before: no instruction makes a difference."""

    def infer(self, session: None, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> dict[str, np.ndarray]:
        return {name: array[:, np.newaxis].copy() for name, array in observation.items()}
