"""The project's main job with both halves in namespaces of their own, as two containers have them: only /dev/shm is shared."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from helpers import GIVE_UP_SECONDS, PACKAGE, ours_in_shm

from shmbridge.registry import environments, policies

NAMESPACES = ["unshare", "--pid", "--net", "--mount", "--ipc", "--fork", "--mount-proc", "--kill-child"]
LOAD_SECONDS = 240

pytestmark = [pytest.mark.slow, pytest.mark.needs_root, pytest.mark.timeout(600)]


@pytest.fixture
def start(tmp_path):
    """Start commands in namespaces of their own; they end with the test."""
    started = []
    path = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MUJOCO_GL": os.environ.get("MUJOCO_GL", "osmesa")}

    def start_one(*words):
        command = [*NAMESPACES, sys.executable, "-m", "shmbridge", *map(str, words)]
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start_one
    for process in reversed(started):
        with process:
            process.kill()  # what it started dies with it: --kill-child


def test_trained_policy_opens_the_drawer_across_namespaces(start, tmp_path, unique_name):
    pytest.importorskip("torch")
    pytest.importorskip("metaworld")
    if "pixel_bc" not in policies.names() or "metaworld" not in environments.names():
        pytest.skip("the plug-ins are not installed here, so they have no names")
    host = start("serve", "--name", unique_name, "--policy_type", "pixel_bc")
    remote = ["--policy_deployment", "remote", "--name", unique_name, "--policy_type", "pixel_bc", "--remote_kill_on_exit"]
    extent = ["--num_episodes", 2, "--enable_cameras", "--headless", "--output_dir", tmp_path / "out"]
    run = start("run", *remote, "--remote_start_timeout_ms", 1000 * LOAD_SECONDS, *extent, "metaworld")
    output, errors = run.communicate(timeout=2 * LOAD_SECONDS)
    assert run.returncode == 0, errors
    assert host.wait(GIVE_UP_SECONDS) == 0, host.stderr.read()
    assert output.splitlines()[-1] == "Metrics: {'success_rate': 1.0, 'num_episodes': 2}"
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["path"] == "shared memory"
    assert [episode["metrics"]["success_rate"] for episode in report["episodes"]] == [1.0, 1.0]
    assert ours_in_shm(unique_name) == []
