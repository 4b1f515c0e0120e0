"""The same policy local and remote: same class, same code, same actions bit for bit."""

import json
import os
import subprocess
import sys

import pytest

from shmbridge.registry import policies
from shmbridge.testing import leftovers, unique_name

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
    """Run once local and once remote; both must act alike."""
    if policy[1] not in policies.names():
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


@pytest.mark.parametrize("num_envs", ["1", "3"])
def test_random_policy_acts_the_same_local_and_remote(tmp_path, num_envs):
    pytest.importorskip("gymnasium")
    run_flags = ["--num_episodes", "7", "--num_envs", num_envs, "--seed", "3"]
    compare_deployments(RANDOM, [*run_flags, "gymnasium", "--id", "CartPole-v1"], tmp_path)


@pytest.mark.slow
def test_trained_pixel_policy_acts_the_same_local_and_remote(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("metaworld")
    compare_deployments(["--policy_type", "pixel_bc"], ["--num_episodes", "2", "--enable_cameras", "metaworld"], tmp_path)
