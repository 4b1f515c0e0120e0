"""Chunk queues, compared with the plainest thing that keeps every chunk for ever."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from shmbridge.chunking import MAX_LATENCY_STEPS, ChunkQueues, ChunkRules, Refill
from shmbridge.errors import SpecError
from shmbridge.spec import TensorSpec

SPECS = [TensorSpec("arm", (2,), "float32"), TensorSpec("grip", (), "int64")]
NOBODYS = -1
"""In rows of a chunk that were not asked for; never to be played."""


def chunks_of(number: int, rows: np.ndarray, horizon: int) -> dict[str, np.ndarray]:
    """Return chunks in which every action differs from every other, of any chunk."""
    numbers = number * 1000 + np.arange(len(rows) * horizon).reshape(len(rows), horizon)
    numbers[~rows] = NOBODYS
    return {"arm": np.stack([numbers, -numbers], -1).astype(np.float32), "grip": numbers.astype(np.int64)}


class EveryChunk:
    """What one environment was ever given in its episode; what counts is found by looking through all of it."""

    def __init__(self, horizon: int, rules: ChunkRules) -> None:
        self._horizon, self._latency = horizon, rules.latency_steps
        self._planned = min(horizon, rules.replan_steps or horizon)
        self._chunks: list[tuple[int, list[int]]] = []
        self._is_asked_again = False

    def begin(self) -> None:
        self._chunks, self._is_asked_again = [], False

    def ask_again(self, played_until: int) -> None:
        """Forget what did not count when the last action was taken."""
        self._chunks = [chunk for chunk in self._chunks if self._counts(chunk, played_until)]
        self._is_asked_again = True

    def wants(self, step: int) -> bool:
        return not self._chunks or self._is_asked_again or self._chunks[-1][0] + self._planned <= step + self._latency

    def put(self, step: int, chunk: list[int]) -> None:
        self._chunks.append((step, chunk))
        self._is_asked_again = False

    def action(self, step: int) -> tuple[int, int]:
        """Return the action for a step and the step it was made from."""
        made_at, chunk = [chunk for chunk in self._chunks if self._counts(chunk, step)][-1]
        return chunk[min(step - made_at, self._horizon - 1)], made_at

    def _counts(self, chunk: tuple[int, list[int]], step: int) -> bool:
        return chunk is self._chunks[0] or chunk[0] + self._latency <= step


all_rules = st.builds(ChunkRules, refill=st.sampled_from(Refill), replan_steps=st.none() | st.integers(1, 6), latency_steps=st.integers(0, 4))


class QueuesAgainstEveryChunk(RuleBasedStateMachine):
    @initialize(num_envs=st.integers(1, 4), horizon=st.integers(1, 5), rules=all_rules)
    def start(self, num_envs: int, horizon: int, rules: ChunkRules) -> None:
        self.num_envs, self.horizon, self.rules = num_envs, horizon, rules
        self.queues = ChunkQueues(SPECS, num_envs, horizon, rules)
        self.plain = [EveryChunk(horizon, rules) for _ in range(num_envs)]
        self.step = self.made = 0
        self.played_until = -1

    def look(self) -> np.ndarray:
        wanted = self.queues.wanted(self.step)
        expected = np.array([plain.wants(self.step) for plain in self.plain])
        if self.rules.refill is Refill.ALL and expected.any():
            expected[:] = True
        assert wanted.tolist() == expected.tolist()
        wanted[:] = ~wanted  # it is the caller's
        return expected

    @rule()
    def act(self) -> None:
        wanted = self.look()
        if wanted.any():
            self.made += 1
            chunks = chunks_of(self.made, wanted, self.horizon)
            for env_id in np.flatnonzero(wanted):
                self.plain[env_id].put(self.step, chunks["grip"][env_id].tolist())
            self.queues.put(chunks, wanted, self.step)
        actions, made_at = self.queues.pop(self.step)
        expected = [plain.action(self.step) for plain in self.plain]
        assert actions["grip"].tolist() == [value for value, _ in expected]
        assert actions["arm"].tolist() == [[value, -value] for value, _ in expected]
        assert made_at.tolist() == [step for _, step in expected]
        actions["grip"][...] = actions["arm"][...] = made_at[...] = NOBODYS  # they are the caller's
        self.played_until = self.step
        self.step += 1

    @rule()
    def ask_in_vain(self) -> None:
        """The request fails or times out: nothing is put, and the step is not over."""
        self.look()

    @rule()
    def take_a_step_without_acting(self) -> None:
        self.step += 1

    @rule(data=st.data())
    def begin_episodes(self, data: st.DataObject) -> None:
        env_ids = data.draw(st.lists(st.integers(0, self.num_envs - 1), unique=True))
        self.queues.clear(env_ids)
        for env_id in env_ids:
            self.plain[env_id].begin()

    @rule(data=st.data())
    def instruct(self, data: st.DataObject) -> None:
        env_ids = data.draw(st.lists(st.integers(0, self.num_envs - 1), unique=True))
        self.queues.ask_again(env_ids)
        for env_id in env_ids:
            self.plain[env_id].ask_again(self.played_until)


QueuesAgainstEveryChunk.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestQueuesAgainstEveryChunk = QueuesAgainstEveryChunk.TestCase


class Played:
    """Queues whose chunks hold, for each environment, the step they were made at and the place: ``100 * step + place``."""

    def __init__(self, num_envs: int, horizon: int, **rules: Any) -> None:
        self.queues = ChunkQueues([TensorSpec("a", (), "int64")], num_envs, horizon, ChunkRules(**rules))
        self.num_envs, self.horizon, self.step = num_envs, horizon, 0
        self.asked: list[list[int]] = []

    def act(self) -> list[int]:
        wanted = self.queues.wanted(self.step)
        self.asked.append(np.flatnonzero(wanted).tolist())
        if wanted.any():
            chunk = np.broadcast_to(100 * self.step + np.arange(self.horizon), (self.num_envs, self.horizon))
            self.queues.put({"a": chunk}, wanted, self.step)
        actions, _ = self.queues.pop(self.step)
        self.step += 1
        return [int(action) for action in actions["a"]]

    def acts(self, steps: int) -> list[int]:
        """Return the first environment's actions."""
        return [self.act()[0] for _ in range(steps)]


def test_every_environment_needs_a_chunk_at_first() -> None:
    assert ChunkQueues(SPECS, 3, 2).wanted(0).tolist() == [True, True, True]


def test_chunks_are_played_to_their_end_one_after_another() -> None:
    played = Played(1, 3)
    assert played.acts(7) == [0, 1, 2, 300, 301, 302, 600]
    assert [step for step, asked in enumerate(played.asked) if asked] == [0, 3, 6]


def test_one_environment_whose_episode_ended_does_not_make_the_others_ask() -> None:
    played = Played(3, 4)
    played.act()
    played.queues.clear([1])
    assert played.act() == [1, 100, 1]
    assert played.asked == [[0, 1, 2], [1]]


def test_ten_environments_that_drifted_apart_cost_only_their_own_rows() -> None:
    """Each is reset at a step of its own, so that in every step exactly one chunk is used up."""
    played = Played(10, 10)
    for step in range(50):
        if step % 10:
            played.queues.clear([step % 10] if step < 10 else [])
        played.act()
    assert played.asked[0] == list(range(10))
    assert played.asked[1:] == [[step % 10] for step in range(1, 50)]


def test_all_asks_for_everyone_at_once_however_far_they_drifted_apart() -> None:
    played = Played(10, 10, refill=Refill.ALL)
    for step in range(50):
        if step in (3, 7, 24):
            played.queues.clear([step % 10])
        played.act()
    assert [step for step, asked in enumerate(played.asked) if asked] == [0, 3, 7, 17, 24, 34, 44]
    assert all(len(asked) in (0, 10) for asked in played.asked)


def test_all_asks_for_all_as_soon_as_one_is_used_up() -> None:
    played = Played(3, 4, refill=Refill.ALL)
    played.act()
    played.queues.clear([1])
    assert played.act() == [100, 100, 100]
    assert played.asked == [[0, 1, 2], [0, 1, 2]]


def test_only_the_first_so_many_actions_of_a_chunk_are_played_if_wanted() -> None:
    assert Played(1, 8, replan_steps=3).acts(7) == [0, 1, 2, 300, 301, 302, 600]
    assert Played(1, 2, replan_steps=5).acts(5) == [0, 1, 200, 201, 400]
    assert Played(1, 8, replan_steps=1).acts(3) == [0, 100, 200]


def test_with_latency_a_chunk_counts_from_so_many_steps_later_and_is_asked_for_so_many_before() -> None:
    played = Played(1, 6, latency_steps=2)
    assert played.acts(10) == [0, 1, 2, 3, 4, 5, 402, 403, 404, 405]
    assert [step for step, asked in enumerate(played.asked) if asked] == [0, 4, 8]


def test_with_latency_and_replanning_each_chunk_gives_what_lies_between() -> None:
    played = Played(1, 10, latency_steps=2, replan_steps=5)
    assert played.acts(11) == [0, 1, 2, 3, 4, 302, 303, 304, 602, 603, 604]


def test_with_more_latency_than_actions_every_step_asks_and_the_last_action_is_held() -> None:
    played = Played(1, 2, latency_steps=3)
    assert played.acts(7) == [0, 1, 1, 1, 101, 201, 301]
    assert all(played.asked)


def test_the_first_chunk_of_an_episode_counts_at_once_whatever_the_latency() -> None:
    played = Played(2, 10, latency_steps=3)
    played.acts(5)
    played.queues.clear([0])
    assert [played.act() for _ in range(3)] == [[500, 5], [501, 6], [502, 7]]


def test_a_chunk_that_does_not_count_yet_is_never_played_in_the_next_episode() -> None:
    played = Played(2, 4, latency_steps=2)
    played.acts(3)  # at step 2 both were asked again, for step 4
    played.queues.clear([0])
    assert [played.act() for _ in range(3)] == [[300, 3], [301, 202], [302, 203]]


def test_after_an_instruction_the_old_chunk_is_played_until_the_new_one_counts() -> None:
    played = Played(2, 10, latency_steps=2)
    played.acts(3)
    played.queues.ask_again([1])
    assert [played.act() for _ in range(4)] == [[3, 3], [4, 4], [5, 302], [6, 303]]
    assert played.asked[3:] == [[1], [], [], []]


def test_a_chunk_under_way_when_the_instruction_came_is_never_played() -> None:
    played = Played(1, 4, latency_steps=2)
    played.acts(3)  # at step 2 it was asked again, for step 4
    played.queues.ask_again([0])
    assert played.acts(3) == [3, 3, 302]


def test_without_latency_an_instruction_ends_the_chunk() -> None:
    played = Played(2, 10)
    played.acts(3)
    played.queues.ask_again([1])
    assert played.act() == [3, 300]


def test_chunks_that_count_at_once_are_copied() -> None:
    queues = ChunkQueues(SPECS, 2, 3)
    chunks = chunks_of(1, np.ones(2, np.bool_), 3)
    queues.put(chunks, np.ones(2, np.bool_), 0)
    for chunk in chunks.values():
        chunk[...] = NOBODYS
    assert queues.pop(0)[0]["grip"].tolist() == [1000, 1003]


def test_steps_that_were_not_acted_in_are_over_all_the_same() -> None:
    played = Played(1, 4)
    played.act()
    played.step += 2
    assert played.act() == [3]
    played.step += 5
    assert played.act() == [900]


@pytest.mark.parametrize("latency", [-1, MAX_LATENCY_STEPS + 1])
def test_an_impossible_latency_is_refused(latency: int) -> None:
    with pytest.raises(SpecError, match="latency_steps must lie between 0 and"):
        ChunkRules(latency_steps=latency)


@pytest.mark.parametrize("steps", [0, -3])
def test_playing_no_action_at_all_is_refused(steps: int) -> None:
    with pytest.raises(SpecError, match="replan_steps must be at least 1"):
        ChunkRules(replan_steps=steps)


@pytest.mark.parametrize("rules", [{"latency_steps": 1.5}, {"latency_steps": "1"}, {"latency_steps": True}, {"replan_steps": 2.5}, {"replan_steps": False}])
def test_steps_are_whole_numbers(rules: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="is a number of steps"):
        ChunkRules(**rules)
