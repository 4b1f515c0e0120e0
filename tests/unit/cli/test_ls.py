"""What ``ls`` prints: hosts, clients, and what dead ones left."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
from pathlib import Path

import descriptions as make
import pytest

from shmbridge import serve
from shmbridge.cli import ls
from shmbridge.connecting import connect
from shmbridge.counters import SessionStatistics
from shmbridge.errors import SegmentError, SpecError
from shmbridge.memory import leftovers
from shmbridge.memory.leftovers import Entry, Fate, Finding
from shmbridge.memory.naming import lock_path, new_semaphore_names, semaphore_path, socket_path
from shmbridge.messages import HostState, Status
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
    assert ls.main(["--name", abandoned]) == 1
    text = words_of(capsys)
    assert abandoned in text
    assert "dead" in text
    assert "shmbridge gc" in text


def test_dead_host_is_found_without_its_name(abandoned, capsys):
    assert ls.main([]) == 1
    assert abandoned in words_of(capsys)


def test_host_that_is_not_there_is_a_failure_when_asked_for_by_name(unique_name, capsys):
    assert ls.main(["--name", unique_name]) == 1
    text = words_of(capsys)
    assert "absent" in text and f"shmbridge serve --name {unique_name}" in text


def test_name_that_no_host_can_have_is_refused():
    with pytest.raises(SpecError, match="cannot name a host"):
        ls.main(["--name", "Not a name"])


def test_silent_host_is_listed_as_such_and_is_a_failure(silent, capsys):
    assert ls.main(["--name", silent]) == 1
    assert "no answer" in words_of(capsys)


def test_living_host_is_listed_without_and_with_its_client(unique_name, capsys):
    with serve(MarkingPolicy(), f"shm://{unique_name}"):
        assert ls.main(["--name", unique_name]) == 0
        text = words_of(capsys)
        assert "READY" in text and str(os.getpid()) in text and "0 of 1" in text
        with connect(f"shm://{unique_name}", observation_specs=[MARK], num_envs=3) as client:
            client.act({"mark": [1.0, 2.0, 3.0]})
            assert ls.main(["--name", unique_name]) == 0
        text = words_of(capsys)
        assert f"clients of {unique_name}" in text and f"client {os.getpid()}" in text and "1 of 1" in text


def test_what_a_host_tells_is_shown_in_its_row(unique_name):
    host = ls.Seen(unique_name, "READY", 0, make.description(unique_name, make.client(nbytes=3_000_000), make.client(rate=0.25, nbytes=1000)))
    assert ls.host_row(host) == (unique_name, "sample", "READY", "root (0)", "4711", "60 s", "2 of 4", "3.5", "3.0 MB")
    assert len(ls.host_row(host)) == len(ls.HOST_HEAD)
    loading = ls.Seen(unique_name, "LOADING", 0, make.description(unique_name, status=Status(HostState.LOADING, 5.0)))
    assert ls.host_row(loading)[2] == "LOADING 5.0 s"


def test_a_host_that_tells_nothing_has_a_row_as_long():
    assert ls.host_row(ls.Seen("gone", ls.DEAD, None)) == ("gone", "-", "dead", "-", "-", "-", "-", "-", "-")


def test_what_is_told_of_a_client_is_shown_in_its_row():
    row = ls.client_row(make.client(uid=0, nbytes=69_600))
    assert row == ("client 7 on here", "idle", "root (0)", "2", "1,000", "3.2", "4", "69.6 kB", "12 s")
    assert len(row) == len(ls.CLIENT_HEAD)


def test_client_that_was_not_answered_yet_has_no_time_per_observation():
    assert ls.client_row(make.client(counters=SessionStatistics(0, 0, 0, 0.0)))[6] == "-"


def test_host_that_tells_nonsense_is_listed_without_harm(unique_name, capsys):
    evil = make.client(
        "\x1b[2J\u202eevil\n", state="\x07", rate=math.nan, seconds=-math.inf, nbytes=-1, uid=1 << 62, counters=SessionStatistics(-1, 0, 0, math.inf)
    )
    told = make.description("\x1b]0;title\x07", evil, policy="\x9b31m", pid=-1, seconds=1e300, max_sessions=-3)
    with make.answering(unique_name, told):
        assert ls.main(["--name", unique_name]) == 0
        text = capsys.readouterr().out
        assert not set(text) & set("\x1b\x07\x9b\u202e")
        assert "it calls itself \\x1b]0;title\\x07" in text
        assert ls.main(["--name", unique_name, "--json"]) == 0
        out = capsys.readouterr().out
    assert out.isascii() and "\x1b" not in out
    (host,) = json.loads(out)["hosts"]
    assert host["clients"][0]["rate"] is None


@pytest.mark.parametrize("answer", [b"", b"\xc1", b"\x80", make.as_told(make.description("x"), clients=[{"client": 5}])])
def test_host_that_speaks_another_language_is_a_failure_with_its_reason(unique_name, capsys, answer):
    with make.answering(unique_name, answer):
        assert ls.main(["--name", unique_name]) == 1
    assert "no answer" in words_of(capsys)


def test_json_is_one_document_with_hosts_clients_and_leftovers(unique_name, capsys):
    with make.answering(unique_name, make.description(unique_name, make.client())):
        ls.main(["--json"])
    found = json.loads(capsys.readouterr().out)
    host = next(host for host in found["hosts"] if host["name"] == unique_name)
    assert (host["state"], host["uid"], host["policy"], host["max_sessions"], host["note"]) == ("READY", os.geteuid(), "sample", 4, "")
    assert host["clients"][0]["counters"] == {"requests": 1000, "rows": 1900, "failures": 3, "infer_seconds": 4.0}
    left = [entry for entry in found["leftovers"] if entry["host"] == unique_name]  # the made-up host has no lock
    assert [(entry["kind"], entry["fate"]) for entry in left] == [("socket", "left behind")]


def test_json_of_a_dead_host_says_so(abandoned, capsys):
    assert ls.main(["--json", "--name", abandoned]) == 1
    (host,) = json.loads(capsys.readouterr().out)["hosts"]
    assert (host["name"], host["state"], host["uid"]) == (abandoned, "dead", os.geteuid())


def test_json_once_and_again_and_again_is_a_wrong_call():
    with pytest.raises(SystemExit) as ended:
        ls.main(["--json", "--watch", "1"])
    assert ended.value.code == 2


def test_watching_ends_well_with_ctrl_c(unique_name, capsys, monkeypatch):
    rounds = []
    look_at = ls.look_at

    def look_and_press(name, shm_group=None):
        rounds.append(name)
        if len(rounds) == 2:
            signal.raise_signal(signal.SIGINT)
        return look_at(name, shm_group)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(ls, "look_at", look_and_press)
    assert ls.main(["--name", unique_name, "--watch", "0.01"]) == 0
    assert signal.getsignal(signal.SIGINT) is before
    assert words_of(capsys).count("absent") == 2


def test_leftovers_without_a_socket_are_told_of_too(unique_name, capsys):
    path = Path(semaphore_path(new_semaphore_names(unique_name)[0]))
    path.write_bytes(b"x" * 32)
    try:
        ls.main([])
        text = words_of(capsys)
        assert "left behind by hosts that are gone" in text and f"{unique_name} (1 file, 4.1 kB)" in text and "shmbridge gc" in text
    finally:
        path.unlink()


def finding(fate, host="h", uid=987_654, path="/dev/shm/shmbridge.h.lock", why=""):
    return Finding(Entry(path, "lock", host, uid, 0, 5.0), fate, why)


def test_leftovers_are_worded_by_what_becomes_of_them():
    found = [
        finding(Fate.LEFT_BEHIND, "a"),
        finding(Fate.LEFT_BEHIND, "a"),
        finding(Fate.LEFT_BEHIND, "b"),
        finding(Fate.OF_ANOTHER_USER, "c"),
        finding(Fate.FAILED, "d", why="Is a directory"),
        finding(Fate.UNKNOWN, "", path="/dev/shm/shmbridge.\x1b[2J"),
    ]
    lines = ls.leftover_lines(found)
    assert "a (2 files, 0 B), b (1 file, 0 B)" in lines[0] and "shmbridge gc" in lines[0]
    assert "987654" in lines[1] and "c (1 file, 0 B)" in lines[1]
    assert "Is a directory" in lines[2]
    assert "\\x1b[2J" in lines[3]


def test_no_leftovers_are_no_words():
    assert ls.leftover_lines([]) == []


def test_another_users_living_host_is_in_the_table_and_not_among_the_leftovers(unique_name):
    with make.answering(unique_name, make.description(unique_name)):
        assert ls.leftover_lines([finding(Fate.OF_ANOTHER_USER, unique_name)]) == []
    assert len(ls.leftover_lines([finding(Fate.OF_ANOTHER_USER, unique_name)])) == 1


def test_a_folder_that_cannot_be_looked_into_is_an_error_with_a_reason(monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(leftovers.os, "listdir", refuse)
    with pytest.raises(SegmentError, match="Permission denied"):
        ls.main([])


def test_nothing_at_all_is_said_with_how_to_start(monkeypatch, capsys):
    monkeypatch.setattr(ls, "entries", list)
    monkeypatch.setattr(ls, "survey", list)
    assert ls.main([]) == 0
    assert "shmbridge serve" in words_of(capsys)


def test_flags_that_it_does_not_have_are_wrong_calls():
    with pytest.raises(SystemExit) as ended:
        ls.main(["--gpu"])
    assert ended.value.code == 2


def test_a_lock_without_a_socket_is_no_host(unique_name):
    Path(lock_path(unique_name)).touch()
    try:
        assert [entry.kind for entry in ls.entries() if entry.host == unique_name] == ["lock"]
    finally:
        os.unlink(lock_path(unique_name))
