"""PushT: a round agent pushes a T-shaped block onto its mark on a table. Simulated by gym-pusht, in two dimensions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# pygame greets on standard output, where a run prints its results.
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

try:
    from gym_pusht.envs.pusht import PushTEnv
except ModuleNotFoundError:
    raise
except ImportError as error:  # OpenCV, which gym-pusht scales its images with, loads libraries of the desktop
    text = f"{error}. OpenCV needs libgl1 and libglib2.0-0, which no wheel brings: apt-get install libgl1 libglib2.0-0"
    raise ImportError(text, name="libGL") from error

import shmbridge
from shmbridge_launch.envs.one_by_one import Copy, OneByOneEnvironment

STATE = shmbridge.TensorSpec("policy/state", (5,), "float32", unit="px, px, px, px, rad")
AGENT = shmbridge.TensorSpec("policy/agent_pos", (2,), "float32", unit="px")
KEYPOINTS = shmbridge.TensorSpec("policy/keypoints", (8, 2), "float32", unit="px")
ACTION = shmbridge.TensorSpec("action", (2,), "float32", unit="px")
IMAGE = "camera_obs/top_rgb"


@dataclass(frozen=True)
class PushTConfig:
    """How long an episode is, and how it looks.

    Attributes:
        max_episode_steps: Steps (10 per second) after which an episode is cut off.
        image_size: Height and width of the image [px]; policies of this task are usually trained on 96.
        task: Text given to the policy.
    """

    max_episode_steps: int = 300
    image_size: int = 96
    task: str = "Push the T-shaped block onto the T-shaped target."


@shmbridge.register_environment("pusht")
class PushTEnvironment(OneByOneEnvironment):
    """Copies of PushT.

    Positions are x to the right and y downwards on a table of 512 by 512 px. Offers, per environment:
        ``policy/state``        (5,) float32: agent x, y, block x, y [px], and the block's angle from 0 to 2π [rad]
        ``policy/agent_pos``    (2,) float32: agent x, y [px]
        ``policy/keypoints``    (8, 2) float32: the block's corners [px]
        ``camera_obs/top_rgb``  (image_size, image_size, 3) uint8, sRGB: the whole table; only with ``enable_cameras``

    Takes ``action`` (2,) float32: where on the table the agent is to go [px], not clipped.

    An episode terminates when the block covers 95 % of its mark. Reported are ``success_rate``, ``final_coverage`` and ``max_coverage``, from
    0 to 1. No window is ever opened, and everything runs on the CPU whatever the device.
    """

    config_type = PushTConfig

    def __init__(
        self,
        config: PushTConfig | None = None,
        *,
        num_envs: int = 1,
        enable_cameras: bool = False,
        headless: bool = True,
        device: str = "cpu",
    ) -> None:
        config = config or PushTConfig()
        _check(config)
        self._copies = [_Copy(config) for _ in range(num_envs)]
        super().__init__(config, self._copies, config.task)
        size = (config.image_size, config.image_size, 3)
        self._images = [shmbridge.TensorSpec(IMAGE, size, "uint8", unit="sRGB")] if enable_cameras else []

    @property
    def specs(self) -> shmbridge.EnvironmentSpecs:
        return shmbridge.EnvironmentSpecs(observation=[STATE, AGENT, KEYPOINTS, *self._images], action=[ACTION])

    def write(self, name: str, row: int, out: np.ndarray) -> None:
        out[:] = self._copies[row].see(name)


class _Copy(Copy):
    def __init__(self, config: PushTConfig) -> None:
        super().__init__(config.max_episode_steps)
        size = config.image_size
        self._env = PushTEnv(obs_type="environment_state_agent_pos", render_mode="rgb_array", observation_height=size, observation_width=size)
        self._seen: Mapping[str, np.ndarray] = {}
        self._coverage = self._best = 0.0

    def see(self, name: str) -> np.ndarray:
        # Not render(), which is for people: it marks the last action in the image.
        return self._env._render() if name == IMAGE else self._seen[name]

    def metrics(self) -> dict[str, float]:
        return {**super().metrics(), "final_coverage": self._coverage, "max_coverage": self._best}

    def begin(self, seed: int | None) -> None:
        self._look(*self._env.reset(seed=seed))
        self._coverage = self._best = 0.0

    def advance(self, action: Mapping[str, np.ndarray]) -> tuple[float, bool]:
        observation, reward, terminated, _, info = self._env.step(action[ACTION.name])
        self._look(observation, info)
        self._coverage = float(info["coverage"])
        self._best = max(self._best, self._coverage)
        return float(reward), bool(terminated)

    def close(self) -> None:
        self._env.close()

    def _look(self, observation: Mapping[str, np.ndarray], info: Mapping[str, np.ndarray]) -> None:
        agent, (x, y, angle) = observation["agent_pos"], info["block_pose"]
        corners = observation["environment_state"].reshape(KEYPOINTS.shape)
        self._seen = {STATE.name: np.array([*agent, x, y, angle % (2 * np.pi)]), AGENT.name: agent, KEYPOINTS.name: corners}


def _check(config: PushTConfig) -> None:
    if config.max_episode_steps < 1 or config.image_size < 1:
        raise shmbridge.SpecError(f"max_episode_steps and image_size must be at least 1, not {config.max_episode_steps} and {config.image_size}")
