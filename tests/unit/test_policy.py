"""The contract of a policy: what its specs may be, and what the defaults do."""

from __future__ import annotations

import numpy as np
import pytest
from sample_policies import Affine

import shmbridge
from shmbridge.errors import PolicyError, SpecError
from shmbridge.policy import MAX_HORIZON, MAX_OBSERVATION_STEPS, PolicySpecs
from shmbridge.spec import TensorSpec

Q = TensorSpec("q", (3,), "float32")


def test_specs_are_kept_as_tuples_so_that_they_cannot_change() -> None:
    specs = PolicySpecs([Q], iter([Q]))
    assert specs.observation == specs.action == (Q,)
    assert specs.horizon == 1
    assert hash(specs) == hash(PolicySpecs((Q,), (Q,)))


@pytest.mark.parametrize("horizon", [0, -1, MAX_HORIZON + 1])
def test_an_impossible_horizon_is_refused(horizon: int) -> None:
    with pytest.raises(SpecError, match="horizon must lie between"):
        PolicySpecs([Q], [Q], horizon)


@pytest.mark.parametrize("steps", [0, -1, MAX_OBSERVATION_STEPS + 1])
def test_an_impossible_number_of_observation_steps_is_refused(steps: int) -> None:
    with pytest.raises(SpecError, match="observation_steps must lie between"):
        PolicySpecs([Q], [Q], observation_steps=steps)


@pytest.mark.parametrize(("steps", "batch"), [(1, (3,)), (2, (3, 2)), (MAX_OBSERVATION_STEPS, (3, MAX_OBSERVATION_STEPS))])
def test_several_observations_stand_behind_the_environments(steps: int, batch: tuple[int, ...]) -> None:
    assert PolicySpecs([Q], [Q], observation_steps=steps).observation_batch(3) == batch


def test_two_tensors_of_one_name_are_refused_on_either_side() -> None:
    with pytest.raises(SpecError, match="two observation specs"):
        PolicySpecs([Q, Q], [Q])
    with pytest.raises(SpecError, match="two action specs"):
        PolicySpecs([Q], [Q, Q])


def test_specs_may_be_given_by_name() -> None:
    assert PolicySpecs({"q": Q}, {"q": Q}).observation == (Q,)


def test_a_policy_without_infer_or_specs_cannot_be_made() -> None:
    class Half(shmbridge.Policy):
        def specs(self, offered):  # type: ignore[no-untyped-def]  # the test is about what is missing
            return PolicySpecs([], [])

    with pytest.raises(TypeError, match="infer"):
        Half()  # type: ignore[abstract]  # that is the point


def test_warming_up_infers_once_unless_a_policy_says_otherwise() -> None:
    policy = Affine()
    answer = shmbridge.Policy.warm_up(policy, None, {"q": np.zeros((2, 3), np.float32)}, [0, 1])
    assert answer is not None and answer["action"].shape == (2, 4, 3)
    assert policy.asked == [[0, 1]]


def test_a_policy_without_state_needs_no_method_for_it() -> None:
    class Stateless(shmbridge.Policy):
        def specs(self, offered):  # type: ignore[no-untyped-def]  # only the defaults matter here
            return PolicySpecs([], [])

        def infer(self, session, observation, env_ids):  # type: ignore[no-untyped-def]  # likewise
            return {}

    policy = Stateless()
    assert policy.config is None
    assert policy.new_session(3) is None
    policy.reset(None, [0], [""])
    policy.close()


def test_a_policy_that_says_nothing_about_instructions_refuses_them_by_name() -> None:
    with pytest.raises(PolicyError, match="the instruction changed within an episode, and Affine takes one at its beginning only; let it implement instruct"):
        Affine().instruct(None, [0], ["push"])
