"""The compose files and the manifests in docker/: what they must never ask for, and whether the commands in them are ours."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from shmbridge.cli import run_flags, serve

DOCKER = Path(__file__).resolve().parents[2] / "docker"
FILES = sorted(DOCKER.glob("*.yaml"))
FORBIDDEN: dict[str, tuple[Any, ...] | None] = {
    "privileged": (True,),
    "cap_add": None,
    "add": None,  # of Kubernetes' capabilities
    "ipc": ("host",),
    "pid": None,
    "network_mode": ("host",),
    "hostIPC": (True,),
    "hostPID": (True,),
    "hostNetwork": (True,),
    "hostPath": None,
    "allowPrivilegeEscalation": (True,),
}
"""What would give a container more than it needs: by key, the values that do; None where any value does."""
STAND_IN = """
from dataclasses import dataclass
import shmbridge

@dataclass(frozen=True)
class Config:
    task: str = ""

class StandIn(shmbridge.Environment):
    config_type = Config
"""
"""An environment with the one flag that the files give to theirs, which needs MuJoCo."""
SHARED_BYTES = 512 * 2**20

if not FILES:
    pytest.skip("docker/ is not beside these tests", allow_module_level=True)


class Loader(yaml.SafeLoader):
    """Knows the tags of Compose, which say how files are merged."""


Loader.add_constructor("!override", lambda loader, node: loader.construct_sequence(node, deep=True))


def documents(path: Path) -> list[Any]:
    """The documents of one file, with the default where it names a variable."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", path.read_text(encoding="utf-8"))
    assert "${" not in text, f"{path.name}: a variable without a default"
    return list(yaml.load_all(text, Loader=Loader))


def walk(node: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, however deep."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield str(key), value
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


def forbidden(node: Any) -> Iterator[tuple[str, Any]]:
    """What in it is among :data:`FORBIDDEN`."""
    for key, value in walk(node):
        values = FORBIDDEN.get(key, ())
        if values is None or value in values:
            yield key, value


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command of shmbridge in the files, with the name of its file."""
    for path in FILES:
        for key, value in walk(documents(path)):
            if key in ("command", "args") and isinstance(value, (str, list)):
                words = shlex.split(value) if isinstance(value, str) else [str(word) for word in value]
                yield path.name, words[1:] if words[0] == "shmbridge" else words


def containers(name: str) -> dict[str, dict[str, Any]]:
    """The containers of a manifest, by name."""
    spec = documents(DOCKER / name)[-1]["spec"]
    spec = spec.get("template", {"spec": spec})["spec"]
    return {each["name"]: each for each in [*spec.get("initContainers", []), *spec["containers"]]}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_asks_for_more_than_a_container_of_its_own_has(path: Path) -> None:
    assert list(forbidden(documents(path))) == []


def test_what_is_forbidden_is_found_wherever_it_stands() -> None:
    asked = {"services": {"policy": {"ipc": "host"}}, "spec": {"containers": [{"securityContext": {"privileged": True}}], "hostPID": True}}
    assert list(forbidden(asked)) == [("ipc", "host"), ("privileged", True), ("hostPID", True)]


def test_every_container_is_locked_up() -> None:
    for service in documents(DOCKER / "compose.yaml")[0]["services"].values():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
        assert service["network_mode"] == "none" and service["user"] == "1000:1000"
        assert service["tmpfs"] == ["/tmp:exec,mode=1777"]  # docker's own default is noexec, and torch.compile loads what it compiles there
    for name in ("pod.yaml", "job.yaml"):
        for container in containers(name).values():
            locked = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
            assert container["securityContext"] == locked


@pytest.mark.parametrize(("file", "words"), list(commands()), ids=lambda each: each if isinstance(each, str) else each[0])
def test_commands_are_accepted_by_the_commands_own_parsers(tmp_path: Path, file: str, words: list[str]) -> None:
    (tmp_path / "env.py").write_text(STAND_IN)
    here = {"pixel_bc": "shmbridge_policies.zero:ZeroPolicy", "metaworld": f"{tmp_path}/env.py:StandIn"}  # without torch and MuJoCo
    command, *flags = [here.get(word, word) for word in words]
    if command == "run":
        assert run_flags.parse(flags).args.name == "default", file
    elif command == "serve":
        assert serve.main([*flags, "--check"]) == 0, file
    else:
        assert [command, *flags] == ["ls", "--name", "default"], file


def test_the_same_memory_is_shared_everywhere() -> None:
    options = documents(DOCKER / "compose.yaml")[0]["volumes"]["shm"]["driver_opts"]
    assert (options["type"], options["device"]) == ("tmpfs", "tmpfs")
    assert options["o"] == f"nr_blocks={SHARED_BYTES // 4096},mode=1777"
    assert documents(DOCKER / "compose.ipc.yaml")[0]["services"]["policy"]["shm_size"] == "512m"
    for name in ("pod.yaml", "job.yaml"):
        assert [value for key, value in walk(documents(DOCKER / name)) if key == "emptyDir" and value] == [{"medium": "Memory", "sizeLimit": "512Mi"}]
        for container in containers(name).values():
            assert {"name": "shmbridge-shm", "mountPath": "/dev/shm"} in container["volumeMounts"]


def test_a_liveness_probe_waits_for_minutes_before_it_ends_a_host() -> None:
    for name in ("pod.yaml", "job.yaml"):
        probe = containers(name)["policy"]["livenessProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] >= 600


def test_pod_and_job_differ_in_who_ends_the_host_only() -> None:
    pod, job = containers("pod.yaml"), containers("job.yaml")
    assert [word for word in pod["simulator"].pop("args") if word != "--remote_kill_on_exit"] == job["simulator"].pop("args")
    assert [*pod["policy"].pop("args"), "--no_remote_kill"] == job["policy"].pop("args")
    assert job["policy"].pop("restartPolicy") == "Always"
    assert pod == job
