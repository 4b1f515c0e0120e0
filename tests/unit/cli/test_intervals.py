"""Intervals of rates, against published values and against the definition, and McNemar's test against its own counting."""

from __future__ import annotations

import itertools

import pytest

from shmbridge.cli.intervals import mcnemar, rates, wilson


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        # R. G. Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_intervals_are_those_published(successes, count, low, high):
    found = wilson(successes, count)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)
    assert found.mean == successes / count


@pytest.mark.parametrize("count", [1, 2, 7, 100, 10_000])
def test_interval_lies_within_0_and_1_around_the_rate_and_mirrors(count):
    for successes in {0, 1, count // 2, count - 1, count}:
        found, mirrored = wilson(successes, count), wilson(count - successes, count)
        assert 0 <= found.low <= found.mean <= found.high <= 1
        assert found.low < found.high
        assert (mirrored.low, mirrored.high) == (pytest.approx(1 - found.high), pytest.approx(1 - found.low))


def test_interval_narrows_with_more_episodes():
    widths = [found.high - found.low for found in (wilson(9 * times, 10 * times) for times in (1, 10, 100))]
    assert widths == sorted(widths, reverse=True)


def test_its_ends_are_the_rates_from_which_the_one_found_is_just_that_many_deviations_away():
    found = wilson(18, 20)
    for end in (found.low, found.high):
        assert abs(found.mean - end) / (end * (1 - end) / 20) ** 0.5 == pytest.approx(1.959964, abs=1e-5)


def test_rate_is_told_with_its_interval_and_counts():
    assert str(wilson(18, 20)) == "0.90 [0.70, 0.97] (18/20)"


def test_only_what_is_called_one_and_is_0_or_1_in_every_episode_is_a_rate():
    episodes = [
        {"success_rate": 1.0, "fill_rate": 0.5, "rare_rate": 1.0, "coverage": 0.0},
        {"success_rate": 0.0, "fill_rate": 1.0},
        {"success_rate": True, "coverage": 1.0},
    ]
    found = rates(episodes)
    assert {name: (rate.successes, rate.episodes) for name, rate in found.items()} == {"success_rate": (2, 3), "rare_rate": (1, 1)}
    assert rates([]) == {}
    assert rates([{"broken_rate": float("nan")}]) == {}


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (0, 1), (0, 5), (3, 3), (2, 7), (9, 1)])
def test_mcnemar_counts_the_splits_that_are_as_uneven_or_more(only_a, only_b):
    count = only_a + only_b
    splits = [sum(each) for each in itertools.product((0, 1), repeat=count)]
    extreme = [wins for wins in splits if abs(2 * wins - count) >= abs(only_a - only_b)]
    assert mcnemar(only_a, only_b) == pytest.approx(len(extreme) / len(splits))
    assert mcnemar(only_a, only_b) == mcnemar(only_b, only_a)


def test_mcnemar_of_many_episodes_is_still_a_number():
    assert mcnemar(5000, 5000) == 1.0
    assert 0 <= mcnemar(0, 10_000) < 1e-300
