"""The adapter for Meta-World."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import shmbridge
from shmbridge.testing import check_environment

adapter = pytest.importorskip("shmbridge_launch.envs.metaworld_env", reason="needs metaworld and mujoco", exc_type=ImportError)
cameras = pytest.importorskip("shmbridge_launch.envs.mujoco_cameras", exc_type=ImportError)

SMALL = {"camera_height": 60, "camera_width": 80}
IMAGES = ["camera_obs/corner2_rgb", "camera_obs/behindGripper_rgb"]


def make(num_envs: int = 1, *, enable_cameras: bool = False, **config: Any) -> Any:
    return adapter.MetaWorldEnvironment(adapter.MetaWorldConfig(**config), num_envs=num_envs, enable_cameras=enable_cameras)


def make_with_cameras(num_envs: int = 1, **config: Any) -> Any:
    try:
        return make(num_envs, enable_cameras=True, **{**SMALL, **config})
    except RuntimeError as error:
        pytest.skip(f"nothing here renders: {error}")


def arrays(environment: Any) -> dict[str, np.ndarray]:
    return {spec.name: spec.generate(environment.num_envs) for spec in environment.specs.observation}


def states_of_an_episode(environment: Any, seed: int) -> np.ndarray:
    out = arrays(environment)
    random = np.random.default_rng(seed)
    environment.reset(seed=[seed], options={}, out=out)
    states = [out["policy/state"].copy()]
    for _ in range(5):
        environment.step({"action": random.uniform(-1, 1, (1, 4)).astype(np.float32)}, out=out)
        states.append(out["policy/state"].copy())
    return np.concatenate(states)


def test_environment_fulfils_its_contract() -> None:
    check_environment(make(2))


def test_environment_with_cameras_fulfils_its_contract() -> None:
    check_environment(make_with_cameras(2))


@pytest.mark.parametrize("task", ["drawer-open-v3", "reach-v3", "pick-place-v3"])
def test_a_seed_fixes_the_episode_whatever_was_before(task: str) -> None:
    environment = make(task=task)
    first = states_of_an_episode(environment, 3)
    other = states_of_an_episode(environment, 4)
    again = states_of_an_episode(environment, 3)
    environment.close()
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], other[0])


def test_the_first_state_shows_objects_where_they_are() -> None:
    environment = make()
    out = arrays(environment)
    environment.reset(seed=[0], options={}, out=out)
    before = out["policy/state"][0, 4:7].copy()
    environment.step({"action": np.zeros((1, 4), np.float32)}, out=out)
    np.testing.assert_allclose(out["policy/state"][0, 4:7], before, atol=1e-3)
    environment.close()


def test_an_episode_ends_at_its_time_limit_and_then_stands_still() -> None:
    environment = make(max_episode_steps=2)
    out = arrays(environment)
    environment.reset(seed=[0], options={}, out=out)
    idle = {"action": np.zeros((1, 4), np.float32)}
    assert [bool(environment.step(idle, out=out).truncated[0]) for _ in range(3)] == [False, True, True]
    assert environment.episode_metrics(environment.step(idle, out=out).info[0]) == {"success_rate": 0.0}
    environment.close()


def test_the_scripted_expert_succeeds_and_that_ends_the_episode() -> None:
    from shmbridge_policies.metaworld_expert import MetaWorldExpertPolicy  # needs metaworld

    environment, expert = make(), MetaWorldExpertPolicy()
    out = arrays(environment)
    assert environment.reset(seed=[0], options={}, out=out)[0]["task"] == "drawer open"
    for _ in range(200):
        step = environment.step({"action": expert.infer(None, out, [0])["action"][:, 0]}, out=out)
        if step.terminated[0]:
            break
    assert environment.episode_metrics(step.info[0]) == {"success_rate": 1.0}
    assert not step.truncated[0]
    environment.close()


def test_cameras_render_into_the_arrays_given_and_only_those() -> None:
    environment = make_with_cameras(2)
    out = {name: array for name, array in arrays(environment).items() if name == IMAGES[0]}
    environment.reset(seed=[0, 1], options={}, out=out)
    first, second = out[IMAGES[0]]
    assert first.std() > 10
    assert not np.array_equal(first, second)
    environment.close()


def test_an_array_that_is_not_contiguous_is_refused() -> None:
    environment = make_with_cameras()
    out = {IMAGES[0]: np.zeros((1, 60, 3, 80), np.uint8).transpose(0, 1, 3, 2)}
    with pytest.raises(shmbridge.SpecError, match="C-contiguous"):
        environment.reset(seed=[0], options={}, out=out)
    environment.close()


def test_images_are_upright() -> None:
    environment = make_with_cameras(cameras=("corner2",))
    out = arrays(environment)
    environment.reset(seed=[0], options={}, out=out)
    above, below = np.array_split(out[IMAGES[0]][0], 2)
    assert (above == 0).all(axis=-1).mean() > (below == 0).all(axis=-1).mean()  # the black sky
    environment.close()


def test_brightness_scales_the_light() -> None:
    means = []
    for brightness in (0.5, 1.0):
        environment = make_with_cameras(brightness=brightness)
        out = arrays(environment)
        environment.reset(seed=[0], options={}, out=out)
        means.append(out[IMAGES[0]].mean())
        environment.close()
    assert means[0] < 0.8 * means[1]


def test_blank_cameras_need_no_renderer_and_show_nothing() -> None:
    environment = make(enable_cameras=True, blank_cameras=True, **SMALL)
    out = arrays(environment)
    environment.reset(seed=[0], options={}, out=out)
    assert all((out[name] == out[name].flat[0]).all() for name in IMAGES)
    environment.close()


def test_without_gl_the_error_names_the_variable_that_chooses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_context(width: int, height: int) -> None:
        raise ImportError("no display")

    monkeypatch.setattr(cameras.mujoco.gl_context, "GLContext", no_context, raising=False)
    with pytest.raises(RuntimeError, match="MUJOCO_GL"):
        make(enable_cameras=True)


@pytest.mark.parametrize("config", [{"task": "drawer-paint-v3"}, {"max_episode_steps": 501}])
def test_a_configuration_that_meta_world_cannot_do_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(shmbridge.SpecError):
        make(**config)


def test_an_unknown_camera_is_refused_with_those_there_are() -> None:
    with pytest.raises(shmbridge.SpecError, match="topview"):
        make(enable_cameras=True, cameras=("ceiling",))


def test_closing_twice_is_fine() -> None:
    environment = make_with_cameras()
    environment.close()
    environment.close()
