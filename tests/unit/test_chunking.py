"""Chunk queues, compared with lists of lists."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from shmbridge.chunking import ChunkQueues
from shmbridge.spec import TensorSpec

SPECS = [TensorSpec("arm", (2,), "float32"), TensorSpec("grip", (), "int64")]


def chunks_of(value: int, num_envs: int, horizon: int) -> dict[str, np.ndarray]:
    """Return chunks in which every action differs from every other."""
    numbers = value * 1000 + np.arange(num_envs * horizon).reshape(num_envs, horizon)
    return {"arm": np.stack([numbers, -numbers], -1).astype(np.float32), "grip": numbers.astype(np.int64)}


class QueuesAgainstLists(RuleBasedStateMachine):
    """The model: for each environment, the list of actions still to be played, and the step they answer."""

    @initialize(num_envs=st.integers(1, 4), horizon=st.integers(1, 4))
    def begin(self, num_envs: int, horizon: int) -> None:
        self.num_envs, self.horizon, self.puts = num_envs, horizon, 0
        self.queues = ChunkQueues(SPECS, num_envs, horizon)
        self.model: list[list[int]] = [[] for _ in range(num_envs)]
        self.steps = [0] * num_envs

    @rule(data=st.data(), step=st.integers(0, 1000))
    def put(self, data: st.DataObject, step: int) -> None:
        rows = np.array(data.draw(st.lists(st.booleans(), min_size=self.num_envs, max_size=self.num_envs)))
        self.puts += 1
        chunks = chunks_of(self.puts, self.num_envs, self.horizon)
        self.queues.put(chunks, rows, step)
        for env_id in np.flatnonzero(rows):
            self.model[env_id] = chunks["grip"][env_id].tolist()
            self.steps[env_id] = step
        for chunk in chunks.values():
            chunk[...] = 0  # it was copied

    @rule(data=st.data())
    def clear(self, data: st.DataObject) -> None:
        for env_id in (env_ids := data.draw(st.lists(st.integers(0, self.num_envs - 1), unique=True))):
            self.model[env_id] = []
        self.queues.clear(env_ids)

    @precondition(lambda self: all(self.model))
    @rule()
    def pop(self) -> None:
        actions, steps = self.queues.pop()
        played = [queue.pop(0) for queue in self.model]
        assert actions["grip"].tolist() == played
        assert actions["arm"].tolist() == [[value, -value] for value in played]
        assert steps.tolist() == self.steps
        actions["grip"][...], steps[...] = -1, -1  # they are the caller's

    @rule()
    def look(self) -> None:
        empty = self.queues.empty
        assert empty.tolist() == [not queue for queue in self.model]
        empty[...] = True  # it is the caller's


QueuesAgainstLists.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestQueuesAgainstLists = QueuesAgainstLists.TestCase


def test_every_environment_needs_a_chunk_at_first() -> None:
    assert ChunkQueues(SPECS, 3, 2).empty.tolist() == [True, True, True]


def test_one_environment_whose_episode_ended_does_not_make_the_others_ask() -> None:
    queues = ChunkQueues(SPECS, 3, 4)
    queues.put(chunks_of(1, 3, 4), np.ones(3, bool), 0)
    queues.pop()
    queues.clear([1])
    assert queues.empty.tolist() == [False, True, False]
    queues.put(chunks_of(2, 3, 4), np.array([False, True, False]), 1)
    actions, steps = queues.pop()
    assert actions["grip"].tolist() == [1001, 2004, 1009]
    assert steps.tolist() == [0, 1, 0]


def test_playing_an_empty_queue_is_an_error_and_no_old_action() -> None:
    with pytest.raises(IndexError):
        ChunkQueues(SPECS, 2, 2).pop()
