"""Who may share a host: its own user, and with ``--shm_group`` a group's members. Nobody else, root included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pytest
from boxes import FILES, Box, Boxes

GROUP = ("--shm_group", "2000")
SOCKET = "/dev/shm/shmbridge.default.sock"
ANOTHER = "--user=1001:1001"
MEMBER = "--group-add=2000"


def test_one_user_on_both_sides_whoever_it_is(boxes: Boxes) -> None:
    user = "--user=4321:4321"
    host = boxes.ready_host(options=(*boxes.shared, user))
    assert boxes.client("once", options=(*boxes.shared, user)).ended()["event"] == "answered"
    assert host.run("stat", "--format=%a %u", SOCKET).split() == ["600", "4321"]


@pytest.mark.parametrize("umask", ["077", "777"])
def test_two_users_of_one_group_may_share_whatever_the_umask(boxes: Boxes, umask: str) -> None:
    host = _group_host(boxes, umask)
    answered = boxes.client("once", "--camera_bytes", "921600", *GROUP, options=(*boxes.shared, ANOTHER, MEMBER)).ended()
    assert answered["event"] == "answered", answered
    assert host.run("stat", "--format=%a %g", SOCKET).split() == ["660", "2000"]
    host.until_nothing_but(FILES)


def test_member_of_the_group_cannot_write_what_it_may_only_read(boxes: Boxes) -> None:
    _group_host(boxes)
    rings = boxes.client("descriptors", *GROUP, options=(*boxes.shared, ANOTHER, MEMBER)).ended()
    assert rings["action"] == [], f"the actions can be written by: {rings}"
    assert "map" in rings["observation"], "the observations are the client's to write"


def test_host_maps_the_observations_of_another_user_to_read_only(boxes: Boxes) -> None:
    host = _group_host(boxes)
    client = boxes.client("play", *GROUP, options=(*boxes.shared, ANOTHER, MEMBER))
    client.until_told("answered")
    # One line per mapping of a ring: "7f… rw-s … /dev/shm/#123 (deleted)". The host has the observations and the actions, one of them to write.
    rights = {name: _rights(box) for name, box in (("host", host), ("client", client))}
    assert rights == {"host": ["r--s", "rw-s"], "client": ["r--s", "rw-s"]}


class Refusal(NamedTuple):
    """A client that is refused: its user, its flags, the error, and what the text must name."""

    user: Sequence[str]
    words: Sequence[str]
    error: str
    named: Sequence[str]


def test_host_without_a_group_refuses_others_by_user_file_and_flag(boxes: Boxes) -> None:
    boxes.ready_host(options=(*boxes.shared, MEMBER))
    _check_refusals(
        boxes,
        Refusal((ANOTHER,), (), "AuthenticationError", ("uid 1001", "uid 1000", SOCKET, "--user", "--shm_group")),
        Refusal((ANOTHER, MEMBER), GROUP, "AuthenticationError", ("uid 1001", "uid 1000", SOCKET, "--user", "--shm_group")),
        Refusal(("--user=0:0",), (), "AuthenticationError", ("root (uid 0)", "uid 1000", SOCKET, "--user", "--shm_group")),
    )


def test_host_with_a_group_refuses_others_by_user_file_and_flag(boxes: Boxes) -> None:
    boxes.ready_host(*GROUP, options=(*boxes.shared, MEMBER))
    _check_refusals(
        boxes,
        Refusal((ANOTHER, MEMBER), (), "AuthenticationError", ("uid 1001", "uid 1000", SOCKET, "--shm_group 2000")),
        Refusal((ANOTHER,), (), "AuthenticationError", ("uid 1001", "uid 1000", SOCKET, "--group-add 2000", "--shm_group 2000")),
        Refusal((ANOTHER,), GROUP, "SpecError", ("--shm_group 2000", "no member", "--group-add")),
        Refusal(("--user=0:0",), (), "AuthenticationError", ("root (uid 0)", "uid 1000", SOCKET, "--group-add 2000", "--shm_group 2000")),
    )


def test_host_that_is_no_member_of_its_group_ends_and_says_how_to_become_one(boxes: Boxes) -> None:
    host = boxes.host(*GROUP)
    assert host.wait() != 0
    assert "--group-add" in host.logs and "2000" in host.logs


def test_name_of_another_users_host_is_refused_by_owner_and_flag(boxes: Boxes) -> None:
    boxes.ready_host()
    second = boxes.host(options=(*boxes.shared, ANOTHER))
    assert second.wait() == 1
    assert "uid 1000" in second.logs and "--name" in second.logs


def _group_host(boxes: Boxes, umask: str = "022") -> Box:
    return boxes.ready_host(*GROUP, options=(*boxes.shared, MEMBER), shell=f'umask {umask}; exec "$@"')


def _rights(box: Box) -> list[str]:
    lines = box.run("cat", "/proc/1/maps").splitlines()
    return sorted(line.split()[1] for line in lines if "/dev/shm/#" in line)


def _check_refusals(boxes: Boxes, *refusals: Refusal) -> None:
    clients = [boxes.client("once", *each.words, options=(*boxes.shared, *each.user)) for each in refusals]
    for refusal, client in zip(refusals, clients, strict=True):
        refused = client.ended()
        assert (refused.get("type"), refused["status"]) == (refusal.error, 1), f"{refusal}: {refused}"
        missing = [word for word in refusal.named if word not in refused["text"]]
        assert not missing, f"{missing} not in: {refused['text']}"
    assert boxes.client("once").ended()["event"] == "answered", "the host's own user is refused now"
