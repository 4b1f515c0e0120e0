"""What is said and written at the end of a run."""

from __future__ import annotations

import json

import numpy as np
import pytest

from shmbridge.cli.report import PARTS, latencies, print_latency, write_report
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
        path = write_report(tmp_path / "new" / "folder", result, client, {"seed": 7, "environment": {"name": "toy"}})
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


def test_report_tells_the_machine_on_which_latencies_depend(written):
    machine = written[0]["machine"]
    assert machine["memory_bytes"] > 0
    assert machine["threads"] >= 1
