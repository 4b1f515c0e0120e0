"""The adapter for gymnasium, on environments that need nothing but gymnasium."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import shmbridge
from shmbridge.testing import check_environment

gymnasium = pytest.importorskip("gymnasium", minversion="1.1", reason="the adapter is for gymnasium")

from shmbridge_launch.envs.gymnasium_env import GymnasiumConfig, GymnasiumEnvironment  # noqa: E402  # needs gymnasium


class Nested(gymnasium.Env):  # type: ignore[misc]  # gymnasium is not installed where types are checked
    """Nested observations and actions; succeeds when pushed by more than 0.5."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  # as gymnasium has it
    observation_space = gymnasium.spaces.Dict(
        {"arm": gymnasium.spaces.Dict({"angle": gymnasium.spaces.Box(-1, 1, (2,), np.float32)}), "mode": gymnasium.spaces.Discrete(5)}
    )
    action_space = gymnasium.spaces.Dict({"push": gymnasium.spaces.Box(-1, 1, (1,), np.float32), "mode": gymnasium.spaces.Discrete(5)})

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._angle = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return {"arm": {"angle": self._angle.copy()}, "mode": 0}, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        pushed = bool(action["push"][0] > 0.5)
        return {"arm": {"angle": self._angle.copy()}, "mode": int(action["mode"])}, 1.0, pushed, False, {"is_success": pushed}

    def render(self) -> Any:
        return np.full((4, 6, 3), 7, np.uint8)


@pytest.fixture
def nested() -> Iterator[str]:
    gymnasium.register("ShmbridgeNested-v0", Nested)
    yield "ShmbridgeNested-v0"
    del gymnasium.registry["ShmbridgeNested-v0"]


def arrays(environment: GymnasiumEnvironment) -> dict[str, np.ndarray]:
    return {spec.name: spec.generate(environment.num_envs) for spec in environment.specs.observation}


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_environment_fulfils_its_contract(name: str) -> None:
    check_environment(GymnasiumEnvironment(GymnasiumConfig(name), num_envs=3))


def test_a_plain_space_is_called_observation_and_a_discrete_action_is_a_scalar() -> None:
    specs = GymnasiumEnvironment(GymnasiumConfig("CartPole-v1")).specs
    assert specs.observation == (shmbridge.TensorSpec("observation", (4,), "float32"),)
    assert specs.action == (shmbridge.TensorSpec("action", (), "int64"),)


def test_nested_spaces_become_nested_names_both_ways(nested: str) -> None:
    environment = GymnasiumEnvironment(GymnasiumConfig(nested), num_envs=2)
    assert {spec.name for spec in environment.specs.observation} == {"arm/angle", "mode"}
    out = arrays(environment)
    environment.reset(seed=[0, 1], options={}, out=out)
    step = environment.step({"push": np.array([[0.0], [1.0]], np.float32), "mode": np.array([3, 4])}, out=out)
    assert out["mode"].tolist() == [3, 4]
    assert step.terminated.tolist() == [False, True]
    environment.close()


def test_return_length_and_success_are_those_of_the_episode_alone(nested: str) -> None:
    environment = GymnasiumEnvironment(GymnasiumConfig(nested), num_envs=2)
    out = arrays(environment)
    environment.reset(seed=[0, 1], options={}, out=out)
    idle = {"push": np.zeros((2, 1), np.float32), "mode": np.zeros(2, np.int64)}
    environment.step(idle, out=out)
    environment.reset(seed=[2, None], options={"reset_mask": np.array([True, False])}, out=out)
    step = environment.step({**idle, "push": np.ones((2, 1), np.float32)}, out=out)
    assert [environment.episode_metrics(info) for info in step.info] == [
        {"episode_return": 1.0, "episode_length": 1.0, "success_rate": 1.0},
        {"episode_return": 2.0, "episode_length": 2.0, "success_rate": 1.0},
    ]
    environment.close()


def test_success_is_left_out_where_the_environment_reports_none() -> None:
    environment = GymnasiumEnvironment(GymnasiumConfig("Pendulum-v1"))
    environment.reset(seed=[0], options={}, out={})
    step = environment.step({"action": np.zeros((1, 1), np.float32)}, out={})
    assert set(environment.episode_metrics(step.info[0])) == {"episode_return", "episode_length"}
    environment.close()


def test_the_rendered_image_is_offered_with_cameras_only(nested: str) -> None:
    without, having = (GymnasiumEnvironment(GymnasiumConfig(nested), num_envs=2, enable_cameras=on) for on in (False, True))
    assert "camera_obs/render_rgb" not in arrays(without)
    out = arrays(having)
    having.reset(seed=[0, 1], options={}, out=out)
    assert out["camera_obs/render_rgb"].shape == (2, 4, 6, 3)
    assert (out["camera_obs/render_rgb"] == 7).all()
    without.close()
    having.close()


def test_arguments_reach_the_environment() -> None:
    slow, fast = (GymnasiumEnvironment(GymnasiumConfig("Pendulum-v1", {"g": g})) for g in (1.0, 20.0))
    seen = []
    for environment in (slow, fast):
        out = arrays(environment)
        environment.reset(seed=[0], options={}, out=out)
        environment.step({"action": np.zeros((1, 1), np.float32)}, out=out)
        seen.append(out["observation"])
        environment.close()
    assert not np.array_equal(*seen)
