"""What is said and written at the end of a run."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from shmbridge.cli.report import PARTS, SHOWN_EPISODES, latencies, print_episodes, print_latency, print_rates, write_report
from shmbridge.connecting import connect
from shmbridge.reply import Timing
from shmbridge.rollout import Episode, RolloutResult
from shmbridge.testing import MarkingPolicy
from shmbridge.testing.fakes import MARK

PERCENTILES = ["p50", "p95", "p99"]


def timings(count: int) -> list[Timing]:
    """Timings whose parts take 1, 2, … milliseconds times the number of the request."""
    return [Timing(*(number * (place + 1) / 1000 for place in range(len(Timing._fields)))) for number in range(1, count + 1)]


def test_latencies_are_percentiles_in_milliseconds_of_each_part():
    found = latencies(timings(101))
    assert list(found) == list(PARTS)
    for place, part in enumerate(Timing._fields):
        assert found[part] == {"p50": 51.0 * (place + 1), "p95": 96.0 * (place + 1), "p99": 100.0 * (place + 1)}
    assert list(found["total"]) == PERCENTILES


def test_total_is_that_of_each_request():
    given = timings(7)
    assert latencies(given)["total"]["p50"] == pytest.approx(float(np.median([timing.total for timing in given])) * 1e3)


def test_single_request_is_its_own_percentile():
    assert set(latencies(timings(1))[Timing._fields[0]].values()) == {1.0}


def test_without_requests_nothing_is_said(capsys):
    assert latencies([]) == {}
    print_latency([])
    assert capsys.readouterr().out == ""


def test_table_names_every_part_and_the_number_of_requests(capsys):
    print_latency(timings(3))
    text = capsys.readouterr().out
    assert "(3)" in text
    assert all(part in text for part in (*PARTS, *PERCENTILES))


@pytest.fixture
def written(tmp_path):
    result = RolloutResult([Episode(1, 1, 8, 5, True, {"success_rate": np.float64(1.0)})], 9, timings(4))
    with connect(MarkingPolicy(horizon=2), observation_specs=[MARK], num_envs=2) as client:
        path = write_report(tmp_path / "new" / "folder", result, client, {"seed": 7, "environment": {"name": "toy"}}, videos={"files": []})
    return json.loads(path.read_text(encoding="utf-8")), path, result


def test_report_is_json_in_a_folder_made_for_it(written, tmp_path):
    assert written[1] == tmp_path / "new" / "folder" / "report.json"


def test_report_tells_what_ran_and_what_came_of_it(written):
    report, _, result = written
    assert report["settings"] == {"seed": 7, "environment": {"name": "toy"}}
    assert report["policy"]["horizon"] == 2
    assert (report["steps"], report["requests"], report["path"]) == (9, 4, "in process")
    assert report["actions_sha256"] == result.actions_digest
    assert report["metrics"] == {"success_rate": 1.0, "num_episodes": 1}
    assert report["episodes"] == [{"env_id": 1, "index": 1, "seed": 8, "steps": 5, "terminated": True, "metrics": {"success_rate": 1.0}}]
    assert report["latency_ms"] == latencies(result.timings)
    assert set(report["observation"]) == {"mark"} and set(report["action"]) == {"action"}
    assert report["rates"]["success_rate"] == {"mean": 1.0, "low": pytest.approx(0.2065, abs=1e-4), "high": 1.0, "successes": 1, "episodes": 1}
    assert report["videos"] == {"files": []}


def test_report_tells_what_the_client_counted(written):
    assert written[0]["client"]["steps"] == written[0]["client"]["requests"] == 0


def test_report_tells_the_machine_on_which_latencies_depend(written):
    machine = written[0]["machine"]
    assert machine["memory_bytes"] > 0
    assert machine["threads"] >= 1


def episodes(count, **metrics):
    """Return episodes in the wrong order."""
    return [Episode(index % 2, index, None if index == 1 else 40 + index, 5, index % 2 == 0, metrics) for index in reversed(range(count))]


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_table_of_episodes_is_in_order_and_leaves_out_what_is_not_there(tmp_path):
    found = [Episode(1, 1, None, 5, False, {"success_rate": 0.0, "return": 1.25}), Episode(0, 0, 40, 3, True, {"success_rate": 1.0})]
    with connect(MarkingPolicy(), observation_specs=[MARK], num_envs=2) as client:
        write_report(tmp_path, RolloutResult(found), client, {})
    assert table(tmp_path / "episodes.csv") == [
        ["index", "env_id", "seed", "steps", "terminated", "success_rate", "return"],
        ["0", "0", "40", "3", "1", "1.0", ""],
        ["1", "1", "", "5", "0", "0.0", "1.25"],
    ]


def test_run_without_a_finished_episode_has_a_report_too(tmp_path, capsys):
    with connect(MarkingPolicy(), observation_specs=[MARK], num_envs=2) as client:
        path = write_report(tmp_path, RolloutResult(), client, {})
    assert json.loads(path.read_text())["rates"] == {}
    assert len(table(tmp_path / "episodes.csv")) == 1
    print_episodes([], tmp_path)
    print_rates([])
    assert capsys.readouterr().out == ""


def test_episodes_are_shown_in_order_with_seed_and_how_they_ended(capsys):
    print_episodes(episodes(3, success_rate=1.0), None)
    rows = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert [row for row in rows if row and row[0].isdigit()] == [
        ["0", "0", "40", "5", "terminated", "1"],
        ["1", "1", "-", "5", "truncated", "1"],
        ["2", "0", "42", "5", "terminated", "1"],
    ]


@pytest.mark.parametrize(("folder", "told"), [("out", "out/episodes.csv"), (None, "--output_dir")])
def test_no_more_episodes_are_shown_than_a_screen_takes_and_where_the_others_are_is_said(folder, told, capsys):
    print_episodes(episodes(SHOWN_EPISODES + 7), None if folder is None else Path(folder))
    text = capsys.readouterr().out
    assert len([line for line in text.splitlines() if line.replace("│", " ").split()[:1] and line.replace("│", " ").split()[0].isdigit()]) == SHOWN_EPISODES
    assert text.splitlines()[-1].startswith("and 7 more") and told in text


def test_each_rate_is_told_with_its_interval(capsys):
    print_rates([Episode(0, index, index, 1, True, {"success_rate": float(index < 18), "return": 2.5}) for index in range(20)])
    assert capsys.readouterr().out == "success_rate 0.90 [0.70, 0.97] (18/20)\n"
