"""From times to what is printed."""

from __future__ import annotations

import numpy as np
import pytest

from shmbridge.benchmarks.figures import COPIED, IN_PLACE, IN_PLACE_WRITTEN, MEMCPY, READS, READS_WRITTEN, RING, TARGETS, Key, Target, ratios_of, rows_of
from shmbridge.benchmarks.scenarios import SCENARIOS

A, B, C = Key("state", "a"), Key("state", "b"), Key("cameras", "c")


def blocks(*medians: float) -> list[np.ndarray]:
    return [np.array([median - 1, median, median + 100]) for median in medians]


def test_percentiles_are_over_all_blocks() -> None:
    (row,) = rows_of({A: [np.arange(50.0), np.arange(50.0, 101.0)]}, {"state": 128})
    assert (row.scenario, row.path, row.bytes, row.n) == ("state", "a", 128, 101)
    assert (row.p50_us, row.p95_us, row.p99_us) == (50.0, 95.0, 99.0)


def test_a_ratio_is_the_median_of_what_each_round_gave() -> None:
    # In the middle round the machine was ten times slower, for both: the ratio does not see it.
    (ratio,) = ratios_of({A: blocks(4, 60, 6), B: blocks(2, 20, 2)}, [Target(A, B, asked=2.5)])
    assert (ratio.ratio, ratio.low, ratio.high) == (3.0, 2.5, 3.0)
    assert (ratio.reached, ratio.rounds, ratio.measured_us) == (False, 3, 6.0)
    assert ratio.spare_us == -1.0


def test_what_may_be_spent_beside_is_taken_off_first() -> None:
    (ratio,) = ratios_of({A: blocks(31), B: blocks(10), C: blocks(11)}, [Target(A, B, (C,), asked=2.0)])
    assert ratio.ratio == 2.0
    assert ratio.reached
    assert ratio.spare_us == 0.0
    assert ratio.target == "(state a − cameras c) ÷ state b"


def test_a_ratio_for_comparison_is_neither_reached_nor_missed() -> None:
    (ratio,) = ratios_of({A: blocks(3), B: blocks(2)}, [Target(A, B)])
    assert (ratio.ratio, ratio.asked, ratio.reached, ratio.spare_us) == (1.5, None, None, None)


@pytest.mark.parametrize("missing", [A, B, C])
def test_a_target_is_left_out_where_one_of_its_paths_was_not_measured(missing: Key) -> None:
    samples = {key: blocks(1) for key in (A, B, C) if key != missing}
    assert ratios_of(samples, [Target(A, B, (C,), asked=1.0)]) == []


def test_the_targets_are_those_that_were_asked_for() -> None:
    asked = {target.asked: target for target in reversed(TARGETS) if target.asked is not None}
    assert asked[1.8] == Target(Key("state", COPIED), Key("state", RING), (), 1.8)
    assert asked[1.5].keys == {Key("cameras", IN_PLACE), Key("state", COPIED), Key("cameras", READS)}
    assert asked[1.15].base == Key("cameras", MEMCPY)
    assert set(asked[1.15].beside) == {Key("state", COPIED), Key("cameras", READS_WRITTEN)}
    written = Target(Key("cameras", IN_PLACE_WRITTEN), Key("state", COPIED), (Key("cameras", READS_WRITTEN),), 1.5)
    assert written in TARGETS, "what a camera just wrote is held to the same as what lies there already"
    assert len(asked) == 3


def test_the_targets_name_scenarios_that_there_are() -> None:
    assert {key.scenario for target in TARGETS for key in target.keys} <= set(SCENARIOS)
