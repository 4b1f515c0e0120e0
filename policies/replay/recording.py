"""The two kinds of file that can be played: what ``shmbridge run --record`` wrote, and one trajectory for all."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import shmbridge

EPISODE = "@episode"
IGNORED = -1
Actions = Mapping[str, np.ndarray]
"""Of one episode: by name, ``(steps, *spec.shape)``."""


@dataclass(frozen=True)
class Recording:
    """Actions to play.

    Attributes:
        path: Where they come from.
        specs: One per action.
        episodes: The actions of each recorded episode by its index; of a trajectory, under 0, those of every episode.
        num_envs: Environments of the recorded run; None for a trajectory.
        resets_itself: Whether the recorded environment used a step of its own to reset itself.
    """

    path: str
    specs: tuple[shmbridge.TensorSpec, ...]
    episodes: Mapping[int, Actions]
    num_envs: int | None
    resets_itself: bool = False

    def actions(self, index: int) -> Actions | None:
        """Return the actions of episode ``index``; None where none were recorded."""
        return self.episodes[0] if self.num_envs is None else self.episodes.get(index)


def read_recording(path: str) -> Recording:
    """Return what a ``.npz`` file holds. Nothing in it is unpickled.

    Raises:
        PolicyError: The file cannot be read.
        SpecError: The arrays in it do not belong together.
    """
    arrays = _read_arrays(path)
    episode = arrays.pop(EPISODE, None)
    if not arrays:
        raise shmbridge.SpecError(f"{path} holds no actions: expected one array per action, under the action's name")
    if episode is None:
        specs = tuple(_spec(path, name, array, "(steps, …)", 1) for name, array in arrays.items())
        _check_lengths(path, {name: array.shape[:1] for name, array in arrays.items()})
        return Recording(path, specs, {0: arrays}, None)
    _check_episode(path, episode)
    specs = tuple(_spec(path, name, array, "(steps, environments, …)", 2) for name, array in arrays.items())
    _check_lengths(path, {EPISODE: episode.shape, **{name: array.shape[:2] for name, array in arrays.items()}})
    return Recording(path, specs, split(arrays, episode), episode.shape[1], bool((episode == IGNORED).any()))


def split(arrays: Mapping[str, np.ndarray], episode: np.ndarray) -> dict[int, Actions]:
    """Return the actions of each episode by its index.

    An action that the environment ignored, because it was resetting itself, belongs to the episode before it: whoever plays that episode is
    asked for one there again.

    Args:
        arrays: By name, ``(steps, num_envs, *spec.shape)``.
        episode: ``(steps, num_envs)`` int64: index of the episode in which each action was taken, -1 for an ignored one.
    """
    found: dict[int, Actions] = {}
    for env_id in range(episode.shape[1]):
        column = episode[:, env_id]
        counted = np.flatnonzero(column != IGNORED)
        starts = counted[np.diff(column[counted], prepend=IGNORED) != 0].tolist()
        for start, end in zip(starts, [*starts[1:], len(column)], strict=True):
            found[int(column[start])] = {name: array[start:end, env_id] for name, array in arrays.items()}
    return found


def _read_arrays(path: str) -> dict[str, np.ndarray]:
    if not Path(path).is_file():
        raise shmbridge.PolicyError(f"there is no recording {path}; 'shmbridge run --record --output_dir DIR …' writes DIR/recording.npz")
    if not zipfile.is_zipfile(path):
        raise shmbridge.PolicyError(f"{path} is no .npz file: write one with 'shmbridge run --record', or with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise shmbridge.PolicyError(f"{path} cannot be read, or holds something else than plain arrays: {error}") from None
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise shmbridge.PolicyError(f"{path} holds {name!r}, which is no array: expected a file that numpy.savez could have written")
    return arrays


def _spec(path: str, name: str, array: np.ndarray, expected: str, axes: int) -> shmbridge.TensorSpec:
    if array.ndim < axes:
        raise shmbridge.SpecError(f"{path}: {name!r} must be {expected}, it is {array.shape}")
    return shmbridge.TensorSpec(name, array.shape[axes:], array.dtype)


def _check_episode(path: str, episode: np.ndarray) -> None:
    if episode.ndim != 2 or episode.dtype != np.int64 or not episode.size:
        found = f"{episode.shape} {episode.dtype}"
        raise shmbridge.SpecError(f"{path}: {EPISODE!r} must be (steps, environments) int64 with at least one step, it is {found}")
    counted = episode != IGNORED
    if ((episode - np.arange(episode.shape[1])) % episode.shape[1])[counted].any() or (episode < IGNORED).any():
        raise shmbridge.SpecError(f"{path}: an episode number in {EPISODE!r} does not belong to its environment: episode i runs in environment i % num_envs")


def _check_lengths(path: str, lengths: Mapping[str, tuple[int, ...]]) -> None:
    if len(set(lengths.values())) > 1 or 0 in next(iter(lengths.values())):
        raise shmbridge.SpecError(f"{path}: all arrays must have the same number of steps (and environments), at least one: {lengths}")
