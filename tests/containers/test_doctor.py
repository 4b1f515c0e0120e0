"""What the doctor says in containers that are as they should be, and in each that is not, on either side."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from boxes import Box, Boxes
from engine import Engine

USER = "--user=4321:4321"
ANOTHER = "--user=1001:1001"
MEMBER = "--group-add=2000"
PEER = ("--peer", "default")
Ask = Callable[..., "Told"]


class Told(NamedTuple):
    """What a doctor said: its exit status and its JSON document."""

    status: int
    document: dict[str, Any]

    @property
    def slugs(self) -> list[str]:
        """The kinds of all problems."""
        return [finding["slug"] for finding in self.document["findings"] if finding["level"] == "problem"]

    def check(self, name: str) -> dict[str, str]:
        """The finding about ``name``."""
        (found,) = [finding for finding in self.document["findings"] if finding["check"] == name]
        return found


@pytest.fixture
def ask(engine: Engine, simulator_image: str) -> Ask:
    """Asks the doctor in a new container of the simulator's image."""

    def run(*words: str, options: Sequence[str]) -> Told:
        asked = engine.call("run", "--rm", "--network=none", *options, simulator_image, "doctor", "--json", *words, check=False)
        assert asked.stdout, asked.stderr
        return Told(asked.returncode, json.loads(asked.stdout))

    return run


def test_two_sides_of_one_volume_print_one_memory_id_and_say_on_which_side_they_are(ask: Ask, boxes: Boxes) -> None:
    host = boxes.ready_host(options=(*boxes.shared, USER))
    told = ask(*PEER, options=(*boxes.shared, USER))
    assert (told.status, told.slugs) == (0, []), told
    assert re.fullmatch("[0-9a-f]{4}-[0-9a-f]{4}", told.document["memory_id"])
    assert told.check("same memory")["found"] == f"yes: memory id {told.document['memory_id']} on both sides"
    assert "another container" in told.check("side")["found"]
    own = _ask_inside(host, *PEER)
    assert (own.status, own.document["memory_id"]) == (0, told.document["memory_id"])
    assert "runs on this side" in own.check("side")["found"] and "shmbridge doctor --peer default" in own.check("side")["do"]


def test_private_memories_differ_in_their_ids_and_each_side_says_how_to_share(ask: Ask, boxes: Boxes) -> None:
    host = boxes.ready_host(options=())
    told = ask(*PEER, options=())
    assert (told.status, told.slugs) == (1, ["private-memory"]), told
    found = told.check("host default")
    for part in ("-v shmbridge-shm:/dev/shm", "type=tmpfs", "shmbridge doctor --peer default", told.document["memory_id"]):
        assert part in found["do"]
    assert _ask_inside(host).document["memory_id"] != told.document["memory_id"]


def test_memory_joined_by_ipc_is_one_memory(ask: Ask, boxes: Boxes) -> None:
    host = boxes.ready_host(options=("--ipc=shareable", "--shm-size=128m"))
    told = ask(*PEER, options=(f"--ipc=container:{host.name}",))
    assert (told.status, told.slugs) == (0, []), told
    assert told.document["memory_id"] == _ask_inside(host).document["memory_id"]


def test_another_user_is_told_both_users_the_file_and_the_flags(ask: Ask, boxes: Boxes) -> None:
    boxes.ready_host(options=(*boxes.shared, USER))
    for options in ((ANOTHER,), ("--user=0:0",)):
        told = ask(*PEER, options=(*boxes.shared, *options))
        assert (told.status, told.slugs) == (1, ["other-user"]), told
        found = told.check("host default")
        for part in ("4321", options[0].removeprefix("--user=").partition(":")[0], "/dev/shm/shmbridge.default.sock", "0600"):
            assert part in found["found"]
        assert "--user" in found["do"] and "--shm_group" in found["do"]


def test_two_users_of_a_group_are_told_by_which_they_share(ask: Ask, boxes: Boxes) -> None:
    boxes.ready_host("--shm_group", "2000", options=(*boxes.shared, USER, MEMBER))
    told = ask(*PEER, "--shm_group", "2000", options=(*boxes.shared, ANOTHER, MEMBER))
    assert (told.status, told.slugs) == (0, []), told
    assert "they share by group 2000" in told.check("users")["found"]
    forgotten = ask(*PEER, options=(*boxes.shared, ANOTHER, MEMBER))
    assert forgotten.slugs == ["other-user"] and "--shm_group 2000" in forgotten.check("host default")["do"]


def test_host_that_is_paused_and_one_that_was_killed_are_told_apart(ask: Ask, boxes: Boxes) -> None:
    boxes.watcher()  # or the volume would be empty once the host is gone
    host = boxes.ready_host(options=(*boxes.shared, USER))
    host.call("pause")
    assert ask(*PEER, options=(*boxes.shared, USER)).slugs == ["silent-host"]
    host.call("unpause")
    host.call("kill")
    host.wait()
    told = ask(*PEER, options=(*boxes.shared, USER))
    assert (told.status, told.slugs) == (1, ["dead-host"])
    assert (told.check("leftovers")["slug"], told.check("leftovers")["do"]) == ("leftovers", "shmbridge gc")
    assert "of user 4321" in ask(options=(*boxes.shared, ANOTHER)).check("others' files")["found"]


def test_limit_of_the_hosts_memory_is_told_to_the_other_side(ask: Ask, boxes: Boxes) -> None:
    boxes.ready_host(options=(*boxes.shared, USER, "--memory=150m"))
    assert "of 157.3 MB" in ask(*PEER, options=(*boxes.shared, USER)).check("room there")["found"]


def test_disk_under_the_shared_memory_is_told(ask: Ask, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    told = ask(options=("--volume", f"{tmp_path}:/dev/shm"))
    assert told.status == 1 and "disk" in told.slugs
    assert "type=tmpfs" in told.check("/dev/shm")["do"]


def test_volume_that_cannot_be_written_is_told(ask: Ask, volume: str) -> None:
    told = ask(options=("--volume", f"{volume}:/dev/shm:ro"))
    assert told.status == 1 and "read-only" in told.slugs


def test_container_without_shared_memory_is_told(ask: Ask) -> None:
    told = ask(*PEER, options=("--ipc=none",))
    assert (told.status, told.slugs, told.document["memory_id"]) == (1, ["no-memory"], None)


def test_one_core_and_a_small_memory_are_told_and_no_failure(ask: Ask) -> None:
    told = ask(options=("--cpuset-cpus=0", "--read-only"))
    assert told.status == 0
    assert {finding["slug"] for finding in told.document["findings"] if finding["level"] == "warning"} == {"one-core", "small-memory"}


def _ask_inside(box: Box, *words: str) -> Told:
    return Told(0, json.loads(box.run("shmbridge", "doctor", "--json", *words)))
