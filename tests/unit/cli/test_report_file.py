"""Reading reports: those of this version, of older ones, and what is none."""

from __future__ import annotations

import json

import pytest

from shmbridge.cli.report import write_report
from shmbridge.cli.report_file import read_report
from shmbridge.connecting import connect
from shmbridge.errors import SpecError
from shmbridge.rollout import Episode, RolloutResult
from shmbridge.testing import MarkingPolicy
from shmbridge.testing.fakes import MARK

OLDEST = {"settings": {"seed": 0}, "policy": {"name": "x"}, "metrics": {"num_episodes": 0}, "episodes": []}


def test_what_a_run_writes_is_read_back_by_file_or_by_folder(tmp_path):
    episodes = [Episode(0, index, index, 4, True, {"success_rate": float(index < 2), "return": 0.5}) for index in range(3)]
    with connect(MarkingPolicy(), observation_specs=[MARK], num_envs=1) as client:
        path = write_report(tmp_path, RolloutResult(episodes), client, {"environment": {"name": "toy", "size": 3}})
    found = read_report(path)
    assert found == read_report(tmp_path)
    assert found.environment == {"name": "toy", "size": 3}
    assert [(episode.index, episode.seed, episode.steps) for episode in found.episodes] == [(0, 0, 4), (1, 1, 4), (2, 2, 4)]
    assert {name: (rate.successes, rate.episodes) for name, rate in found.rates.items()} == {"success_rate": (2, 3)}


def test_report_of_an_older_version_lacks_what_it_did_not_write(tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(OLDEST))
    found = read_report(tmp_path)
    assert (found.latency_ms, found.actions_sha256, found.environment, found.rates) == ({}, "", {}, {})


def test_number_that_is_none_can_be_read(tmp_path):
    episode = {"index": 0, "seed": None, "steps": 1, "metrics": {"error": float("nan")}}
    (tmp_path / "report.json").write_text(json.dumps({**OLDEST, "episodes": [episode]}))
    assert read_report(tmp_path).rates == {}


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"settings": {}}', json.dumps({**OLDEST, "episodes": [{"index": "one"}]}), json.dumps({**OLDEST, "metrics": {"x": "y"}})]
)
def test_what_is_no_report_is_an_error_that_names_the_file(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(SpecError, match=r"report\.json cannot be read"):
        read_report(tmp_path)


def test_file_that_is_no_text_is_an_error_that_names_it(tmp_path):
    (tmp_path / "some.mp4").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match=r"some\.mp4 cannot be read"):
        read_report(tmp_path / "some.mp4")


def test_missing_report_says_how_one_comes_about(tmp_path):
    with pytest.raises(SpecError, match="--output_dir"):
        read_report(tmp_path)
    with pytest.raises(SpecError, match=r"nowhere is not there[\s\S]*--output_dir"):
        read_report(tmp_path / "nowhere")


def test_folder_of_a_suite_points_at_its_tasks(tmp_path):
    for task in ("open", "close"):
        (tmp_path / task).mkdir()
        (tmp_path / task / "report.json").write_text("")
    (tmp_path / "suite.json").write_text("")
    with pytest.raises(SpecError, match=r"whole suite[\s\S]*close, .*open"):
        read_report(tmp_path)
