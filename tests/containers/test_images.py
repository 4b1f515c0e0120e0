"""The two images: what is in them, what is not, and under which restrictions they run."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import time
from collections.abc import Callable

import pytest
from engine import BUILD_WORDS, ROOT, Engine

HARDENED = ("--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--network", "none", "--tmpfs", "/tmp")
BASE = "docker.io/library/python:3.11-slim"
NEVER = ("gcc", "cc", "g++", "ld", "make", "cmake", "git", "protoc", "ninja")
OTHERS = {"policy": ("mujoco", "metaworld", "gymnasium", "imageio_ffmpeg"), "simulator": ("torch", "safetensors", "sympy")}
OWN = {"policy": ("torch", "safetensors", "rich"), "simulator": ("mujoco", "metaworld", "imageio_ffmpeg", "rich")}
CLIENT = """
import numpy as np, shmbridge
offered = [shmbridge.TensorSpec("position", (2,), "float32")]
with shmbridge.connect("shm://there", observation_specs=offered, num_envs=3) as policy:
    policy.reset()
    print(policy.act({"position": np.ones((3, 2), np.float32)})["action"].tolist())
"""
FOREIGN = """
set -e
python3 -m venv /tmp/foreign
{before}
status=0
bash /source/docker/install.sh --python /tmp/foreign/bin/python {words} || status=$?
/tmp/foreign/bin/python -m pip list --format=freeze
echo "status $status"
"""
OLD_NUMPY = """
folder=$(echo /tmp/foreign/lib/python3*/site-packages)/numpy-1.21.0.dist-info
mkdir "$folder"
printf '%s\\n' 'Metadata-Version: 2.1' 'Name: numpy' 'Version: 1.21.0' >"$folder/METADATA"
"""

Start = Callable[..., str]


@pytest.fixture(params=["policy", "simulator"])
def side(request: pytest.FixtureRequest) -> str:
    """Each image in turn."""
    return str(request.param)


@pytest.fixture
def image(side: str, request: pytest.FixtureRequest) -> str:
    """Its name."""
    return str(request.getfixturevalue(f"{side}_image"))


@pytest.fixture
def start(engine: Engine, policy_image: str, unique: Callable[[str], str], volume: str) -> Start:
    """Start a policy's container and return its name: ``start("serve", "--name", "x", options=(…))``."""

    def start_one(*words: str, options: tuple[str, ...] = ()) -> str:
        name = unique("host")
        engine.call("run", "--detach", "--name", name, "--volume", f"{volume}:/dev/shm", *HARDENED, *options, policy_image, *words)
        return name

    return start_one


def inside(engine: Engine, image: str, script: str, *options: str, check: bool = True, timeout: float = 120.0) -> str:
    """Run a shell script in a fresh container and return what it printed."""
    words = ("run", "--rm", "--network", "none", *options, "--entrypoint", "bash", image, "-c", script)
    return engine.call(*words, check=check, timeout=timeout).stdout


def is_healthy(engine: Engine, container: str) -> bool:
    """Run the image's own check in the container, as the engine does in intervals (podman only where systemd gives them)."""
    command = json.loads(engine.inspect(container, "{{json .Config.Healthcheck.Test}}"))
    assert command[0] == "CMD"
    return engine.call("exec", container, *command[1:], check=False).returncode == 0


def until_ready(engine: Engine, container: str, host: str) -> None:
    """Wait until a host answers."""
    script = f"for try in $(seq 100); do shmbridge ls --name {host} --json | grep -q READY && exit; sleep 0.2; done; exit 1"
    engine.call("exec", container, "bash", "-c", script)


def test_the_sizes_are_told(engine: Engine, side: str, image: str, capsys: pytest.CaptureFixture[str]) -> None:
    nbytes, base = (int(engine.inspect(name, "{{.Size}}")) for name in (image, BASE))
    with capsys.disabled():
        print(f"\n{side}: {nbytes / 1e6:.0f} MB, of which the base image has {base / 1e6:.0f} MB")
    assert nbytes > base


def test_nothing_of_the_build_is_left(engine: Engine, image: str) -> None:
    script = f"""
        command -v {" ".join(NEVER)}
        find / -xdev \\( -name '*.deb' -o -name '*.whl' \\) ! -path '/usr/local/lib/python3*/ensurepip/*' 2>/dev/null
        find /root/.cache /tmp/.cache /tmp /source /project /var/lib/apt/lists /var/cache/apt -type f ! -name lock 2>/dev/null
        true"""
    assert inside(engine, image, script, "--user", "0:0") == ""


def test_a_side_has_its_own_packages_and_none_of_the_others(engine: Engine, side: str, image: str) -> None:
    names = [*OWN[side], *OTHERS[side]]
    found = inside(engine, image, f"python -c 'import importlib.util as u; print(*(n for n in {json.dumps(names)} if u.find_spec(n)))'")
    assert found.split() == list(OWN[side])


def test_what_is_installed_fits_together(engine: Engine, image: str) -> None:
    assert "No broken requirements" in inside(engine, image, "python -m pip check")


def test_every_version_is_pinned(engine: Engine, side: str, image: str) -> None:
    lines = (ROOT / "docker" / f"constraints-{side}.txt").read_text().splitlines()
    pinned = {line.partition(";")[0].strip().lower() for line in lines if not line.startswith("#")}
    found = {line.lower() for line in inside(engine, image, "python -m pip list --format=freeze").split()}
    assert {line for line in found - pinned if not line.startswith(("pip==", "shmbridge==", "torch=="))} == set()


def test_the_image_says_whose_it_is_and_runs_as_a_user_without_rights(engine: Engine, side: str, image: str) -> None:
    config = json.loads(engine.inspect(image, "{{json .Config}}"))
    assert config["User"] == "1000:1000"
    assert config["Entrypoint"] == ["tini", "--", "shmbridge"]
    assert config["WorkingDir"] == "/tmp"
    assert config["Labels"]["org.opencontainers.image.title"] == f"shmbridge-{side}"
    assert inside(engine, image, "id -u; id -un").split() == ["1000", "shmbridge"]


@pytest.mark.parametrize("user", ["1000:1000", "54321:54321", "0:0"])
def test_doctor_is_content_with_any_user_a_read_only_root_no_capabilities_and_no_network(engine: Engine, image: str, volume: str, user: str) -> None:
    finished = engine.call("run", "--rm", *HARDENED, "--user", user, "--volume", f"{volume}:/dev/shm", image, "doctor", "--json", check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert json.loads(finished.stdout)["problems"] == 0


def test_a_session_needs_no_name_no_rights_and_no_writable_root(engine: Engine, start: Start, simulator_image: str, volume: str) -> None:
    user = ("--user", "54321:54321")
    start("serve", "--name", "there", "--policy_type", "zero", options=user)
    words = ("run", "--rm", *HARDENED, *user, "--volume", f"{volume}:/dev/shm", "--entrypoint", "python", simulator_image, "-c", CLIENT)
    assert engine.call(*words).stdout.strip() == "[[0.0], [0.0], [0.0]]"


def test_the_library_renders_under_any_user(engine: Engine, simulator_image: str) -> None:
    script = "shmbridge run --describe --enable_cameras --headless --json metaworld --task drawer-open-v3"
    assert '"bytes_at_most"' in inside(engine, simulator_image, script, *HARDENED[:-4], "--tmpfs", "/tmp", "--user", "54321:54321")


@pytest.mark.parametrize("words", [["--name", "mine"], ["--name=mine"], ["--name", "first", "--name", "mine"]])
def test_a_host_of_any_name_is_healthy(engine: Engine, start: Start, words: list[str]) -> None:
    host = start("serve", *words, "--policy_type", "zero")
    until_ready(engine, host, "mine")
    assert is_healthy(engine, host)


def test_a_host_under_an_init_process_is_healthy(engine: Engine, start: Start) -> None:
    host = start("serve", "--name", "mine", "--policy_type", "zero", options=("--init",))
    until_ready(engine, host, "mine")
    assert is_healthy(engine, host)


def test_a_host_is_not_blamed_for_a_neighbour_that_it_cannot_ask(engine: Engine, start: Start) -> None:
    neighbour = start("serve", "--name", "neighbour", "--policy_type", "zero", options=("--user", "54321:54321"))
    until_ready(engine, neighbour, "neighbour")
    host = start("serve", "--name", "mine", "--policy_type", "zero")
    until_ready(engine, host, "mine")
    engine.call("exec", host, "bash", "-c", "! shmbridge ls")
    assert is_healthy(engine, host)


def test_a_container_without_a_host_is_not_healthy(engine: Engine, start: Start) -> None:
    assert not is_healthy(engine, start("600", options=("--entrypoint", "sleep")))


def test_the_engine_itself_says_healthy(engine: Engine, start: Start) -> None:
    host = start("serve", "--policy_type", "zero")
    until_ready(engine, host, "default")
    if engine.name == "podman":  # has no clock of its own
        engine.call("healthcheck", "run", host)
    end = time.monotonic() + 60
    while engine.inspect(host, "{{.State.Health.Status}}") != "healthy":
        assert time.monotonic() < end, engine.inspect(host, "{{json .State.Health}}")
        time.sleep(0.2)


def foreign(engine: Engine, words: str, before: str) -> tuple[int, str]:
    """Install into a Python that has packages of its own, in a bare container; return the status of install.sh and all that was printed."""
    options, given = [], shlex.split(os.environ.get(BUILD_WORDS, ""))
    for flag, value in itertools.pairwise(given):  # what a build needs to find packages, this needs too
        if flag in ("-v", "--volume"):
            options += ["--volume", value]
    script = FOREIGN.format(words=words, before=before)
    call = ("run", "--rm", "--network", "host", *options, "--volume", f"{ROOT}:/source:ro", BASE, "bash", "-c", script)
    finished = engine.call(*call, timeout=280.0)
    said = finished.stdout + finished.stderr
    return int(said.partition("\nstatus ")[2].split()[0]), said


def test_a_foreign_python_keeps_its_versions_and_a_part_that_cannot_be_had_is_left_out(engine: Engine) -> None:
    status, said = foreign(engine, "--group base --with rich,flash-attn", "/tmp/foreign/bin/python -m pip install --quiet numpy==1.26.4")
    assert status == 0, said
    assert "numpy==1.26.4\n" in said
    assert "\nshmbridge==" in said
    assert "rich==" in said
    assert "install.sh: installed: base rich" in said
    assert said.count("left out: flash-attn (") == 2, said  # when it happens, and at the end


def test_where_the_versions_of_a_foreign_python_do_not_fit_nothing_is_upgraded(engine: Engine) -> None:
    status, said = foreign(engine, "--group base --only dependencies", OLD_NUMPY)
    assert status == 1, said
    assert "numpy==1.21.0\n" in said
    assert "\nmsgspec==" not in said
    assert "keeps its versions" in said
