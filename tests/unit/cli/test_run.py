"""``shmbridge run`` in this process: what it refuses before anything begins, and how it ends."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from helpers import run_python

from shmbridge.cli import video
from shmbridge.cli.run import main
from shmbridge.errors import HostNotFoundError, PolicyError, SpecError, UnknownPolicyError

POLICY = ["--policy_type", "shmbridge.testing:MarkingPolicy"]
REMOTE = ["--policy_deployment", "remote"]
STEPS = ["--num_steps", "1"]
ENVIRONMENT = """
import numpy as np

import shmbridge


class ToyEnvironment(shmbridge.Environment):
    @property
    def specs(self):
        return shmbridge.EnvironmentSpecs([shmbridge.TensorSpec("mark", (), "float64")], [shmbridge.TensorSpec("action", (4,), "float64")])

    def reset(self, *, seed, options, out):
        out["mark"][:] = 0
        return [{}] * self.num_envs

    def step(self, action, *, out):
        out["mark"][:] = 1
        return shmbridge.Step(np.zeros(self.num_envs), np.ones(self.num_envs, bool), np.zeros(self.num_envs, bool), [{}] * self.num_envs)
"""
ENDLESS = """

class Endless(ToyEnvironment):
    def step(self, action, *, out):
        return super().step(action, out=out)._replace(terminated=np.zeros(self.num_envs, bool))
"""
LONG = """
import shmbridge.testing


class Long(shmbridge.testing.MarkingPolicy):
    def __init__(self, config=None):
        super().__init__(config, horizon=6)
"""
SWITCHED = """
from dataclasses import dataclass

import shmbridge.testing


@dataclass
class Settings:
    fast: bool = False


class SwitchedPolicy(shmbridge.testing.MarkingPolicy):
    config_type = Settings
"""

AS_ANOTHER_USER = """
import importlib, os, sys
for name in ("shmbridge.cli.run", "shmbridge.testing", "shmbridge.cli.report", "psutil", "yaml", "tempfile"):
    importlib.import_module(name)
import numpy.random
from shmbridge.errors import SpecError
os.setgid(12345); os.setuid(12345)
try:
    print("status", sys.modules["shmbridge.cli.run"].main(sys.argv[1:]))
except SpecError as error:
    print(error)
"""
"""Everything is imported before: that user may not be able to read it."""


@pytest.fixture
def toy(tmp_path):
    path = tmp_path / "toy.py"
    path.write_text(ENVIRONMENT)
    return f"{path}:ToyEnvironment"


@pytest.mark.parametrize(
    "flags",
    [
        ["--remote_host", "10.0.0.1"],
        ["--remote_port", "5555"],
        ["--remote_api_token", "very-secret"],
        ["--remote_api_token_file", "/very-secret"],
        ["--transport", "socket"],
    ],
)
@pytest.mark.parametrize("deployment", [REMOTE, POLICY], ids=["remote", "local"])
def test_flags_of_the_network_are_refused_by_name(toy, flags, deployment):
    with pytest.raises(SpecError, match=flags[0]) as refused:
        main([*deployment, *flags, *STEPS, toy])
    assert "very-secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ([*POLICY], "--num_steps and --num_episodes"),
        ([*POLICY, *STEPS, "--num_episodes", "1"], "--num_steps and --num_episodes"),
        ([*POLICY, "--num_steps", "0"], "--num_steps"),
        ([*POLICY, "--num_episodes", "-1"], "--num_episodes"),
        ([*POLICY, *STEPS, "--num_envs", "0"], "--num_envs"),
        ([*STEPS], "--policy_type"),
        ([*POLICY, *STEPS, "--remote_kill_on_exit"], "--remote_kill_on_exit"),
        ([*POLICY, *STEPS, "--name", "x"], "--name"),
        ([*REMOTE, *STEPS, "--name", "x", "--remote_host", "y"], "--remote_host"),
    ],
)
def test_flags_that_do_not_go_together_are_refused_before_anything_begins(toy, flags, named):
    """Either as an error of ours or as a wrong call, but always by name."""
    with pytest.raises((SpecError, SystemExit)) as refused:
        main([*flags, toy])
    if isinstance(refused.value, SystemExit):
        assert refused.value.code == 2
    else:
        assert named in str(refused.value)


def test_flags_of_run_behind_the_environment_are_pointed_at(toy):
    with pytest.raises(SpecError, match="--num_steps"):
        main([*POLICY, toy, "--num_steps", "1"])


def test_flag_that_the_environment_does_not_have_is_a_wrong_call(toy, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*POLICY, *STEPS, toy, "--size", "1"])
    assert ended.value.code == 2
    assert "--size" in capsys.readouterr().err


def test_run_without_environment_is_a_wrong_call(capsys):
    with pytest.raises(SystemExit) as ended:
        main([*POLICY, *STEPS])
    assert ended.value.code == 2
    assert "ENVIRONMENT" in capsys.readouterr().err


def test_names_that_are_not_known_are_refused(toy):
    with pytest.raises(UnknownPolicyError, match="no_such_policy"):
        main(["--policy_type", "no_such_policy", *STEPS, toy])
    with pytest.raises(UnknownPolicyError, match="no_such_environment"):
        main([*POLICY, *STEPS, "no_such_environment"])


def test_policy_of_a_host_needs_not_be_importable_here(toy, unique_name):
    """The simulator's side has no torch, so it must not even look for the class."""
    flags = [*REMOTE, "--name", unique_name, "--remote_start_timeout_ms", "1", "--policy_type", "no_such_policy"]
    with pytest.raises(HostNotFoundError, match=unique_name):
        main([*flags, *STEPS, toy])


def test_local_run_ends_with_the_metrics(toy, capsys):
    assert main([*POLICY, "--num_episodes", "3", "--num_envs", "2", toy]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Metrics: {'num_episodes': 3}"


@pytest.mark.parametrize("flags", [["--fast"], ["--fast", "true"], ["--fast=false"]])
def test_switch_of_a_local_policy_may_stand_right_before_the_environment(toy, tmp_path, flags, capsys):
    path = tmp_path / "switched.py"
    path.write_text(SWITCHED)
    assert main([*STEPS, "--policy_type", f"{path}:SwitchedPolicy", *flags, toy]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("Metrics: ")


def test_environment_that_cannot_be_built_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text(ENVIRONMENT + "\n    def __init__(self, config=None, **options):\n        raise FileNotFoundError('no scene here')\n")
    with pytest.raises(PolicyError, match=r"broken\.py:ToyEnvironment[\s\S]*no scene here"):
        main([*POLICY, *STEPS, f"{path}:ToyEnvironment"])


def test_output_folder_that_cannot_be_made_is_refused_before_the_run(toy, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match="--output_dir"):
        main([*POLICY, *STEPS, "--output_dir", str(tmp_path / "file" / "below"), toy])


@pytest.fixture
def readable():
    """A folder that other users can look into, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "toy.py").write_text(
            f"{ENVIRONMENT}\n    def __init__(self, *args, **options):\n        print('built')\n        super().__init__(*args, **options)\n"
        )
        yield folder


def run_as_another_user(folder, output, *flags):
    return run_python(AS_ANOTHER_USER, *POLICY, "--num_episodes", "1", "--output_dir", str(output), *flags, f"{folder / 'toy.py'}:ToyEnvironment")


THEIRS = "belongs to uid 0, mode {}; this process is uid 12345: give another folder, or run as its owner (--user for docker and podman run, RUN_UID for "


@pytest.mark.needs_root
@pytest.mark.parametrize("below", [".", "new/newer"])
def test_output_folder_of_another_user_is_refused_before_anything_is_built(readable, below):
    told = run_as_another_user(readable, readable / below)
    assert told.startswith(f"--output_dir {readable / below}") and f"{readable} {THEIRS.format('0755')}" in told
    assert "built" not in told


def make_older(folder, name, mode):
    folder.chmod(mode)
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    return path


@pytest.mark.needs_root
@pytest.mark.parametrize(
    ("name", "mode", "flags"),
    [
        ("report.json", 0o777, ()),
        ("episodes.csv", 0o777, ()),
        ("videos/episode_0000_success.mp4", 0o777, ()),
        ("recording.npz", 0o1777, ("--record",)),
    ],
)
def test_older_files_of_another_user_are_refused_before_anything_is_built(readable, name, mode, flags):
    make_older(readable, name, mode)
    told = run_as_another_user(readable, readable, *flags)
    refused = readable / ("videos" if "/" in name else name)
    assert told.startswith(f"--output_dir {readable}: {refused} belongs to uid 0, mode 0")
    assert "built" not in told


@pytest.mark.needs_root
def test_older_video_of_another_user_is_refused_where_only_its_owner_may_remove_it(readable):
    path = make_older(readable, "videos/episode_0000_success.mp4", 0o777)
    path.parent.chmod(0o1777)
    assert run_as_another_user(readable, readable).startswith(f"--output_dir {readable}: {path} belongs to uid 0, mode 0644")


@pytest.mark.needs_root
def test_older_files_of_another_user_that_the_run_leaves_alone_are_none_of_its_business(readable):
    make_older(readable, "videos/episode_0000_success.mp4", 0o777)
    make_older(readable, "recording.npz", 0o1777)
    told = run_as_another_user(readable, readable, "--video", "none")
    assert "built" in told and told.endswith("status 0\n")


@pytest.mark.needs_root
def test_output_folder_on_what_is_mounted_read_only_says_so(readable):
    make = "import sys\nfrom pathlib import Path\nfrom shmbridge.cli.run import make_folder\ntry:\n    make_folder(Path(sys.argv[1]))\n"
    mount = f'mount -t tmpfs -o ro tmpfs "{readable}" && exec "$@"'
    told = run_python(f"{make}except Exception as error:\n    print(error)", readable, prefix=("unshare", "--mount", "sh", "-c", mount, "sh"))
    assert told == f"--output_dir {readable} cannot be made or written to: Read-only file system\n"


def test_description_is_printed_without_a_policy(toy, capsys):
    assert main(["--describe", "--json", "--num_envs", "3", toy]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["observation"] == {"mark": "() float64"}
    assert (found["num_envs"], found["action"]) == (3, {"action": "(4,) float64"})
    assert found["bytes_at_most"] > 0


def test_run_keeps_report_table_and_recording(toy, tmp_path, capsys):
    assert main([*POLICY, "--num_episodes", "3", "--num_envs", "2", "--record", "--output_dir", str(tmp_path), toy]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["client"]["steps"], report["client"]["requests"], report["videos"]) == (2, 2, None)
    assert (tmp_path / "episodes.csv").read_text().splitlines()[1:] == ["0,0,0,1,1", "1,1,1,1,1", "2,0,2,1,1"]
    with np.load(tmp_path / "recording.npz") as recording:
        assert recording["@episode"].tolist() == [[0, 1], [2, 3]]
        assert recording["action"].shape == (2, 2, 4)
    assert capsys.readouterr().out.splitlines()[-1] == "Metrics: {'num_episodes': 3}"


def test_chunk_flags_reach_the_session(toy, tmp_path):
    (tmp_path / "long.py").write_text(LONG)

    def requests(*flags):
        toy_words = ["--num_steps", "12", "--output_dir", str(tmp_path), *flags, toy.replace("ToyEnvironment", "Endless")]
        assert main(["--policy_type", f"{tmp_path / 'long.py'}:Long", *toy_words]) == 0
        return json.loads((tmp_path / "report.json").read_text())["client"]["requests"]

    (tmp_path / "toy.py").write_text(ENVIRONMENT + ENDLESS)
    assert requests() == 2
    assert requests("--replan_steps", "3") == 4
    assert requests("--simulated_latency_steps", "2") > 2
    assert requests("--refill", "all") == 2


@pytest.mark.parametrize(("replan_steps", "is_told"), [("6", False), ("20", True)])
def test_replanning_after_the_end_of_a_chunk_is_warned_of_with_both_numbers(toy, tmp_path, replan_steps, is_told, caplog):
    (tmp_path / "long.py").write_text(LONG)
    assert main(["--policy_type", f"{tmp_path / 'long.py'}:Long", *STEPS, "--replan_steps", replan_steps, toy]) == 0
    assert ["--replan_steps 20" in record.message and "6 action" in record.message for record in caplog.records if record.levelname == "WARNING"] == [
        True
    ] * is_told


def test_run_with_cameras_that_cannot_be_filmed_says_why(toy, tmp_path, caplog):
    with caplog.at_level("INFO", "shmbridge"):
        assert main([*POLICY, *STEPS, "--enable_cameras", "--output_dir", str(tmp_path), toy]) == 0
    assert "no video: the policy asks for no camera" in caplog.text


def test_report_that_cannot_be_written_is_status_1_and_the_metrics_are_there(toy, tmp_path, capsys):
    (tmp_path / "report.json").mkdir()
    assert main([*POLICY, "--num_episodes", "1", "--output_dir", str(tmp_path), toy]) == 1
    found = capsys.readouterr()
    assert "could not be written" in found.err
    assert found.out.splitlines()[-1] == "Metrics: {'num_episodes': 1}"


def test_video_by_name_without_its_library_is_refused_before_anything_is_built(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "find_ffmpeg", lambda: None)
    with pytest.raises(SpecError, match="--video all"):
        main([*POLICY, *STEPS, "--video", "all", "--output_dir", str(tmp_path / "out"), toy])
    assert not (tmp_path / "out").exists()
