"""Action chunks per environment: which environment needs a new one, and which action comes next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from shmbridge.spec import TensorSpec


class ChunkQueues:
    """One queue of actions per environment, all of them in one array per tensor.

    A queue is the unplayed end of the chunk that was put last. Chunks are replaced as a whole, never joined.
    """

    def __init__(self, specs: Sequence[TensorSpec], num_envs: int, horizon: int) -> None:
        self._chunks = {spec.name: np.zeros((num_envs, horizon, *spec.shape), spec.storage) for spec in specs}
        self._horizon = horizon
        self._next = np.full(num_envs, horizon)
        self._step = np.zeros(num_envs, np.int64)
        self._rows = np.arange(num_envs)

    @property
    def empty(self) -> np.ndarray:
        """(num_envs,) bool: the environments that need a chunk. Owned by the caller."""
        return self._next >= self._horizon

    def put(self, chunks: Mapping[str, np.ndarray], rows: np.ndarray, step: int) -> None:
        """Replace the queues of some environments.

        Args:
            chunks: ``(num_envs, horizon, *spec.shape)`` each; copied.
            rows: (num_envs,) bool: whose rows count.
            step: Step of the observation they were made for.
        """
        for name, chunk in chunks.items():
            self._chunks[name][rows] = chunk[rows]
        self._next[rows] = 0
        self._step[rows] = step

    def clear(self, env_ids: Sequence[int]) -> None:
        """Drop what is left of the given environments' chunks, because an episode ended."""
        self._next[list(env_ids)] = self._horizon

    def pop(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return the next action of every environment, none of which may be empty.

        Returns:
            ``(num_envs, *spec.shape)`` per tensor, and the (num_envs,) int64 steps that they answer. Owned by the caller.
        """
        actions = {name: chunk[self._rows, self._next] for name, chunk in self._chunks.items()}
        self._next += 1
        return actions, self._step.copy()
