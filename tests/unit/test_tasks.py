"""New episodes and instructions that wait to be delivered."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from shmbridge.errors import SpecError
from shmbridge.tasks import TaskChanges, tasks_by_row

told = st.tuples(st.sampled_from(["begin", "instruct"]), st.dictionaries(st.integers(0, 3), st.text("abc", max_size=2), max_size=3))


def changes(*tellings: tuple[str, dict[int, str]]) -> TaskChanges:
    made = TaskChanges()
    for kind, tasks in tellings:
        getattr(made, kind)(tasks)
    return made


def test_nothing_waits_at_first() -> None:
    made = changes()
    assert not made.waiting
    assert (made.episodes, made.instructions) == ({}, {})


def test_telling_nobody_anything_leaves_nothing_waiting() -> None:
    assert not changes(("begin", {}), ("instruct", {})).waiting


def test_changes_merge_and_the_last_word_counts() -> None:
    made = changes(("begin", {0: "a", 1: "b"}), ("begin", {1: "c"}), ("instruct", {2: "d"}), ("instruct", {2: "e", 3: "f"}))
    assert made.waiting
    assert (made.episodes, made.instructions) == ({0: "a", 1: "c"}, {2: "e", 3: "f"})


def test_an_instruction_for_an_episode_about_to_begin_is_its_task() -> None:
    made = changes(("begin", {0: "a"}), ("instruct", {0: "b", 1: "c"}))
    assert (made.episodes, made.instructions) == ({0: "b"}, {1: "c"})


def test_an_instruction_for_an_episode_that_ended_goes_with_it() -> None:
    made = changes(("instruct", {0: "a", 1: "b"}), ("begin", {0: ""}))
    assert (made.episodes, made.instructions) == ({0: ""}, {1: "b"})


def test_what_was_delivered_is_forgotten() -> None:
    made = changes(("begin", {0: "a"}), ("instruct", {1: "b"}))
    made.clear()
    assert not made.waiting
    assert (made.episodes, made.instructions) == ({}, {})


@given(st.lists(told, max_size=8))
def test_each_environment_is_told_one_thing_its_last_task_and_whether_an_episode_began(tellings: list[tuple[str, dict[int, str]]]) -> None:
    made = changes(*tellings)
    assert not made.episodes.keys() & made.instructions.keys()
    assert made.waiting is bool(made.episodes or made.instructions)
    for env_id in range(4):
        heard = [(kind, tasks[env_id]) for kind, tasks in tellings if env_id in tasks]
        began = any(kind == "begin" for kind, _ in heard)
        found = (made.episodes if began else made.instructions).get(env_id)
        assert found == (heard[-1][1] if heard else None)


@pytest.mark.parametrize(
    ("env_ids", "task", "expected"),
    [
        (None, "a", {0: "a", 1: "a", 2: "a"}),
        (None, ["a", "b", "c"], {0: "a", 1: "b", 2: "c"}),
        ([2, 0], ["a", "b"], {2: "a", 0: "b"}),
        ([1, 1], ["a", "b"], {1: "b"}),
        (np.array([1], np.int64), "", {1: ""}),
        ((), "a", {}),
        (range(2), "é" * 128, {0: "é" * 128, 1: "é" * 128}),
    ],
)
def test_a_task_is_one_for_all_that_are_meant_or_one_each(env_ids: Any, task: Any, expected: dict[int, str]) -> None:
    assert tasks_by_row(env_ids, task, 3) == expected


@pytest.mark.parametrize(
    ("env_ids", "task", "text"),
    [
        ([3], "a", "there is no environment 3: they are numbered 0 to 2"),
        ([-1], "a", "there is no environment -1"),
        ([0.5], "a", "must be whole numbers"),
        (1, "a", "must be whole numbers"),
        ([True, False, True], "a", r"not a mask: pass np.flatnonzero\(mask\)"),
        (np.array([True, False, True]), "a", "not a mask"),
        ([0, 1], ["a"], "1 tasks for 2 environments"),
        ([0], [b"a"], "a task is a text"),
        ([0], [None], "a task is a text"),
        ([0], "é" * 129, "at most 256 bytes"),
        ([0], "a\0b", "no NUL"),
        (None, None, "a task is a text"),
        (None, 7, "a task is a text"),
        ([0], "\udcff", "UTF-8"),
    ],
)
def test_what_cannot_be_told_is_refused(env_ids: Any, task: Any, text: str) -> None:
    with pytest.raises(SpecError, match=text):
        tasks_by_row(env_ids, task, 3)
