"""What is found out about a host: from its files, and from itself."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from descriptions import answering, description
from machines import make_surroundings

from shmbridge.cli import doctor_peer
from shmbridge.cli.doctor_peer import look_at_peer
from shmbridge.errors import AuthenticationError, HostNotFoundError, RemoteProtocolError, SegmentError, SpecError, TimedOutError
from shmbridge.host import serve
from shmbridge.memory import posix
from shmbridge.memory.naming import lock_path, socket_path
from shmbridge.testing import MarkingPolicy


def test_a_host_that_answers_tells_where_it_runs(unique_name):
    with serve(MarkingPolicy, f"shm://{unique_name}"):
        peer = look_at_peer(unique_name, 5.0)
    assert peer.told is not None and peer.told.name == unique_name
    assert peer.there is not None and peer.there.memory_id == peer.here.memory_id
    assert (peer.refusal, peer.is_held) == (None, True)
    assert peer.socket is not None and (peer.socket.uid, peer.socket.mode) == (os.geteuid(), 0o600)


def test_a_name_that_nobody_has_is_told_with_those_that_there_are(unique_name, another_name):
    Path(socket_path(another_name)).touch()
    try:
        peer = look_at_peer(unique_name, 1.0)
    finally:
        os.unlink(socket_path(another_name))
    assert isinstance(peer.refusal, HostNotFoundError)
    assert (peer.told, peer.there, peer.socket, peer.is_held) == (None, None, None, False)
    assert another_name in peer.others and unique_name not in peer.others


def test_a_dead_hosts_socket_is_held_by_nobody_and_a_living_ones_is(unique_name):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(socket_path(unique_name))
    try:
        assert look_at_peer(unique_name, 1.0).is_held is False
        descriptor = posix.lock_file(lock_path(unique_name))
        peer = look_at_peer(unique_name, 1.0)
        os.close(descriptor)
        os.unlink(lock_path(unique_name))
    finally:
        os.unlink(socket_path(unique_name))
    assert isinstance(peer.refusal, HostNotFoundError)
    assert (peer.is_held, peer.socket is not None) == (True, True)


def test_a_host_that_says_nothing_or_nonsense_is_no_error_here(unique_name):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(socket_path(unique_name))
        sock.listen()
        peer = look_at_peer(unique_name, 0.1)
    os.unlink(socket_path(unique_name))
    assert isinstance(peer.refusal, TimedOutError)
    with answering(unique_name, b"nonsense"):
        assert isinstance(look_at_peer(unique_name, 5.0).refusal, RemoteProtocolError)


def test_what_a_host_tells_of_where_it_runs_arrives(unique_name):
    there = make_surroundings(memory_id="dead-beef")
    with answering(unique_name, description(unique_name, surroundings=there), description(unique_name)):
        assert look_at_peer(unique_name, 5.0).there == there
        assert look_at_peer(unique_name, 5.0).there is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file away")
def test_another_users_lock_cannot_be_asked(unique_name):
    for path in (socket_path(unique_name), lock_path(unique_name)):
        Path(path).touch()
        os.chown(path, 987_654, 987_655)
    try:
        peer = look_at_peer(unique_name, 1.0)
    finally:
        os.unlink(socket_path(unique_name))
        os.unlink(lock_path(unique_name))
    assert peer.is_held is None
    assert peer.socket is not None and (peer.socket.uid, peer.socket.gid) == (987_654, 987_655)


def test_a_group_that_is_not_ours_is_told_as_it_is_refused(unique_name):
    assert isinstance(look_at_peer(unique_name, 1.0, 987_654).refusal, SpecError)


def test_a_folder_that_is_closed_is_no_error_here(monkeypatch, unique_name):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    def refuse_to_survey(name):
        raise SegmentError("closed")

    monkeypatch.setattr(doctor_peer, "describe_host", refuse)
    monkeypatch.setattr(doctor_peer, "survey", refuse_to_survey)
    monkeypatch.setattr(doctor_peer, "host_names", refuse)
    peer = look_at_peer(unique_name, 1.0)
    assert isinstance(peer.refusal, PermissionError)
    assert (peer.is_held, peer.others) == (None, ())
    assert not isinstance(peer.refusal, AuthenticationError)
