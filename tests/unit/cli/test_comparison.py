"""What two runs have in common and where they differ."""

from __future__ import annotations

import pytest

from shmbridge.cli.comparison import compare
from shmbridge.cli.intervals import mcnemar
from shmbridge.cli.report_file import Report, ReportedEpisode


def report(successes, *, seeds=None, first=0, **changes):
    """Return a report of episodes that went as ``successes`` says; with their seeds from ``first`` on, if none are given."""
    seeds = range(first, first + len(successes)) if seeds is None else seeds
    episodes = [ReportedEpisode(index, seed, 5, {"success_rate": float(success)}) for index, (success, seed) in enumerate(zip(successes, seeds, strict=True))]
    settings = {"seed": first, "num_envs": 2, "environment": {"name": "toy", "task": "open"}, **changes.pop("settings", {})}
    mean = sum(successes) / len(successes) if successes else 0.0
    metrics = {**({"success_rate": mean} if successes else {}), **changes.pop("metrics", {}), "num_episodes": len(successes)}
    return Report(settings=settings, policy={"name": "p", "horizon": 1, "config_digest": "d"}, metrics=metrics, episodes=episodes, **changes)


def test_episodes_of_one_seed_are_paired_and_the_others_left_out():
    found = compare(report([1, 1, 0, 0, 1], first=10), report([1, 0, 1, 0, 1, 1], first=10))
    paired = found.paired["success_rate"]
    assert (found.paired_by, found.pairs) == ("seed", 5)
    assert (paired.both, paired.neither, paired.only_a, paired.only_b) == (2, 1, [11], [12])
    assert paired.p == mcnemar(1, 1)
    assert found.doubts == []


def test_order_in_which_episodes_ended_does_not_matter():
    ordered, mixed = report([1, 0, 1]), report([1, 0, 1])
    mixed.episodes.reverse()
    assert compare(ordered, mixed).paired["success_rate"].only_a == []


def test_runs_without_a_common_seed_are_not_comparable():
    found = compare(report([1, 1], first=0), report([1, 1], first=100))
    assert (found.pairs, found.paired) == (0, {})
    assert "seeds 0 to 1" in found.doubts[0] and "100 to 101" in found.doubts[0]


def test_without_seeds_episodes_of_one_index_are_paired_if_their_runs_began_alike():
    seeds = [0, 1, None, None]
    alike = compare(report([1, 0, 1, 0], seeds=seeds), report([1, 1, 1, 1], seeds=seeds))
    assert (alike.paired_by, alike.pairs) == ("index", 4)
    assert alike.paired["success_rate"].only_b == [1, 3]
    other = compare(report([1, 0, 1, 0], seeds=seeds), report([1, 1, 1, 1], seeds=seeds, settings={"num_envs": 4}))
    assert other.pairs == 0
    assert "reset themselves" in other.doubts[0]


def test_different_tasks_are_not_comparable_and_both_are_shown():
    found = compare(report([1]), report([1], settings={"environment": {"name": "toy", "task": "close"}}))
    assert "toy --task open" in found.doubts[0] and "toy --task close" in found.doubts[0]
    assert found.settings == {"environment.task": ("open", "close")}


def test_run_without_a_finished_episode_is_not_comparable():
    found = compare(report([]), report([1, 1]))
    assert found.doubts == ["A has no finished episode."]
    assert (found.metrics, found.paired) == ({}, {})


def test_metrics_of_both_are_shown_with_intervals_where_they_are_rates():
    found = compare(report([1, 0], metrics={"return": 2.0, "mine": 1.0}), report([1, 1], metrics={"return": 3.5}))
    assert list(found.metrics) == ["success_rate", "return"]
    assert [str(side) for side in found.metrics["success_rate"]] == ["0.50 [0.09, 0.91] (1/2)", "1.00 [0.34, 1.00] (2/2)"]
    assert [str(side) for side in found.metrics["return"]] == ["2", "3.5"]


def test_settings_that_differ_are_listed_and_where_things_are_kept_is_none():
    a = report([1], settings={"replan_steps": None, "output_dir": "a", "policy_settings": {"gain": 1}, "enable_cameras": False}, path="in process")
    b = report([1], settings={"replan_steps": 4, "output_dir": "b", "policy_settings": {"gain": 2}}, path="shared memory", machine={"threads": 8})
    assert compare(a, b).settings == {
        "replan_steps": (None, 4),
        "policy_settings.gain": (1, 2),
        "enable_cameras": (False, None),
        "path": ("in process", "shared memory"),
        "machine.threads": (None, 8),
    }


def test_settings_of_a_policy_that_were_given_as_flags_are_listed_once():
    a, b = (report([1], settings={"gain": str(gain), "policy_settings": {"gain": gain}}) for gain in (1, 2))
    assert compare(a, b).settings == {"policy_settings.gain": (1, 2)}


def test_settings_given_to_one_side_only_are_listed():
    found = compare(report([1], settings={"policy_settings": None}), report([1], settings={"policy_settings": {"gain": 2}}))
    assert found.settings == {"policy_settings.gain": (None, 2)}


def test_medians_of_latencies_that_both_have_are_compared():
    a = report([1], latency_ms={"infer": {"p50": 2.0, "p95": 9.0}, "wait": {"p50": 1.0}})
    b = report([1], latency_ms={"infer": {"p50": 3.0}})
    assert compare(a, b).latency == {"infer": (2.0, 3.0)}


@pytest.mark.parametrize(("left", "right", "same"), [("x", "x", True), ("x", "y", False), ("", "", False)])
def test_runs_that_acted_alike_are_known_by_their_digests(left, right, same):
    assert compare(report([1], actions_sha256=left), report([1], actions_sha256=right)).same_actions is same


def test_rate_that_some_paired_episodes_do_not_report_is_compared_in_the_others():
    a, b = report([1, 1, 0]), report([0, 1, 0])
    b.episodes[2] = ReportedEpisode(2, 2, 5, {})
    paired = compare(a, b).paired["success_rate"]
    assert (paired.both, paired.neither, paired.only_a, paired.only_b) == (1, 0, [0], [])
