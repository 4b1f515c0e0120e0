"""The policies that need no model."""

from __future__ import annotations

import numpy as np
import pytest

import shmbridge
from shmbridge.testing import check_policy
from shmbridge_policies.echo import EchoPolicy
from shmbridge_policies.random import RandomConfig, RandomPolicy
from shmbridge_policies.zero import ZeroConfig, ZeroPolicy

OFFERED = [shmbridge.TensorSpec("policy/joint_pos", (7,), "float32"), shmbridge.TensorSpec("camera_obs/head_rgb", (8, 6, 3), "uint8")]


@pytest.mark.parametrize("policy_type", [ZeroPolicy, RandomPolicy, EchoPolicy])
def test_policy_fulfils_its_contract(policy_type: type[shmbridge.Policy]) -> None:
    check_policy(policy_type, OFFERED)


def test_zero_gives_zeros_of_the_configured_name_shape_and_dtype() -> None:
    chunk = ZeroPolicy(ZeroConfig("arm/torque", [2, 3], "int16", horizon=4)).infer(None, {}, [0, 5])["arm/torque"]
    assert chunk.shape == (2, 4, 2, 3)
    assert chunk.dtype == np.int16
    assert not chunk.any()


def test_random_repeats_itself_for_one_seed_and_differs_for_another() -> None:
    def draw(seed: int) -> np.ndarray:
        policy = RandomPolicy(RandomConfig(action_shape=[3], random_seed=seed))
        return policy.infer(policy.new_session(2), {}, [0, 1])["action"]

    np.testing.assert_array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))


def test_random_gives_an_environment_the_same_whoever_else_asks() -> None:
    policy = RandomPolicy()
    together, alone = policy.new_session(2), policy.new_session(2)
    np.testing.assert_array_equal(policy.infer(together, {}, [0, 1])["action"][1], policy.infer(alone, {}, [1])["action"][0])


def test_random_whole_numbers_reach_both_ends() -> None:
    policy = RandomPolicy(RandomConfig(action_shape=[], dtype="int64", low=0, high=1, horizon=100))
    chunk = policy.infer(policy.new_session(1), {}, [0])["action"]
    assert chunk.dtype == np.int64
    assert set(chunk.ravel().tolist()) == {0, 1}


def test_random_refuses_a_type_that_has_no_order() -> None:
    with pytest.raises(shmbridge.SpecError, match="complex64"):
        RandomPolicy(RandomConfig(dtype="complex64"))


def test_echo_returns_copies_of_what_it_sees() -> None:
    seen = {"policy/joint_pos": np.arange(14, dtype=np.float32).reshape(2, 7)}
    chunk = EchoPolicy().infer(None, seen, [0, 1])["policy/joint_pos"]
    np.testing.assert_array_equal(chunk[:, 0], seen["policy/joint_pos"])
    assert not np.shares_memory(chunk, seen["policy/joint_pos"])
