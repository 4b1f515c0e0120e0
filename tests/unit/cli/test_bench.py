"""What ``shmbridge bench`` prints."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import numpy as np
import pytest

from shmbridge.benchmarks.figures import COPIED, RING, Key
from shmbridge.benchmarks.machine import Cores
from shmbridge.benchmarks.parts import Part
from shmbridge.benchmarks.scenarios import Scenario
from shmbridge.cli import bench, main

FACTORS = {COPIED: 2.0, RING: 1.0}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Measure nothing, in no time; return what was asked for."""
    asked: list[object] = []

    def measure(scenarios: Sequence[Scenario], cores: Cores, seconds: float) -> dict[Key, list[np.ndarray]]:
        asked.append(([scenario.name for scenario in scenarios], seconds))
        return {Key(scenario.name, path): [np.full(5, 10.0 * factor)] * 3 for scenario in scenarios for path, factor in FACTORS.items()}

    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(bench, "stages", lambda cores: [Part("a stage", "host", 1234.4)])
    monkeypatch.setattr(bench, "building_blocks", lambda: [Part("a piece", "either", 12.6)])
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 5})
    return asked


def test_all_scenarios_are_measured_unless_some_are_chosen(measured: list[object]) -> None:
    main(["bench"])
    main(["bench", "--scenario", "cameras", "--scenario", "state", "--seconds", "0.5"])
    assert measured == [(["state", "small_cameras", "cameras"], 20.0), (["state", "cameras"], 0.5)]


@pytest.mark.usefixtures("measured")
def test_a_missed_target_is_said_by_how_much_and_fails_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--scenario", "state"]) == 0
    output = capsys.readouterr().out
    assert "cores 2 and 5" in output
    assert "state copied ÷ state matched ring" in output
    assert "2.000 (2.00 to 2.00)" in output
    assert "no, 2.0 µs too much" in output
    assert "a stage" not in output


@pytest.mark.usefixtures("measured")
def test_a_reached_target_says_what_is_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FACTORS, COPIED, 1.5)
    assert main(["bench", "--scenario", "state"]) == 0
    assert "yes, 3.0 µs to spare" in capsys.readouterr().out


@pytest.mark.usefixtures("measured")
def test_json_is_one_document_and_nothing_else_is_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--json", "--profile"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["rows"][0] == {"scenario": "state", "path": "copied", "bytes": 128, "p50_us": 20.0, "p95_us": 20.0, "p99_us": 20.0, "n": 15}
    assert [ratio["reached"] for ratio in report["ratios"]] == [False, None, None]
    assert (report["machine"]["simulator_core"], report["machine"]["policy_core"]) == (2, 5)
    assert report["stages"][0]["ns"] == 1234.4
    assert report["building_blocks"][0]["part"] == "a piece"


@pytest.mark.usefixtures("measured")
def test_the_profile_is_printed_after_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--profile"]) == 0
    output = capsys.readouterr().out
    assert output.index("a stage") > output.index("matched ring")
    assert "1234" in output
    assert "a piece" in output


def test_one_core_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2})
    assert main(["bench"]) == 1
    assert "core 2 alone" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--seconds", "0"], ["--seconds", "x"], ["--scenario", "nothing"], ["--second", "3"], ["extra"]])
def test_wrong_words_are_a_usage_error(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bench", *words])
    assert caught.value.code == 2


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(("load", "warned"), [(0.1, False), (3.0, True)])
def test_a_busy_machine_is_warned_of(load: float, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    main(["bench", "--scenario", "state"])
    assert ("busy" in caplog.text) == warned
