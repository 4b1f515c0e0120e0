"""The contract of an environment: its specs and its defaults."""

from __future__ import annotations

import pytest

from shmbridge.environment import Autoreset, Environment, EnvironmentSpecs
from shmbridge.errors import SpecError
from shmbridge.spec import TensorSpec

Q = TensorSpec("q", (3,), "float32")


class Still(Environment):
    @property
    def specs(self) -> EnvironmentSpecs:
        return EnvironmentSpecs([Q], [Q])

    def reset(self, *, seed, options, out):  # type: ignore[no-untyped-def]  # only the defaults matter here
        return []

    def step(self, action, *, out):  # type: ignore[no-untyped-def]  # likewise
        raise NotImplementedError


def test_specs_are_checked_like_a_policys() -> None:
    assert Still().specs.observation == (Q,)
    with pytest.raises(SpecError, match="two action specs"):
        EnvironmentSpecs([Q], [Q, Q])


def test_the_defaults_are_one_environment_that_reports_nothing_and_resets_when_told() -> None:
    env = Still()
    assert (env.num_envs, env.config, env.autoreset) == (1, None, Autoreset.DISABLED)
    assert env.episode_metrics({}) == {}
    env.close()
    env.close()


def test_modes_of_autoreset_are_those_of_gymnasium() -> None:
    gymnasium = pytest.importorskip("gymnasium")
    assert {mode.name for mode in Autoreset} == {mode.name for mode in gymnasium.vector.AutoresetMode}
