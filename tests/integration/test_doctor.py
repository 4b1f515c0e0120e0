"""``doctor --peer`` on two sides: real hosts in the same /dev/shm and in another, living, stopped and killed."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from helpers import Child, run_python

from shmbridge.memory.leftovers import collect

Start = Callable[..., Child]
COMMAND = """
import sys
from shmbridge.cli import main
print("status", main(sys.argv[1:]))
"""
HOST = """
import sys
import shmbridge
from shmbridge.memory.mounts import memory_id
from shmbridge.testing import MarkingPolicy
with shmbridge.serve(MarkingPolicy, f"shm://{sys.argv[1]}", max_sessions=int(sys.argv[2])) as host:
    print("serving", memory_id())
    host.wait()
"""
ENGINES_OWN = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o mode=1777,size=64m shm /dev/shm && exec "$@"', "sh"]
"""A /dev/shm as a container engine makes it."""
NAMESPACE = ["unshare", "-m"]


def diagnose(*words: str, prefix: Sequence[str] = ()) -> tuple[int, dict[str, Any], list[str]]:
    """Return the doctor's status, its document, and the kinds of problems."""
    out = run_python(COMMAND, "doctor", "--json", *words, prefix=prefix)
    document, _, status = out.rpartition("status ")
    found = json.loads(document)
    return int(status), found, [finding["slug"] for finding in found["findings"] if finding["level"] == "problem"]


@pytest.fixture
def host(start: Start, unique_name: str) -> Iterator[Child]:
    """A host of one client."""
    child = start(HOST, unique_name, 1)
    child.expect("serving")
    yield child
    child.kill()
    collect(unique_name)


def finding(document: dict[str, Any], check: str) -> dict[str, str]:
    (found,) = [one for one in document["findings"] if one["check"] == check]
    return found


def test_a_host_on_this_side_is_known_as_such(host: Child, unique_name: str) -> None:
    status, found, problems = diagnose("--peer", unique_name)
    assert (status, problems) == (0, [])
    assert "runs on this side" in finding(found, "side")["found"]


@pytest.mark.needs_root
def test_a_host_in_another_mount_namespace_with_the_same_memory_is_on_the_other_side(host: Child, unique_name: str) -> None:
    status, found, problems = diagnose("--peer", unique_name, prefix=NAMESPACE)
    assert (status, problems) == (0, [])
    assert found["memory_id"] in finding(found, "same memory")["found"]
    assert "another container" in finding(found, "side")["found"]


@pytest.mark.needs_root
def test_a_host_in_another_memory_is_not_here_and_the_ids_differ(start: Start, unique_name: str) -> None:
    there = start(HOST, unique_name, 1, prefix=ENGINES_OWN).expect("serving")
    status, found, problems = diagnose("--peer", unique_name, prefix=ENGINES_OWN)
    assert (status, problems) == (1, ["private-memory"])
    assert found["memory_id"] != there


def test_places_that_are_taken_are_told_with_who_has_them(start: Start, host: Child, unique_name: str) -> None:
    client = start(
        "import sys, numpy, shmbridge\n"
        "with shmbridge.connect(f'shm://{sys.argv[1]}', example={'mark': numpy.zeros(1)}, num_envs=1):\n"
        "    print('connected')\n"
        "    sys.stdin.read()",
        unique_name,
    )
    client.expect("connected")
    status, found, problems = diagnose("--peer", unique_name)
    assert (status, problems) == (1, ["no-place"])
    assert f"client {client.pid} on" in finding(found, "places")["found"]


def test_a_stopped_host_and_a_killed_one_are_told_apart(host: Child, unique_name: str) -> None:
    host.process.send_signal(signal.SIGSTOP)
    assert diagnose("--peer", unique_name)[2] == ["silent-host"]
    host.kill()
    status, _, problems = diagnose("--peer", unique_name)
    assert (status, problems) == (1, ["dead-host"])
    run_python(COMMAND, "gc", "--name", unique_name)
    assert diagnose("--peer", unique_name)[2] == ["no-host"]
