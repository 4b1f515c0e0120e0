"""docker/run_policy_host.sh and run_sim.sh: what they ask of an engine that only pretends, and how they end."""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path

import pytest
from docker_scripts import DOCKER, HOST, ROOT, SIM, WATCHDOG_SECONDS, Place, follows, in_shell, make_place, start, until

pytestmark = pytest.mark.skipif(not DOCKER.is_dir(), reason="docker/ is not beside the tests")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path)


# The engine and the container.


def test_docker_comes_first_and_podman_is_taken_where_docker_does_not_work(place: Place) -> None:
    place.script(HOST)
    assert place.run_words()[0] == "docker"
    (place.state / "calls").unlink()
    place.engines(podman={})
    place.script(HOST)
    assert place.run_words()[0] == "podman"


def test_without_an_engine_the_error_says_what_each_of_them_says(place: Place) -> None:
    place.engines()
    failed = place.script(HOST, check=False)
    assert failed.returncode == 1
    assert "'docker info' fails: the fake engine does not work; 'podman info' fails" in failed.stderr


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_the_container_has_no_rights_and_no_network(place: Place, engine: str) -> None:
    place.script(HOST, "--engine", engine)
    words = place.run_words()
    assert words[:3] == [engine, "run", "--rm"]
    assert "--read-only" in words
    assert follows(words, "--cap-drop") == ["ALL"]
    assert follows(words, "--security-opt")[0] == "no-new-privileges"
    assert follows(words, "--network") == ["none"]
    assert follows(words, "--volume") == ["shmbridge-shm:/dev/shm"]
    assert not {"--tty", "--privileged", "--ipc", "--pid", "--userns=keep-id"} & set(words), "the input is no terminal"


def test_the_engine_flags_come_last_so_that_they_override(place: Place) -> None:
    place.script(HOST, "--engine_flag=--read-only=false", "--engine-flag", "--memory=4g", "--network", "bridge", "--container_name", "mine")
    words = place.run_words()
    image = words.index("shmbridge-policy")
    assert words[image - 2 : image] == ["--read-only=false", "--memory=4g"]
    assert follows(words, "--network") == ["bridge"] and follows(words, "--name") == ["mine"]


def test_two_containers_of_one_script_have_different_names(place: Place) -> None:
    place.script(HOST)
    place.script(HOST)
    first, second = (follows(call, "--name") for call in place.calls("run"))
    assert first != second


CALLER = f"{os.getuid()}:{os.getgid()}"


@pytest.mark.parametrize(
    ("engine", "answers", "given", "users", "keeps_id"),
    [
        ("docker", {}, [], [CALLER], False),
        ("docker", {"security": '["name=rootless"]'}, [], ["0:0"], False),
        ("podman", {"rootless": "false"}, [], [CALLER], False),
        ("podman", {"rootless": "true"}, [], [CALLER], True),
        ("podman", {"rootless": "true"}, ["--user", "7:8"], ["7:8"], True),
        ("docker", {}, ["--user=7:8"], ["7:8"], False),
    ],
)
def test_the_user_inside_is_the_one_outside(place: Place, engine: str, answers: dict[str, str], given: list[str], users: list[str], keeps_id: bool) -> None:
    place.engines(**{engine: answers})
    place.script(HOST, *given)
    words = place.run_words()
    assert follows(words, "--user") == users
    assert ("--userns=keep-id" in words) is keeps_id


def test_the_group_to_share_with_is_given_to_the_container(place: Place) -> None:
    place.script(HOST, "--name", "x", "--shm-group=2000")
    assert follows(place.run_words(), "--group-add") == ["2000"]
    assert place.passed_on()[-1] == "--shm-group=2000"


# Folders.


def mounts(place: Place) -> list[str]:
    return follows(place.run_words(), "--mount")


def test_missing_default_folders_are_left_out_but_that_for_output_is_made(place: Place) -> None:
    place.script(SIM)
    assert mounts(place) == [f"type=bind,source={place.home}/eval,target=/eval"]
    assert (place.home / "eval").is_dir()


def test_folders_are_mounted_and_only_that_for_output_to_be_written(place: Place, tmp_path: Path) -> None:
    for folder in ("home/models", "my data", "out"):
        (tmp_path / folder).mkdir()
    place.script(SIM, "-d", tmp_path / "my data", f"-e{tmp_path}/home/../out")
    assert mounts(place) == [
        f"type=bind,source={place.home}/models,target=/models,readonly",
        f"type=bind,source={tmp_path}/my data,target=/datasets,readonly",
        f"type=bind,source={tmp_path}/home/../out,target=/eval".replace("home/../", ""),
    ]


@pytest.mark.parametrize("flag", ["-m", "-d", "-e"])
def test_a_missing_folder_that_was_asked_for_is_an_error(place: Place, tmp_path: Path, flag: str) -> None:
    failed = place.script(HOST, flag, tmp_path / "not here", check=False)
    assert failed.returncode == 1
    assert f"{flag} {tmp_path}/not here: there is no such folder; make it with: mkdir -p" in failed.stderr
    assert not place.calls("run")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder that it does not own")
def test_a_folder_that_cannot_be_written_is_an_error_before_anything_starts(place: Place, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 12345, 12345)
    failed = place.script(SIM, "-e", tmp_path / "theirs", check=False)
    assert failed.returncode == 1 and "you may not write there" in failed.stderr and "--user UID:GID" in failed.stderr
    place.script(SIM, "-e", tmp_path / "theirs", "--user", "12345:12345")


# GPUs.


@pytest.mark.parametrize(
    ("given", "expected"),
    [([], ["--gpus", "all"]), (["-g", "all"], ["--gpus", "all"]), (["-g", "0,1"], ["--gpus", '"device=0,1"']), (["-gnone"], [])],
)
def test_docker_gets_gpus_where_it_has_a_runtime_for_them(place: Place, given: list[str], expected: list[str]) -> None:
    place.engines(docker={"runtimes": '{"nvidia":{},"runc":{}}'})
    place.script(SIM, *given)
    words = place.run_words()
    assert words[words.index("--gpus") : words.index("--gpus") + 2] == expected if expected else "--gpus" not in words


@pytest.mark.parametrize(("engine", "mends"), [("docker", "nvidia-ctk runtime configure --runtime=docker"), ("podman", "nvidia-ctk cdi generate")])
def test_gpus_that_were_asked_for_and_cannot_be_had_are_an_error(place: Place, engine: str, mends: str) -> None:
    if Path("/etc/cdi").exists() or Path("/var/run/cdi").exists():
        pytest.skip("this machine may have GPUs for podman")
    place.script(SIM, "--engine", engine)
    assert not {"--gpus", "--device"} & set(place.run_words())
    failed = place.script(SIM, "--engine", engine, "-g", "0", check=False)
    assert failed.returncode == 1 and "-g 0: " in failed.stderr and mends in failed.stderr


def test_podman_gets_gpus_by_their_description(tmp_path: Path) -> None:
    (tmp_path / "nvidia.yaml").write_text("kind: nvidia.com/gpu\n")
    found = [f"engine=podman cdi_folders=({shlex.quote(str(tmp_path))}) run_words=()", "add_gpus", 'printf "%s\\n" "${run_words[@]}"']
    assert in_shell(SIM, "\n".join(found)) == ["--device", "nvidia.com/gpu=all"]
    assert in_shell(SIM, "\n".join(["gpus=0,1", *found])) == ["--device", "nvidia.com/gpu=0", "--device", "nvidia.com/gpu=1"]


# The image and the volume.


def test_an_image_that_is_missing_is_built_under_its_name(place: Place) -> None:
    said = place.script(HOST, "--engine", "podman", "-n", "mine", "--build_flag=--build-arg=BASE=x")
    (build,) = place.calls("build")
    assert build[2:] == ["--format", "docker", "--file", str(DOCKER / "policy.Dockerfile"), "--tag", "mine", "--build-arg=BASE=x", str(ROOT)]
    assert "no image mine here; building it" in said.stderr
    assert "building\n" not in said.stdout, "the output is the container's"
    assert "mine" in place.run_words()


@pytest.mark.parametrize(("flag", "cached"), [("-r", True), ("-R", False), ("-vR", False)])
def test_an_image_is_built_anew_on_request(place: Place, flag: str, cached: bool) -> None:
    place.script(SIM, flag)
    (build,) = place.calls("build")
    assert ("--no-cache" not in build) is cached
    assert len(place.calls("run")) == 1


def test_the_volume_is_made_once_and_is_a_tmpfs(place: Place) -> None:
    place.script(HOST)
    place.script(SIM)
    (create,) = place.calls("volume", "create")
    pages = 512 * 2**20 // os.sysconf("SC_PAGESIZE")
    assert create[3:] == ["--driver", "local", "--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", f"o=nr_blocks={pages},mode=1777", "shmbridge-shm"]


def test_a_volume_that_another_script_makes_at_the_same_moment_is_taken_without_a_word(place: Place) -> None:
    place.volumes_fail("Error: volume with name shmbridge-shm already exists", made=True)
    assert place.script(HOST).stderr == ""


def test_a_volume_that_cannot_be_made_is_an_error_with_the_engines_words(place: Place) -> None:
    place.volumes_fail("Error: no space left", made=False)
    failed = place.script(HOST, check=False)
    assert failed.returncode == 1
    assert failed.stderr == "run_policy_host.sh: cannot make the volume shmbridge-shm: Error: no space left\n"
    assert not place.calls("run")


def test_a_volume_on_disk_is_refused(place: Place) -> None:
    (place.state / "volumes" / "shmbridge-shm").write_text("{}")
    failed = place.script(HOST, check=False)
    assert failed.returncode == 1
    assert "the volume shmbridge-shm is no tmpfs" in failed.stderr and "docker volume rm shmbridge-shm" in failed.stderr
    assert not place.calls("run")


def test_another_size_than_the_volume_has_is_refused_only_where_it_was_asked_for(place: Place) -> None:
    place.script(HOST, "--shm", "big:1024")
    place.script(HOST, "--shm", "big")
    failed = place.script(HOST, "--shm", "big:512", check=False)
    assert failed.returncode == 1 and "another size" in failed.stderr and "docker volume rm big" in failed.stderr
    assert follows(place.calls("run")[-1], "--volume") == ["big:/dev/shm"]


# The end.


@pytest.mark.parametrize("status", [7, 130, 137, 143])
def test_the_script_ends_with_the_containers_status_and_its_output(place: Place, status: int) -> None:
    place.container(status=status)
    finished = place.script(SIM, check=False)
    assert finished.returncode == status
    assert finished.stdout == "the container's output\n" and finished.stderr == ""


@pytest.mark.parametrize(
    ("number", "container", "script"),
    [
        (signal.SIGINT, 143, 130),
        (signal.SIGTERM, 143, 143),
        (signal.SIGHUP, 143, 129),
        (signal.SIGTERM, 137, 143),
        (signal.SIGTERM, 130, 143),
        (signal.SIGINT, 0, 0),
        (signal.SIGTERM, 1, 1),
    ],
)
def test_a_signal_stops_the_container_and_the_script_ends_with_its_own_status_unless_the_container_has_another_to_tell(
    place: Place, number: signal.Signals, container: int, script: int
) -> None:
    with start(place, HOST, stopped=container) as process:
        process.send_signal(number)
        assert process.wait(WATCHDOG_SECONDS) == script
    assert not list((place.state / "containers").iterdir())
    assert follows(place.run_words(), "--name")[0] == place.calls("stop")[0][-1]


def test_ctrl_c_goes_to_the_whole_group_and_stops_the_container_once(place: Place) -> None:
    with start(place, SIM) as process:
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(WATCHDOG_SECONDS) == 130
    assert not list((place.state / "containers").iterdir())


@pytest.mark.parametrize("asked", [True, False], ids=["its parent asks how it ended", "it stays a zombie"])
def test_a_killed_script_leaves_no_container(place: Place, asked: bool) -> None:
    with start(place, HOST) as process:
        process.kill()
        if asked:
            process.wait(WATCHDOG_SECONDS)
        until(lambda: not list((place.state / "containers").iterdir()))
        until(lambda: bool(place.calls("rm")))


def test_a_second_script_with_the_name_of_another_ones_container_leaves_that_alone(place: Place) -> None:
    with start(place, HOST, "--container_name", "one") as first:
        (place.state / "run.json").write_text('{"status": 125, "waits": false, "refuses": true}')
        assert place.script(HOST, "--container_name", "one", check=False).returncode == 125
        assert place.calls("stop") == place.calls("rm") == []
        assert first.poll() is None and (place.state / "containers" / "one").exists()
        first.send_signal(signal.SIGTERM)
        assert first.wait(WATCHDOG_SECONDS) == 143


def test_nothing_stays_running_when_a_script_has_ended(place: Place) -> None:
    place.script(HOST)
    until(lambda: not marked_processes(place))
    with start(place, HOST) as process:
        assert marked_processes(place)
        process.send_signal(signal.SIGTERM)
    until(lambda: not marked_processes(place))


def marked_processes(place: Place) -> list[Path]:
    """Return the processes that were started with a place's environment."""
    mark = f"FAKE_ENGINE={place.state}".encode()
    return [path for path in Path("/proc").glob("[0-9]*") if mark in environment_of(path)]


def environment_of(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:  # it ended meanwhile, or is somebody else's
        return b""
