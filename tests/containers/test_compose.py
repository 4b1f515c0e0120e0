"""docker/compose.yaml brought up by docker compose or podman-compose, whichever belongs to the engine."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from engine import ROOT, Engine, run

FILE = ROOT / "docker" / "compose.yaml"
SUCCESS = "Metrics: {'success_rate': 1.0, 'num_episodes': 2}"
NAMESPACES = ("ipc", "mnt", "net", "pid")
# Ends at SIGTERM, which the kernel keeps from the first process of a container unless it asks for it.
IDLE = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {15}); signal.sigwait({15})"
IDLING = json.dumps({"services": {side: {"entrypoint": ["python", "-c", IDLE]} for side in ("policy", "simulator")}})
TELL_NAMESPACES = f"import os; print(*(os.readlink(f'/proc/self/ns/{{kind}}') for kind in {NAMESPACES}))"
TELL_MEMORY = "import os; print(os.stat('/dev/shm').st_dev, open('/dev/shm/note').read())"
TELL_RIGHTS = "print(*(line.split()[1] for line in open('/proc/self/status') if line.startswith(('Uid', 'CapBnd', 'CapEff', 'NoNewPrivs'))))"
WRITE_ROOT = "open('/opt/note', 'w')"
RUN_IN_TMP = "import os, subprocess; open('/tmp/x', 'w').write('#!/bin/sh\\n'); os.chmod('/tmp/x', 0o700); subprocess.run('/tmp/x', check=True)"
TELL_RINGS = """
import json, pathlib
lines = [line.split() for maps in pathlib.Path("/proc").glob("[0-9]*/maps") for line in maps.read_text().splitlines() if "/dev/shm/#" in line]
bounds = [[int(bound, 16) for bound in line[0].split("-")] for line in lines]
print(json.dumps({" ".join(line[3:5]): [end - begin, line[1]] for line, (begin, end) in zip(lines, bounds)}))
"""
"""Prints the memory without a name that any process of a container has mapped: by device and inode, its size and the rights."""
CAMERA_BYTES = 480 * 640 * 3
_UP_SECONDS = 240.0


class Project(NamedTuple):
    """One project of compose: its command, and its variables."""

    engine: Engine
    command: list[str]
    name: str
    variables: dict[str, str]

    def call(self, *words: str | Path, overlays: tuple[Path, ...] = (), check: bool = True) -> subprocess.CompletedProcess[str]:
        files = [word for file in (FILE, *overlays) for word in ("--file", file)]
        return run([*self.command, "--project-name", self.name, *files, *words], timeout=_UP_SECONDS, check=check, env=self.variables)

    def evaluate(self, *overlays: Path) -> tuple[int, str]:
        """Bring both up until the runner has ended; return its status and what was printed."""
        ended = self.call("up", "--exit-code-from", "simulator", overlays=overlays, check=False)
        return ended.returncode, ended.stdout + ended.stderr

    def container(self, side: str) -> str:
        labels = ["--filter", f"label=com.docker.compose.project={self.name}", "--filter", f"label=com.docker.compose.service={side}"]
        return self.engine.call("ps", "--all", *labels, "--format", "{{.Names}}").stdout.strip()

    def python(self, side: str, source: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.engine.call("exec", self.container(side), "python", "-c", source, check=check)

    def down(self) -> None:
        self.call("down", "--volumes", check=False)

    def left(self) -> list[str]:
        """What the engine still has of it."""
        kinds = {
            "container": ["ps", "--all", "--format", "{{.Names}}"],
            "volume": ["volume", "ls", "--quiet"],
            "network": ["network", "ls", "--format", "{{.Name}}"],
        }
        found = [line for words in kinds.values() for line in self.engine.call(*words).stdout.splitlines()]
        return [line for line in found if self.name in line]


@pytest.fixture
def project(engine: Engine, unique: Callable[[str], str], policy_image: str, simulator_image: str) -> Iterator[Project]:
    command = ["docker", "compose"] if engine.name == "docker" else ["podman-compose"]
    if shutil.which(command[0]) is None or run([*command, "version"], check=False).returncode:
        pytest.skip(f"{' '.join(command)} is not installed")
    made = Project(engine, command, unique("compose"), {"POLICY_IMAGE": policy_image, "SIMULATOR_IMAGE": simulator_image, "NUM_EPISODES": "2"})
    yield made
    made.down()
    assert made.left() == []


def overlay(name: str) -> Path:
    return FILE.with_name(f"compose.{name}.yaml")


def rings(project: Project, side: str) -> dict[str, list[Any]]:
    """The rings of a running session as one side has them; empty before and after."""
    asked = project.python(side, TELL_RINGS, check=False)
    return json.loads(asked.stdout) if asked.returncode == 0 else {}


def until_rings(project: Project, running: Future[tuple[int, str]]) -> list[dict[str, list[Any]]]:
    """Wait until both sides have mapped rings while ``running`` goes on; return the policy's and the simulator's."""
    found: list[dict[str, list[Any]]] = [{}, {}]
    while not (len(found[0]) == len(found[1]) == 2):
        assert not running.done(), f"the last rings seen were {found}; {running.result()}"
        found = [rings(project, side) for side in ("policy", "simulator")]
    return found


def test_the_demo_succeeds_between_two_services_in_the_very_same_memory_and_down_leaves_nothing(project: Project) -> None:
    with ThreadPoolExecutor(1) as beside:
        running = beside.submit(project.evaluate)
        there, here = until_rings(project, running)
        status, said = running.result()
    assert status == 0 and SUCCESS in said, said
    assert there.keys() == here.keys(), "they have not the same memory"
    camera, answers = sorted(there, key=lambda ring: there[ring][0], reverse=True)
    assert here[camera][0] > 2 * CAMERA_BYTES and (here[camera][1], there[camera][1]) == ("rw-s", "r--s"), "the policy reads what the camera wrote"
    assert (here[answers][1], there[answers][1]) == ("r--s", "rw-s"), "and the simulator what the policy answered"
    project.down()
    assert project.left() == []


def test_the_runners_status_is_that_of_up(project: Project) -> None:
    project.variables["TASK"] = "no-such-task"
    status, said = project.evaluate()
    assert status == 1 and "no-such-task" in said, said


def test_two_users_who_share_a_group_share_the_memory_and_results_are_in_the_folder_that_was_named(project: Project, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    project.variables.update(EVAL_FOLDER=str(tmp_path), RUN_UID="4242", RUN_GID="4242")
    status, said = project.evaluate(overlay("two-users"))
    assert status == 0 and SUCCESS in said, said
    assert [project.engine.inspect(project.container(side), "{{.Config.User}}") for side in ("policy", "simulator")] == ["1001:1001", "4242:4242"]
    assert (tmp_path / "report.json").stat().st_uid == 4242


def test_both_have_namespaces_of_their_own_and_no_rights_but_the_same_memory_which_survives_a_restart(project: Project, tmp_path: Path) -> None:
    idling = tmp_path / "idling.yaml"
    idling.write_text(IDLING)
    project.call("up", "--detach", overlays=(idling,))
    there, here = (project.python(side, TELL_NAMESPACES).stdout.split() for side in ("policy", "simulator"))
    assert len(there) == len(NAMESPACES) and not set(there) & set(here)
    for side in ("policy", "simulator"):
        assert project.python(side, TELL_RIGHTS).stdout.split() == ["1000", "0000000000000000", "0000000000000000", "1"]
        assert "Read-only file system" in project.python(side, WRITE_ROOT, check=False).stderr
        project.python(side, RUN_IN_TMP)
    project.python("policy", "open('/dev/shm/note', 'w').write('kept')")
    seen = project.python("simulator", TELL_MEMORY).stdout
    assert seen.split()[1] == "kept"
    for side in ("policy", "simulator"):
        project.engine.call("restart", project.container(side))
        assert [project.python(each, TELL_MEMORY).stdout for each in ("policy", "simulator")] == [seen, seen]


def test_the_ipc_overlay_shares_the_policys_own_memory(project: Project) -> None:
    if project.engine.name != "docker":
        pytest.skip("podman-compose 1.6 ignores 'ipc:'")
    status, said = project.evaluate(overlay("ipc"))
    assert status == 0 and SUCCESS in said, said
