"""What is made of a host, and of one that cannot be reached."""

from __future__ import annotations

import dataclasses

import pytest
from descriptions import client, description
from machines import MB, make_folder, make_machine, make_surroundings

from shmbridge.cli.doctor_findings import Level, Slug
from shmbridge.cli.doctor_peer import Peer, SocketFile
from shmbridge.cli.doctor_peer_checks import check_peer
from shmbridge.errors import AuthenticationError, ClosedError, HostNotFoundError, RemoteProtocolError, SpecError, TimedOutError
from shmbridge.memory.capacity import Room
from shmbridge.memory.mounts import Mount
from shmbridge.messages import HostState, Status

HERE = make_surroundings()
THERE = make_surroundings(mounts="mnt:[7]")
SOCKET = SocketFile(987_654, 987_655, 0o660)
NOBODY = HostNotFoundError("nobody")


def reached(*clients, there=THERE, here=HERE, **changes):
    """Return what was made of a host that answers, by what was looked at."""
    told = description("pair", *clients, surroundings=there, **changes)
    return {finding.check: finding for finding in check_peer(make_machine(), Peer("pair", here, SOCKET, True, told))}


def unreached(refusal, folder=None, **changes):
    """Return what was made of one that does not."""
    (finding,) = check_peer(make_machine(folder), Peer("pair", HERE, refusal=refusal, **changes))
    assert (finding.check, finding.level) == ("host pair", Level.PROBLEM)
    assert finding.why and finding.do
    return finding


def test_two_sides_that_fit_have_no_problem_and_say_what_they_share():
    findings = reached()
    assert {finding.level for finding in findings.values()} == {Level.OK}
    assert findings["same memory"].found == "yes: memory id 0123-4567 on both sides"
    assert findings["side"].found.startswith("the host runs in another container")
    assert findings["versions"].found == "shmbridge 1.2 on both sides"
    assert findings["C libraries"].found == "glibc 2.36 on both sides"
    assert findings["users"].found == "both sides run as 987600"
    assert findings["places"].found == "0 of 4 clients"
    assert "8.0 GB free of 9.0 GB" in findings["room there"].found
    assert "Python 3.11.7, numpy 2.0" in findings["host's system"].found


def test_on_the_hosts_own_side_it_says_so_and_what_to_do_on_the_other():
    found = reached(there=HERE)["side"]
    assert "runs on this side" in found.found
    assert "shmbridge doctor --peer pair" in found.do and "0123-4567" in found.do


def test_what_a_kernel_does_not_tell_is_no_problem():
    blind = make_surroundings(memory_id=None, mounts="", shm_free=None, shm_total=None)
    findings = reached(there=blind, here=blind)
    assert {finding.level for finding in findings.values()} == {Level.OK}
    assert "reached through it" in findings["same memory"].found
    assert "cannot be told" in findings["side"].found


STATES = {
    HostState.LOADING: (Level.OK, "--remote_start_timeout_ms"),
    HostState.WARMING_UP: (Level.OK, "--remote_start_timeout_ms"),
    HostState.BUSY: (Level.OK, "No session was tried"),
    HostState.FAILED: (Level.PROBLEM, "no weights\\x1b"),
}


@pytest.mark.parametrize("state", STATES)
def test_what_a_host_does_is_told(state):
    level, text = STATES[state]
    found = reached(status=Status(state, 12.0, "no weights\x1b"))["host pair"]
    assert (found.level, found.slug) == (level, Slug.FAILED_HOST if level is Level.PROBLEM else None)
    assert text in found.found and f"{state.value} for 12 s" in found.found


def test_places_that_are_all_taken_are_a_problem_that_names_who_has_them():
    found = reached(client("sim\x1b"), client("other", uid=987_654), max_sessions=2)["places"]
    assert (found.level, found.slug) == (Level.PROBLEM, Slug.NO_PLACE)
    assert "sim\\x1b" in found.found and "other of 987654 (idle, for 12 s)" in found.found
    assert "--max_sessions 3" in found.do


SIDES = {
    "another memory": ({"memory_id": "dead-beef"}, "same memory", Level.PROBLEM, Slug.PRIVATE_MEMORY, "dead-beef there, 0123-4567 here", "volume create"),
    "another version": ({"version": "1.3\x1b"}, "versions", Level.WARNING, Slug.DIFFERENT_VERSIONS, "1.3\\x1b there, 1.2 here", "one version"),
    "another protocol": ({"protocol": 3}, "versions", Level.PROBLEM, Slug.DIFFERENT_VERSIONS, "protocol 3 there, 2 here", "one version"),
    "another C library": ({"libc": "musl"}, "C libraries", Level.PROBLEM, Slug.OTHER_LIBC, "musl there, glibc 2.36 here", "Alpine"),
    "little room": ({"cgroup_free": MB, "cgroup_total": 9 * MB}, "room there", Level.WARNING, Slug.MEMORY_LIMIT, "1.0 MB free of 9.0 MB", "--memory"),
}


@pytest.mark.parametrize(("changes", "check", "level", "slug", "text", "do"), SIDES.values(), ids=SIDES)
def test_host_with(changes, check, level, slug, text, do):
    findings = reached(there=make_surroundings(mounts="mnt:[7]", **changes))
    found = findings.pop(check)
    assert (found.level, found.slug) == (level, slug)
    assert text in found.found and found.why and do in found.do
    assert {finding.level for finding in findings.values()} == {Level.OK}


def test_enough_room_there_is_told_with_the_limit():
    found = reached(there=make_surroundings(cgroup_free=20 * MB, cgroup_total=30 * MB))["room there"]
    assert (found.level, "20.0 MB free of 30.0 MB" in found.found) == (Level.OK, True)


def test_two_users_who_share_by_a_group_are_told_with_it():
    found = reached(there=make_surroundings(uid=987_654, shm_group=77))["users"]
    assert (found.level, found.found) == (Level.OK, "the host runs as 987654, this side as 987600; they share by group 77 (--shm_group)")
    assert "group 78" in reached(there=make_surroundings(uid=987_654), here=make_surroundings(shm_group=78))["users"].found


def test_a_host_of_an_older_version_is_compared_as_far_as_it_goes():
    findings = reached(there=None, version="0.0.1")
    assert set(findings) == {"host pair", "places", "versions"}
    assert (findings["versions"].slug, findings["versions"].level) == (Slug.DIFFERENT_VERSIONS, Level.WARNING)
    assert "0.0.1 there, 1.2 here" in findings["versions"].found


def test_nobody_in_a_memory_that_an_engine_made_is_told_with_how_to_share_it():
    private = make_folder(mount=Mount("/dev/shm", "tmpfs", ("rw",), "shm"), room=Room("/dev/shm", 60 * MB, 64 << 20))
    found = unreached(NOBODY, private)
    assert found.slug is Slug.PRIVATE_MEMORY
    assert "nor any other" in found.found and "67.1 MB" in found.found
    for part in ("-v shmbridge-shm:/dev/shm", "    docker volume create", "type=tmpfs", "compose.yaml", "    shmbridge doctor --peer pair", "0123-4567"):
        assert part in found.do


def test_nobody_in_another_memory_is_not_started_or_elsewhere():
    found = unreached(NOBODY, others=("pear", "x"))
    assert found.slug is Slug.NO_HOST
    assert found.found == "is not in this /dev/shm; there are: pear, x; did you mean 'pear'?"
    for part in ("    shmbridge serve --name pair", "    shmbridge doctor --peer pair", "0123-4567", "-v shmbridge-shm:/dev/shm"):
        assert part in found.do


def test_without_a_folder_there_is_nothing_more_to_say():
    assert check_peer(dataclasses.replace(make_machine(), folder=None), Peer("pair", HERE, refusal=NOBODY)) == []


REFUSALS = {
    "dead": (NOBODY, False, Slug.DEAD_HOST, "shmbridge.pair.sock of user 987654 is here, but nobody listens", "shmbridge gc"),
    "dead or another's": (NOBODY, None, Slug.DEAD_HOST, "nobody listens", "as that user"),
    "full": (NOBODY, True, Slug.SILENT_HOST, "it lives, but it lets nobody in", "docker unpause"),
    "silent": (TimedOutError("late"), True, Slug.SILENT_HOST, "it lives, but it does not answer", "kill -CONT"),
    "ending": (ClosedError("it stops\x1b"), None, Slug.SILENT_HOST, "ended the talk: it stops\\x1b", "start it again"),
    "strange": (RemoteProtocolError("what?"), True, Slug.DIFFERENT_VERSIONS, "cannot be understood: what?", "one version"),
    "another's": (
        AuthenticationError("it is a's, we are b: use --shm_group 7"),
        None,
        Slug.OTHER_USER,
        "we are b (owner 987654",
        "use --shm_group 7",
    ),
    "unwilling": (AuthenticationError("the client runs as b: add"), None, Slug.OTHER_USER, "refuses: the client runs as b", "on the host's side: add"),
    "of no group of ours": (SpecError("--shm_group 7 is not ours: --group-add"), None, Slug.OTHER_USER, "--shm_group 7", "--group-add"),
    "behind a closed door": (PermissionError(13, "denied"), None, Slug.OTHER_USER, "denied", "--user UID:GID"),
}


@pytest.mark.parametrize(("refusal", "is_held", "slug", "text", "do"), REFUSALS.values(), ids=REFUSALS)
def test_host_that_is(refusal, is_held, slug, text, do):
    found = unreached(refusal, socket=SOCKET, is_held=is_held)
    assert found.slug is slug
    assert text in found.found and do in found.do
