"""Deadlines and spinning."""

from __future__ import annotations

import time

import pytest

from shmbridge.memory import waiting
from shmbridge.memory.waiting import SPIN_SECONDS, Deadline, spin


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


def test_spinning_looks_at_least_once_even_without_time() -> None:
    looks = []
    assert spin(lambda: looks.append(1) or True, Deadline(0.0))
    assert len(looks) == 1


def test_spinning_sees_what_comes_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "SPIN_SECONDS", 60.0)  # a busy machine may not look three times in the real one
    answers = iter([False, False, True])
    assert spin(lambda: next(answers), Deadline(60.0))


def test_spinning_gives_up_after_its_time_but_not_before() -> None:
    started = time.monotonic()
    assert not spin(lambda: False, Deadline(60.0))
    assert time.monotonic() - started >= SPIN_SECONDS


def test_spinning_ends_with_the_deadline() -> None:
    deadline = Deadline(SPIN_SECONDS / 4)
    assert not spin(lambda: False, deadline)
    assert deadline.passed
