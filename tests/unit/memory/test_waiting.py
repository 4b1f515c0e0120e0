"""Deadlines and spinning."""

from __future__ import annotations

import time

from shmbridge.memory.waiting import SPIN_SECONDS, YIELDING_SECONDS, Deadline


def test_a_deadline_counts_down_and_never_below_zero() -> None:
    deadline = Deadline(0.01)
    assert 0 < deadline.remaining <= 0.01
    assert not deadline.passed
    time.sleep(0.02)
    assert deadline.passed
    assert deadline.remaining == 0.0
    assert deadline.timeout == 0.01


def test_a_deadline_of_zero_has_passed() -> None:
    assert Deadline(0.0).passed


def test_the_core_is_offered_for_most_of_a_spin() -> None:
    assert 0.9 * SPIN_SECONDS <= YIELDING_SECONDS <= SPIN_SECONDS
