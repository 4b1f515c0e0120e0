"""What ``policies``, ``envs`` and ``ls`` print."""

from __future__ import annotations

import os
import socket

import pytest

from shmbridge import serve
from shmbridge.cli import listing
from shmbridge.connecting import connect
from shmbridge.memory.naming import socket_path
from shmbridge.policy import Policy
from shmbridge.registry import Registry
from shmbridge.testing import MarkingPolicy
from shmbridge.testing.fakes import MARK


@pytest.fixture
def abandoned(unique_name):
    """The socket that a killed host leaves, and its name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bound:
        bound.bind(socket_path(unique_name))
    yield unique_name
    os.unlink(socket_path(unique_name))


@pytest.fixture
def silent(unique_name):
    """A socket that takes connections and never answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bound:
        bound.bind(socket_path(unique_name))
        bound.listen()
        yield unique_name
    os.unlink(socket_path(unique_name))


def words_of(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_dead_host_is_listed_as_dead_and_is_a_failure(abandoned, capsys):
    assert listing.hosts(["--name", abandoned]) == 1
    text = words_of(capsys)
    assert abandoned in text
    assert "dead" in text


def test_dead_host_is_found_without_its_name(abandoned, capsys):
    assert listing.hosts([]) == 1
    assert abandoned in words_of(capsys)


def test_host_that_is_not_there_is_a_failure_when_asked_for_by_name(unique_name, capsys):
    assert listing.hosts(["--name", unique_name]) == 1
    assert unique_name in words_of(capsys)


def test_silent_host_is_listed_as_such_and_is_a_failure(silent, capsys):
    assert listing.hosts(["--name", silent]) == 1
    assert "no answer" in words_of(capsys)


def test_living_host_is_listed_without_and_with_its_client(unique_name, capsys):
    with serve(MarkingPolicy(), f"shm://{unique_name}"):
        assert listing.hosts(["--name", unique_name]) == 0
        text = words_of(capsys)
        assert "READY" in text and str(os.getpid()) in text
        with connect(f"shm://{unique_name}", observation_specs=[MARK], num_envs=3) as client:
            client.act({"mark": [1.0, 2.0, 3.0]})
            assert listing.hosts(["--name", unique_name]) == 0
        assert f"client {os.getpid()}" in words_of(capsys)


def test_flags_that_listings_do_not_have_are_wrong_calls():
    for command in (listing.policies, listing.environments, listing.hosts):
        with pytest.raises(SystemExit) as ended:
            command(["--gpu"])
        assert ended.value.code == 2


def test_classes_known_by_name_are_listed_with_where_they_come_from(capsys, monkeypatch):
    known = Registry("policy", Policy, "shmbridge.no_such_group")
    known.register("marking")(MarkingPolicy)
    monkeypatch.setattr(listing, "known_policies", known)
    assert listing.policies([]) == 0
    text = words_of(capsys)
    assert "marking" in text and "shmbridge.testing.fakes:MarkingPolicy" in text


def test_listing_of_nothing_says_how_to_name_a_class(capsys, monkeypatch):
    monkeypatch.setattr(listing, "known_environments", Registry("environment", object, "shmbridge.no_such_group"))
    assert listing.environments([]) == 0
    assert "package.module:Class" in words_of(capsys)
