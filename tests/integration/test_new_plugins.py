"""Plug-ins written by ``shmbridge new``: their own tests pass, and the command runs them by path and by name."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import PACKAGE

from shmbridge.cli.new import render

ROOT = Path(__file__).resolve().parents[2]
POLICY, ENVIRONMENT = "homing/policy.py:HomingPolicy", "reach_it/environment.py:ReachItEnvironment"


def python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(PACKAGE.parent), str(folder / "installed"), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    env = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=120)


def shmbridge(folder: Path, *words: str) -> str:
    done = python(folder, "-m", "shmbridge", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a policy and an environment were just written that fit each other."""
    found = tmp_path_factory.mktemp("new")
    shmbridge(found, "new", "policy", "homing")
    shmbridge(found, "new", "env", "reach-it")
    return found


@pytest.fixture(scope="module")
def installed(folder: Path) -> Path:
    """The same, announced as an installation announces it, which needs no pip here: its entry points, and the packages on the path."""
    for name in ("homing", "reach_it"):
        group, entry = re.findall(r'\[project\.entry-points\."([^"]+)"\]\n(\w+ = "[^"]+")', (folder / name / "pyproject.toml").read_text())[0]
        metadata = folder / "installed" / f"{name}-0.1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
        (metadata / "entry_points.txt").write_text(f"[{group}]\n{entry.replace(chr(34), '')}\n")
        (folder / "installed" / name).symlink_to(folder / name)
    return folder


@pytest.mark.parametrize("plug_in", ["homing", "reach_it"])
@pytest.mark.parametrize("mode", ["prepend", "importlib"])
def test_its_own_test_passes_at_once(folder: Path, plug_in: str, mode: str) -> None:
    done = python(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--import-mode={mode}", plug_in)
    assert done.returncode == 0, done.stdout
    assert re.search(r"[2-9] passed", done.stdout)


def test_both_run_by_path_and_solve_the_task(folder: Path) -> None:
    told = shmbridge(folder, "run", "--policy_type", POLICY, "--num_episodes", "4", "--num_envs", "2", "--enable_cameras", ENVIRONMENT, "--image_size", "16")
    assert told.splitlines()[-1] == "Metrics: {'success_rate': 1.0, 'num_episodes': 4}"


def test_both_run_by_name_once_they_are_announced(installed: Path) -> None:
    assert "homing.policy:HomingPolicy" in shmbridge(installed, "policies")
    assert "reach_it.environment:ReachItEnvironment" in shmbridge(installed, "envs")
    told = shmbridge(installed, "run", "--policy_type", "homing", "--gain", "0.4", "--num_episodes", "2", "reach_it")
    assert told.splitlines()[-1] == "Metrics: {'success_rate': 1.0, 'num_episodes': 2}"


def test_served_it_acts_as_it_does_in_the_same_process(folder: Path, unique_name: str) -> None:
    run = ["--num_episodes", "3", "--output_dir"]
    shmbridge(folder, "run", "--policy_type", POLICY, *run, "local", ENVIRONMENT)
    with subprocess.Popen([sys.executable, "-m", "shmbridge", "serve", "--name", unique_name, "--policy_type", POLICY], cwd=folder) as host:
        try:
            remote = ["--policy_deployment", "remote", "--name", unique_name, "--remote_start_timeout_ms", "60000", "--remote_kill_on_exit"]
            shmbridge(folder, "run", *remote, *run, "remote", ENVIRONMENT)
            assert host.wait(20) == 0
        finally:
            host.kill()
    assert actions(folder / "local") == actions(folder / "remote")


def test_a_recorded_run_is_replayed_bit_for_bit(folder: Path) -> None:
    run = ["--num_episodes", "5", "--num_envs", "2", "--output_dir"]
    shmbridge(folder, "run", "--policy_type", POLICY, "--record", *run, "recorded", ENVIRONMENT)
    replay = ["--policy_type", "shmbridge_policies.replay:ReplayPolicy", "--path", "recorded/recording.npz"]
    shmbridge(folder, "run", *replay, *run, "replayed", ENVIRONMENT)
    assert actions(folder / "replayed") == actions(folder / "recorded")


@pytest.mark.skipif(importlib.util.find_spec("ruff") is None, reason="ruff is not installed here")
@pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="the project's settings are not beside the tests")
@pytest.mark.parametrize("words", [["check"], ["format", "--check"]])
@pytest.mark.parametrize("name", ["homing", "x", "a_name_as_long_as_a_patient_person_types"])
def test_it_is_accepted_by_the_projects_checkers(tmp_path: Path, words: list[str], name: str) -> None:
    for kind in ("policy", "env"):
        (tmp_path / kind / name).mkdir(parents=True)
        for file, text in render(kind, name).items():
            (tmp_path / kind / name / file).write_text(text)
    done = python(tmp_path, "-m", "ruff", *words, "--no-cache", "--config", str(ROOT / "pyproject.toml"), ".")
    assert done.returncode == 0, done.stdout + done.stderr


def actions(folder: Path) -> str:
    report = json.loads((folder / "report.json").read_text())
    return str(report["actions_sha256"])
