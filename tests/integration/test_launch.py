"""``shmbridge launch`` as a person uses it: both halves from one file, whatever ends it, and nothing left afterwards."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import PACKAGE, eventually, ours_in_shm

from shmbridge import serve
from shmbridge.memory.naming import socket_path
from shmbridge.memory.waiting import Deadline
from shmbridge.registry import environments, policies
from shmbridge.testing import MarkingPolicy

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
LOAD_SECONDS = 240

POLICY = """
import os
import signal
import time
from dataclasses import dataclass

import shmbridge

time.sleep(float(os.environ.get("IMPORT_SECONDS", "0")))


@dataclass(frozen=True)
class Settings:
    load: float = 0.0
    kill_at: int = 0


class Gain(shmbridge.Policy):
    config_type = Settings

    def __init__(self, config):
        super().__init__(config)
        self.inferences = 0
        time.sleep(config.load)

    def specs(self, offered):
        spec = shmbridge.TensorSpec("position", (2,), "float64")
        return shmbridge.PolicySpecs([spec], [shmbridge.TensorSpec("action", (2,), "float64")])

    def infer(self, session, observation, env_ids):
        self.inferences += 1
        if self.inferences == self.config.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"action": -0.5 * observation["position"][:, None]}


class Unloadable(Gain):
    def __init__(self, config):
        raise FileNotFoundError("no weights at /models/none")
"""
ENVIRONMENT = """
from dataclasses import dataclass

import numpy as np

import shmbridge


@dataclass(frozen=True)
class Settings:
    fail_at: int = 0


class Point(shmbridge.Environment):
    config_type = Settings

    def __init__(self, config=None, *, num_envs=1, **options):
        super().__init__(config or Settings(), num_envs=num_envs)
        self.position = np.zeros((num_envs, 2))
        self.steps = 0

    @property
    def specs(self):
        spec = shmbridge.TensorSpec("position", (2,), "float64")
        return shmbridge.EnvironmentSpecs([spec], [shmbridge.TensorSpec("action", (2,), "float64")])

    def reset(self, *, seed, options, out):
        for row in np.flatnonzero(options.get("reset_mask", np.ones(self.num_envs, bool))):
            out["position"][row] = self.position[row] = np.random.default_rng(seed[row]).uniform(-1, 1, 2)
        return [{}] * self.num_envs

    def step(self, action, *, out):
        self.steps += 1
        if self.steps == 2:
            print("stepped", flush=True)
        if self.steps == self.config.fail_at:
            raise SystemExit(7)
        self.position += action["action"]
        out["position"][:] = self.position
        near = np.linalg.norm(self.position, axis=1) < 0.2
        return shmbridge.Step(np.zeros(self.num_envs), near, np.zeros_like(near), [{}] * self.num_envs)

    def close(self):
        print("environment closed", flush=True)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(1000)
"""


class Launch:
    """One launch, in a session of its own as of a terminal, from a folder without the sources."""

    def __init__(self, folder, *words, **variables):
        self.out_path, self.err_path = folder / "out.txt", folder / "err.txt"
        path = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
        with self.out_path.open("wb") as out, self.err_path.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "shmbridge", "launch", *map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": path, **variables},
                start_new_session=True,
            )

    @property
    def out(self):
        return self.out_path.read_text()

    @property
    def err(self):
        return self.err_path.read_text()

    def says(self, text):
        """Wait until it has printed ``text`` anywhere."""
        eventually(lambda: text in self.out + self.err or self.process.poll() is not None, text)
        assert text in self.out + self.err, f"it did not say {text!r}:\n{self.out}\n{self.err}"

    def send(self, number=signal.SIGINT):
        self.process.send_signal(number)

    def ends(self, seconds=60):
        return self.process.wait(seconds)


@pytest.fixture
def launch(tmp_path, unique_name):
    """Write a launch file, start it, and see to it that nothing of it runs or lies about afterwards: ``launch(policy=…, simulator=…)``."""
    (tmp_path / "policy.py").write_text(POLICY)
    (tmp_path / "environment.py").write_text(ENVIRONMENT)
    started = []

    def start(*words, variables=None, **programs):
        (tmp_path / "pair.yaml").write_text(json.dumps({"programs": programs}))  # JSON is YAML
        # Whatever runs because of this test is found by this variable, which nobody takes away.
        started.append(Launch(tmp_path, "pair.yaml", *words, LAUNCH_TEST=unique_name, **(variables or {})))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.send(signal.SIGTERM)
        each.ends()
    eventually(lambda: running(unique_name) == [], f"the end of {running(unique_name)}")
    assert ours_in_shm(unique_name) == []


def running(mark):
    """Return the commands of the processes that a launch of this test started, itself included."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if f"LAUNCH_TEST={mark}".encode() in Path("/proc", entry, "environ").read_bytes():
                    found.append(Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                pass  # it ended while we looked, or is not ours
    return found


@pytest.fixture
def host(unique_name):
    """Return a host as a launch file has it."""

    def entry(*more, seconds=0, policy="Gain"):
        words = ["serve", "--name", unique_name, "--policy_type", f"${{here}}/policy.py:{policy}", *more]
        return {"shmbridge": words, "variables": {"IMPORT_SECONDS": seconds}}

    return entry


@pytest.fixture
def runner(unique_name):
    """Return a runner as a launch file has it, by default one that runs until it is stopped."""

    def entry(*more, episodes=None, envs=1, own=()):
        extent = ["--num_steps", 10**9] if episodes is None else ["--num_episodes", episodes]
        words = ["run", "--policy_deployment", "remote", "--name", unique_name, *extent, "--num_envs", envs, *own]
        return {"shmbridge": [*words, "${here}/environment.py:Point", *more]}

    return entry


def script(source, **keys):
    return {"script": ["-c", source], **keys}


def test_both_halves_run_and_end_with_the_runners_metrics_behind_its_label(launch, host, runner, unique_name):
    done = launch(simulator=runner(episodes=3), policy=host())
    assert done.ends() == 0, done.err
    assert "simulator | Metrics: {'num_episodes': 3}" in done.out.splitlines()
    assert re.search(rf"^launch    \| policy \(host '{unique_name}'\) is READY after \d", done.err, re.MULTILINE)
    assert f"policy    | host '{unique_name}' is ready" in done.err
    assert "policy    |" not in done.out and "Metrics" not in done.err
    assert done.err.index("is READY after") < done.err.index("simulator starts")
    assert done.err.splitlines()[-1] == f"launch    | ending policy (host '{unique_name}')"


def test_two_runners_share_a_host(launch, host, runner):
    done = launch(policy=host("--max_sessions", 2), one=runner(episodes=4), two=runner(episodes=4, envs=2))
    assert done.ends() == 0, done.err
    for label in ("one", "two"):
        assert f"{label:<6} | Metrics: {{'num_episodes': 4}}" in done.out.splitlines()


def test_runner_that_stops_its_host_itself_ends_the_launch_as_well(launch, host, runner):
    done = launch(policy=host(), simulator=runner(episodes=1, own=["--remote_kill_on_exit"]))
    assert done.ends() == 0, done.err
    assert "asked this host to stop" in done.err


def test_status_is_that_of_the_first_runner_that_fails_and_the_others_are_ended(launch, host, runner):
    done = launch(policy=host("--max_sessions", 2), good=runner(), bad=runner("--fail_at", 5))
    assert done.ends() == 7
    assert "ending good" in done.err
    assert done.out.count("environment closed") == 2
    assert done.err.splitlines()[-1] == "shmbridge launch: bad ended with status 7"


@pytest.fixture(params=[(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["SIGINT", "SIGTERM", "SIGHUP"])
def ending(request):
    """A signal, and the exit status that it leads to."""
    return request.param


def test_signal_before_the_host_is_up_leaves_nothing(launch, host, runner, ending):
    pair = launch(policy=host(seconds=100), simulator=runner())
    pair.says("starts")
    pair.send(ending[0])
    assert pair.ends() == ending[1]
    assert "simulator starts" not in pair.err


def test_signal_while_the_policy_loads_leaves_nothing(launch, host, runner, ending):
    pair = launch(policy=host("--load", 100), simulator=runner())
    pair.says("is LOADING")
    pair.send(ending[0])
    assert pair.ends() == ending[1]
    assert "simulator starts" not in pair.err


def test_signal_during_the_run_ends_the_runner_and_then_the_host(launch, host, runner, ending, unique_name):
    pair = launch(policy=host(), simulator=runner())
    pair.says("simulator | stepped")
    pair.send(ending[0])
    assert pair.ends() == ending[1]
    assert "simulator | environment closed" in pair.out
    assert "ended: it said goodbye" in pair.err
    assert "Traceback" not in pair.err
    last = pair.err.splitlines()
    assert last.index("launch    | ending simulator") < last.index(f"launch    | ending policy (host '{unique_name}')")
    assert last[-1].startswith("shmbridge launch: ")


def test_second_signal_during_the_end_kills_the_runner_at_once_and_leaves_nothing(launch, host, unique_name):
    pair = launch(policy=host(), simulator=script(STUBBORN))
    pair.says("simulator | up")
    pair.send()
    pair.says("ending simulator")
    pair.send()
    assert pair.ends() == 130
    assert "simulator does not end; killing it" in pair.err
    assert f"ending policy (host '{unique_name}')" in pair.err


def test_signals_while_the_host_ends_leave_nothing(launch, host, runner):
    pair = launch(policy=host(), simulator=runner())
    pair.says("simulator | stepped")
    pair.send()
    pair.says("ending policy")
    for _ in range(3):
        if pair.process.poll() is None:
            pair.send()
    assert pair.ends() == 130


def test_end_that_is_asked_for_at_the_very_end_is_in_the_status(launch):
    # The process that it leaves keeps its pipe open, so that the end lasts.
    left = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(1000)'])"
    pair = launch(simulator=script(left))
    pair.says("starts")
    eventually(lambda: len(running_children(pair)) == 0, "the runner's end")
    pair.send()
    assert pair.ends() == 130


def running_children(pair):
    return [pid for pid in Path(f"/proc/{pair.process.pid}/task/{pair.process.pid}/children").read_text().split() if _has_words(pid) and not _is_keeper(pid)]


def _has_words(pid):
    return bool(Path("/proc", pid, "cmdline").read_bytes())  # what has ended has none, until launch gives its number back


def _is_keeper(pid):
    return b"launch_keeper" in Path("/proc", pid, "cmdline").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_killed_launch_takes_its_programs_with_it(launch, host, runner, unique_name, number):
    pair = launch(policy=host(), simulator=runner())
    pair.says("simulator | stepped")
    pair.send(number)
    assert pair.ends() == -number
    eventually(lambda: running(unique_name) == [], "the end of all programs")
    assert ours_in_shm(unique_name) == []
    assert "was killed; ending what it started" in pair.err


def test_programs_behind_shell_scripts_end_too(launch, host, runner, tmp_path, unique_name):
    wrapper = tmp_path / "python.sh"
    wrapper.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\nexit $?\n')
    wrapper.chmod(0o755)
    # An interpreter of its own is not given our PYTHONPATH, so the file passes it on.
    own = {"python": "python.sh", "variables": {"PYTHONPATH": str(PACKAGE.parent)}}
    for kill in (signal.SIGINT, signal.SIGKILL):
        pair = launch(policy=host() | own, simulator=runner() | own)
        pair.says("simulator | stepped")
        pair.send(kill)
        assert pair.ends() == (130 if kill == signal.SIGINT else -kill)
        eventually(lambda: running(unique_name) == [], "the end of all programs")


def test_host_that_cannot_load_ends_the_launch_with_its_status_and_last_words(launch, host, runner, unique_name):
    done = launch(policy=host(policy="Unloadable"), simulator=runner())
    assert done.ends() == 1
    assert "simulator starts" not in done.err
    said = done.err.rpartition("shmbridge launch: ")[2]
    assert f"policy (host '{unique_name}') ended with status 1 before all hosts were READY" in said
    assert "no weights at /models/none" in said
    assert "\n" not in said.rstrip(), "what was shown as it came is shown a second time"


def test_host_that_dies_while_another_loads_ends_the_launch(launch, host):
    quick = script("import time; print('up', flush=True); time.sleep(1); raise SystemExit(4)", serves="never-there")
    done = launch(slow=host("--load", 100), quick=quick)
    assert done.ends() == 4
    assert "quick (host 'never-there') ended with status 4" in done.err.rpartition("shmbridge launch: ")[2]


def test_host_that_is_called_wrongly_ends_the_launch_with_its_status(launch, host, runner):
    done = launch(policy=host("--no_such_flag"), simulator=runner())
    assert done.ends() == 2
    assert "--no_such_flag" in done.err.rpartition("shmbridge launch: ")[2]


def test_host_that_takes_too_long_is_told_with_the_flag_that_mends_it(launch, host, runner):
    done = launch("--start_timeout_ms", 1500, policy=host("--load", 100), simulator=runner())
    assert done.ends() == 1
    assert "was not READY within 1.5 s: it is LOADING; allow more with --start_timeout_ms" in done.err.splitlines()[-1]


def test_somebody_elses_host_is_neither_used_nor_ended(launch, host, runner, unique_name):
    with serve(MarkingPolicy(), f"shm://{unique_name}") as other:
        done = launch(policy=host(), simulator=runner())
        assert done.ends() == 1
        assert "a host of that name runs already" in done.err
        assert "starts" not in done.err
        assert other.status.state == "READY"


def test_silent_host_of_a_needed_name_is_somebody_elses_too(launch, host, runner, unique_name):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bound:
        bound.bind(socket_path(unique_name))
        bound.listen()
        done = launch(policy=host(), simulator=runner())
        assert done.ends() == 1
        assert "does not answer" in done.err
    os.unlink(socket_path(unique_name))


def test_host_that_dies_under_a_runner_is_named_and_nothing_of_it_is_left(launch, host, runner, unique_name):
    done = launch(policy=host("--kill_at", 50), simulator=runner())
    assert done.ends() == 1
    assert f"policy (host '{unique_name}') ended by SIGKILL under its runners" in done.err.splitlines()[-1]
    assert "simulator | shmbridge run: " in done.err
    assert ours_in_shm(unique_name) == []


def test_runner_that_does_not_notice_its_hosts_death_is_ended(launch, host):
    done = launch(policy=script("import time; print('up', flush=True); time.sleep(1); raise SystemExit(3)"), simulator=script("import time; time.sleep(1000)"))
    assert done.ends() == 3
    assert "ending simulator" in done.err


def test_file_with_hosts_only_serves_until_it_is_stopped(launch, host):
    pair = launch(policy=host())
    pair.says("all hosts are READY")
    pair.send()
    assert pair.ends() == 130


def test_script_may_be_a_host(launch, runner, unique_name):
    source = f"import shmbridge, policy; shmbridge.serve(lambda: policy.Gain(policy.Settings()), 'shm://{unique_name}').wait()"
    done = launch(policy=script(source, serves=unique_name, folder="${here}"), simulator=runner(episodes=1))
    assert done.ends() == 0, done.err
    assert "is READY after" in done.err


def test_only_programs_that_share_our_environment_see_what_it_is_made_of(launch):
    source = "import os; print(sorted(set(os.environ) & {'PYTHONPATH', 'PYTHONHOME', 'VIRTUAL_ENV', 'KEPT'}), os.environ['PYTHONUNBUFFERED'])"
    variables = {"VIRTUAL_ENV": "/ours", "KEPT": "1"}
    done = launch(own=script(source, python=sys.executable), shared=script(source), variables=variables)
    assert done.ends() == 0, done.err
    assert set(done.out.splitlines()) == {"own    | ['KEPT'] 1", "shared | ['KEPT', 'PYTHONPATH', 'VIRTUAL_ENV'] 1"}


def test_environment_of_its_own_is_as_if_it_were_activated(launch, tmp_path):
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").symlink_to(sys.executable)
    source = "import os; print(os.environ['VIRTUAL_ENV'], os.environ['PATH'].split(':')[0])"
    done = launch(own=script(source, venv="venv"))
    assert done.ends() == 0, done.err
    assert done.out.strip() == f"own    | {tmp_path}/venv {tmp_path}/venv/bin"


def test_working_folder_is_made(launch, tmp_path):
    done = launch(one=script("import os; print(os.getcwd())", folder="made/here"))
    assert done.ends() == 0, done.err
    assert done.out.strip() == f"one    | {tmp_path}/made/here"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"venv": "none"}, r"program 'one', venv: .*/none has no bin/python. Make it: python3 -m venv .*/none"),
        ({"python": "none"}, "program 'one', python: there is no interpreter .*/none"),
        ({"python": "${here}"}, "program 'one', python: there is no interpreter"),
        ({"folder": "/proc/none"}, "program 'one' cannot be started"),
    ],
    ids=str,
)
def test_what_is_missing_is_said_before_anything_runs(launch, keys, said):
    done = launch(one=script("print(1)", **keys))
    assert done.ends() == 1
    assert re.search(said, done.err), done.err
    assert done.out == ""


def test_program_that_floods_its_pipe_loses_nothing(launch):
    done = launch(one=script("import sys; print(*range(100000), sep='\\n'); print('half', end='')"))
    assert done.ends() == 0, done.err
    lines = done.out.splitlines()
    assert len(lines) == 100001 and lines[99999] == "one    | 99999" and lines[-1] == "one    | half"


def test_output_that_nobody_reads_any_more_ends_it_all(tmp_path, unique_name):
    path = tmp_path / "endless.yaml"
    path.write_text("programs: {one: {script: ['-c', 'while True: print(1)']}}")
    command = [sys.executable, "-m", "shmbridge", "launch", str(path)]
    variables = {**os.environ, "LAUNCH_TEST": unique_name, "PYTHONPATH": str(PACKAGE.parent)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=variables, start_new_session=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"one    | 1\n"
        process.stdout.close()
        errors = process.stderr.read().decode()
        assert process.wait() == 1
    assert "Error" not in errors, errors
    assert running(unique_name) == []


def test_dry_run_shows_commands_that_a_shell_can_run_and_starts_nothing(launch, tmp_path):
    source = "import os; print(os.getcwd(), os.environ['WORDS'])"
    done = launch("--dry_run", one=script(source, folder="out", python=sys.executable, variables={"WORDS": "it is so"}))
    assert done.ends() == 0, done.err
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    assert subprocess.run(["sh", "-c", done.out], capture_output=True, text=True, check=True).stdout == f"{tmp_path}/out it is so\n"


POINT = ROOT / "docs" / "examples" / "point.yaml"


@pytest.mark.skipif(not POINT.is_file(), reason="the documents are not beside the tests")
def test_file_of_the_documents_is_quoted_and_ends_with_the_scripts_metrics(tmp_path, unique_name):
    assert f"```yaml\n{POINT.read_text()}```" in (ROOT / "docs" / "howto" / "launch-files.md").read_text()
    done = Launch(tmp_path, POINT, "--set", f"name={unique_name}", "--set", "gain=0.2", LAUNCH_TEST=unique_name)
    assert done.ends() == 0, done.err
    assert done.out == "simulator | Metrics: {'distance': 0.328}\n"
    assert running(unique_name) == []


def need_both_halves():
    """Skip where this environment does not hold what the files that come along start."""
    pytest.importorskip("torch")
    pytest.importorskip("metaworld")
    if "pixel_bc" not in policies.names() or "metaworld" not in environments.names():
        pytest.skip("the plug-ins are not installed here, so they have no names")


def copy_of(name, folder):
    """Copy a file that comes along, for this environment; return its text and the flags that it needs here."""
    (folder / "launch").mkdir()
    text = re.sub(r"^    venv: .*\n", "", (LAUNCH / name).read_text(), flags=re.MULTILINE)
    (folder / "launch" / name).write_text(text)
    return text, ["--set", f"gl={os.environ.get('MUJOCO_GL', 'osmesa')}"] * ("gl:" in text)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not LAUNCH.is_dir(), reason="the launch files are not beside the tests")
@pytest.mark.parametrize("name", sorted(path.name for path in LAUNCH.glob("*.yaml")))
def test_files_that_come_along_run_to_their_metrics(name, tmp_path):
    """In this environment, which holds both halves, instead of in those that 'make demo' makes."""
    need_both_halves()
    text, renderer = copy_of(name, tmp_path)
    done = Launch(tmp_path, tmp_path / "launch" / name, "--set", "num_episodes=2", *renderer, OMP_NUM_THREADS="1")
    try:
        assert done.ends(2 * LOAD_SECONDS) == 0, done.err
    finally:
        done.process.terminate()
        done.ends()
    metrics = [line.partition(" | ")[2] for line in done.out.splitlines() if "Metrics: " in line]
    assert metrics == ["Metrics: {'success_rate': 1.0, 'num_episodes': 2}"] * text.count("\n      run ")
    assert list((tmp_path / ".demo").rglob("report.json"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not LAUNCH.is_dir(), reason="the launch files are not beside the tests")
def test_two_simulators_of_a_file_that_comes_along_are_interrupted_and_leave_nothing(tmp_path, unique_name):
    need_both_halves()
    text, renderer = copy_of("two_simulators.yaml", tmp_path)
    path = tmp_path / "launch" / "two_simulators.yaml"
    path.write_text(text.replace("two-simulators", unique_name))
    pair = Launch(tmp_path, path, "--set", "num_episodes=1000", *renderer, LAUNCH_TEST=unique_name, OMP_NUM_THREADS="1")
    try:
        deadline = Deadline(2 * LOAD_SECONDS)
        while not both_run(pair) and pair.process.poll() is None and not deadline.passed:
            time.sleep(0.1)
        assert both_run(pair), pair.err
        pair.send()
        assert pair.ends(LOAD_SECONDS) == 130, pair.err
    finally:
        pair.process.terminate()
        pair.ends()
    assert "Traceback" not in pair.err
    assert pair.err.splitlines()[-1] == "shmbridge launch: interrupted"
    assert running(unique_name) == []
    assert ours_in_shm(unique_name) == []


def both_run(pair):
    return all(re.search(rf"^{label} +\|.* episodes", pair.out + pair.err, re.MULTILINE) for label in ("one", "two"))
