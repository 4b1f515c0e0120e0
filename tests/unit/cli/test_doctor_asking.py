"""What is asked about a launch file, and what of the answers is understood."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from helpers import GIVE_UP_SECONDS, eventually
from programs import SMALL_ENVIRONMENT, described, make_file, make_program

from shmbridge.cli import doctor_asking
from shmbridge.cli.doctor_asking import Answer, Names, ask_programs, bytes_at_most, host_of, look_at_names, run_command
from shmbridge.memory import posix
from shmbridge.memory.naming import lock_path, socket_path
from shmbridge.version import __version__


@pytest.mark.parametrize(
    "out",
    [
        "",
        "nothing",
        "{",
        "{}",
        '{"bytes_at_most": -1}',
        '{"bytes_at_most": true}',
        '{"bytes_at_most": "5"}',
        '{"bytes_at_most": 1e30}',
        f'{{"bytes_at_most": {1 << 70}}}',
    ],
)
def test_what_is_no_number_of_bytes_is_none(out):
    assert bytes_at_most(Answer(0, out)) is None


def test_bytes_are_found_behind_what_a_simulator_prints_before():
    noise = 'Loading {"bytes_at_most": 5}\n{not json\n'
    assert bytes_at_most(Answer(0, noise + described(123).out)) == 123
    assert bytes_at_most(Answer(0, described(123).out + "Simulation app closed\n")) == 123
    assert bytes_at_most(Answer(1, described(123).out)) is None


@pytest.mark.parametrize(
    ("words", "host"),
    [
        (("run", "--policy_deployment", "remote", "env"), "default"),
        (("run", "--policy-deployment=remote", "--name", "a", "env"), "a"),
        (("run", "--policy_deployment", "remote", "--name=a", "--name", "b", "env"), "b"),
        (("run", "--policy_deployment", "remote", "--name", "A b", "env"), None),
        (("run", "--policy_deployment", "local", "env"), None),
        (("run", "env"), None),
        (("serve", "--name", "a"), None),
        ((), None),
    ],
)
def test_a_runner_uses_the_host_that_its_words_say(words, host):
    assert host_of(make_program("x", *words)) == host


def test_programs_are_asked_in_their_own_environment(tmp_path, unique_name):
    code = tmp_path / "code.py"
    code.write_text(f"import os\nassert os.environ['SIZE'] == '3'\n{SMALL_ENVIRONMENT}")
    name = ("--name", unique_name)
    host = make_program("host", "serve", *name, "--policy_type", "shmbridge.testing:MarkingPolicy", serves=unique_name)
    words = ("run", "--policy_deployment", "remote", *name, "--num_envs", "5", "code.py:Small")
    sim = make_program("sim", *words, folder=tmp_path, variables={"SIZE": "3"})
    asked_host, asked_sim = ask_programs(make_file(host, sim), GIVE_UP_SECONDS)
    assert asked_host.version is not None and asked_host.version.last_line == f"shmbridge {__version__}"
    assert asked_host.policy is not None and asked_host.policy.status == 0
    assert asked_sim.description is not None and asked_sim.description.status == 0, asked_sim.description
    assert bytes_at_most(asked_sim.description)


def test_a_folder_that_launch_would_make_is_not_made(tmp_path):
    program = make_program("x", "run", folder=tmp_path / "new" / "deep")
    answer = run_command([sys.executable, "-c", "import os; print(os.getcwd())"], program, GIVE_UP_SECONDS)
    assert answer.last_line == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_cannot_be_started_is_an_answer():
    answer = run_command(["/no/such/thing"], make_program("x", "run"), 1.0)
    assert answer.status == 127
    assert "/no/such/thing cannot be started" in answer.last_line


def test_a_command_that_takes_too_long_is_ended_with_all_it_started(tmp_path):
    marker = tmp_path / "pid"
    child = f"import os, time; open({str(marker)!r}, 'w').write(str(os.getpid())); time.sleep(1000)"
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(1000)"
    deadline = 2.0
    started = time.monotonic()
    while True:
        answer = run_command([sys.executable, "-c", parent], make_program("x", "run"), deadline)
        assert answer == Answer(None)
        if marker.exists() and marker.read_text():
            break
        deadline *= 2  # a slow machine: it was ended before it had started anything
    assert time.monotonic() - started >= 2.0
    eventually(lambda: not is_running(int(marker.read_text())), "the end of what it started")


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_an_interrupt_ends_what_is_being_asked(monkeypatch):
    seen = []
    real = doctor_asking.subprocess.Popen.communicate

    def interrupted(process, *args, **options):
        seen.append(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor_asking.subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_command([sys.executable, "-c", "import time; time.sleep(1000)"], make_program("x", "run"), 1000)
    monkeypatch.setattr(doctor_asking.subprocess.Popen, "communicate", real)
    assert seen[0].returncode == -9


def test_names_are_looked_up_by_their_locks(unique_name, another_name):
    host = make_program("host", "serve", serves=unique_name)
    runner = make_program("sim", "run", "--policy_deployment", "remote", "--name", another_name, "x")
    descriptor = posix.lock_file(lock_path(unique_name))
    Path(socket_path(another_name)).touch()
    try:
        assert look_at_names(make_file(host, runner)) == Names(frozenset([unique_name]), {})
        if os.geteuid() == 0:
            os.chown(socket_path(another_name), 987_654, -1)
            assert look_at_names(make_file(host, runner)) == Names(frozenset([unique_name]), {another_name: 987_654})
    finally:
        os.close(descriptor)
        os.unlink(lock_path(unique_name))
        os.unlink(socket_path(another_name))
