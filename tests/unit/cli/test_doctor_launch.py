"""What is asked about a launch file, and what is made of the answers."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from pathlib import Path

import pytest
from helpers import GIVE_UP_SECONDS, PACKAGE, eventually
from machines import GB, MB, make_folder, make_machine

from shmbridge.cli import doctor_launch
from shmbridge.cli.doctor_checks import Level
from shmbridge.cli.doctor_launch import Answer, Asked, Names, ask_programs, bytes_at_most, check_launch, host_of, look_at_names, run_command
from shmbridge.cli.launch_file import LaunchFile, Program
from shmbridge.memory import posix
from shmbridge.memory.capacity import Room
from shmbridge.memory.naming import lock_path, socket_path
from shmbridge.version import __version__

NOBODY = Names(frozenset(), {})
VERSION = Answer(0, "shmbridge 1.2.3\n")


def make_program(label, *words, serves=None, python=sys.executable, folder="/", variables=None):
    """A program as a launch file would say, with the packages of this process."""
    path = os.pathsep.join([str(PACKAGE.parent), *filter(None, sys.path)])
    given = {"PYTHONPATH": path, **(variables or {})}
    argv = (str(python), "-m", "shmbridge", *words) if words else (str(python), "script.py")
    return Program(label, argv, words, Path(python), None, True, Path(folder), given, serves)


def make_file(*programs):
    return LaunchFile(Path("some/pair.yaml"), programs)


HOST = make_program("host", "serve", "--name", "pair", serves="pair")
SIM = make_program("sim", "run", "--policy_deployment", "remote", "--name", "pair", "env")


def described(nbytes):
    return Answer(0, json.dumps({"bytes_at_most": nbytes}, indent=2) + "\n")


def check(*asked, names=NOBODY, machine=None, file=None):
    """Return what is not as it should be."""
    file = file or make_file(*(one.program for one in asked))
    return [finding for finding in check_launch(file, asked, names, machine or make_machine()) if finding.level is not Level.OK]


def test_a_pair_that_fits_together_and_has_room_is_as_it_should_be():
    asked = [Asked(HOST, version=VERSION, policy=Answer(0)), Asked(SIM, version=VERSION, description=described(37 * MB))]
    findings = check_launch(make_file(HOST, SIM), asked, NOBODY, make_machine())
    assert [(finding.check, finding.level) for finding in findings] == [("pair.yaml: versions", Level.OK), ("pair.yaml: memory", Level.OK)]
    assert findings[0].found == "shmbridge 1.2.3 everywhere"
    assert "need at most 37.3 MB; /dev/shm has 8.0 GB free" in findings[1].found


def test_an_interpreter_that_is_not_there_is_a_problem_and_its_program_is_asked_nothing_else():
    (asked,) = ask_programs(make_file(make_program("sim", "run", "x", python="/no/such/python")), 1.0)
    assert (asked.version, asked.policy, asked.description) == (None, None, None)
    (finding,) = check(asked)
    assert (finding.check, finding.level) == ("pair.yaml: sim", Level.PROBLEM)
    assert "/no/such/python" in finding.found
    assert "some/pair.yaml" not in finding.found


def test_an_environment_without_the_library_is_a_problem_with_what_to_type():
    (finding,) = check(Asked(HOST, version=Answer(1, "", "/x/python: No module named shmbridge\n")))
    assert "No module named shmbridge" in finding.found
    assert finding.remedy == f"{sys.executable} -m pip install shmbridge"


def test_two_versions_are_a_problem_that_shows_both():
    (finding,) = check(Asked(HOST, version=VERSION, policy=Answer(0)), Asked(SIM, version=Answer(0, "shmbridge 2.0\n"), description=described(1)))
    assert finding.found == "host: shmbridge 1.2.3, sim: shmbridge 2.0"
    assert finding.level is Level.PROBLEM


@pytest.mark.parametrize(
    ("answer", "text"), [(Answer(1, "", "shmbridge serve: no policy 'gain'\n"), "no policy 'gain'"), (Answer(None), "not imported in time")]
)
def test_a_policy_that_cannot_be_had_is_a_problem(answer, text):
    (finding,) = check(Asked(HOST, version=VERSION, policy=answer))
    assert text in finding.found


def test_a_runner_that_cannot_say_what_it_needs_is_a_problem_with_its_last_words():
    answer = Answer(1, "a window opens\n", "Traceback\n  File\nModuleNotFoundError: No module named 'sim\x1b'\n\n")
    (finding,) = check(Asked(HOST, version=VERSION), Asked(SIM, version=VERSION, description=answer))
    assert finding.check == "pair.yaml: sim"
    assert "ModuleNotFoundError: No module named 'sim\\x1b'" in finding.found


def test_a_runner_that_takes_too_long_is_a_problem_with_the_flag():
    (finding,) = check(Asked(HOST, version=VERSION), Asked(SIM, version=VERSION, description=Answer(None)))
    assert "--describe_timeout_s" in finding.remedy


def test_what_all_sessions_need_together_is_compared_with_all_there_is():
    other = make_program("other", "run", "--policy_deployment=remote", "--name=pair", "env")
    host = make_program("host", "serve", "--max_sessions", "2", serves="pair")
    asked = [Asked(host, version=VERSION), *(Asked(one, version=VERSION, description=described(40 * MB)) for one in (SIM, other))]
    enough = make_machine(make_folder(room=Room("/dev/shm", 81 * MB, GB)))
    assert check(*asked, machine=enough) == []
    small = make_folder(room=Room("/dev/shm", 60 * MB, 64 * MB))
    tight = make_machine(small, cgroup=Room("the memory control group", 70 * MB, GB), memory=Room("the machine", 50 * MB, GB))
    problems = check(*asked, machine=tight)
    assert [finding.found for finding in problems] == [
        "/dev/shm has 60.0 MB free of 64.0 MB",
        "the memory control group has 70.0 MB free of 1.0 GB",
        "the machine has 50.0 MB free of 1.0 GB",
    ]
    assert all(finding.expected.startswith("80.6 MB") for finding in problems)
    assert ["--shm-size" in finding.remedy for finding in problems] == [True, False, False]


def test_a_machine_without_the_folder_has_that_problem_only():
    asked = [Asked(HOST, version=VERSION), Asked(SIM, version=VERSION, description=described(MB))]
    assert check(*asked, machine=dataclasses.replace(make_machine(), folder=None)) == []


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


def test_a_runner_without_a_host_is_a_problem_unless_one_lives():
    lone = make_program("sim", "run", "--policy_deployment", "remote", "--name", "elsewhere", "env")
    (finding,) = check(file=make_file(HOST, lone))
    assert "'elsewhere', which is not there" in finding.found
    assert finding.expected.endswith("pair")
    assert check(file=make_file(HOST, lone), names=Names(frozenset(["elsewhere"]), {})) == []
    (alone,) = check(file=make_file(lone))
    assert "no host at all" in alone.expected


def test_a_name_that_is_taken_is_a_problem():
    (finding,) = check(file=make_file(HOST, SIM), names=Names(frozenset(["pair"]), {}))
    assert (finding.check, finding.found) == ("pair.yaml: host", "a host called 'pair' is running already")
    findings = check(file=make_file(HOST), names=Names(frozenset(), {"pair": 987_654}))
    assert [finding.found for finding in findings] == ["the name 'pair' belongs to 987654"]


@pytest.mark.parametrize(("flag", "problems"), [((), 1), (("--max_sessions", "1"), 1), (("--max-sessions=2",), 0), (("--max_sessions", "many"), 0)])
def test_a_host_without_a_place_for_each_runner_is_a_problem(flag, problems):
    host = make_program("host", "serve", *flag, serves="pair")
    second = make_program("second", *SIM.words)
    findings = check(file=make_file(host, SIM, second))
    assert len(findings) == problems
    assert all("sim, second" in finding.found and "--max_sessions 2" in finding.remedy for finding in findings)


def test_a_script_is_not_asked_for_a_version_nor_for_places():
    script = make_program("host", serves="pair")
    (asked,) = ask_programs(make_file(script), 1.0)
    assert asked == Asked(script)
    assert check(asked, file=make_file(script, SIM, make_program("second", *SIM.words))) == []


def test_a_script_is_said_to_be_one():
    script = make_program("sim")
    (finding,) = check_launch(make_file(script), [Asked(script)], NOBODY, make_machine())
    assert (finding.check, finding.level, finding.found) == ("pair.yaml: sim", Level.OK, "is a script: what it needs is not known")


def test_a_local_runner_counts_no_bytes_and_is_a_problem_if_it_cannot_start():
    local = make_program("sim", "run", "--policy_deployment", "local", "env")
    good = Asked(local, version=VERSION, description=described(40 * GB))
    findings = check_launch(make_file(local), [good], NOBODY, make_machine())
    assert [(finding.check, finding.level) for finding in findings] == [("pair.yaml: versions", Level.OK), ("pair.yaml: sim", Level.OK)]
    (finding,) = check(dataclasses.replace(good, description=Answer(2, "", "unknown flag --taks\n")))
    assert "unknown flag --taks" in finding.found


def test_wrong_flags_of_hosts_and_of_local_runners_are_found(tmp_path, unique_name):
    policy = ("--policy_type", "shmbridge.testing:MarkingPolicy")
    host = make_program("host", "serve", "--name", unique_name, *policy, "--max_sessionz", "3", serves=unique_name)
    (tmp_path / "code.py").write_text("import shmbridge\n" + ENVIRONMENT)
    good = make_program("good", "run", *policy, "code.py:Small", folder=tmp_path)
    bad = make_program("bad", "run", *policy, "code.py:Small", "--taks", "x", folder=tmp_path)
    asked = ask_programs(make_file(host, good, bad), GIVE_UP_SECONDS)
    findings = check(*asked)
    assert [finding.check for finding in findings] == ["pair.yaml: host", "pair.yaml: bad"]
    assert "--max_sessionz" in findings[0].found and "--taks" in findings[1].found


def test_programs_are_asked_in_their_own_environment(tmp_path, unique_name):
    code = tmp_path / "code.py"
    code.write_text("import os\nimport shmbridge\nassert os.environ['SIZE'] == '3'\n" + ENVIRONMENT)
    name = ("--name", unique_name)
    host = make_program("host", "serve", *name, "--policy_type", "shmbridge.testing:MarkingPolicy", serves=unique_name)
    words = ("run", "--policy_deployment", "remote", *name, "--num_envs", "5", "code.py:Small")
    sim = make_program("sim", *words, folder=tmp_path, variables={"SIZE": "3"})
    asked_host, asked_sim = ask_programs(make_file(host, sim), GIVE_UP_SECONDS)
    assert asked_host.version is not None and asked_host.version.last_line == f"shmbridge {__version__}"
    assert asked_host.policy is not None and asked_host.policy.status == 0
    assert asked_sim.description is not None and asked_sim.description.status == 0, asked_sim.description
    assert bytes_at_most(asked_sim.description)


ENVIRONMENT = """
class Small(shmbridge.Environment):
    def __init__(self, config, *, num_envs, **options):
        self.num_envs = num_envs

    specs = shmbridge.EnvironmentSpecs([shmbridge.TensorSpec("q", (1000,), "float32")], [shmbridge.TensorSpec("action", (1,), "float32")])
    reset = step = episode_metrics = close = lambda self, *args, **options: None
"""


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
    real = doctor_launch.subprocess.Popen.communicate

    def interrupted(process, *args, **options):
        seen.append(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor_launch.subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_command([sys.executable, "-c", "import time; time.sleep(1000)"], make_program("x", "run"), 1000)
    monkeypatch.setattr(doctor_launch.subprocess.Popen, "communicate", real)
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
