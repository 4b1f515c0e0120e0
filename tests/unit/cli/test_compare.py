"""``shmbridge compare`` as a person and as a program read it."""

from __future__ import annotations

import json

import pytest

from shmbridge.cli.compare import main
from shmbridge.errors import SpecError


def write(folder, successes, *, first=0, **changes):
    """Write the report of a run and return its folder."""
    episodes = [
        {"env_id": 0, "index": index, "seed": first + index, "steps": 3, "terminated": True, "metrics": {"success_rate": float(success), "return": 2.0}}
        for index, success in enumerate(successes)
    ]
    found = {
        "settings": {"environment": {"name": "toy"}, "seed": first, "replan_steps": None},
        "policy": {"name": "some_policy"},
        "metrics": {"success_rate": sum(successes) / len(successes), "return": 2.0, "num_episodes": len(successes)},
        "latency_ms": {"infer": {"p50": 4.0}},
        "finished_at": "2030-01-02T03:04:05+0000",
        "episodes": episodes,
    }
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(found | changes))
    return str(folder)


@pytest.fixture
def a(tmp_path):
    return write(tmp_path / "a", [1] * 9 + [0])


@pytest.fixture
def b(tmp_path):
    return write(tmp_path / "b", [0] + [1] * 9, latency_ms={"infer": {"p50": 6.0}})


def test_everything_is_side_by_side(a, b, capsys):
    assert main([a, b]) == 0
    text = capsys.readouterr().out
    assert "Not comparable" not in text
    for said in (a, b, "some_policy", "0.90 [0.60, 0.98] (9/10)", "10 pairs of equal seed", "McNemar", "1.50"):
        assert said in text
    assert "success_rate only in A, by seed: 0" in text
    assert "success_rate only in B, by seed: 9" in text


def test_same_run_twice_differs_in_nothing(a, capsys):
    assert main([a, a]) == 0
    text = capsys.readouterr().out
    assert "setting that differs" not in text and "only in" not in text
    assert "+0" in text


def test_no_more_seeds_are_listed_than_one_reads(tmp_path, capsys):
    assert main([write(tmp_path / "good", [1] * 30), write(tmp_path / "bad", [0] * 30)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "only in A" in line)
    assert line.endswith("and 18 more")


def test_runs_that_are_not_comparable_are_shown_with_the_reason(a, tmp_path, capsys):
    assert main([a, write(tmp_path / "late", [1, 1], first=100)]) == 0
    assert "Not comparable: No episode of one began like one of the other" in capsys.readouterr().out


def test_json_is_one_document_with_all_of_it(a, b, capsys):
    assert main([a, b, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["comparable"], found["doubts"], found["pairs"], found["paired_by"]) == (True, [], 10, "seed")
    rate = found["metrics"]["success_rate"]
    assert rate["a"]["successes"] == rate["b"]["successes"] == 9
    assert rate["a"]["low"] == pytest.approx(0.5958, abs=1e-4)
    assert found["metrics"]["return"] == {"a": {"mean": 2.0}, "b": {"mean": 2.0}, "difference": 0.0}
    assert found["paired"]["success_rate"] == {"both": 8, "neither": 0, "only_a": [0], "only_b": [9], "p": 1.0}
    assert found["latency"] == {"infer": {"a_p50_ms": 4.0, "b_p50_ms": 6.0, "ratio": 1.5}}
    assert found["settings"] == {}


def test_settings_keep_their_values_in_json_and_are_words_in_the_table(tmp_path, capsys):
    values = {"fast": True, "gain": 0.5, "limit": None}, {"fast": False, "gain": 1, "limit": 2, "slow": False}
    runs = [write(tmp_path / name, [1], settings={"environment": {"name": "toy"}, **found}) for name, found in zip("ab", values, strict=True)]
    assert main([*runs, "--json"]) == 0
    assert json.dumps(json.loads(capsys.readouterr().out)["settings"], sort_keys=True) == (
        '{"fast": {"a": true, "b": false}, "gain": {"a": 0.5, "b": 1}, "limit": {"a": null, "b": 2}, "slow": {"a": null, "b": false}}'
    )
    assert main(runs) == 0
    rows = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert ["fast", "true", "false"] in rows and ["limit", "-", "2"] in rows and ["slow", "-", "false"] in rows


def test_latency_of_nothing_has_no_ratio(tmp_path, b, capsys):
    assert main([write(tmp_path / "zero", [1], latency_ms={"infer": {"p50": 0.0}}), b, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["latency"]["infer"]["ratio"] is None


@pytest.mark.parametrize("words", [[], ["one"], ["one", "two", "three"], ["one", "two", "--jason"]], ids=" ".join)
def test_wrong_calls_are_refused(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2


def test_missing_report_is_an_error_that_names_it(a, tmp_path):
    with pytest.raises(SpecError, match="none"):
        main([a, str(tmp_path / "none")])
