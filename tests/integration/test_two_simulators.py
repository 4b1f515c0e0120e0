"""Two simulators with different numbers of environments on one host take the same actions as each alone.

A host never puts rows of two clients into one batch, so a policy sees the same arrays either way. Whatever does not draw its numbers from somewhere
outside of its session must then act the same, bit for bit.
"""

import json
import os
import subprocess
import sys

import pytest
from helpers import TESTS

from shmbridge.testing import leftovers

pytest.importorskip("gymnasium")

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MUJOCO_GL": os.environ.get("MUJOCO_GL", "osmesa")}
MEETING = TESTS / "stress" / "meeting.py"
COMMAND = [sys.executable, "-m", "shmbridge"]
METAWORLD = ["--num_steps", "40", "--enable_cameras", "shmbridge_launch.envs.metaworld_env:MetaWorldEnvironment"]
SIZES = {"one": ["--num_envs", "1"], "three": ["--num_envs", "3", "--seed", "7"]}


class Runs:
    """Runs of simulators on one host."""

    def __init__(self, name, folder):
        self._name, self._folder = name, folder

    def start(self, title, words):
        """Start one; return it with its title."""
        (self._folder / title).mkdir()
        remote = ["--policy_deployment", "remote", "--name", self._name, "--output_dir", str(self._folder / title)]
        process = subprocess.Popen([*COMMAND, "run", *remote, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        return process, title

    def finish(self, process, title):
        """Return the report of one, without what differs between any two runs."""
        output, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        report = json.loads((self._folder / title / "report.json").read_text())
        return {key: report[key] for key in ("actions_sha256", "episodes", "metrics", "steps")} | {"last": output.strip().splitlines()[-1]}

    def alone(self, title, words):
        return self.finish(*self.start(title, words))


def serve(name, *words):
    return subprocess.Popen([*COMMAND, "serve", "--name", name, "--max_sessions", "2", *words], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def stop(host):
    host.terminate()
    _, errors = host.communicate(timeout=60)
    assert host.returncode == 143, errors


def carts(folder, guests, num_envs, seed):
    folder.mkdir(exist_ok=True)
    meet = [f"{MEETING}:MeetingEnvironment", "--meet", str(folder), "--guests", str(guests)]
    return ["--num_steps", "300", "--num_envs", str(num_envs), "--seed", str(seed), *meet]


def test_two_runs_of_different_sizes_act_together_as_each_alone(unique_name, tmp_path):
    """The recurrent policy's actions depend on every observation since the episode began; both runs begin when both are connected."""
    turns = tmp_path / "turns"
    host = serve(unique_name, "--policy_type", f"{MEETING}:BitsPolicy", "--turns_path", str(turns))
    try:
        runs = Runs(unique_name, tmp_path)
        alone = [runs.alone("three alone", carts(tmp_path / "a", 1, 3, 11)), runs.alone("ten alone", carts(tmp_path / "b", 1, 10, 500))]
        both = [runs.start("three", carts(tmp_path / "c", 2, 3, 11)), runs.start("ten", carts(tmp_path / "c", 2, 10, 500))]
        together = [runs.finish(*run) for run in both]
    finally:
        stop(host)
    assert together == alone
    assert alone[0]["actions_sha256"] != alone[1]["actions_sha256"]
    assert len(alone[1]["episodes"]) > 20
    assert int(turns.read_text()) > 20, "the host did not turn from one to the other: they did not run at the same time"
    assert leftovers(unique_name) == []


@pytest.mark.slow
def test_a_trained_policy_acts_for_two_simulators_as_for_each_alone(unique_name, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("metaworld")
    host = serve(unique_name, "--policy_type", "shmbridge_policies.pixel_bc.policy:PixelBcPolicy")
    try:
        runs = Runs(unique_name, tmp_path)
        alone = {title: runs.alone(f"{title} alone", [*size, *METAWORLD]) for title, size in SIZES.items()}
        both = {title: runs.start(title, [*size, *METAWORLD]) for title, size in SIZES.items()}
        assert {title: runs.finish(*run) for title, run in both.items()} == alone
    finally:
        stop(host)
    assert leftovers(unique_name) == []
