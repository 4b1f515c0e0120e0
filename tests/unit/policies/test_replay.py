"""Playing recorded actions again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmbridge
from shmbridge.cli.recording import Recorder
from shmbridge.rollout import RolloutResult
from shmbridge.testing import check_policy
from shmbridge_policies.random import RandomConfig, RandomPolicy
from shmbridge_policies.replay import ReplayConfig, ReplayPolicy
from shmbridge_policies.replay.recording import read_recording, split

OFFERED = [shmbridge.TensorSpec("q", (3,), "float32"), shmbridge.TensorSpec("camera_obs/rgb", (4, 4, 3), "uint8")]
EPISODE = np.array([[0, 1], [0, 1], [2, 1], [2, 3], [2, 3]])
"""Of two environments: episode 0 took two steps, 1 three, 2 three, 3 two."""


def numbers(steps: int, num_envs: int) -> np.ndarray:
    """Return actions (steps, num_envs, 2) that tell where they are: ``10 * step + environment``, twice."""
    return np.add.outer(10.0 * np.arange(steps), np.arange(num_envs))[..., np.newaxis].repeat(2, axis=-1).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "recording.npz")


@pytest.fixture
def recording(path: str) -> str:
    np.savez(path, **{"arm/target": numbers(5, 2), "@episode": EPISODE})
    return path


def play(policy: ReplayPolicy, session: Any, env_ids: Sequence[int]) -> list[float]:
    return [float(action[0, 0]) for action in policy.infer(session, {}, env_ids)["arm/target"]]


def test_policy_fulfils_its_contract_with_a_recording(recording: str) -> None:
    check_policy(lambda: ReplayPolicy(ReplayConfig(recording, at_end="hold")), OFFERED)


def test_policy_fulfils_its_contract_with_a_trajectory(path: str) -> None:
    np.savez(path, **{"arm/target": numbers(5, 1)[:, 0], "gripper": np.zeros(5, np.int64)})
    check_policy(lambda: ReplayPolicy(ReplayConfig(path)), OFFERED, num_envs=3)


def test_it_asks_for_nothing_unless_it_is_told_to_watch(recording: str) -> None:
    offered = {spec.name: spec for spec in OFFERED}
    assert ReplayPolicy(ReplayConfig(recording)).specs(offered).observation == ()
    assert ReplayPolicy(ReplayConfig(recording, observe=True)).specs(offered).observation == tuple(OFFERED)


def test_specs_are_those_of_the_arrays(recording: str) -> None:
    assert ReplayPolicy(ReplayConfig(recording)).specs({}).action == (shmbridge.TensorSpec("arm/target", (2,), "float32"),)


def test_each_environment_plays_its_own_episodes_in_order(recording: str) -> None:
    policy = ReplayPolicy(ReplayConfig(recording))
    session = policy.new_session(2)
    policy.reset(session, [0, 1], ["", ""])
    assert [play(policy, session, [0, 1]) for _ in range(2)] == [[0, 1], [10, 11]]
    policy.reset(session, [0], [""])
    assert play(policy, session, [0, 1]) == [20, 21]
    policy.reset(session, [1], [""])
    assert play(policy, session, [1]) == [31]
    assert play(policy, session, [0, 1]) == [30, 41]


def test_a_reset_in_the_middle_of_an_episode_goes_to_the_next_one(recording: str) -> None:
    policy = ReplayPolicy(ReplayConfig(recording))
    session = policy.new_session(2)
    policy.reset(session, [0, 1], ["", ""])
    play(policy, session, [1])
    policy.reset(session, [1], [""])
    assert play(policy, session, [1]) == [31]


def test_an_episode_used_up_is_an_error_that_names_it_and_moves_nobody_on(recording: str) -> None:
    policy = ReplayPolicy(ReplayConfig(recording))
    session = policy.new_session(2)
    policy.reset(session, [0, 1], ["", ""])
    play(policy, session, [0, 1])
    play(policy, session, [0, 1])
    with pytest.raises(shmbridge.PolicyError, match=r"episode 0 \(environment 0\): 2 were recorded .* 'hold'"):
        play(policy, session, [1, 0])
    assert play(policy, session, [1]) == [21]
    for _ in range(2):
        policy.reset(session, [0], [""])
    with pytest.raises(shmbridge.PolicyError, match=r"episode 4 \(environment 0\): none was recorded"):
        play(policy, session, [0])


def test_hold_repeats_the_environments_last_action(recording: str) -> None:
    policy = ReplayPolicy(ReplayConfig(recording, at_end="hold"))
    session = policy.new_session(2)
    policy.reset(session, [0, 1], ["", ""])
    assert [play(policy, session, [0])[0] for _ in range(4)] == [0, 10, 10, 10]
    for _ in range(3):
        policy.reset(session, [1], [""])
    assert play(policy, session, [1]) == [0]  # an episode that was not recorded, and nothing was played before


def test_a_trajectory_is_played_from_each_reset_on_in_every_environment(path: str) -> None:
    np.savez(path, **{"arm/target": numbers(3, 1)[:, 0]})
    policy = ReplayPolicy(ReplayConfig(path))
    session = policy.new_session(7)
    policy.reset(session, list(range(7)), [""] * 7)
    assert [play(policy, session, [0, 6]) for _ in range(2)] == [[0, 0], [10, 10]]
    policy.reset(session, [6], [""])
    assert play(policy, session, [0, 6]) == [20, 0]
    with pytest.raises(shmbridge.PolicyError, match=r"trajectory .* has 3 steps"):
        play(policy, session, [0])


def test_a_new_instruction_changes_nothing(recording: str) -> None:
    policy = ReplayPolicy(ReplayConfig(recording))
    session = policy.new_session(2)
    policy.instruct(session, [0], ["another"])
    assert play(policy, session, [0]) == [0]


class TestOtherNumbersOfEnvironments:
    def test_they_are_refused_with_the_setting_that_allows_them(self, recording: str) -> None:
        with pytest.raises(shmbridge.SpecError, match=r"with 2 environment\(s\), this run has 3\..*any_num_envs.*--num_envs 2"):
            ReplayPolicy(ReplayConfig(recording)).new_session(3)

    def test_allowed_ones_play_the_same_episodes_by_number(self, recording: str) -> None:
        policy = ReplayPolicy(ReplayConfig(recording, any_num_envs=True))
        four, one = policy.new_session(4), policy.new_session(1)
        policy.reset(four, [0, 1, 2, 3], [""] * 4)
        assert play(policy, four, [0, 1, 2, 3]) == [0, 1, 20, 31]
        for _ in range(4):
            policy.reset(one, [0], [""])
        assert play(policy, one, [0]) == [31]

    def test_an_environment_that_resets_itself_never_allows_them(self, path: str) -> None:
        np.savez(path, **{"a": np.zeros((4, 1), np.float32), "@episode": np.array([[0], [0], [-1], [1]])})
        with pytest.raises(shmbridge.SpecError, match="resets itself"):
            ReplayPolicy(ReplayConfig(path, any_num_envs=True)).new_session(2)


class TestReading:
    def test_an_ignored_action_belongs_to_the_episode_before_it(self) -> None:
        found = split({"a": np.arange(5)[:, None]}, np.array([[0], [0], [-1], [1], [-1]]))
        assert {index: actions["a"].tolist() for index, actions in found.items()} == {0: [0, 1, 2], 1: [3, 4]}

    def test_a_missing_file_is_an_error_that_says_who_writes_one(self, tmp_path: Path) -> None:
        with pytest.raises(shmbridge.PolicyError, match="--record"):
            read_recording(str(tmp_path / "none.npz"))

    def test_a_file_that_is_none_of_arrays_is_refused(self, path: str) -> None:
        Path(path).write_text("a: 1\n")
        with pytest.raises(shmbridge.PolicyError, match=r"no \.npz"):
            read_recording(path)

    def test_pickled_objects_are_never_loaded(self, path: str) -> None:
        np.savez(path, action=np.array([{"a": 1}], object))
        with pytest.raises(shmbridge.PolicyError, match="plain arrays"):
            read_recording(path)

    def test_a_torn_file_is_refused(self, path: str) -> None:
        np.savez_compressed(path, action=np.random.default_rng(0).normal(size=(500, 2)))
        whole = bytearray(Path(path).read_bytes())
        whole[200:400] = bytes(200)
        Path(path).write_bytes(whole)
        with pytest.raises(shmbridge.PolicyError, match="cannot be read"):
            read_recording(path)

    @pytest.mark.parametrize(
        ("arrays", "told"),
        [
            ({"@episode": EPISODE}, "no actions"),
            ({"a": np.zeros((4, 2)), "@episode": EPISODE}, "same number of steps"),
            ({"a": np.zeros((5, 3)), "@episode": EPISODE}, "same number of steps"),
            ({"a": np.zeros(5), "@episode": EPISODE}, "environments"),
            ({"a": np.zeros((5, 2)), "@episode": EPISODE.astype(np.int32)}, "int32"),
            ({"a": np.zeros((5, 2)), "@episode": EPISODE + 1}, "episode i runs in"),
            ({"a": np.zeros((0, 2)), "@episode": EPISODE[:0]}, "at least one step"),
            ({"a": np.zeros((5, 2)), "b": np.zeros((4, 2))}, "same number of steps"),
            ({"a": np.zeros((0, 2))}, "at least one"),
            ({"a": np.float32(1)}, "steps"),
            ({"a": np.zeros((5, 2), ">f4")}, "byte order"),
        ],
    )
    def test_arrays_that_do_not_belong_together_are_refused(self, path: str, arrays: dict[str, np.ndarray], told: str) -> None:
        np.savez(path, **arrays)
        with pytest.raises(shmbridge.SpecError, match=told):
            read_recording(path)


class Walk(shmbridge.Environment):
    """A point that the actions push about; an episode ends where its first place and the pushes say, so its length depends on both.

    Keeps what ``shmbridge run --record`` would write.
    """

    def __init__(self, num_envs: int, autoreset: shmbridge.Autoreset = shmbridge.Autoreset.DISABLED) -> None:
        super().__init__(num_envs=num_envs)
        self.autoreset = autoreset  # type: ignore[misc]  # of this one
        self.place = np.zeros((num_envs, 3), np.float32)
        self.steps = np.zeros(num_envs, int)
        self.over = np.zeros(num_envs, bool)
        self.generators = [np.random.default_rng(0)] * num_envs

    @property
    def specs(self) -> shmbridge.EnvironmentSpecs:
        return shmbridge.EnvironmentSpecs([OFFERED[0]], [shmbridge.TensorSpec("action", (3,), "float32")])

    def reset(self, *, seed: Sequence[int | None], options: Mapping[str, Any], out: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        for row in np.flatnonzero(options.get("reset_mask", np.ones(self.num_envs, bool))).tolist():
            self.generators[row] = np.random.default_rng(seed[row])
            self.begin(row)
        return self.told(out)

    def begin(self, row: int) -> None:
        self.place[row], self.steps[row] = self.generators[row].uniform(-1, 1, 3), 0

    def step(self, action: Mapping[str, np.ndarray], *, out: Mapping[str, np.ndarray]) -> shmbridge.Step:
        resetting = self.over & (self.autoreset is shmbridge.Autoreset.NEXT_STEP)
        self.place += action["action"]
        self.steps += 1
        for row in np.flatnonzero(resetting).tolist():
            self.begin(row)
        self.over = ~resetting & ((np.abs(self.place).max(axis=1) > 1.5) | (self.steps >= 9))
        info = self.told(out)
        return shmbridge.Step(np.zeros(self.num_envs), self.over, np.zeros(self.num_envs, bool), info)

    def told(self, out: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        for array in out.values():
            array[:] = self.place
        return [{}] * self.num_envs


def run(policy: shmbridge.Policy, environment: Walk, folder: Path | None = None) -> RolloutResult:
    specs = environment.specs
    with shmbridge.connect(policy, observation_specs=specs.observation, action_specs=specs.action, num_envs=environment.num_envs) as client:
        recorder = Recorder(specs.action, environment.num_envs)
        result = shmbridge.rollout(environment, client, num_episodes=7, seed=3, watch=recorder.watch)
    if folder is not None:
        recorder.write(folder)
    return result


@pytest.mark.parametrize("mode", [shmbridge.Autoreset.DISABLED, shmbridge.Autoreset.NEXT_STEP])
def test_a_recorded_run_is_repeated_bit_for_bit(tmp_path: Path, mode: shmbridge.Autoreset) -> None:
    first = run(RandomPolicy(RandomConfig(action_shape=[3])), Walk(3, mode), tmp_path)
    again = run(ReplayPolicy(ReplayConfig(f"{tmp_path}/recording.npz")), Walk(3, mode))
    assert again.actions_digest == first.actions_digest
    assert again.episodes == first.episodes
    assert len({episode.steps for episode in first.episodes}) > 1


@pytest.mark.parametrize("num_envs", [1, 7])
def test_a_recorded_run_is_repeated_by_episode_in_another_number_of_environments(tmp_path: Path, num_envs: int) -> None:
    first = run(RandomPolicy(RandomConfig(action_shape=[3])), Walk(3), tmp_path)
    again = run(ReplayPolicy(ReplayConfig(f"{tmp_path}/recording.npz", any_num_envs=True, at_end="hold")), Walk(num_envs))
    assert {(one.index, one.seed, one.steps) for one in again.episodes} == {(one.index, one.seed, one.steps) for one in first.episodes}
