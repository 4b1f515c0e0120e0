"""What ``gc`` removes, and what it says of the rest."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from helpers import ours_in_shm

from shmbridge.cli import gc
from shmbridge.errors import SpecError
from shmbridge.memory import posix
from shmbridge.memory.leftovers import Entry, Fate, Finding
from shmbridge.memory.naming import lock_path, new_semaphore_names, semaphore_path, socket_path


@pytest.fixture
def dead(unique_name):
    """What a host leaves that was killed while a client attached."""
    paths = [lock_path(unique_name), socket_path(unique_name), *map(semaphore_path, new_semaphore_names(unique_name))]
    for path in paths:
        Path(path).touch(mode=0o600)
    yield unique_name
    for path in paths:
        if os.path.isdir(path):
            os.rmdir(path)
        Path(path).unlink(missing_ok=True)


def test_what_a_dead_host_left_is_removed_and_told(dead, capsys):
    assert gc.main(["--name", dead]) == 0
    assert ours_in_shm(dead) == []
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert all(line.startswith("removed") for line in lines)
    assert lines[-1] == "removed 6 files, 0 B"


def test_a_dry_run_removes_nothing_and_says_what_would_go(dead, capsys):
    before = ours_in_shm(dead)
    assert gc.main(["--dry_run", "--name", dead]) == 0
    assert ours_in_shm(dead) == before
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("would") for line in lines)
    assert lines[-1] == "would remove 6 files, 0 B; do it with: shmbridge gc"


def test_a_living_host_keeps_all_it_has(dead, capsys):
    descriptor = posix.lock_file(lock_path(dead))
    before = ours_in_shm(dead)
    assert gc.main(["--name", dead]) == 0
    assert ours_in_shm(dead) == before
    assert capsys.readouterr().out.splitlines() == [f"in use, left alone: {dead}", "nothing to remove"]
    os.close(descriptor)


def test_nothing_to_remove_is_no_failure(unique_name, capsys):
    assert gc.main(["--name", unique_name]) == 0
    assert capsys.readouterr().out == "nothing to remove\n"


def test_what_cannot_be_removed_is_a_failure_that_says_why(dead, capsys):
    os.unlink(socket_path(dead))
    os.mkdir(socket_path(dead))
    assert gc.main(["--name", dead]) == 1
    assert f"NOT REMOVED: {socket_path(dead)}: Is a directory" in capsys.readouterr().out
    assert ours_in_shm(dead) == [f"shmbridge.{dead}.sock"]


def test_json_has_each_file_and_what_became_of_it(dead, capsys):
    assert gc.main(["--name", dead, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["files"]
    assert len(found) == 6
    assert {(file["host"], file["uid"], file["fate"]) for file in found} == {(dead, os.geteuid(), "removed")}
    assert {file["kind"] for file in found} == {"lock", "socket", "semaphore"}


def test_a_name_that_no_host_can_have_is_refused_and_nothing_removed(dead):
    before = ours_in_shm(dead)
    with pytest.raises(SpecError, match="cannot name a host"):
        gc.main(["--name", "*"])
    assert ours_in_shm(dead) == before


def finding(fate, host, uid=0, path="/dev/shm/shmbridge.h.lock"):
    return Finding(Entry(path, "lock", host, uid, 100, 5.0), fate)


def test_what_belongs_to_others_is_told_once_per_user():
    found = [finding(Fate.OF_ANOTHER_USER, "a", 0), finding(Fate.OF_ANOTHER_USER, "b", 0), finding(Fate.OF_ANOTHER_USER, "c", 987_654)]
    lines = gc.lines(found)
    assert lines[0] == "of root (0), left alone: a, b (2 files); only they can look after it, with: shmbridge gc"
    assert lines[1].startswith("of 987654, left alone: c (1 file)")
    assert lines[-1] == "nothing to remove"


def test_what_is_only_named_like_ours_is_told_in_printable_words():
    lines = gc.lines([finding(Fate.UNKNOWN, "", path="/dev/shm/shmbridge.\x1b[2J\udcff")])
    assert "left alone: /dev/shm/shmbridge.\\x1b[2J\\udcff" in lines[0]
    assert lines[-1] == "nothing to remove"


def test_flags_that_it_does_not_have_are_wrong_calls(dead):
    before = ours_in_shm(dead)
    for words in (["--force"], ["--dry"], [dead]):
        with pytest.raises(SystemExit) as ended:
            gc.main(words)
        assert ended.value.code == 2
    assert ours_in_shm(dead) == before
