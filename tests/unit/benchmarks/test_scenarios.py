"""What is sent in the benchmark, and the policy that gets it."""

from __future__ import annotations

import numpy as np
import pytest

from shmbridge.benchmarks.scenarios import ACTION, GRID, SCENARIOS, BenchmarkPolicy, Scenario, read
from shmbridge.spec import TensorSpec
from shmbridge.testing import check_policy

each_scenario = pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)


def test_the_scenarios_are_those_of_the_targets() -> None:
    sizes = {name: scenario.nbytes for name, scenario in SCENARIOS.items()}
    assert sizes == {"state": 128, "small_cameras": 2 * 224 * 224 * 3, "cameras": 10 * 2 * 480 * 640 * 3}


@each_scenario
def test_an_observation_conforms_and_is_the_same_every_time(scenario: Scenario) -> None:
    first, second = scenario.observation(), scenario.observation()
    for spec in scenario.specs:
        spec.validate(first[spec.name], scenario.num_envs)
        assert np.array_equal(first[spec.name], second[spec.name])
        assert len(np.unique(first[spec.name])) > 2


def test_only_scenarios_with_cameras_fill_the_caches() -> None:
    assert [scenario.has_images for scenario in SCENARIOS.values()] == [False, True, True]


def test_the_policy_reads_all_of_a_vector_and_a_grid_of_an_image() -> None:
    image = np.zeros((2, 480, 640, 3), np.uint8)
    image[:, :: 480 // GRID, :: 640 // GRID] = 1
    vector = np.arange(4, dtype=np.float32)[None]
    assert read({"image": image, "vector": vector}) == 2 * GRID * GRID * 3 + 6
    assert read({"image": 1 - image}) == 0


def test_the_first_number_of_the_action_is_the_sum_of_what_was_read() -> None:
    policy = BenchmarkPolicy()
    action = policy.infer(policy.new_session(2), {"q": np.full((2, 3), 0.5, np.float32)}, [0, 1])[ACTION.name]
    assert action.shape == (2, 1, 7)
    assert action[0, 0, 0] == 3.0
    assert not action[1].any()


def test_it_is_a_policy_like_any_other() -> None:
    check_policy(BenchmarkPolicy, [TensorSpec("q", (3,), "float32")])
