"""``shmbridge suite``: what is run and told, with runs that only write reports. Those in processes of their own are in the integration tests."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys

import pytest

from shmbridge.cli import suite
from shmbridge.cli.suite import main
from shmbridge.errors import SpecError

TOYS = """
import shmbridge
import shmbridge.testing


class ToyEnvironment(shmbridge.Environment):
    specs = reset = step = None
"""


def report(successes):
    episodes = [{"index": index, "seed": index, "steps": 3, "metrics": {"success_rate": float(success)}} for index, success in enumerate(successes)]
    metrics = {"success_rate": sum(successes) / len(successes), "num_episodes": len(successes)}
    return {"settings": {}, "policy": {}, "metrics": metrics, "episodes": episodes}


class Runs:
    """Stands in for the processes.

    Attributes:
        called: The words of each, in order.
        outcomes: Per task: an exit status, an exception, or the successes that it reports.
    """

    def __init__(self, folder):
        self.folder, self.called, self.outcomes = folder, [], {}

    def call(self, words):
        self.called.append(words)
        name = next(word for word in words if word.startswith("--output_dir=")).rpartition("/")[2]
        outcome = self.outcomes.get(name, [1])
        if isinstance(outcome, BaseException):
            raise outcome
        if isinstance(outcome, int):
            return outcome
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / name / "report.json").write_text(json.dumps(report(outcome)))
        return 0


@pytest.fixture
def runs(tmp_path, monkeypatch):
    made = Runs(tmp_path / "out")
    monkeypatch.setattr(suite, "_call", made.call)
    return made


@pytest.fixture
def words(tmp_path):
    (tmp_path / "toys.py").write_text(TOYS)
    common = f"{{policy_type: 'shmbridge.testing:MarkingPolicy', environment: '{tmp_path / 'toys.py'}:ToyEnvironment', num_episodes: 3}}"
    (tmp_path / "suite.yaml").write_text(f"common: {common}\ntasks: {{one: {{}}, two: {{seed: 4}}, three: {{}}}}")
    return [str(tmp_path / "suite.yaml"), "--output_dir", str(tmp_path / "out")]


def written(runs):
    return json.loads((runs.folder / "suite.json").read_text())


def test_every_task_is_a_run_of_its_own_in_its_order(words, runs):
    assert main(words) == 0
    assert [call[0] for call in runs.called] == ["run"] * 3
    assert [call[-2].rpartition("/")[2] for call in runs.called] == ["one", "two", "three"]
    assert "--seed=4" in runs.called[1]


def test_flags_of_the_command_line_reach_every_run(words, runs):
    assert main([*words, "--num_envs", "2"]) == 0
    assert all("--num_envs" in call for call in runs.called)


def test_summary_has_rates_with_intervals_and_the_mean_over_tasks(words, runs, capsys):
    runs.outcomes = {"one": [1, 1, 0, 1], "two": [0], "three": [1]}
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "0.75 [0.30, 0.95] (3/4)" in text
    assert "mean of 3 tasks" in text and "0.5833" in text
    assert f"Suite: {runs.folder / 'suite.json'}" in text


def test_files_hold_the_same(words, runs):
    runs.outcomes = {"one": [1, 0], "two": 1}
    assert main(words) == 1
    found = written(runs)
    assert found["means"] == {"success_rate": 0.75}
    assert [(task["task"], task["outcome"], task["status"]) for task in found["tasks"]] == [("one", "done", 0), ("two", "failed", 1), ("three", "done", 0)]
    assert found["tasks"][0]["metrics"] == {"success_rate": 0.5, "num_episodes": 2}
    assert found["tasks"][0]["rates"]["success_rate"]["successes"] == 1
    assert found["tasks"][0]["words"] == list(runs.called[0][1:])
    with (runs.folder / "suite.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["outcome"] for row in rows] == ["done", "failed", "done"]
    assert (rows[0]["num_episodes"], rows[0]["success_rate"], float(rows[0]["success_rate_low"])) == ("2", "0.5", pytest.approx(0.0945, abs=1e-4))
    assert (rows[1]["num_episodes"], rows[1]["success_rate"]) == ("", "")


def test_failing_task_is_told_of_and_the_next_goes_on(words, runs, capsys):
    runs.outcomes = {"one": 1}
    assert main(words) == 1
    found = capsys.readouterr()
    assert "task one failed with status 1" in found.err
    assert len(runs.called) == 3


def test_task_that_succeeds_without_a_report_has_failed(words, runs, monkeypatch):
    runs.outcomes = {"one": 0}
    assert main(words) == 1
    assert written(runs)["tasks"][0]["outcome"] == "failed"


def test_report_of_an_earlier_suite_is_not_taken_for_this_one(words, runs):
    assert main(words) == 0
    runs.outcomes = {"one": 1}
    assert main(words) == 1
    assert written(runs)["tasks"][0]["metrics"] == {}


@pytest.mark.parametrize("outcome", [KeyboardInterrupt(), 130], ids=["here", "in the run"])
def test_interrupted_suite_keeps_what_is_finished(words, runs, outcome, capsys):
    runs.outcomes = {"two": outcome}
    with pytest.raises(KeyboardInterrupt):
        main(words)
    assert [task["outcome"] for task in written(runs)["tasks"]] == ["done", "interrupted", "not run"]
    assert written(runs)["means"] == {"success_rate": 1.0}
    assert "interrupted" in capsys.readouterr().out


def test_dry_run_prints_the_commands_and_runs_nothing(words, runs, capsys):
    assert main([*words, "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(line.startswith("shmbridge run ") for line in lines)
    assert runs.called == [] and not runs.folder.exists()


@pytest.mark.parametrize("missing", ["file", "folder"])
def test_suite_without_a_file_or_a_folder_is_a_wrong_call(words, missing, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words[1:] if missing == "file" else words[:1])
    assert ended.value.code == 2
    assert ("FILE.yaml" if missing == "file" else "--output_dir") in capsys.readouterr().err


def test_folder_that_cannot_be_made_is_refused_before_anything_runs(words, runs, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(SpecError, match="--output_dir"):
        main(words)
    assert runs.called == []


IGNORES = (
    "import signal, time\nfor number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)\nprint('ready', flush=True)\ntime.sleep(100)"
)
OBEYS = "import time\nprint('ready', flush=True)\ntime.sleep(100)"


@pytest.mark.parametrize(
    ("source", "ways", "expected"),
    [
        (OBEYS, ((None, 0.1), (signal.SIGTERM, 20.0)), -signal.SIGTERM),
        (IGNORES, ((signal.SIGINT, 0.1), (signal.SIGTERM, 0.1), (signal.SIGKILL, 20.0)), -signal.SIGKILL),
        ("print('ready', flush=True)", ((None, 20.0), (signal.SIGKILL, 20.0)), 0),
    ],
    ids=["asked", "forced", "by itself"],
)
def test_runs_are_ended_step_by_step(source, ways, expected):
    process = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE)
    with process:
        assert process.stdout.readline() == b"ready\n"
        suite._end(process, ways)
        assert process.returncode == expected
