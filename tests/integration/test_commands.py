"""The command as a person calls it: exit statuses, signals, and what is on standard output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from helpers import GIVE_UP_SECONDS, PACKAGE, eventually, ours_in_shm

from shmbridge.connecting import describe_host
from shmbridge.version import __version__

POLICY = """
import os
import signal
import time
from dataclasses import dataclass

import numpy as np

import shmbridge


@dataclass(frozen=True)
class Settings:
    gain: float = 0.5
    kill_at: int = 0
    sleep: float = 0.0


class Gain(shmbridge.Policy):
    config_type = Settings

    def specs(self, offered):
        spec = shmbridge.TensorSpec("position", (2,), "float64")
        return shmbridge.PolicySpecs([spec], [shmbridge.TensorSpec("action", (2,), "float64")])

    def new_session(self, num_envs):
        return [0]

    def infer(self, session, observation, env_ids):
        session[0] += 1
        if session[0] == self.config.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if session[0] > 1:
            time.sleep(self.config.sleep)
        return {"action": -self.config.gain * observation["position"][:, None]}


class Unloadable(shmbridge.Policy):
    specs = infer = None

    def __init__(self, config=None):
        raise FileNotFoundError("no weights at /models/none")
"""
ENVIRONMENT = """
import sys
from dataclasses import dataclass

import numpy as np

import shmbridge


@dataclass(frozen=True)
class Settings:
    max_steps: int = 5
    tell: bool = False


class Point(shmbridge.Environment):
    '''A point that is drawn to the origin.'''

    config_type = Settings

    def __init__(self, config=None, *, num_envs=1, **options):
        super().__init__(config or Settings(), num_envs=num_envs)
        self.position = np.zeros((num_envs, 2))
        self.steps = np.zeros(num_envs, int)
        self.specs_ = shmbridge.TensorSpec("position", (2,), "float64")

    @property
    def specs(self):
        return shmbridge.EnvironmentSpecs([self.specs_], [shmbridge.TensorSpec("action", (2,), "float64")])

    def reset(self, *, seed, options, out):
        for row in np.flatnonzero(options.get("reset_mask", np.ones(self.num_envs, bool))):
            self.position[row] = np.random.default_rng(seed[row]).uniform(-1, 1, 2)
            self.steps[row] = 0
            out["position"][row] = self.position[row]
        return [{"task": "go"}] * self.num_envs

    def step(self, action, *, out):
        self.position += action["action"]
        self.steps += 1
        out["position"][:] = self.position
        if self.config.tell:
            print("stepped", flush=True)
        near = np.linalg.norm(self.position, axis=1) < 0.2
        late = self.steps >= self.config.max_steps
        return shmbridge.Step(np.zeros(self.num_envs), near, late & ~near, [{"near": bool(each)} for each in near])

    def episode_metrics(self, info):
        return {"success_rate": float(info["near"])}

    def close(self):
        if self.config.tell:
            print("environment closed", flush=True)
"""
FOREVER = ["--num_steps", "1000000000"]


class Command:
    """One command running, in a session of its own and from a folder without the sources."""

    def __init__(self, folder, *words):
        path = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "shmbridge", *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        self._lines = {"out": [], "err": []}
        self._grew = threading.Condition()
        pipes = {"out": self.process.stdout, "err": self.process.stderr}
        self._readers = [threading.Thread(target=self._read, args=(name, pipe), daemon=True) for name, pipe in pipes.items()]
        for reader in self._readers:
            reader.start()

    @property
    def out(self):
        return "".join(self._lines["out"])

    @property
    def err(self):
        return "".join(self._lines["err"])

    def says(self, text):
        """Wait until it has printed ``text`` anywhere."""
        with self._grew:
            self._grew.wait_for(lambda: text in self.out + self.err or not any(reader.is_alive() for reader in self._readers), GIVE_UP_SECONDS)
        assert text in self.out + self.err, f"it did not say {text!r}:\n{self.out}\n{self.err}"

    def send(self, number):
        self.process.send_signal(number)

    def ends(self):
        """Wait for its end, and return its exit status; what it printed is complete then."""
        status = self.process.wait(GIVE_UP_SECONDS)
        for reader in self._readers:
            reader.join(GIVE_UP_SECONDS)
        return status

    def end(self):
        """Let it clean up after itself, if it still runs."""
        try:
            if self.process.poll() is None:
                self.send(signal.SIGTERM)
                self.ends()
        finally:
            self.kill()

    def kill(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.ends()
        self.process.stdout.close()
        self.process.stderr.close()

    def _read(self, name, pipe):
        for line in pipe:
            with self._grew:
                self._lines[name].append(line)
                self._grew.notify_all()
        with self._grew:
            self._grew.notify_all()


@pytest.fixture
def command(tmp_path):
    """Start commands that end with the test: ``command("ls")``."""
    (tmp_path / "policy.py").write_text(POLICY)
    (tmp_path / "environment.py").write_text(ENVIRONMENT)
    started = []

    def start(*words):
        started.append(Command(tmp_path, *words))
        return started[-1]

    yield start
    for each in reversed(started):  # a run says goodbye to its host
        each.end()


GAIN = ["--policy_type", "policy.py:Gain"]
POINT = "environment.py:Point"


def call(command, *words):
    """Run a command to its end, and return it and its exit status."""
    done = command(*words)
    return done, done.ends()


@pytest.fixture
def host(command, unique_name):
    """Start a host that is ready: ``host("--gain", "1")``."""

    def start(*words):
        started = command("serve", "--name", unique_name, *GAIN, *words)
        started.says("is ready")
        return started

    return start


@pytest.fixture
def remote(unique_name):
    return ["--policy_deployment", "remote", "--name", unique_name]


def test_local_run_ends_with_its_metrics_alone_on_the_last_line(command):
    done, status = call(command, "run", *GAIN, "--num_episodes", "4", "--num_envs", "2", POINT)
    assert status == 0, done.err
    assert done.out.splitlines()[-1] == "Metrics: {'success_rate': 1.0, 'num_episodes': 4}"
    assert "Metrics" not in done.err


def test_run_with_no_finished_episode_still_ends_with_its_metrics(command):
    done, status = call(command, "run", *GAIN, "--num_steps", "1", "--gain", "0", "--seed", "1", POINT)
    assert (status, done.out.splitlines()[-1]) == (0, "Metrics: {'num_episodes': 0}")


def test_report_tells_what_was_run_and_can_be_repeated(command, tmp_path):
    reports = []
    for folder in ("one", "two"):
        words = [*GAIN, "--gain", "0.25", "--num_episodes", "3", "--seed", "5", "--output_dir", folder, POINT, "--max_steps", "4"]
        done, status = call(command, "run", *words)
        assert status == 0, done.err
        assert f"Report: {folder}/report.json" in done.out
        reports.append(json.loads((tmp_path / folder / "report.json").read_text()))
    first, second = reports
    assert first["shmbridge"] == __version__
    assert first["actions_sha256"] == second["actions_sha256"]
    assert [episode["seed"] for episode in first["episodes"]] == [5, 6, 7]
    assert first["settings"]["environment"] == {"name": POINT, "max_steps": 4}
    assert first["metrics"]["num_episodes"] == 3
    assert first["requests"] == first["steps"] == sum(episode["steps"] for episode in first["episodes"])
    assert set(first["latency_ms"]["total"]) == {"p50", "p95", "p99"}
    assert first["path"] == "in process"


def test_remote_run_leaves_its_host_for_the_next(command, host, remote, unique_name):
    serving = host()
    for _ in range(2):
        done, status = call(command, "run", *remote, "--num_episodes", "2", POINT)
        assert status == 0, done.err
    assert describe_host(unique_name).policy == GAIN[1]
    assert serving.process.poll() is None


def test_run_with_remote_kill_on_exit_ends_its_host_with_status_0(command, host, remote, unique_name):
    serving = host()
    done, status = call(command, "run", *remote, "--remote_kill_on_exit", "--num_episodes", "2", POINT)
    assert (status, serving.ends()) == (0, 0), done.err
    assert ours_in_shm(unique_name) == []


def test_host_that_may_not_be_stopped_stays_and_the_run_succeeds(command, host, remote, unique_name):
    host("--no_remote_kill")
    done, status = call(command, "run", *remote, "--remote_kill_on_exit", "--num_episodes", "2", POINT)
    assert status == 0
    assert "not stopped" in done.err
    assert describe_host(unique_name).policy == GAIN[1]


def test_interrupted_run_stops_its_host_too_where_it_was_asked_to(command, host, remote):
    serving = host()
    running = command("run", *remote, "--remote_kill_on_exit", *FOREVER, POINT, "--tell")
    running.says("stepped")
    running.send(signal.SIGINT)
    assert (running.ends(), serving.ends()) == (130, 0)


@pytest.fixture(params=[(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def ending(request):
    """A signal, and the exit status that it leads to."""
    return request.param


def expect_clean_end(running, ending):
    running.send(ending[0])
    assert running.ends() == ending[1]
    assert "environment closed" in running.out
    assert "Traceback" not in running.err
    assert "Metrics" not in running.out


def test_signal_ends_a_local_run_with_its_status_and_closes_the_environment(command, ending):
    running = command("run", *GAIN, *FOREVER, POINT, "--tell")
    running.says("stepped")
    expect_clean_end(running, ending)


def test_signal_ends_a_remote_run_and_its_session_but_not_its_host(command, host, remote, unique_name, ending):
    serving = host()
    running = command("run", *remote, *FOREVER, POINT, "--tell")
    running.says("stepped")
    expect_clean_end(running, ending)
    eventually(lambda: not describe_host(unique_name).clients, "the session's end")
    assert serving.process.poll() is None


def test_signal_ends_an_idle_host_with_its_status_and_nothing_is_left(host, unique_name, ending):
    serving = host()
    serving.send(ending[0])
    assert serving.ends() == ending[1]
    assert "Traceback" not in serving.err
    assert ours_in_shm(unique_name) == []


def test_signal_ends_a_host_in_the_middle_of_an_inference(command, host, remote, unique_name, ending):
    serving = host("--sleep", "1000")
    running = command("run", *remote, *FOREVER, POINT, "--tell")
    running.says("stepped")  # the second inference sleeps
    serving.send(ending[0])
    assert serving.ends() == ending[1]
    assert running.ends() == 1
    assert ours_in_shm(unique_name) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_whose_host_is_stopped_fails_and_says_so(command, host, remote, number):
    serving = host()
    running = command("run", *remote, *FOREVER, POINT, "--tell")
    running.says("stepped")
    serving.send(number)
    assert running.ends() == 1
    assert "host" in running.err.splitlines()[-1]
    assert "Traceback" not in running.err


def test_run_whose_host_is_killed_fails_and_says_so_and_nothing_is_left(command, host, remote, unique_name):
    serving = host("--kill_at", "5")
    running = command("run", *remote, *FOREVER, POINT, "--tell")
    assert running.ends() == 1
    assert serving.ends() == -signal.SIGKILL
    assert "shmbridge run: " in running.err
    assert "Traceback" not in running.err
    assert "environment closed" in running.out
    assert [name for name in ours_in_shm(unique_name) if name.startswith("sem.")] == []
    # What a killed host cannot remove itself, its socket and lock, the next of that name does.
    done, status = call(command, "ls", "--name", unique_name)
    assert status == 1 and "dead" in done.out
    again = command("serve", "--name", unique_name, *GAIN)
    again.says("is ready")
    again.send(signal.SIGTERM)
    again.ends()
    assert ours_in_shm(unique_name) == []


def test_run_killed_under_a_host_leaves_nothing_and_the_host_serves_the_next(command, host, remote, unique_name):
    host()
    running = command("run", *remote, *FOREVER, POINT, "--tell")
    running.says("stepped")
    running.kill()
    eventually(lambda: not describe_host(unique_name).clients, "the session's end")
    done, status = call(command, "run", *remote, "--num_episodes", "1", POINT)
    assert status == 0, done.err


def test_signal_while_waiting_for_a_host_ends_the_run(command, remote):
    running = command("run", *remote, *FOREVER, POINT)
    running.says("waiting up to")
    running.send(signal.SIGINT)
    assert running.ends() == 130


def test_host_that_does_not_come_up_is_an_error_that_says_how_to_start_it(command, remote, unique_name):
    done, status = call(command, "run", *remote, "--remote_start_timeout_ms", "10", "--num_steps", "1", POINT)
    assert status == 1
    assert f"shmbridge serve --name {unique_name}" in done.err
    assert "Traceback" not in done.err


def test_policy_that_cannot_be_loaded_is_status_1_for_its_host_with_the_reason(command, unique_name):
    serving, status = call(command, "serve", "--name", unique_name, "--policy_type", "policy.py:Unloadable")
    assert status == 1
    assert "no weights at /models/none" in serving.err
    assert ours_in_shm(unique_name) == []


def test_second_host_of_a_name_is_refused(command, host, unique_name):
    host()
    second, status = call(command, "serve", "--name", unique_name, *GAIN)
    assert status == 1
    assert unique_name in second.err
    assert describe_host(unique_name).policy == GAIN[1]


def test_run_with_the_settings_of_its_host_is_served_and_with_others_refused(command, host, remote, tmp_path):
    (tmp_path / "served.yaml").write_text("gain: 0.25\n")
    (tmp_path / "other.yaml").write_text("gain: 0.75\n")
    host("--policy_config_yaml_path", "served.yaml")
    extent = ["--num_episodes", "1", POINT]
    same, status = call(command, "run", *remote, *GAIN, "--policy_config_yaml_path", "served.yaml", *extent)
    assert status == 0, same.err
    other, status = call(command, "run", *remote, *GAIN, "--policy_config_yaml_path", "other.yaml", *extent)
    assert status == 1
    assert "config" in other.err
    assert "Traceback" not in other.err


def test_settings_in_flags_and_in_a_file_are_the_same_settings(command, host, remote, tmp_path):
    (tmp_path / "same.yaml").write_text("gain: 0.25\n")
    host("--gain", "0.25")
    done, status = call(command, "run", *remote, "--policy_config_yaml_path", "same.yaml", "--num_episodes", "1", POINT)
    assert status == 0, done.err


def test_run_with_another_policy_than_its_host_is_refused(command, host, remote):
    host()
    done, status = call(command, "run", *remote, "--policy_type", "zero", "--num_episodes", "1", POINT)
    assert status == 1
    assert "zero" in done.err and GAIN[1] in done.err


def test_flags_may_be_written_with_dashes(command):
    done, status = call(command, "run", "--policy-type=policy.py:Gain", "--num-episodes", "1", POINT, "--max-steps", "2")
    assert status == 0, done.err


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["srve"],
        ["run", "--num_steps", "1", *GAIN],
        ["run", "--num_step", "1", *GAIN, POINT],
        ["run", "--num_steps", "1", *GAIN, POINT, "--no_such_setting", "1"],
        ["serve", *GAIN, "--no_such_setting", "1"],
        ["serve", *GAIN, "stray"],
        ["ls", "--gpu"],
        ["policies", "more"],
        ["envs", "more"],
    ],
    ids=" ".join,
)
def test_wrong_calls_have_status_2_and_explain_on_standard_error(command, words):
    done, status = call(command, *words)
    assert status == 2
    assert done.out == ""
    assert "usage:" in done.err


@pytest.mark.parametrize(
    "words", [["--help"], ["run", "--help"], ["serve", "--help"], ["ls", "--help"], ["policies", "--help"], ["envs", "--help"]], ids=" ".join
)
def test_help_has_status_0_and_is_on_standard_output(command, words):
    done, status = call(command, *words)
    assert status == 0
    assert "usage:" in done.out


def test_help_of_a_policy_and_of_an_environment_shows_their_settings(command):
    assert "--gain" in call(command, "serve", *GAIN, "--help")[0].out
    assert "--gain" in call(command, "run", *GAIN, "--help")[0].out
    assert "--max_steps" in call(command, "run", *GAIN, "--num_steps", "1", POINT, "--help")[0].out


def test_version_is_that_of_the_package(command):
    done, status = call(command, "--version")
    assert (status, done.out.strip()) == (0, f"shmbridge {__version__}")


@pytest.mark.parametrize("words", [["policies"], ["envs"]], ids=" ".join)
def test_listings_succeed_with_and_without_plug_ins(command, words):
    done, status = call(command, *words)
    assert status == 0, done.err
    assert done.out.strip()


def test_ls_shows_a_host_and_its_client_while_it_is_served(command, host, remote, unique_name):
    serving = host()
    running = command("run", *remote, *FOREVER, "--num_envs", "3", POINT, "--tell")
    running.says("stepped")
    done, status = call(command, "ls", "--name", unique_name)
    assert status == 0, done.err
    row = done.out.splitlines()
    assert any(unique_name in line and str(serving.process.pid) in line for line in row), done.out
    assert f"client {running.process.pid}" in done.out


def test_ls_of_an_absent_host_has_status_1(command, unique_name):
    done, status = call(command, "ls", "--name", unique_name)
    assert status == 1
    assert unique_name in done.out


@pytest.mark.parametrize(
    "words",
    [
        ["serve", *GAIN, "--port", "5555"],
        ["serve", *GAIN, "--api_token", "very-secret"],
        ["serve", *GAIN, "--insecure"],
        ["run", "--policy_deployment", "remote", "--remote_host", "10.0.0.1", "--num_steps", "1", POINT],
        ["run", "--policy_deployment", "remote", "--remote_api_token", "very-secret", "--num_steps", "1", POINT],
        ["run", "--policy_deployment", "remote", "--transport", "socket", "--num_steps", "1", POINT],
    ],
    ids=" ".join,
)
def test_flags_of_the_network_are_refused_with_status_1_and_secrets_stay_secret(command, words):
    done, status = call(command, *words)
    assert status == 1
    assert next(word for word in words if word.startswith(("--port", "--api", "--insecure", "--remote_", "--transport"))) in done.err
    assert "very-secret" not in done.out + done.err
