"""docker/run_policy_host.sh, run_sim.sh and build.sh: which words they take, and which they pass on."""

from __future__ import annotations

import random
import shlex
from pathlib import Path

import pytest
from docker_scripts import BUILD, DEMO, DOCKER, HOST, KEPT, ROOT, SIM, Place, follows, in_shell, make_place

from shmbridge.cli.run_flags import environment_place, parse, switches
from shmbridge.errors import ShmbridgeError

pytestmark = pytest.mark.skipif(not DOCKER.is_dir(), reason="docker/ is not beside the tests")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path)


def test_without_flags_both_run_the_demo(place: Place) -> None:
    place.script(HOST)
    assert place.passed_on() == ["--policy_type", "pixel_bc"]
    (place.state / "calls").unlink()
    place.script(SIM)
    assert place.passed_on() == DEMO


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--name x", "--policy_type pixel_bc --name x"),
        ("--port 5555", "--policy_type pixel_bc --port 5555"),
        ("--policy-type zero --horizon 4", "--policy-type zero --horizon 4"),
        ("--policy_type=zero", "--policy_type=zero"),
        ("-- --engine x", "--policy_type pixel_bc --engine x"),
        ("--no_defaults", ""),
    ],
)
def test_a_flag_of_serve_keeps_the_other_defaults(place: Place, given: str, expected: str) -> None:
    place.script(HOST, *given.split())
    assert place.passed_on() == expected.split()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--num_episodes 5", " ".join(DEMO).replace("--num_episodes 20 ", "").replace("metaworld", "--num_episodes 5 metaworld")),
        ("--num-steps 100", " ".join(DEMO).replace("--num_episodes 20 ", "").replace("metaworld", "--num-steps 100 metaworld")),
        ("--describe", " ".join(DEMO).replace("--num_episodes 20 ", "").replace("metaworld", "--describe metaworld")),
        ("pusht", f"{KEPT} pusht"),
        ("--name x pusht --size 64", f"{KEPT} --name x pusht --size 64"),
        ("--enable_cameras pusht", "--policy_deployment remote --num_episodes 20 --output_dir /eval --headless --enable_cameras pusht"),
        ("--headless --seed 3 pusht --num_steps 4", f"{KEPT.replace(' --headless', '')} --headless --seed 3 pusht --num_steps 4"),
        ("--output_dir=/eval/a", " ".join(DEMO).replace("--output_dir /eval ", "").replace("metaworld", "--output_dir=/eval/a metaworld")),
        ("--no_defaults --num_steps 3 pusht", "--num_steps 3 pusht"),
    ],
)
def test_a_flag_of_run_keeps_the_other_defaults(place: Place, given: str, expected: str) -> None:
    place.script(SIM, *given.split())
    assert place.passed_on() == expected.split()


def test_the_defaults_are_flags_that_the_command_knows() -> None:
    file = f"{ROOT / 'docs' / 'examples' / 'point_environment.py'}:PointEnvironment"
    plan = parse([*DEMO[: DEMO.index("metaworld")], file])
    assert (plan.args.policy_deployment, plan.args.num_episodes, plan.args.enable_cameras) == ("remote", 20, True)
    with pytest.raises(ShmbridgeError, match="exactly one"):
        parse([*DEMO[: DEMO.index("metaworld")], "--num_steps", "3", file])


def test_the_script_knows_the_flags_without_a_value() -> None:
    assert set(in_shell(SIM, 'printf "%s\\n" $switches')) == switches()


def test_the_script_finds_the_environment_where_the_command_does() -> None:
    chance = random.Random(0)
    pool = ["--num_steps", "--headless", "--name", "--name=x", "--json", "-h", "5", "pusht", "--own", "true", "--remote_kill_on_exit", "metaworld", "-1"]
    cases = [[chance.choice(pool) for _ in range(chance.randrange(7))] for _ in range(300)]
    found = in_shell(SIM, "\n".join(f"environment_place {shlex.join(case)}" for case in cases))
    assert [int(line) for line in found] == [environment_place(case, switches(), set()) for case in cases]


# Wrong words.


@pytest.mark.parametrize(
    ("script", "words", "says"),
    [
        (HOST, ["-x"], "unknown flag: -x"),
        (HOST, ["-m"], "-m needs a value"),
        (HOST, ["--engine"], "--engine needs a value"),
        (HOST, ["--engine", "lxc"], "--engine lxc: docker or podman"),
        (HOST, ["--shm", "a/b"], "--shm a/b: expected the name of a volume"),
        (HOST, ["--shm", "a:much"], "--shm a:much: expected"),
        (HOST, ["--name", "x", "-r"], "-r is a flag of this script: put it before those of 'shmbridge serve'"),
        (SIM, ["--num_steps", "5", "-v", "pusht"], "-v is a flag of this script: put it before those of 'shmbridge run'"),
        (BUILD, [], "say which side"),
        (BUILD, ["host"], "'host' is no side"),
        (BUILD, ["policy", "--images", "x"], "unknown flag: --images"),
    ],
)
def test_wrong_words_are_told_and_nothing_starts(place: Place, script: str, words: list[str], says: str) -> None:
    failed = place.script(script, *words, check=False)
    assert failed.returncode == 2
    assert says in failed.stderr and f"see {script} --help" in failed.stderr
    assert not place.calls("run") and not place.calls("build")


@pytest.mark.parametrize(
    ("script", "words", "says"),
    [
        (HOST, ["--user", "bob"], "--user bob: expected numbers, UID:GID or UID"),
        (SIM, ["--user", "1000:users"], "--user 1000:users: expected numbers"),
        (HOST, ["--shm_group", "2000x"], "--shm_group 2000x: expected the number of a group"),
        (SIM, ["--shm-group=staff", "metaworld"], "--shm_group staff: expected the number of a group"),
    ],
)
def test_users_and_groups_must_be_numbers_and_no_engine_is_asked_otherwise(place: Place, script: str, words: list[str], says: str) -> None:
    failed = place.script(script, *words, check=False)
    assert failed.returncode == 2 and says in failed.stderr
    assert not place.calls()
    place.script(HOST, "--user", "1000", "--shm_group", "2000")
    assert follows(place.run_words(), "--user") == ["1000"]


@pytest.mark.parametrize("script", [HOST, SIM, BUILD])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_says_everything_and_starts_nothing(place: Place, script: str, flag: str) -> None:
    said = place.script(script, flag).stdout
    assert said.startswith(f"usage: {script}") and "--engine" in said and "Examples:" in said
    assert not place.calls()


@pytest.mark.parametrize("flag", ["-v", "--verbose"])
def test_verbose_shows_the_engines_command(place: Place, flag: str) -> None:
    said = place.script(SIM, flag, "--name", "a b").stderr
    assert "run_sim.sh: docker volume create" in said
    assert "run_sim.sh: docker run --rm" in said and r"--name a\ b" in said


def test_build_hands_on_what_stands_behind_two_dashes(place: Place) -> None:
    place.script(BUILD, "simulator", "--engine=podman", "--image", "sim:x", "--", "--no-cache", "--pull")
    (build,) = place.calls("build")
    assert build[2:] == ["--format", "docker", "--file", str(DOCKER / "simulator.Dockerfile"), "--tag", "sim:x", "--no-cache", "--pull", str(ROOT)]
    place.script(BUILD, "policy", "--engine", "docker")
    assert place.calls("build")[-1][2:] == ["--file", str(DOCKER / "policy.Dockerfile"), "--tag", "shmbridge-policy", str(ROOT)]
