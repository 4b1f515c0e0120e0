"""Environments made of separate copies, without a simulator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import shmbridge
from shmbridge.testing import check_environment
from shmbridge_launch.envs.one_by_one import Copy, OneByOneEnvironment


class Counter(Copy):
    """Counts up from a random number; done when told to be."""

    def __init__(self, max_episode_steps: int) -> None:
        super().__init__(max_episode_steps)
        self.value = 0.0
        self.closed = 0
        self._random = np.random.default_rng(0)

    def begin(self, seed: int | None) -> None:
        if seed is not None:
            self._random = np.random.default_rng(seed)
        self.value = float(self._random.uniform())

    def advance(self, action: Mapping[str, np.ndarray]) -> tuple[float, bool]:
        self.value += 1.0
        return self.value, bool(action["done"])

    def close(self) -> None:
        self.closed += 1


class Counters(OneByOneEnvironment):
    """Shows each counter as a scalar and as a pair."""

    def __init__(self, num_envs: int = 3, max_episode_steps: int = 10) -> None:
        self.copies = [Counter(max_episode_steps) for _ in range(num_envs)]
        super().__init__("a config", self.copies, "count")

    @property
    def specs(self) -> shmbridge.EnvironmentSpecs:
        observation = [shmbridge.TensorSpec("value", (), "float64"), shmbridge.TensorSpec("pair", (2,), "float64")]
        return shmbridge.EnvironmentSpecs(observation, [shmbridge.TensorSpec("done", (), "int64")])

    def write(self, name: str, row: int, out: np.ndarray) -> None:
        out[...] = self.copies[row].value


def step(environment: Counters, *done: int) -> Any:
    return environment.step({"done": np.array(done)}, out={})


def test_environment_fulfils_its_contract_scalars_included() -> None:
    check_environment(Counters())


def test_config_number_and_task_are_those_given() -> None:
    environment = Counters(num_envs=2)
    assert (environment.config, environment.num_envs) == ("a config", 2)
    assert environment.reset(seed=[0, 1], options={}, out={}) == [{"task": "count"}] * 2


def test_only_rows_in_the_mask_begin_again() -> None:
    environment = Counters(num_envs=2)
    environment.reset(seed=[0, 1], options={}, out={})
    step(environment, 0, 0)
    environment.reset(seed=[None, 1], options={"reset_mask": np.array([False, True])}, out={})
    assert [copy.steps for copy in environment.copies] == [1, 0]


def test_success_ends_an_episode_which_then_stands_still() -> None:
    environment = Counters(num_envs=2, max_episode_steps=3)
    environment.reset(seed=[0, 1], options={}, out={})
    first = step(environment, 1, 0)
    assert (first.terminated.tolist(), first.truncated.tolist()) == ([True, False], [False, False])
    assert environment.episode_metrics(first.info[0]) == {"success_rate": 1.0}
    second = step(environment, 0, 0)
    assert second.terminated.tolist() == [True, False]
    assert second.reward[0] == first.reward[0]
    assert second.reward[1] == first.reward[1] + 1.0


def test_time_runs_out_after_the_last_step_allowed_and_success_in_it_counts() -> None:
    environment = Counters(num_envs=2, max_episode_steps=2)
    environment.reset(seed=[0, 1], options={}, out={})
    assert step(environment, 0, 0).truncated.tolist() == [False, False]
    last = step(environment, 1, 0)
    assert (last.terminated.tolist(), last.truncated.tolist()) == ([True, False], [False, True])
    assert [environment.episode_metrics(info)["success_rate"] for info in last.info] == [1.0, 0.0]


def test_a_reset_without_a_seed_goes_on_with_the_copys_own_generator() -> None:
    copy = Counter(10)
    copy.reset(5)
    first = copy.value
    copy.reset(None)
    second = copy.value
    copy.reset(5)
    assert copy.value == first != second


def test_every_copy_is_closed() -> None:
    environment = Counters(num_envs=2)
    environment.close()
    assert [copy.closed for copy in environment.copies] == [1, 1]


def test_a_copy_must_say_how_it_begins_and_goes_on() -> None:
    with pytest.raises(NotImplementedError):
        Copy(1).reset(0)
    with pytest.raises(NotImplementedError):
        Copy(1).step({})
