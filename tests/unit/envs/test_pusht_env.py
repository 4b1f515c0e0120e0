"""The adapter for PushT."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import shmbridge
from shmbridge.testing import check_environment

adapter = pytest.importorskip("shmbridge_launch.envs.pusht_env", reason="needs gym-pusht", exc_type=ImportError)

MARK = np.array([256.0, 256.0, np.pi / 4])
"""Where the block belongs: x, y, angle."""


def make(num_envs: int = 1, *, enable_cameras: bool = False, **config: Any) -> Any:
    return adapter.PushTEnvironment(adapter.PushTConfig(**config), num_envs=num_envs, enable_cameras=enable_cameras)


def arrays(environment: Any) -> dict[str, np.ndarray]:
    return {spec.name: spec.generate(environment.num_envs) for spec in environment.specs.observation}


def go_to(*place: float) -> dict[str, np.ndarray]:
    return {"action": np.array([place], np.float32)}


@pytest.mark.parametrize("enable_cameras", [False, True])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_environment_fulfils_its_contract(num_envs: int, enable_cameras: bool) -> None:
    check_environment(make(num_envs, enable_cameras=enable_cameras), steps=10)


def test_cameras_are_offered_only_when_enabled_and_in_the_size_asked_for() -> None:
    assert "camera_obs/top_rgb" not in arrays(make())
    assert arrays(make(enable_cameras=True, image_size=48))["camera_obs/top_rgb"].shape == (1, 48, 48, 3)


def test_views_of_the_state_agree_with_each_other() -> None:
    environment = make()
    out = arrays(environment)
    environment.reset(seed=[3], options={}, out=out)
    state, corners = out["policy/state"][0], out["policy/keypoints"][0]
    np.testing.assert_array_equal(out["policy/agent_pos"][0], state[:2])
    assert 0 <= state[4] < 2 * np.pi
    along = corners[0] - corners[1]  # the bar of the T, 120 px long, along the block's own x axis
    np.testing.assert_allclose(np.linalg.norm(along), 120.0, rtol=1e-4)
    np.testing.assert_allclose(np.abs(along / 120.0), np.abs([np.cos(state[4]), np.sin(state[4])]), atol=1e-3)
    environment.close()


def test_the_agent_goes_where_it_is_sent() -> None:
    environment = make()
    out = arrays(environment)
    environment.reset(seed=[3], options={}, out=out)
    for _ in range(20):
        environment.step(go_to(400.0, 60.0), out=out)
    np.testing.assert_allclose(out["policy/agent_pos"][0], [400.0, 60.0], atol=0.1)
    environment.close()


def test_the_image_is_the_table_from_above_and_does_not_show_the_action() -> None:
    environment = make(enable_cameras=True)
    out = arrays(environment)
    environment.reset(seed=[3], options={}, out=out)
    for _ in range(20):
        environment.step(go_to(400.0, 60.0), out=out)
    image = out["camera_obs/top_rgb"][0].astype(int)
    column, line = (out["policy/agent_pos"][0] * 96 / 512).astype(int)
    assert image[line, column, 2] > image[line, column, 0] + 60  # the agent is blue
    red = (image[..., 0] > 200) & (image[..., 1] < 100)  # as the mark of the last action would be
    assert not red.any()
    environment.close()


def test_pushing_the_block_onto_its_mark_is_a_success_that_ends_the_episode() -> None:
    environment = make()
    out = arrays(environment)
    environment.reset(seed=[0], options={}, out=out)
    block = environment._copies[0]._env.block
    # The block is put there: pushing it would take a policy.
    block.angle = MARK[2]
    block.position = tuple(MARK[:2])
    step = environment.step(go_to(20.0, 20.0), out=out)
    metrics = environment.episode_metrics(step.info[0])
    assert step.terminated.tolist() == [True]
    assert not step.truncated.any()
    assert metrics["success_rate"] == 1.0
    assert metrics["final_coverage"] == metrics["max_coverage"] > 0.95
    environment.close()


def test_coverage_is_the_last_and_the_best_of_this_episode() -> None:
    environment = make(max_episode_steps=50)
    environment.reset(seed=[0], options={}, out={})
    block = environment._copies[0]._env.block
    block.angle, block.position = MARK[2], (MARK[0] + 8.0, MARK[1])
    near = environment.episode_metrics(environment.step(go_to(20.0, 20.0), out={}).info[0])
    block.position = (100.0, 400.0)
    far = environment.episode_metrics(environment.step(go_to(20.0, 20.0), out={}).info[0])
    assert near["final_coverage"] > far["final_coverage"]
    assert far["max_coverage"] == near["max_coverage"] == near["final_coverage"]
    environment.reset(seed=[0], options={}, out={})
    assert environment.episode_metrics(environment.step(go_to(20.0, 20.0), out={}).info[0])["max_coverage"] < near["max_coverage"]
    environment.close()


def test_an_episode_is_cut_off_at_its_limit_and_told_its_task() -> None:
    environment = make(max_episode_steps=2, task="push")
    assert environment.reset(seed=[0], options={}, out={})[0]["task"] == "push"
    assert [bool(environment.step(go_to(0.0, 0.0), out={}).truncated[0]) for _ in range(3)] == [False, True, True]
    environment.close()


def test_seeds_decide_where_everything_begins() -> None:
    environment = make(2)
    out = arrays(environment)
    environment.reset(seed=[7, 8], options={}, out=out)
    first = out["policy/state"].copy()
    environment.reset(seed=[8, 7], options={}, out=out)
    np.testing.assert_array_equal(out["policy/state"], first[::-1])
    assert not np.array_equal(first[0], first[1])
    environment.close()


@pytest.mark.parametrize("config", [{"max_episode_steps": 0}, {"image_size": 0}])
def test_a_configuration_without_steps_or_pixels_is_refused(config: dict[str, int]) -> None:
    with pytest.raises(shmbridge.SpecError, match="at least 1"):
        make(**config)


def test_nothing_is_printed_where_a_run_prints_its_results() -> None:
    command = [sys.executable, "-c", "import shmbridge_launch.envs.pusht_env"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""
