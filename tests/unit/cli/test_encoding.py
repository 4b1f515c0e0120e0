"""The thread that encodes: what reaches the files, what is left out, and that nothing half-written stays. The ffmpeg is a fake."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from helpers import eventually

from shmbridge.cli import encoding
from shmbridge.cli.encoding import Encoder

SIZE = (4, 6, 3)
COPY = 'for last; do :; done; exec cat > "$last"'
"""Writes what it gets where it is told to."""
BROKEN = "echo no such codec >&2; exit 3"
STUCK = 'for last; do :; done; : > "$last"; exec sleep 100'
"""Never reads."""


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "videos"


@pytest.fixture
def encoder(tmp_path, folder, monkeypatch):
    """Make encoders with a fake ffmpeg: ``encoder(COPY)``."""
    monkeypatch.setattr(encoding, "_ABANDON_SECONDS", 0.5)
    made = []

    def make(script=COPY, **limits):
        program = tmp_path / "ffmpeg"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        made.append(Encoder(folder, str(program), **limits))
        return made[-1]

    yield make
    for each in made:
        each.abandon()


def frame(value, size=SIZE):
    return np.full(size, value, np.uint8)


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_each_key_has_a_file_with_its_frames_in_order(encoder, folder):
    made = encoder()
    for value in range(3):
        made.add(7, frame(value), "")
        made.add(8, frame(100 + value), "")
    made.end(7, "seven.mp4")
    made.end(8, "eight.mp4")
    made.finish()
    assert (folder / "seven.mp4").read_bytes() == b"".join(frame(value).tobytes() for value in range(3))
    assert (folder / "eight.mp4").read_bytes() == b"".join(frame(100 + value).tobytes() for value in range(3))
    assert made.written == [folder / "seven.mp4", folder / "eight.mp4"]
    assert (made.dropped, made.failure) == (0, "")


def test_a_key_may_be_used_again_for_another_file(encoder, folder):
    made = encoder()
    for name in ("one.mp4", "two.mp4"):
        made.add(1, frame(1), "")
        made.end(1, name)
    made.finish()
    assert names(folder) == ["one.mp4", "two.mp4"]


def test_file_without_a_name_is_thrown_away(encoder, folder):
    made = encoder()
    made.add(1, frame(1), "")
    made.end(1, None)
    made.finish()
    assert names(folder) == []
    assert made.written == []


def test_end_of_what_never_began_does_nothing(encoder, folder):
    made = encoder()
    made.end(1, "one.mp4")
    made.finish()
    assert names(folder) == [] and not made.failure


def test_incomplete_files_are_hidden_and_thrown_away_at_the_end(encoder, folder):
    made = encoder()
    made.add(1, frame(1), "")
    eventually(lambda: names(folder) == [".episode_0001.mp4"], "the hidden file")
    made.finish()
    assert names(folder) == []


def test_abandoning_keeps_complete_files_only_and_ends_the_thread(encoder, folder):
    made = encoder()
    made.add(1, frame(1), "")
    made.end(1, "one.mp4")
    eventually(lambda: "one.mp4" in names(folder), "the first file")
    made.add(2, frame(2), "")
    eventually(lambda: ".episode_0002.mp4" in names(folder), "the second one")
    made.abandon()
    assert names(folder) == ["one.mp4"]
    assert not [thread for thread in threading.enumerate() if thread.name == "video" and thread is made._thread]


def test_ffmpeg_that_does_not_read_is_killed_when_abandoned(encoder, folder):
    made = encoder(STUCK)
    made.add(1, frame(1, (200, 300, 3)), "")  # more than a pipe takes
    eventually(lambda: names(folder), "ffmpeg's start")
    process = made._open[1]._process
    made.abandon()
    assert process.poll() is not None
    assert names(folder) == []
    assert not made._thread.is_alive()


def test_encoders_that_are_never_done_end_with_a_deadline_and_say_so(encoder, folder, monkeypatch):
    monkeypatch.setattr(encoding, "_DRAIN_SECONDS", 0.1)
    made = encoder(STUCK)
    made.add(1, frame(1, (200, 300, 3)), "")
    made.finish()
    assert "not done" in made.failure
    assert names(folder) == []


def test_what_ffmpeg_says_is_told_once_and_nothing_more_is_filmed(encoder, folder):
    made = encoder(BROKEN)
    made.add(1, frame(1, (200, 300, 3)), "")
    made.end(1, "one.mp4")
    eventually(lambda: made.failure, "the failure")
    assert "status 3: no such codec" in made.failure
    assert not made.admit(1)
    made.add(2, frame(2), "")
    made.finish()
    assert names(folder) == [] and made.written == []
    assert made.dropped == 0  # it was not the encoder's pace


def test_ffmpeg_that_fails_at_the_end_leaves_no_file(encoder, folder):
    made = encoder('for last; do :; done; cat > "$last"; exit 5')
    made.add(1, frame(1), "")
    made.end(1, "one.mp4")
    made.finish()
    assert "status 5" in made.failure
    assert names(folder) == []


def test_program_that_is_not_there_ends_the_filming_and_not_the_run(tmp_path, folder):
    made = Encoder(folder, str(tmp_path / "nothing"))
    made.add(1, frame(1), "")
    made.finish()
    assert "nothing" in made.failure


def test_full_queue_refuses_and_counts_what_it_refuses(encoder):
    made = encoder(STUCK, queue_bytes=100_000)
    big = frame(1, (100, 300, 3))
    assert made.admit(big.nbytes)
    made.add(1, big, "")
    eventually(lambda: made._waiting == 0, "the thread taking it")
    made.add(1, big, "")  # waits behind the first, which ffmpeg does not read
    assert not made.admit(big.nbytes)
    assert not made.admit(big.nbytes)
    assert made.admit(1000)
    assert made.dropped == 2


def test_space_in_the_queue_comes_back(encoder):
    made = encoder(queue_bytes=1000)
    for _ in range(20):
        eventually(lambda: made._waiting + SIZE[0] * SIZE[1] * SIZE[2] <= 1000, "room")
        made.add(1, frame(1), "")
    made.end(1, "one.mp4")
    made.finish()
    assert made._waiting == 0
    assert made.written[0].stat().st_size == 20 * frame(1).nbytes


def test_files_stop_at_their_limit_and_complete_ones_stay(encoder, folder, monkeypatch):
    monkeypatch.setattr(encoding, "_LOOK_FRAMES", 1)
    made = encoder(max_bytes=100)
    made.add(1, frame(1), "")
    made.add(1, frame(1), "")
    made.end(1, "one.mp4")
    made.add(2, frame(2), "")
    made.end(2, "two.mp4")
    made.finish()
    assert names(folder) == ["one.mp4"]
    assert "may film" in made.failure


def test_disk_that_is_nearly_full_is_left_alone(encoder, folder, monkeypatch):
    monkeypatch.setattr(encoding, "MIN_FREE_BYTES", 1 << 62)
    made = encoder()
    made.add(1, frame(1), "")
    made.finish()
    assert "free" in made.failure
    assert names(folder) == []


def test_encoders_stand_back_behind_the_run(encoder, folder):
    made = encoder('for last; do :; done; ps -o ni= -p $$ > "$last" 2>/dev/null || nice > "$last"; cat > /dev/null')
    made.add(1, frame(1), "")
    made.end(1, "one.mp4")
    made.finish()
    assert int(made.written[0].read_text()) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)


def test_ctrl_c_of_the_terminal_does_not_reach_ffmpeg(encoder, folder):
    made = encoder()
    made.add(1, frame(1), "")
    eventually(lambda: 1 in made._open, "ffmpeg's start")
    assert os.getpgid(made._open[1]._process.pid) != os.getpgid(0)
