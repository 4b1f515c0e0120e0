"""Both containers without privileges, a writable root or a network; and shmbridge as their first process, which nobody else cares for."""

from __future__ import annotations

import json
import time

import pytest
from boxes import FILES, WATCHDOG_SECONDS, Box, Boxes

HARDENED = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--tmpfs=/tmp", "--pids-limit=64")
"""Beside ``--network=none``, which all containers of these tests have."""
INIT: tuple[str, ...] = ()
ALONE = ("--entrypoint=shmbridge",)
ZOMBIES = """
import json, pathlib
found = []
for status in pathlib.Path("/proc").glob("[0-9]*/status"):
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    found += [fields["Name"].strip()] if fields["State"].split()[0] == "Z" else []
print(json.dumps(found))
"""


def test_session_without_privileges_writable_root_or_network(boxes: Boxes) -> None:
    options = (*boxes.shared, *HARDENED)
    host = boxes.ready_host(options=options)
    answered = boxes.client("once", "--camera_bytes", "921600", options=options).ended()
    assert (answered["event"], answered["status"]) == ("answered", 0), answered
    host.until_nothing_but(FILES)


def test_evaluation_without_privileges_writable_root_or_network(boxes: Boxes) -> None:
    options = (*boxes.shared, *HARDENED)
    host = boxes.ready_host(options=options)
    runner = boxes.runner("--num_envs", "2", "--num_episodes", "4", "--remote_kill_on_exit", options=options)
    assert runner.wait() == 0, runner.logs
    assert "Metrics: {'success_rate': 1.0" in runner.logs
    assert host.wait() == 0, "the host that was stopped by its client ends with status 0"


@pytest.mark.parametrize("side", ["host", "runner"])
@pytest.mark.parametrize("first", [INIT, ALONE], ids=["behind the image's init", "as the first process"])
def test_stop_ends_a_container_at_once(boxes: Boxes, first: tuple[str, ...], side: str) -> None:
    options = (*boxes.shared, *first)
    host, runner = boxes.ready_host(options=options), boxes.runner("--num_steps", "1000000", options=options)
    host.until_said("begins: 1 environment")
    box = host if side == "host" else runner
    ending = box.end("stop", "-t", "60")
    print(f"the {side} ended {ending.gone - ending.asked:.2f} s after the engine was asked to stop it")
    assert box.state["ExitCode"] == 143, box.logs
    if side == "runner":
        host.until_said("ended: it said goodbye")
    assert host.state["Status"] == ("exited" if side == "host" else "running")


@pytest.mark.parametrize("first", [INIT, ALONE], ids=["behind the image's init", "as the first process"])
def test_session_leaves_no_zombies(boxes: Boxes, first: tuple[str, ...]) -> None:
    host, client = boxes.ready_host(options=(*boxes.shared, *first)), boxes.client("play")
    client.until_told("answered")
    host.run("shmbridge", "ls")
    host.run("shmbridge", "doctor")
    assert (_zombies(host), _zombies(client)) == ([], [])


def test_images_init_reaps_what_others_leave(boxes: Boxes) -> None:
    host = boxes.ready_host()
    host.run("sh", "-c", "(true & sleep 0.1) &")
    end = time.monotonic() + WATCHDOG_SECONDS
    while left := _zombies(host):
        assert time.monotonic() < end, f"zombies: {left}"
        time.sleep(0.1)


def _zombies(box: Box) -> list[str]:
    found: list[str] = json.loads(box.run("python", "-c", ZOMBIES))
    return found
