"""What is made of a launch file, and of what its programs answered."""

from __future__ import annotations

import dataclasses
import sys

import pytest
from helpers import GIVE_UP_SECONDS
from machines import GB, MB, make_folder, make_machine
from programs import SMALL_ENVIRONMENT, described, make_file, make_program

from shmbridge.cli.doctor_asking import Answer, Asked, Names, ask_programs
from shmbridge.cli.doctor_findings import Level
from shmbridge.cli.doctor_launch import check_launch
from shmbridge.memory.capacity import Room

NOBODY = Names(frozenset(), {})
VERSION = Answer(0, "shmbridge 1.2.3\n")


HOST = make_program("host", "serve", "--name", "pair", serves="pair")
SIM = make_program("sim", "run", "--policy_deployment", "remote", "--name", "pair", "env")


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
    assert finding.do == f"{sys.executable} -m pip install shmbridge"


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
    assert "--describe_timeout_s" in finding.do


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
    assert all(finding.why.startswith("the sessions need 80.6 MB") for finding in problems)
    assert [word in finding.do for finding, word in zip(problems, ("--shm-size=128m", "--memory=1024m", "smaller cameras"), strict=True)] == [True] * 3
    assert ["--shm-size" in finding.do for finding in problems] == [True, False, False]


def test_a_machine_without_the_folder_has_that_problem_only():
    asked = [Asked(HOST, version=VERSION), Asked(SIM, version=VERSION, description=described(MB))]
    assert check(*asked, machine=dataclasses.replace(make_machine(), folder=None)) == []


def test_a_runner_without_a_host_is_a_problem_unless_one_lives():
    lone = make_program("sim", "run", "--policy_deployment", "remote", "--name", "elsewhere", "env")
    (finding,) = check(file=make_file(HOST, lone))
    assert "'elsewhere', which is not there" in finding.found
    assert "(pair)" in finding.do
    assert check(file=make_file(HOST, lone), names=Names(frozenset(["elsewhere"]), {})) == []
    (alone,) = check(file=make_file(lone))
    assert "no host at all" in alone.do


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
    assert all("sim, second" in finding.found and "--max_sessions 2" in finding.do for finding in findings)


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
    (tmp_path / "code.py").write_text(SMALL_ENVIRONMENT)
    good = make_program("good", "run", *policy, "code.py:Small", folder=tmp_path)
    bad = make_program("bad", "run", *policy, "code.py:Small", "--taks", "x", folder=tmp_path)
    asked = ask_programs(make_file(host, good, bad), GIVE_UP_SECONDS)
    findings = check(*asked)
    assert [finding.check for finding in findings] == ["pair.yaml: host", "pair.yaml: bad"]
    assert "--max_sessionz" in findings[0].found and "--taks" in findings[1].found
