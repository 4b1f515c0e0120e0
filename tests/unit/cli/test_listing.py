"""What ``policies`` and ``envs`` print."""

from __future__ import annotations

import pytest

from shmbridge.cli import listing
from shmbridge.policy import Policy
from shmbridge.registry import Registry
from shmbridge.testing import MarkingPolicy


def words_of(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_flags_that_listings_do_not_have_are_wrong_calls():
    for command in (listing.policies, listing.environments):
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
