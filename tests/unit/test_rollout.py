"""Rollouts of toy environments with every way of resetting, against a policy in this process whose actions tell what they answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

import shmbridge
from shmbridge.connecting import connect
from shmbridge.environment import Autoreset, EnvironmentSpecs, Info, Step
from shmbridge.errors import SpecError
from shmbridge.rollout import Episode, Moment, RolloutResult, rollout
from shmbridge.spec import TensorSpec
from shmbridge.testing import MarkingPolicy

MARK = TensorSpec("mark", (), "float64")
ACTION = TensorSpec("action", (4,), "float64")
BASE = 100
"""An episode's marks are its token times this, plus the steps taken."""
OWN_TOKENS = 1000
"""What is added to the token of an environment's episode to get that of its next, where it resets by itself."""
MODES = list(Autoreset)


def length_of(token: int) -> int:
    """How many actions an episode takes."""
    return 1 + token % 4


class Toy(shmbridge.Environment):
    """Episodes of one to four steps. Checks that what it is told to do answers the episode it is in.

    Attributes:
        acted_in: Per environment, the token of every episode that got an action, in order.
        seeds: Per environment, the seed of every reset from outside.
    """

    def __init__(self, num_envs: int, autoreset: Autoreset) -> None:
        super().__init__(num_envs=num_envs)
        self.autoreset = autoreset
        self.acted_in: list[list[int]] = [[] for _ in range(num_envs)]
        self.seeds: list[list[int]] = [[] for _ in range(num_envs)]
        self._token = [0] * num_envs
        self._steps = [0] * num_envs
        self._waits = [False] * num_envs

    @property
    def specs(self) -> EnvironmentSpecs:
        return EnvironmentSpecs([MARK], [ACTION])

    def reset(self, *, seed: Sequence[int | None], options: Mapping[str, Any], out: Mapping[str, np.ndarray]) -> Sequence[Info]:
        for env_id in np.flatnonzero(options.get("reset_mask", np.ones(self.num_envs, np.bool_))).tolist():
            given = seed[env_id]
            assert given is not None, "an environment that is reset gets a seed"
            self.seeds[env_id].append(given)
            self._begin(env_id, given)
            self._write(env_id, out)
        return [self._task(env_id) for env_id in range(self.num_envs)]

    def step(self, action: Mapping[str, np.ndarray], *, out: Mapping[str, np.ndarray]) -> Step:
        infos = [self._step(env_id, action["action"][env_id]) for env_id in range(self.num_envs)]
        for env_id in range(self.num_envs):
            self._write(env_id, out)
        terminated = np.array([info.get("ended") == "terminated" for info in infos])
        truncated = np.array([info.get("ended") == "truncated" for info in infos])
        return Step(np.zeros(self.num_envs), terminated, truncated, infos)

    def episode_metrics(self, info: Info) -> dict[str, float]:
        return {"token": float(info["token"]), "length": float(info["length"])}

    def _step(self, env_id: int, action: np.ndarray) -> dict[str, Any]:
        if self._waits[env_id]:
            assert self.autoreset is Autoreset.NEXT_STEP, "an environment that waits to be reset was stepped"
            self._begin(env_id, self._token[env_id] + OWN_TOKENS)
            return self._task(env_id)
        token = self._token[env_id]
        if self._steps[env_id] == 0:
            self.acted_in[env_id].append(token)
        mark, row, resets = action[:3].tolist()
        assert (mark // BASE, row, resets) == (token, env_id, len(self.acted_in[env_id])), "this action belongs to another episode"
        self._steps[env_id] += 1
        if self._steps[env_id] < length_of(token):
            return {}
        info: dict[str, Any] = {"ended": "truncated" if token % 2 else "terminated", "token": token, "length": self._steps[env_id]}
        if self.autoreset is Autoreset.SAME_STEP:
            self._begin(env_id, token + OWN_TOKENS)
            return info | self._task(env_id)
        self._waits[env_id] = True
        return info

    def _begin(self, env_id: int, token: int) -> None:
        self._token[env_id], self._steps[env_id], self._waits[env_id] = token, 0, False

    def _task(self, env_id: int) -> dict[str, Any]:
        return {"task": f"task {self._token[env_id]}"}

    def _write(self, env_id: int, out: Mapping[str, np.ndarray]) -> None:
        out["mark"][env_id] = self._token[env_id] * BASE + self._steps[env_id]


class Played:
    """One rollout, and what its parts saw of it."""

    def __init__(self, autoreset: Autoreset, *, num_envs: int = 2, horizon: int = 1, watch: Callable[[Moment], None] | None = None, **limits: int) -> None:
        self.environment, self.policy = Toy(num_envs, autoreset), MarkingPolicy(horizon=horizon)
        with connect(self.policy, observation_specs=[MARK], action_specs=[ACTION], num_envs=num_envs) as client:
            self.policy.tasks.clear()  # those of the warm-up
            self.result = rollout(self.environment, client, watch=watch, **limits)

    @property
    def episodes(self) -> list[Episode]:
        return self.result.episodes


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("num_envs", "num_episodes"), [(1, 3), (2, 5), (3, 7), (4, 2)])
def test_each_environment_runs_its_quota_and_no_more_is_counted(mode: Autoreset, num_envs: int, num_episodes: int) -> None:
    played = Played(mode, num_envs=num_envs, num_episodes=num_episodes)
    assert sorted(episode.index for episode in played.episodes) == list(range(num_episodes))
    assert all(episode.env_id == episode.index % num_envs for episode in played.episodes)


@pytest.mark.parametrize("mode", MODES)
def test_what_an_environment_finishes_beyond_its_quota_is_not_counted(mode: Autoreset) -> None:
    played = Played(mode, num_episodes=3, seed=1)  # environment 1 has one episode of three steps, environment 0 two: of two and of four
    assert len(played.environment.acted_in[1]) > 1
    assert [episode.index for episode in played.episodes if episode.env_id == 1] == [1]


def test_episode_i_has_the_seed_of_the_run_plus_i_where_the_run_resets() -> None:
    played = Played(Autoreset.DISABLED, num_envs=3, num_episodes=8, seed=40)
    assert [episode.seed for episode in played.episodes] == [40 + episode.index for episode in played.episodes]
    assert [episode.metrics["token"] for episode in played.episodes] == [episode.seed for episode in played.episodes]
    for env_id, seeds in enumerate(played.environment.seeds):
        assert seeds == [40 + env_id + 3 * number for number in range(len(seeds))]


@pytest.mark.parametrize("mode", [Autoreset.NEXT_STEP, Autoreset.SAME_STEP])
def test_only_first_episodes_have_a_seed_where_environments_reset_themselves(mode: Autoreset) -> None:
    played = Played(mode, num_envs=2, num_episodes=6, seed=40)
    assert {episode.index: episode.seed for episode in played.episodes} == {0: 40, 1: 41, 2: None, 3: None, 4: None, 5: None}
    assert played.environment.seeds == [[40], [41]]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("horizon", [1, 3])
def test_steps_are_counted_per_episode_and_its_end_is_told(mode: Autoreset, horizon: int) -> None:
    played = Played(mode, num_envs=3, num_episodes=12, horizon=horizon)
    for episode in played.episodes:
        token = int(episode.metrics["token"])
        assert episode.steps == length_of(token) == episode.metrics["length"]
        assert episode.terminated == (token % 2 == 0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("horizon", [1, 3])
def test_policy_is_told_of_each_episode_once_and_with_its_task(mode: Autoreset, horizon: int) -> None:
    played = Played(mode, num_envs=3, num_steps=20, horizon=horizon)  # the toy itself refuses an action of an episode that was not told
    for env_id, tokens in enumerate(played.environment.acted_in):
        told = [task for row, task in played.policy.tasks if row == env_id]
        assert told == [f"task {token}" for token in tokens]


def test_environments_without_a_task_give_the_policy_an_empty_one() -> None:
    class Taskless(Toy):
        def _task(self, env_id: int) -> dict[str, Any]:
            return {}

    policy = MarkingPolicy()
    with connect(policy, observation_specs=[MARK], num_envs=2) as client:
        policy.tasks.clear()
        rollout(Taskless(2, Autoreset.DISABLED), client, num_steps=1)
    assert policy.tasks == [(0, ""), (1, "")]


@pytest.mark.parametrize("mode", MODES)
def test_number_of_steps_ends_a_run_and_every_finished_episode_counts(mode: Autoreset) -> None:
    played = Played(mode, num_envs=2, num_steps=17)
    assert played.result.steps == 17
    ended = [len(tokens) for tokens in played.environment.acted_in]
    for env_id in range(2):
        indices = [episode.index for episode in played.episodes if episode.env_id == env_id]
        assert indices == list(range(env_id, env_id + 2 * len(indices), 2))
        assert len(indices) in (ended[env_id], ended[env_id] - 1)  # the last one may be under way


@pytest.mark.parametrize("mode", MODES)
def test_step_that_resets_an_environment_belongs_to_no_episode(mode: Autoreset) -> None:
    played = Played(mode, num_envs=1, num_episodes=4)
    idle = 3 if mode is Autoreset.NEXT_STEP else 0
    assert played.result.steps == sum(episode.steps for episode in played.episodes) + idle


def test_end_repeated_by_the_step_that_resets_is_no_second_end() -> None:
    class RepeatsItsEnd(Toy):
        def _step(self, env_id: int, action: np.ndarray) -> dict[str, Any]:
            repeated = {"ended": "terminated"} if self._waits[env_id] else {}
            return super()._step(env_id, action) | repeated

    with connect(MarkingPolicy(), observation_specs=[MARK], num_envs=1) as client:
        result = rollout(RepeatsItsEnd(1, Autoreset.NEXT_STEP), client, num_episodes=3, seed=3)
    assert [episode.steps for episode in result.episodes] == [length_of(3)] * 3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("limits", [{"num_episodes": 7}, {"num_steps": 15}])
def test_watcher_sees_every_step_and_every_counted_episode_once(mode: Autoreset, limits: dict[str, int]) -> None:
    steps: list[int] = []
    finished: list[Episode] = []

    def watch(moment: Moment) -> None:
        steps.append(moment.step)
        finished.extend(moment.finished)

    played = Played(mode, num_envs=3, watch=watch, **limits)
    assert finished == played.episodes
    assert steps == list(range(played.result.steps + 1))


def test_watcher_sees_the_observation_that_is_about_to_be_sent() -> None:
    seen: list[list[float]] = []
    Played(Autoreset.DISABLED, num_envs=2, num_steps=2, seed=2, watch=lambda moment: seen.append(moment.observation["mark"].tolist()))
    assert seen == [[200, 300], [201, 301], [202, 302]]


def watched(mode: Autoreset, **limits: int) -> tuple[Played, list[Moment], list[list[tuple[int, int]]]]:
    """Return a run with its moments, and of each moment the token and the steps that every row of its observation shows."""
    moments: list[Moment] = []
    shown: list[list[tuple[int, int]]] = []

    def watch(moment: Moment) -> None:
        moments.append(moment)
        shown.append([divmod(int(mark), BASE) for mark in moment.observation["mark"]])

    return Played(mode, num_envs=3, watch=watch, **limits), moments, shown


@pytest.mark.parametrize("mode", MODES)
def test_watcher_is_told_to_which_episode_each_row_belongs(mode: Autoreset) -> None:
    played, moments, shown = watched(mode, num_episodes=7)
    token_of: dict[int, int] = {}
    for moment, rows in zip(moments, shown, strict=True):
        for index, (token, _) in zip(moment.episodes.tolist(), rows, strict=True):
            assert token_of.setdefault(index, token) == token
    assert {episode.index: episode.metrics["token"] for episode in played.episodes}.items() <= token_of.items()


@pytest.mark.parametrize("mode", MODES)
def test_watcher_sees_the_last_observation_of_an_episode_unless_nobody_does(mode: Autoreset) -> None:
    played, moments, shown = watched(mode, num_episodes=7)
    ends = {}
    for moment, rows in zip(moments, shown, strict=True):
        for env_id, row in moment.last.items():
            ends[int(moment.acted_in[env_id])] = int(row["mark"]) % BASE
        for index, (_, steps) in zip(moment.episodes.tolist(), rows, strict=True):
            ends[index] = max(steps, ends.get(index, 0))
    lengths = {episode.index: episode.steps for episode in played.episodes}
    missing = 1 if mode is Autoreset.SAME_STEP else 0
    assert {index: ends[index] for index in lengths} == {index: length - missing for index, length in lengths.items()}


@pytest.mark.parametrize("mode", MODES)
def test_watcher_is_told_what_each_step_did_and_in_which_episode(mode: Autoreset) -> None:
    played, moments, shown = watched(mode, num_steps=20)
    assert moments[0].actions == {}
    ignored = 0
    for before, seen, after in zip(moments, shown, moments[1:], strict=False):
        assert after.actions["action"][:, 0].tolist() == [token * BASE + steps for token, steps in seen]
        expected = [-1 if steps == length_of(token) else index for index, (token, steps) in zip(before.episodes.tolist(), seen, strict=True)]
        assert after.acted_in.tolist() == expected
        ignored += expected.count(-1)
    assert (ignored > 0) == (mode is Autoreset.NEXT_STEP)
    again = RolloutResult()
    for moment in moments[1:]:
        again.add_actions(moment.actions)
    assert again.actions_digest == played.result.actions_digest


def test_actions_that_an_environment_changes_in_place_are_told_as_they_were_given() -> None:
    class Clipping(Toy):
        def step(self, action: Mapping[str, np.ndarray], *, out: Mapping[str, np.ndarray]) -> Step:
            step = super().step(action, out=out)
            action["action"][:] = -9
            return step

    told: list[float] = []
    with connect(MarkingPolicy(), observation_specs=[MARK], num_envs=1) as client:
        watch = lambda moment: told.extend(moment.actions["action"][:, 0] if moment.step else [])  # noqa: E731  # shorter so
        rollout(Clipping(1, Autoreset.DISABLED), client, num_steps=2, seed=3, watch=watch)
    assert told == [300, 301]


class Listening(MarkingPolicy):
    """Takes instructions within episodes.

    Attributes:
        heard: Every reset and instruction: which of the two, environment, text.
    """

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[str, int, str]] = []

    def reset(self, session: np.ndarray, env_ids: Sequence[int], task: Sequence[str]) -> None:
        super().reset(session, env_ids, task)
        self.heard += [("reset", env_id, text) for env_id, text in zip(env_ids, task, strict=True)]

    def instruct(self, session: np.ndarray, env_ids: Sequence[int], task: Sequence[str]) -> None:
        self.heard += [("instruct", env_id, text) for env_id, text in zip(env_ids, task, strict=True)]


class ChangesItsMind(Toy):
    """Says another task in the second step of each episode, and the same one again in every later step."""

    def _step(self, env_id: int, action: np.ndarray) -> dict[str, Any]:
        info = super()._step(env_id, action)
        return info if "task" in info or self._steps[env_id] < 2 else info | {"task": f"second task {self._token[env_id]}"}


@pytest.mark.parametrize("mode", MODES)
def test_task_that_changes_within_an_episode_is_told_once_and_begins_no_episode(mode: Autoreset) -> None:
    policy, environment = Listening(), ChangesItsMind(2, mode)
    with connect(policy, observation_specs=[MARK], num_envs=2) as client:
        policy.heard.clear()
        rollout(environment, client, num_steps=24, seed=2)
    for env_id, tokens in enumerate(environment.acted_in):
        expected = []
        for token in tokens:
            expected.append(("reset", env_id, f"task {token}"))
            # The second task is said in the second step; where that one ends the episode, it comes too late to be told.
            expected += [("instruct", env_id, f"second task {token}")] if length_of(token) > 2 else []
        heard = [each for each in policy.heard if each[1] == env_id]
        assert heard == expected[: len(heard)]
        assert len(heard) >= len(expected) - 2  # the last episode is under way
        assert any(each[0] == "instruct" for each in heard)


def test_infos_without_a_task_or_with_the_same_one_tell_nothing() -> None:
    class Repeating(Toy):
        def _step(self, env_id: int, action: np.ndarray) -> dict[str, Any]:
            info = super()._step(env_id, action)
            return info if self._steps[env_id] == 1 else self._task(env_id) | info

    policy = Listening()
    with connect(policy, observation_specs=[MARK], num_envs=2) as client:
        rollout(Repeating(2, Autoreset.DISABLED), client, num_steps=12)
    assert {kind for kind, _, _ in policy.heard} == {"reset"}


def test_there_is_one_timing_per_request_and_not_per_step() -> None:
    asked_always = Played(Autoreset.DISABLED, num_envs=1, num_episodes=4)
    asked_for_chunks = Played(Autoreset.DISABLED, num_envs=1, num_episodes=4, horizon=4)
    assert len(asked_always.result.timings) == asked_always.result.steps == 10
    assert len(asked_for_chunks.result.timings) == 4


@pytest.mark.parametrize("mode", MODES)
def test_equal_runs_have_equal_digests_and_other_seeds_give_others(mode: Autoreset) -> None:
    digests = [Played(mode, num_episodes=5, seed=seed).result.actions_digest for seed in (3, 3, 4)]
    assert digests[0] == digests[1] != digests[2]


def test_digest_knows_the_order_of_steps_but_not_of_names() -> None:
    def digest(*steps: dict[str, np.ndarray]) -> str:
        result = RolloutResult()
        for actions in steps:
            result.add_actions(actions)
        return result.actions_digest

    one, two = np.ones(2), np.full(2, 2.0)
    assert digest({"a": one, "b": two}) == digest({"b": two, "a": one})
    assert digest({"a": one}, {"a": two}) != digest({"a": two}, {"a": one})
    assert digest({"a": np.arange(6.0).reshape(2, 3).T}) == digest({"a": np.arange(6.0).reshape(2, 3).T.copy()})


def test_metrics_are_means_over_the_episodes_that_report_them() -> None:
    reported: list[dict[str, float]] = [{"success_rate": 1.0, "length": 4}, {"success_rate": 0.0}, {"success_rate": 0.0, "length": 7}]
    result = RolloutResult([Episode(0, number, number, 1, True, metrics) for number, metrics in enumerate(reported)])
    assert result.metrics() == {"success_rate": 0.333333, "length": 5.5, "num_episodes": 3}


def test_without_a_finished_episode_there_is_nothing_but_their_number() -> None:
    assert Played(Autoreset.DISABLED, num_envs=1, num_steps=1, seed=3).result.metrics() == {"num_episodes": 0}


@pytest.mark.parametrize("limits", [{}, {"num_steps": 3, "num_episodes": 3}])
def test_neither_or_both_limits_are_refused_before_anything_is_reset(limits: dict[str, int]) -> None:
    environment = Toy(1, Autoreset.DISABLED)
    with connect(MarkingPolicy(), observation_specs=[MARK], num_envs=1) as client, pytest.raises(SpecError, match="exactly one"):
        rollout(environment, client, **limits)
    assert environment.seeds == [[]]


def test_session_with_another_number_of_environments_is_refused() -> None:
    with connect(MarkingPolicy(), observation_specs=[MARK], num_envs=3) as client, pytest.raises(SpecError, match=r"2 copies.* 3"):
        rollout(Toy(2, Autoreset.DISABLED), client, num_steps=1)
