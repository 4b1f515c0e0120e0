"""Replies: what they answer is worked out when it is asked for, and belongs to the caller."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shmbridge.reply import Reply, Timing


class Asked:
    """A request, as far as a reply looks at it."""

    sequence = 7
    timing = Timing(1.0, 2.0, 3.0, 4.0)


def reply_to(step: int | np.ndarray, *, shape: tuple[int, ...] = (2,), now: int = 5, valid: np.ndarray | None = None, asked: Asked | None = None) -> Reply:
    return Reply({"action": np.zeros((*shape, 7))}, shape, step, now, valid, asked, "affine")


def test_actions_are_found_by_name() -> None:
    reply = reply_to(5)
    assert reply["action"] is reply.actions["action"]
    with pytest.raises(KeyError):
        reply["acton"]


def test_nested_actions_are_found_by_their_whole_name_too() -> None:
    reply = Reply({"arm": {"left": 1, "right": 2}}, (), 0, 0, None, None, "p")
    assert (reply["arm"], reply["arm/left"], reply["arm/right"]) == ({"left": 1, "right": 2}, 1, 2)


def test_one_step_counts_for_every_row() -> None:
    reply = reply_to(3)
    assert (reply.step.tolist(), reply.age.tolist(), reply.valid.tolist()) == ([3, 3], [2, 2], [True, True])


def test_steps_may_differ_from_row_to_row() -> None:
    reply = reply_to(np.array([3, 5]), valid=np.array([True, False]))
    assert (reply.step.tolist(), reply.age.tolist(), reply.valid.tolist()) == ([3, 5], [2, 0], [True, False])


def test_without_a_batch_axis_they_are_scalars() -> None:
    for reply in (reply_to(3, shape=()), reply_to(np.array(3), shape=(), valid=np.array(True))):
        for value, expected in ((reply.step, 3), (reply.age, 2), (reply.valid, True)):
            assert value.shape == ()
            assert value == expected


def test_they_are_whole_numbers_and_truth_values() -> None:
    reply = reply_to(3, valid=np.ones(2, np.bool_))
    assert (reply.step.dtype, reply.age.dtype, reply.valid.dtype) == (np.int64, np.int64, np.bool_)


@pytest.mark.parametrize("what", ["step", "age", "valid"])
def test_what_is_given_out_is_the_callers_and_the_reply_keeps_its_own(what: str) -> None:
    reply = reply_to(np.array([3, 5]), valid=np.array([True, True]))
    before: Any = getattr(reply, what).tolist()
    getattr(reply, what)[...] = 0
    assert getattr(reply, what).tolist() == before


def test_where_something_was_asked_its_time_and_number_are_told() -> None:
    reply = reply_to(3, asked=Asked())
    assert reply.timing is not None and reply.timing.total == 10.0
    assert reply.info == {"sequence": 7, "policy": "affine"}


def test_where_nothing_was_asked_there_is_neither_time_nor_number() -> None:
    reply = reply_to(3)
    assert reply.timing is None
    assert reply.info == {}


def test_a_reply_says_what_it_answers_for_operators() -> None:
    assert repr(reply_to(np.array([3, 5]))) == "<Reply to step [3, 5], [2, 0] steps old, valid [True, True]: action>"


def test_the_parts_of_the_time_add_up() -> None:
    assert Timing(1.0, 2.0, 3.0, 4.0).total == 10.0
