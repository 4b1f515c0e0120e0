"""Any environment that gymnasium can make by its id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import shmbridge

IMAGE = "camera_obs/render_rgb"
SUCCESS_KEYS = ("is_success", "success")


@dataclass(frozen=True)
class GymnasiumConfig:
    """Which environment.

    Attributes:
        id: As ``gymnasium.make`` takes it; ``module:Name-v0`` imports the module first.
        kwargs: Further arguments of the environment.
    """

    id: str = "CartPole-v1"
    kwargs: dict[str, Any] = field(default_factory=dict)


@shmbridge.register_environment("gymnasium")
class GymnasiumEnvironment(shmbridge.Environment):
    """Copies of one gymnasium environment, stepped one after the other.

    Offers the observation space: a Dict's entries under their own names, nested ones joined by ``/``; any other space as
    ``observation``. With ``enable_cameras`` also ``camera_obs/render_rgb`` (height, width, 3) uint8, sRGB: what the
    environment renders. Takes the action space likewise, or as ``action``. No window is ever opened.
    """

    config_type = GymnasiumConfig
    autoreset = shmbridge.Autoreset.DISABLED

    def __init__(
        self,
        config: GymnasiumConfig | None = None,
        *,
        num_envs: int = 1,
        enable_cameras: bool = False,
        headless: bool = True,
        device: str = "cpu",
    ) -> None:
        config = config or GymnasiumConfig()
        super().__init__(config, num_envs=num_envs, enable_cameras=enable_cameras, headless=headless, device=device)
        kwargs = {**config.kwargs, "render_mode": "rgb_array"} if enable_cameras else config.kwargs
        make_one = partial(gymnasium.make, config.id, **kwargs)
        self._copies = SyncVectorEnv([make_one] * num_envs, copy=False, autoreset_mode=AutoresetMode.DISABLED)
        images = [self._image_spec()] if enable_cameras else []
        self._specs = shmbridge.EnvironmentSpecs(
            observation=[*_specs(self._copies.single_observation_space, "observation"), *images],
            action=list(_specs(self._copies.single_action_space, "action")),
        )
        self._returns = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, np.int64)

    @property
    def specs(self) -> shmbridge.EnvironmentSpecs:
        return self._specs

    def reset(
        self,
        *,
        seed: Sequence[int | None],
        options: Mapping[str, Any],
        out: Mapping[str, np.ndarray],
    ) -> Sequence[Mapping[str, Any]]:
        mask = np.asarray(options.get("reset_mask", np.ones(self.num_envs, np.bool_)))
        if mask.any():
            observation, _ = self._copies.reset(seed=list(seed), options={**options, "reset_mask": mask})
            self._returns[mask] = self._lengths[mask] = 0
            self._write(observation, np.flatnonzero(mask), out)
        return [{}] * self.num_envs

    def step(self, action: Mapping[str, np.ndarray], *, out: Mapping[str, np.ndarray]) -> shmbridge.Step:
        observation, reward, terminated, truncated, infos = self._copies.step(_nested(action, self._copies.single_action_space, "action"))
        self._returns += reward
        self._lengths += 1
        self._write(observation, range(self.num_envs), out)
        return shmbridge.Step(reward, terminated, truncated, [self._info(infos, row) for row in range(self.num_envs)])

    def episode_metrics(self, info: Mapping[str, Any]) -> dict[str, float]:
        return {name: float(value) for name, value in info.items()}

    def close(self) -> None:
        self._copies.close()

    def _image_spec(self) -> shmbridge.TensorSpec:
        self._copies.reset()
        return shmbridge.TensorSpec(IMAGE, np.asarray(self._copies.envs[0].render()).shape, "uint8", unit="sRGB")

    def _write(self, observation: Any, rows: Sequence[int] | np.ndarray, out: Mapping[str, np.ndarray]) -> None:
        arrays = dict(_leaves(observation, "observation"))
        for name, array in out.items():
            for row in rows:
                array[row] = self._copies.envs[row].render() if name == IMAGE else arrays[name][row]

    def _info(self, infos: Mapping[str, Any], row: int) -> dict[str, float]:
        # gymnasium gathers the copies' infos under each key; an array of the same name after "_" says who gave one.
        success = [float(infos[key][row]) for key in SUCCESS_KEYS if key in infos and infos[f"_{key}"][row]]
        counted = {"episode_return": float(self._returns[row]), "episode_length": float(self._lengths[row])}
        return {**counted, "success_rate": success[0]} if success else counted


def _leaves(tree: Any, alone: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what lies at the ends of nested dictionaries, by path; something that is no dictionary goes by ``alone``."""
    if not isinstance(tree, Mapping):
        yield prefix or alone, tree
        return
    for key, inner in tree.items():
        yield from _leaves(inner, alone, f"{prefix}/{key}" if prefix else key)


def _specs(space: gymnasium.Space[Any], alone: str) -> Iterator[shmbridge.TensorSpec]:
    for name, leaf in _leaves(_space_tree(space), alone):
        if leaf.shape is None or leaf.dtype is None:
            kind = f"a {type(leaf).__name__} space, which has no fixed shape"
            raise shmbridge.SpecError(f"{name!r} is {kind}; wrap the environment so that it has")
        yield shmbridge.TensorSpec(name, leaf.shape, leaf.dtype.name)


def _space_tree(space: gymnasium.Space[Any]) -> Any:
    if isinstance(space, gymnasium.spaces.Dict):
        return {key: _space_tree(inner) for key, inner in space.spaces.items()}
    return space


def _nested(flat: Mapping[str, np.ndarray], space: gymnasium.Space[Any], name: str, prefix: str = "") -> Any:
    """Return actions in the form of ``space``, which may be a nested Dict."""
    if not isinstance(space, gymnasium.spaces.Dict):
        return flat[prefix or name]
    return {key: _nested(flat, inner, name, f"{prefix}/{key}" if prefix else key) for key, inner in space.spaces.items()}
