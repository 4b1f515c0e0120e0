"""Evaluations as people run them, in processes of their own: videos, suites, comparisons, and what Ctrl-C leaves of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import psutil
import pytest
from helpers import eventually, ours_in_shm

from shmbridge.cli.video import find_ffmpeg

ROOT = Path(__file__).resolve().parents[2]
SUITE = ROOT / "docs" / "examples" / "suite.yaml"
MAIN = "import sys\nfrom shmbridge.cli import main\nsys.exit(main(sys.argv[1:]))"
PLUG_INS = """
import os
import time
from dataclasses import dataclass

import numpy as np

import shmbridge


@dataclass
class Scene:
    max_steps: int = 5
    autoreset: str = "disabled"
    pause: float = 0.0
    fails: bool = False


class Walk(shmbridge.Environment):
    '''Counts its steps; the picture is as bright as the episode is old. Episodes of odd tokens fail.'''

    config_type = Scene

    def __init__(self, config=None, *, num_envs=1, enable_cameras=False, **options):
        super().__init__(config or Scene(), num_envs=num_envs)
        if self.config.fails:
            raise RuntimeError("no scene today")
        self.autoreset = shmbridge.Autoreset(self.config.autoreset)
        self.steps, self.token = np.zeros(num_envs, int), np.zeros(num_envs, int)
        self.waits = np.zeros(num_envs, bool)
        self.camera = [shmbridge.TensorSpec("rgb", (32, 48, 3), "uint8", unit="sRGB")] * enable_cameras

    @property
    def specs(self):
        step = shmbridge.TensorSpec("step", (), "int64")
        return shmbridge.EnvironmentSpecs([step, *self.camera], [shmbridge.TensorSpec("action", (), "int64")])

    def reset(self, *, seed, options, out):
        for row in np.flatnonzero(options.get("reset_mask", np.ones(self.num_envs, bool))):
            self.steps[row], self.token[row] = 0, seed[row]
        self.write(out)
        return [{"task": "walk"}] * self.num_envs

    def step(self, action, *, out):
        time.sleep(self.config.pause)
        self.steps = np.where(self.waits, 0, self.steps + 1)
        self.token += self.waits
        ended = ~self.waits & (self.steps >= self.config.max_steps)
        info = [{"success": bool(token % 2 == 0)} for token in self.token]
        if self.autoreset is shmbridge.Autoreset.SAME_STEP:
            self.steps[ended], self.token[ended] = 0, self.token[ended] + 1
        self.waits = ended if self.autoreset is shmbridge.Autoreset.NEXT_STEP else self.waits
        self.write(out)
        return shmbridge.Step(np.zeros(self.num_envs), ended, np.zeros(self.num_envs, bool), info)

    def episode_metrics(self, info):
        return {"success_rate": float(info["success"])}

    def write(self, out):
        out["step"][:] = self.steps
        if "rgb" in out:
            out["rgb"][:] = (40 * self.steps)[:, None, None, None]


class Look(shmbridge.Policy):
    '''Answers with the step it saw, and looks at whatever is there.'''

    def specs(self, offered):
        return shmbridge.PolicySpecs(list(offered.values()), [shmbridge.TensorSpec("action", (), "int64")])

    def infer(self, session, observation, env_ids):
        return {"action": observation["step"][:, None].copy()}
"""
NOISY = """
import os

from plug_ins import Walk as Base

print("hello")


class Walk(Base):
    '''Talks.'''

    def close(self):
        os.write(1, b"bye")
"""
needs_ffmpeg = pytest.mark.skipif(find_ffmpeg() is None, reason="imageio-ffmpeg is not installed here")
needs_example = pytest.mark.skipif(not SUITE.is_file(), reason="the examples are not beside the tests")


@pytest.fixture
def here(tmp_path):
    """A folder with plug-ins in it, in which commands run."""
    (tmp_path / "plug_ins.py").write_text(PLUG_INS)
    return tmp_path


@pytest.fixture
def command(start, here):
    """Start commands in that folder: ``command("run", …)``."""
    return lambda *words: start(f"import os\nos.chdir({str(here)!r})\n{MAIN}", *words)


@pytest.fixture
def call(command):
    """Run a command to its end: its exit status, and what it printed on standard output and standard error."""

    def run(*words):
        running = command(*words)
        out = running.process.stdout.read()
        return running.finish(), out, running.errors

    return run


LOOK = ["--policy_type", "plug_ins.py:Look"]
WALK = "plug_ins.py:Walk"
FILMING = ["run", *LOOK, "--enable_cameras", "--output_dir", "out"]


def videos(folder):
    return sorted(path.name for path in (folder / "out" / "videos").glob("*"))


def brightness(path):
    """Return the brightness of every frame, in units of the environment's steps."""
    words = [find_ffmpeg(), "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "gray", "-"]
    raw = subprocess.run(words, capture_output=True, check=True).stdout
    return np.rint(np.frombuffer(raw, np.uint8).reshape(-1, 32, 48).mean(axis=(1, 2)) / 40).astype(int).tolist()


@needs_ffmpeg
@pytest.mark.parametrize(("autoreset", "frames"), [("disabled", [0, 1, 2, 3, 4]), ("next_step", [0, 1, 2, 3, 4]), ("same_step", [0, 1, 2, 3])])
def test_every_counted_episode_of_every_environment_is_filmed_from_beginning_to_end(call, here, autoreset, frames):
    extent = ["--num_envs", "2", "--num_episodes", "5", "--seed", "0", WALK, "--max_steps", "4", "--autoreset", autoreset]
    status, out, errors = call(*FILMING, *extent)
    assert status == 0, errors
    assert "Videos: out/videos (" in out
    assert [name[:12] for name in videos(here)] == [f"episode_{index:04d}" for index in range(5)]
    report = json.loads((here / "out" / "report.json").read_text())
    for episode in report["episodes"]:
        name = f"episode_{episode['index']:04d}_{'success' if episode['metrics']['success_rate'] else 'failure'}.mp4"
        assert brightness(here / "out" / "videos" / name) == frames
    assert report["videos"] == {"files": videos(here), "dropped_frames": 0, "stopped": ""}


@needs_ffmpeg
@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("all", ["episode_0000_success.mp4", "episode_0001_failure.mp4", "episode_0002_success.mp4"]),
        ("failures", ["episode_0001_failure.mp4"]),
        ("first", ["episode_0000_success.mp4"]),
        ("none", []),
    ],
)
def test_which_episodes_are_kept_can_be_chosen(call, here, which, expected):
    status, _, errors = call(*FILMING, "--video", which, "--num_episodes", "3", WALK)
    assert status == 0, errors
    assert videos(here) == expected


@needs_ffmpeg
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_complete_videos_only_and_no_ffmpeg(command, here, number):
    running = command(*FILMING, "--num_envs", "2", "--num_steps", "1000000", WALK, "--max_steps", "6", "--pause", "0.02")
    eventually(lambda: (here / "out" / "videos").exists() and any(name.startswith("episode_0003") for name in videos(here)), "some videos")
    encoders = [child for child in psutil.Process(running.pid).children(recursive=True) if "ffmpeg" in child.name()]
    assert encoders
    running.process.send_signal(number)
    assert running.finish() == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert "Traceback" not in running.errors
    for name in videos(here):
        assert name.endswith(("_success.mp4", "_failure.mp4"))
        assert brightness(here / "out" / "videos" / name) == list(range(7))
    eventually(lambda: not any(encoder.is_running() for encoder in encoders), "the encoders' end")


@needs_ffmpeg
def test_run_of_steps_keeps_what_it_saw_of_unfinished_episodes(call, here):
    status, _, errors = call(*FILMING, "--num_steps", "3", WALK)
    assert status == 0, errors
    assert videos(here) == ["episode_0000_unfinished.mp4"]


@pytest.mark.parametrize(("autoreset", "episodes"), [("disabled", [0, 0, 1, 1, 2]), ("next_step", [0, 0, -1, 1, 1]), ("same_step", [0, 0, 1, 1, 2])])
def test_recording_tells_the_episode_of_every_action(call, here, autoreset, episodes):
    words = ["--output_dir", "out", "--record", "--num_steps", "5", WALK, "--max_steps", "2", "--autoreset", autoreset]
    status, out, errors = call("run", *LOOK, *words)
    assert status == 0, errors
    assert "Recording: out/recording.npz" in out
    with np.load(here / "out" / "recording.npz", allow_pickle=False) as found:
        assert found["@episode"][:, 0].tolist() == episodes
        assert found["action"].shape == (5, 1)
        assert found["action"][:2, 0].tolist() == [0, 1]


def test_description_is_one_json_document_whatever_an_environment_prints(call, here):
    (here / "noisy.py").write_text(NOISY)
    words = ["--describe", "--json", "--num_envs", "2", "--enable_cameras", "noisy.py:Walk"]
    status, out, errors = call("run", *words)
    assert status == 0, errors
    assert set(json.loads(out)) == {"observation", "action", "num_envs", "slots", "bytes_at_most"}


def write_suite(folder, common, tasks):
    (folder / "suite.yaml").write_text(json.dumps({"common": common, "tasks": tasks}))  # JSON is YAML
    return ["suite", "suite.yaml", "--output_dir", "out"]


COMMON = {"policy_type": "plug_ins.py:Look", "environment": WALK, "num_episodes": 2}


def outcomes(folder):
    return {task["task"]: task["outcome"] for task in json.loads((folder / "out" / "suite.json").read_text())["tasks"]}


def test_failing_task_does_not_keep_the_others_from_being_run(call, here):
    words = write_suite(here, COMMON, {"one": {}, "broken": {"flags": {"fails": True}}, "three": {"num_envs": 2, "seed": 1}})
    status, out, errors = call(*words)
    assert status == 1
    assert outcomes(here) == {"one": "done", "broken": "failed", "three": "done"}
    assert "no scene today" in errors and "task broken failed" in errors
    assert "mean of 2 tasks" in out
    assert (here / "out" / "three" / "report.json").is_file() and not (here / "out" / "broken" / "report.json").exists()


def test_mistake_in_a_file_is_told_before_anything_runs(call, here):
    words = write_suite(here, COMMON, {"one": {}, "two": {"flags": {"max_step": 3}}})
    status, out, errors = call(*words)
    assert (status, out) == (1, "")
    assert "suite.yaml: task 'two': unknown flag --max_step; did you mean '--max_steps'?" in errors
    assert not (here / "out").exists()


@pytest.mark.parametrize("whom", ["terminal", "process"])
def test_interrupted_suite_keeps_what_is_finished_and_its_run_ends_with_it(command, here, whom):
    words = write_suite(here, COMMON, {"one": {}, "endless": {"num_steps": 1_000_000, "flags": {"pause": 0.05}}, "three": {}})
    running = command(*words)
    eventually((here / "out" / "endless").is_dir, "the second task")
    children = psutil.Process(running.pid).children(recursive=True)
    if whom == "terminal":
        os.killpg(running.pid, signal.SIGINT)
    else:
        running.process.send_signal(signal.SIGTERM)
    assert running.finish() == (130 if whom == "terminal" else 143)
    assert outcomes(here) == {"one": "done", "endless": "interrupted", "three": "not run"}
    assert "Traceback" not in running.errors
    eventually(lambda: not any(child.is_running() for child in children), "the run's end")


def test_suite_stops_its_host_after_the_last_task(command, call, here, unique_name):
    serving = command("serve", "--name", unique_name, *LOOK)
    remote = {**COMMON, "policy_deployment": "remote", "name": unique_name, "remote_kill_on_exit": True}
    status, _, errors = call(*write_suite(here, remote, {"one": {}, "two": {"num_envs": 3}}))
    assert status == 0, errors
    assert serving.finish() == 0
    assert outcomes(here) == {"one": "done", "two": "done"}
    assert ours_in_shm(unique_name) == []


def test_two_runs_are_compared_by_their_folders(call, here):
    for folder, seed in (("a", "0"), ("b", "2")):
        status, _, errors = call("run", *LOOK, "--num_episodes", "4", "--seed", seed, "--output_dir", folder, WALK)
        assert status == 0, errors
    status, out, errors = call("compare", "a", "b", "--json")
    assert status == 0, errors
    found = json.loads(out)
    assert (found["comparable"], found["pairs"]) == (True, 2)
    assert found["settings"] == {"seed": {"a": 0, "b": 2}}
    status, out, errors = call("compare", "a", "nowhere")
    assert (status, out) == (1, "")
    assert "nowhere" in errors


@needs_example
def test_suite_of_the_examples_runs_as_it_says(start, tmp_path):
    running = start(f"import os\nos.chdir({str(ROOT)!r})\n{MAIN}", "suite", "docs/examples/suite.yaml", "--output_dir", tmp_path / "out", "--num_episodes", "4")
    out = running.process.stdout.read()
    assert running.finish() == 0, running.errors
    assert "mean of 2 tasks" in out
    assert outcomes(tmp_path) == {"in-time": "done", "in-a-hurry": "done"}
