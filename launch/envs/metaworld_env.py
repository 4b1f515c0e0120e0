"""Meta-World's tasks (version 3), with cameras.

A seed fixes the whole episode, object and goal positions included. Meta-World's own pickled task lists are not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# First, because it chooses how MuJoCo renders before Meta-World imports it.
from shmbridge_launch.envs.mujoco_cameras import Cameras, prepare_for_fast_rendering

# isort: split
import mujoco
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.sawyer_xyz_env import SawyerXYZEnv

import shmbridge
from shmbridge_launch.envs.one_by_one import Copy, OneByOneEnvironment

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
class MetaWorldEnvironment(OneByOneEnvironment):
    """Copies of one Meta-World task.

    Offers, per environment:
        ``policy/state``             (39,) float64: this and the previous step's hand, gripper and objects, then the goal
        ``policy/gripper``           (4,) float32: hand position [m], world frame, and opening of the gripper from 0 to 1
        ``camera_obs/<camera>_rgb``  (camera_height, camera_width, 3) uint8, sRGB, upright; only with ``enable_cameras``

    Takes ``action`` (4,) float32 in [-1, 1]: hand displacement (1 is 1 cm per step, world frame) and gripper effort (-1 opens).

    An episode terminates at its first success. No window is ever opened, and the physics runs on the CPU whatever the device.
    """

    config_type = MetaWorldConfig

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
        self._copies = [_Copy(config) for _ in range(num_envs)]
        super().__init__(config, self._copies, config.task.rsplit("-v", 1)[0].replace("-", " "))
        self._config = config
        self._camera_of = {f"camera_obs/{name}_rgb": name for name in config.cameras} if enable_cameras else {}
        self._cameras: Cameras | None = None
        if self._camera_of and not config.blank_cameras:
            self._cameras = Cameras(self._copies[0].env.model, config.cameras, height=config.camera_height, width=config.camera_width)

    @property
    def specs(self) -> shmbridge.EnvironmentSpecs:
        size = (self._config.camera_height, self._config.camera_width, 3)
        images = [shmbridge.TensorSpec(name, size, "uint8", unit="sRGB") for name in self._camera_of]
        return shmbridge.EnvironmentSpecs(observation=[STATE, GRIPPER, *images], action=[ACTION])

    def write(self, name: str, row: int, out: np.ndarray) -> None:
        copy = self._copies[row]
        if name == STATE.name:
            out[:] = copy.state
        elif name == GRIPPER.name:
            out[:] = copy.state[:4]
        elif self._cameras is None:
            out[:] = BLANK
        else:
            self._cameras.render(copy.env.model, copy.env.data, self._camera_of[name], out)

    def close(self) -> None:
        if self._cameras is not None:
            self._cameras.close()
        super().close()


class _Copy(Copy):
    def __init__(self, config: MetaWorldConfig) -> None:
        super().__init__(config.max_episode_steps)
        self.env = _make(config)
        self.state = np.zeros(39)

    def begin(self, seed: int | None) -> None:
        if seed is not None:
            self.env.seed(seed)
        self.env.reset()
        # Meta-World moves objects by changing the model and then reports, and would draw, where they were before.
        mujoco.mj_forward(self.env.model, self.env.data)
        self.env._prev_obs = self.env._get_curr_obs_combined_no_goal()
        self.state = self.env._get_obs()

    def advance(self, action: Mapping[str, np.ndarray]) -> tuple[float, bool]:
        self.state, reward, _, _, info = self.env.step(action[ACTION.name])
        return float(reward), bool(info["success"])

    def close(self) -> None:
        self.env.close()


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
