"""Blocks in turns."""

from __future__ import annotations

import os

import pytest

from shmbridge.benchmarks import runner
from shmbridge.benchmarks.figures import COPIED, IN_PLACE, MEMCPY, READS, RING, Key
from shmbridge.benchmarks.machine import choose_cores, threads_beside
from shmbridge.benchmarks.runner import MIN_ROUNDS, SITTINGS, check_scenarios_fit, measure, run_rounds
from shmbridge.benchmarks.scenarios import SCENARIOS, Scenario
from shmbridge.errors import SharedMemoryFullError
from shmbridge.spec import TensorSpec

A, B = Key("state", "a"), Key("state", "b")


class Recorded:
    """Two paths that note who was called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def path(self, name: str, nanoseconds: int):  # type: ignore[no-untyped-def]  # a closure
        def once() -> int:
            self.calls.append(name)
            return nanoseconds

        return once

    @property
    def blocks(self) -> list[str]:
        """Who had each block."""
        return [name for number, name in enumerate(self.calls) if number == 0 or self.calls[number - 1] != name]


def test_blocks_take_turns_and_the_order_turns_too() -> None:
    recorded = Recorded()
    run_rounds({A: (recorded.path("a", 1), 2), B: (recorded.path("b", 1), 2)}, seconds=1e-9)
    # The first round only warms up. Where the order turns, two blocks of one path follow each other.
    assert recorded.blocks == ["a", "b", "a", "b", "a", "b"]
    assert len(recorded.calls) == 2 * (1 + MIN_ROUNDS) * (2 + runner._UNTIMED)


def test_samples_are_microseconds_by_block_without_the_warm_up() -> None:
    recorded = Recorded()
    samples = run_rounds({A: (recorded.path("a", 1500), 4), B: (recorded.path("b", 3000), 2)}, seconds=1e-9)
    assert [block.tolist() for block in samples[A]] == [[1.5] * 4] * MIN_ROUNDS
    assert [block.tolist() for block in samples[B]] == [[3.0] * 2] * MIN_ROUNDS


def test_rounds_go_on_for_the_time_given_and_are_odd_in_number() -> None:
    ticks = iter(range(10**9))
    samples = run_rounds({A: (lambda: next(ticks), 1)}, seconds=0.05)
    assert len(samples[A]) > MIN_ROUNDS
    assert len(samples[A]) % 2 == 1


def test_too_little_memory_is_said_before_anything_is_started() -> None:
    huge = Scenario("huge", 1000, (TensorSpec("camera", (4000, 4000, 100), "uint8"),), 1)
    with pytest.raises(SharedMemoryFullError, match=r"4 slots of each scenario: .* for huge; fewer with --scenario"):
        check_scenarios_fit([huge])


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the benchmark needs two cores")
def test_every_path_of_a_scenario_is_measured_and_our_core_is_given_back() -> None:
    before = os.sched_getaffinity(0)
    samples = measure([SCENARIOS["state"]], choose_cores(before, threads_beside), seconds=1e-9)
    assert {key.path for key in samples} == {IN_PLACE, COPIED, RING, MEMCPY, READS}
    assert all(len(blocks) == SITTINGS * MIN_ROUNDS for blocks in samples.values())
    assert all((block > 0).all() for blocks in samples.values() for block in blocks)
    assert os.sched_getaffinity(0) == before
