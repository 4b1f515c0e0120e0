"""Recording what a policy did, for a policy that does it again."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shmbridge.rollout import Moment
from shmbridge.spec import TensorSpec

FILE = "recording.npz"
EPISODE = "@episode"
"""Name of the array of episode indices; no tensor's name begins with this character."""


class Recorder:
    """Keeps the actions of every step in memory until the run is over: steps × environments × the size of an action."""

    def __init__(self, action: Sequence[TensorSpec], num_envs: int) -> None:
        self._specs, self._num_envs = action, num_envs
        self._actions: dict[str, list[np.ndarray]] = {spec.name: [] for spec in action}
        self._episodes: list[np.ndarray] = []

    def watch(self, moment: Moment) -> None:
        """Take one step's moment in."""
        if moment.actions:
            self._episodes.append(moment.acted_in)
            for name, rows in self._actions.items():
                rows.append(moment.actions[name])

    def write(self, folder: Path) -> Path:
        """Write ``recording.npz`` and return its path.

        It holds one array per action spec under the tensor's name, ``(steps, num_envs, *spec.shape)``, and ``@episode``,
        (steps, num_envs) int64: the index of the episode in which each action was taken, -1 where the environment ignored the action
        because it was resetting itself. No pickle is in it, none is needed to read it.

        Raises:
            OSError: It cannot be written.
        """
        arrays = {spec.name: self._stacked(self._actions[spec.name], spec) for spec in self._specs}
        arrays[EPISODE] = np.asarray(self._episodes, np.int64).reshape(-1, self._num_envs)
        folder.mkdir(parents=True, exist_ok=True)
        hidden = folder / f".{FILE}"
        try:
            with zipfile.ZipFile(hidden, "w") as archive:
                for name, array in arrays.items():
                    # What numpy.savez does, which takes tensors called 'file' for arguments of its own.
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, array, allow_pickle=False)
            return hidden.replace(folder / FILE)
        finally:
            hidden.unlink(missing_ok=True)

    def _stacked(self, rows: list[np.ndarray], spec: TensorSpec) -> np.ndarray:
        return np.asarray(rows, spec.storage).reshape(-1, self._num_envs, *spec.shape)
