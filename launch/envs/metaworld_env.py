"""Meta-World's tasks (version 3), with cameras.

A seed fixes the whole episode, object and goal positions included. Meta-World's own pickled task lists are not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# First, because it chooses how MuJoCo renders before Meta-World imports it.
from shmbridge_launch.envs.mujoco_cameras import Cameras, prepare_for_fast_rendering

# isort: split
import mujoco
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.sawyer_xyz_env import SawyerXYZEnv

import shmbridge

STATE = shmbridge.TensorSpec("policy/state", (39,), "float64")
GRIPPER = shmbridge.TensorSpec("policy/gripper", (4,), "float32", unit="m, m, m, fraction")
ACTION = shmbridge.TensorSpec("action", (4,), "float32")
BLANK = 127


@dataclass(frozen=True)
class MetaWorldConfig:
    """Which task, and how it looks.

    Attributes:
        task: Meta-World's name of the task.
        max_episode_steps: Control steps (80 per second) after which an episode is cut off; at most Meta-World's own 500.
        cameras: Names of the model's cameras to offer: topview, corner, corner2, corner3, corner4, behindGripper, gripperPOV.
        camera_height: Of an image [px].
        camera_width: Of an image [px].
        blank_cameras: Give constant images instead of rendered ones: shows whether a policy depends on what it sees.
        brightness: Factor on all lights.
    """

    task: str = "drawer-open-v3"
    max_episode_steps: int = 200
    cameras: tuple[str, ...] = ("corner2", "behindGripper")
    camera_height: int = 480
    camera_width: int = 640
    blank_cameras: bool = False
    brightness: float = 1.0


@shmbridge.register_environment("metaworld")
class MetaWorldEnvironment(shmbridge.Environment):
    """Copies of one Meta-World task.

    Offers, per environment:
        ``policy/state``             (39,) float64: this and the previous step's hand, gripper and objects, then the goal
        ``policy/gripper``           (4,) float32: hand position [m], world frame, and opening of the gripper from 0 to 1
        ``camera_obs/<camera>_rgb``  (camera_height, camera_width, 3) uint8, sRGB, upright; only with ``enable_cameras``

    Takes ``action`` (4,) float32 in [-1, 1]: hand displacement (1 is 1 cm per step, world frame) and gripper effort (-1 opens).

    An episode terminates at its first success. No window is ever opened, and the physics runs on the CPU whatever the device.
    """

    config_type = MetaWorldConfig
    autoreset = shmbridge.Autoreset.DISABLED

    def __init__(
        self,
        config: MetaWorldConfig | None = None,
        *,
        num_envs: int = 1,
        enable_cameras: bool = False,
        headless: bool = True,
        device: str = "cpu",
    ) -> None:
        config = config or MetaWorldConfig()
        super().__init__(config, num_envs=num_envs, enable_cameras=enable_cameras, headless=headless, device=device)
        self._config = config
        self._copies = [_Copy(config) for _ in range(num_envs)]
        self._camera_of = {f"camera_obs/{name}_rgb": name for name in config.cameras} if enable_cameras else {}
        self._cameras: Cameras | None = None
        if self._camera_of and not config.blank_cameras:
            self._cameras = Cameras(self._copies[0].env.model, config.cameras, height=config.camera_height, width=config.camera_width)

    @property
    def specs(self) -> shmbridge.EnvironmentSpecs:
        size = (self._config.camera_height, self._config.camera_width, 3)
        images = [shmbridge.TensorSpec(name, size, "uint8", unit="sRGB") for name in self._camera_of]
        return shmbridge.EnvironmentSpecs(observation=[STATE, GRIPPER, *images], action=[ACTION])

    def reset(
        self,
        *,
        seed: Sequence[int | None],
        options: Mapping[str, Any],
        out: Mapping[str, np.ndarray],
    ) -> Sequence[Mapping[str, Any]]:
        chosen = np.flatnonzero(options.get("reset_mask", np.ones(self.num_envs, bool)))
        for row in chosen.tolist():
            self._copies[row].reset(seed[row])
            self._observe(row, out)
        task = self._config.task.rsplit("-v", 1)[0].replace("-", " ")
        return [{"task": task}] * self.num_envs

    def step(self, action: Mapping[str, np.ndarray], *, out: Mapping[str, np.ndarray]) -> shmbridge.Step:
        for row, copy in enumerate(self._copies):
            copy.step(action[ACTION.name][row])
            self._observe(row, out)
        return shmbridge.Step(
            reward=np.array([copy.reward for copy in self._copies]),
            terminated=np.array([copy.success for copy in self._copies]),
            truncated=np.array([copy.out_of_time for copy in self._copies]),
            info=[{"success": copy.success} for copy in self._copies],
        )

    def episode_metrics(self, info: Mapping[str, Any]) -> dict[str, float]:
        return {"success_rate": float(info["success"])}

    def close(self) -> None:
        if self._cameras is not None:
            self._cameras.close()
        for copy in self._copies:
            copy.env.close()

    def _observe(self, row: int, out: Mapping[str, np.ndarray]) -> None:
        copy = self._copies[row]
        for name, array in out.items():
            if name == STATE.name:
                array[row] = copy.state
            elif name == GRIPPER.name:
                array[row] = copy.state[:4]
            elif self._cameras is None:
                array[row] = BLANK
            else:
                self._cameras.render(copy.env.model, copy.env.data, self._camera_of[name], array[row])


class _Copy:
    """One simulated robot, and how its episode stands. A finished episode stands still until the next reset."""

    def __init__(self, config: MetaWorldConfig) -> None:
        self.env = _make(config)
        self.state = np.zeros(39)
        self.reward = 0.0
        self.success = False
        self._limit = config.max_episode_steps

    @property
    def out_of_time(self) -> bool:
        return not self.success and self.env.curr_path_length >= self._limit

    def reset(self, seed: int | None) -> None:
        if seed is not None:
            self.env.seed(seed)
        self.env.reset()
        # Meta-World moves objects by changing the model and then reports, and would draw, where they were before.
        mujoco.mj_forward(self.env.model, self.env.data)
        self.env._prev_obs = self.env._get_curr_obs_combined_no_goal()
        self.state, self.reward, self.success = self.env._get_obs(), 0.0, False

    def step(self, action: np.ndarray) -> None:
        if self.success or self.out_of_time:
            return
        self.state, reward, _, _, info = self.env.step(action)
        self.reward, self.success = float(reward), bool(info["success"])


def _make(config: MetaWorldConfig) -> SawyerXYZEnv:
    if config.task not in ALL_V3_ENVIRONMENTS:
        raise shmbridge.SpecError(f"Meta-World has no task {config.task!r}; it has {', '.join(ALL_V3_ENVIRONMENTS)}")
    longest = SawyerXYZEnv.max_path_length
    if not 1 <= config.max_episode_steps <= longest:
        raise shmbridge.SpecError(f"max_episode_steps must lie between 1 and {longest}, not {config.max_episode_steps}")
    env = ALL_V3_ENVIRONMENTS[config.task]()
    # What Meta-World's set_task and its goal-observable classes do: draw positions at each reset, from the seeded
    # generator, and show the goal. The observation space is cached and depends on the latter.
    env._freeze_rand_vec = False
    env.seeded_rand_vec = True
    env._partially_observable = False
    env._set_task_called = True
    del env.sawyer_observation_space
    prepare_for_fast_rendering(env.model, height=config.camera_height, width=config.camera_width, brightness=config.brightness)
    return env
