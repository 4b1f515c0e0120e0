"""What is sent in the benchmark, and the policy that gets it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shmbridge.policy import Policy, PolicySpecs
from shmbridge.spec import TensorSpec

ACTION = TensorSpec("action", (7,), "float32")
"""What comes back, ``(num_envs, 1, 7)``. Its first number is the sum of what the policy read."""
GRID = 8
"""The policy reads so many pixels along each side of an image."""


@dataclass(frozen=True)
class Scenario:
    """One kind of observation.

    Attributes:
        name: As it is chosen and printed.
        num_envs: Length of the batch axis.
        specs: The tensors, per environment.
        requests: Timed requests in one block. A block is short, so that what is compared is measured within one mood of the machine.
    """

    name: str
    num_envs: int
    specs: tuple[TensorSpec, ...]
    requests: int

    @property
    def nbytes(self) -> int:
        """Bytes of one observation."""
        return self.num_envs * sum(spec.nbytes for spec in self.specs)

    @property
    def has_images(self) -> bool:
        """Whether writing an observation takes long enough to push everything else out of the caches."""
        return any(_is_image(spec.shape) for spec in self.specs)

    def observation(self) -> dict[str, np.ndarray]:
        """Return one observation, ``(num_envs, *shape)`` each, the same values every time."""
        random = np.random.default_rng(0)
        return {spec.name: _values(random, (self.num_envs, *spec.shape), spec) for spec in self.specs}


def _cameras(*shape: int) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(f"camera_obs/{side}", shape, "uint8") for side in ("left", "right"))


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("state", 1, (TensorSpec("policy/state", (32,), "float32"),), 300),
        Scenario("small_cameras", 1, _cameras(224, 224, 3), 150),
        Scenario("cameras", 10, _cameras(480, 640, 3), 10),
    )
}


class BenchmarkPolicy(Policy):
    """Reads a little of each tensor and returns an action made beforehand, with the sum of what it read as its first number."""

    def specs(self, offered: Mapping[str, TensorSpec]) -> PolicySpecs:
        return PolicySpecs(list(offered.values()), [ACTION])

    def new_session(self, num_envs: int) -> np.ndarray:
        """Return the action that will be given, ``(num_envs, 1, 7)`` float32."""
        return np.zeros((num_envs, 1, *ACTION.shape), np.float32)

    def infer(self, session: Any, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> Mapping[str, np.ndarray]:
        session[0, 0, 0] = read(observation)
        return {"action": session[: len(env_ids)]}


def read(observation: Mapping[str, np.ndarray]) -> float:
    """Return the sum over what the policy reads: 8 × 8 pixels spread over each image, and every element of other tensors."""
    total = 0.0
    for tensor in observation.values():
        part = tensor[:, :: tensor.shape[1] // GRID, :: tensor.shape[2] // GRID] if _is_image(tensor.shape[1:]) else tensor
        total += float(part.sum())
    return total


def _is_image(shape: Sequence[int]) -> bool:
    return len(shape) == 3


def _values(random: np.random.Generator, shape: tuple[int, ...], spec: TensorSpec) -> np.ndarray:
    if spec.is_floating:
        return random.standard_normal(shape).astype(spec.storage)
    return random.integers(0, 256, shape, spec.storage)
