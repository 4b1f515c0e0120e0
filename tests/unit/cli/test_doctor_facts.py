"""What is found out about this machine, and that finding it out leaves nothing."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest
from helpers import open_descriptors

from shmbridge.cli import doctor_facts
from shmbridge.cli.doctor_facts import NEEDED, PROBES, look_at_machine
from shmbridge.errors import SegmentError
from shmbridge.memory.naming import SHM
from shmbridge.version import __version__


def test_this_machine_is_described_as_it_is():
    machine = look_at_machine()
    assert machine.python == sys.version_info[:3]
    assert machine.kernel == platform.release()
    assert machine.packages["shmbridge"] == __version__
    assert {*NEEDED, "shmbridge"} == set(machine.packages)
    assert None not in machine.packages.values()
    assert 1 <= machine.allowed <= machine.cores
    assert machine.is_64_bit_little
    assert machine.memory.total > 0
    assert machine.folder is not None
    assert machine.folder.room.total > 0
    assert machine.folder.mode & 0o700
    assert machine.folder.is_open


def test_what_is_tried_works_here_and_leaves_nothing():
    before, descriptors = set(os.listdir(SHM)), open_descriptors()
    folder = look_at_machine().folder
    assert folder is not None
    assert folder.probes == dict.fromkeys(PROBES, "")
    assert not [name for name in set(os.listdir(SHM)) - before if f"doctor-{os.getpid()}-" in name]
    assert open_descriptors() == descriptors


@pytest.mark.parametrize(("owner", "name"), [("posix", "create_anonymous"), ("posix.Semaphore", "create"), ("", "LocalListener")])
def test_what_fails_when_tried_is_told_and_leaves_nothing(monkeypatch, owner, name):
    def refuse(*args, **options):
        raise OSError(95, "Operation not supported")

    target = doctor_facts
    for part in filter(None, owner.split(".")):
        target = getattr(target, part)
    monkeypatch.setattr(target, name, refuse)
    folder = look_at_machine().folder
    assert folder is not None
    assert sorted(folder.probes.values()) == ["", "", "[Errno 95] Operation not supported"]


def test_memory_that_two_mappings_see_differently_is_told(monkeypatch):
    monkeypatch.setattr(doctor_facts.posix, "map_file", lambda descriptor, size, writable: bytearray(size))
    monkeypatch.setattr(doctor_facts.posix, "unmap", lambda mapping: True)
    folder = look_at_machine().folder
    assert folder is not None
    assert "cannot be read through another" in folder.probes[PROBES[0]]


def test_a_semaphore_that_passes_nothing_is_told(monkeypatch):
    monkeypatch.setattr(doctor_facts.posix.Semaphore, "acquire", lambda self, deadline: False)
    folder = look_at_machine().folder
    assert folder is not None
    assert "did not arrive" in folder.probes[PROBES[1]]


def test_large_files_are_found_and_the_largest_first(monkeypatch, unique_name):
    paths = [Path(SHM, f"shmbridge.{unique_name}.{number}") for number in (1, 2)]
    try:
        paths[0].write_bytes(b"x" * 2_000_000)
        paths[1].write_bytes(b"x" * 3_000_000)
        monkeypatch.setattr(doctor_facts.os, "listdir", lambda folder: [path.name for path in paths] + ["vanished"])
        folder = doctor_facts._look_at_folder()
        assert [(file.name, file.nbytes >= 2_000_000, file.uid) for file in folder.largest] == [(path.name, True, os.geteuid()) for path in reversed(paths)]
    finally:
        for path in paths:
            path.unlink()


def test_a_folder_that_cannot_be_looked_into_is_described_all_the_same(monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    def refuse_to_survey():
        raise SegmentError("cannot be looked into")

    monkeypatch.setattr(doctor_facts.os, "listdir", refuse)
    monkeypatch.setattr(doctor_facts, "survey", refuse_to_survey)
    monkeypatch.setattr(doctor_facts, "shm_mount", lambda: None)
    machine = look_at_machine()
    assert machine.leftovers == []
    assert machine.folder is not None
    assert (machine.folder.largest, machine.folder.mount) == ([], None)
    assert machine.folder.probes[PROBES[2]], "a host cannot start there either"


def test_a_machine_without_the_folder_is_described_all_the_same(monkeypatch):
    monkeypatch.setattr(doctor_facts, "SHM", "/no/such/folder")
    assert look_at_machine().folder is None


def test_a_package_that_no_installer_knows_of_is_not_missing(monkeypatch):
    def unknown(name):
        raise doctor_facts.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor_facts.importlib.metadata, "version", unknown)
    found = doctor_facts._versions({"numpy": "numpy", "nothing": "no_such_module"})
    assert found == {"numpy": "of unknown version", "nothing": None}
