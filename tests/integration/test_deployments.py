"""The same policy local and remote: same class, same code, same actions bit for bit."""

import json
import os
import subprocess
import sys

import pytest
from helpers import TESTS

from shmbridge.registry import policies
from shmbridge.testing import leftovers, unique_name

WANDERING = """
import numpy as np

import shmbridge

Q = shmbridge.TensorSpec("q", (3,), "float32")


class Wandering(shmbridge.Environment):
    def __init__(self, config=None, **options):
        super().__init__(config, **options)
        self._q = np.zeros((self.num_envs, 3))
        self._steps = np.zeros(self.num_envs, int)

    @property
    def specs(self):
        return shmbridge.EnvironmentSpecs([Q], [shmbridge.TensorSpec("action", (3,), "float32")])

    def reset(self, *, seed, options, out):
        mask = options.get("reset_mask", np.ones(self.num_envs, bool))
        for row in np.flatnonzero(mask):
            self._q[row] = np.random.default_rng(seed[row]).uniform(-1, 1, 3)
        self._steps[mask] = 0
        out["q"][mask] = self._q[mask]
        return [{"task": f"task {step}"} for step in self._steps]

    def step(self, action, *, out):
        self._q = np.sin(self._q + action["action"])
        self._steps += 1
        out["q"][:] = self._q
        ended = self._steps > 9 + np.arange(self.num_envs)
        infos = [{"task": f"task {step // 5}"} for step in self._steps]
        return shmbridge.Step(np.zeros(self.num_envs), np.zeros(self.num_envs, bool), ended, infos)

    def episode_metrics(self, info):
        return {"steps": 1.0}
"""
"""Observations that depend on every action before them, episodes of several lengths, and tasks that change within them."""
RANDOM = ["--policy_type", "random", "--action_shape", "[]", "--dtype", "int64", "--low", "0", "--high", "1"]


def run(arguments, tmp_path, title):
    """Run the command, and return its report and its last line."""
    output = tmp_path / title
    words = [sys.executable, "-m", "shmbridge", "run", "--output_dir", str(output), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MUJOCO_GL": os.environ.get("MUJOCO_GL", "osmesa")}
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((output / "report.json").read_text()), done.stdout.strip().splitlines()[-1]


def compare_deployments(policy, arguments, tmp_path):
    """Run once local and once remote; both must act alike. Return the local report."""
    if ":" not in policy[1] and policy[1] not in policies.names():
        pytest.skip("the plug-ins are not installed here, so they have no names")
    name = unique_name()
    local, local_line = run([*policy, *arguments], tmp_path, "local")
    serve = [sys.executable, "-m", "shmbridge", "serve", "--name", name, *policy]
    with subprocess.Popen(serve, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}) as host:
        try:
            remote, remote_line = run(["--policy_deployment", "remote", "--name", name, "--remote_kill_on_exit", *arguments], tmp_path, "remote")
            assert host.wait(30) == 0
        finally:
            host.kill()
    assert (local["path"], remote["path"]) == ("in process", "shared memory")
    assert local["actions_sha256"] == remote["actions_sha256"]
    assert local["episodes"] == remote["episodes"]
    assert local_line == remote_line
    assert leftovers(name) == []
    return local


@pytest.mark.parametrize("num_envs", ["1", "3"])
def test_random_policy_acts_the_same_local_and_remote(tmp_path, num_envs):
    pytest.importorskip("gymnasium")
    run_flags = ["--num_episodes", "7", "--num_envs", num_envs, "--seed", "3"]
    compare_deployments(RANDOM, [*run_flags, "gymnasium", "--id", "CartPole-v1"], tmp_path)


CHUNKS = {"chunks": [], "all": ["--refill", "all"], "late": ["--replan_steps", "3", "--simulated_latency_steps", "2"]}


@pytest.mark.parametrize("flags", CHUNKS.values(), ids=CHUNKS)
def test_stacked_observations_instructions_and_chunks_are_the_same_local_and_remote(tmp_path, flags):
    """A policy that sees three steps and is told of tasks within episodes; see Telling in sample_policies.py."""
    (tmp_path / "wandering.py").write_text(WANDERING)
    arguments = ["--num_episodes", "9", "--num_envs", "3", "--seed", "5", *flags, f"{tmp_path}/wandering.py:Wandering"]
    report = compare_deployments(["--policy_type", f"{TESTS / 'sample_policies.py'}:Telling"], arguments, tmp_path)
    assert report["metrics"] == {"steps": 1.0, "num_episodes": 9}


@pytest.mark.slow
def test_trained_pixel_policy_acts_the_same_local_and_remote(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("metaworld")
    compare_deployments(["--policy_type", "pixel_bc"], ["--num_episodes", "2", "--enable_cameras", "metaworld"], tmp_path)
