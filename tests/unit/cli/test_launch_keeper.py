"""What ends the programs of a launch that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest
from helpers import eventually

from shmbridge.cli import launch_keeper
from shmbridge.cli.launch_keeper import Ending, Keeper, end, groups_left, signal_group

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(1000)"
POLITE = "import time; print('up', flush=True); time.sleep(1000)"


@pytest.fixture
def start_group():
    """Start a program that leads a process group and says when it is up."""
    started = []

    def start_one(source):
        process = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        return process

    yield start_one
    for process in started:
        with process:
            signal_group(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("lines", "left"),
    [
        ([], {}),
        (["began host 3\n", "began runner 4\n"], {3: "host", 4: "runner"}),
        (["began host 3\n", "began runner 4\n", "ended 3\n"], {4: "runner"}),
        (["began host 3\n", "ended 3\n", "began runner 3\n"], {3: "runner"}),
        (["ended 3\n"], {}),
    ],
)
def test_groups_that_did_not_end_are_left(lines, left):
    assert groups_left(lines) == left


def test_group_that_ends_when_asked_is_not_killed(start_group):
    process = start_group(POLITE)
    with process:
        # Reaped here while end() waits, as whoever adopts orphans does.
        reaper = threading.Thread(target=process.wait)
        reaper.start()
        end([process.pid], Ending(signal.SIGTERM, 20.0))
        reaper.join()
    assert process.returncode == -signal.SIGTERM


def test_group_that_does_not_listen_is_killed_when_its_grace_is_over(start_group):
    process = start_group(STUBBORN)
    end([process.pid], Ending(signal.SIGTERM, 0.2))
    assert process.wait() == -signal.SIGKILL


def test_group_that_is_gone_is_none():
    process = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    process.wait()
    assert not signal_group(process.pid, 0)
    end([process.pid], Ending(signal.SIGTERM, 0.0))


def test_end_of_the_keepers_input_is_the_end_of_what_is_left_runners_first(start_group):
    runner, host, other = start_group(POLITE), start_group(POLITE), start_group(POLITE)
    keeper = Keeper()
    keeper.began(host.pid, "host")
    keeper.began(runner.pid, "runner")
    keeper.began(other.pid, "runner")
    keeper.ended(other.pid)
    assert keeper._process.stdin is not None
    keeper._process.stdin.close()  # as the kernel does when launch is killed
    assert runner.wait(20) == -signal.SIGINT
    assert host.wait(20) == -signal.SIGTERM
    assert keeper._process.wait(20) == 0
    assert other.poll() is None


def test_keeper_hears_no_signals_of_a_terminal_and_leaves_with_launch():
    keeper = Keeper()
    assert os.getsid(keeper._process.pid) == keeper._process.pid != os.getsid(0)
    eventually(lambda: _ignored(keeper._process.pid) >= {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}, "its being up")
    keeper.close()
    assert keeper._process.returncode == 0


def test_launch_goes_on_without_a_keeper():
    keeper = Keeper()
    keeper._process.kill()
    keeper._process.wait()
    keeper.began(1, "host")
    keeper.close()


def test_roles_are_ended_in_order():
    assert list(launch_keeper.ENDINGS) == ["runner", "host"]


def _ignored(pid):
    with open(f"/proc/{pid}/status") as lines:
        mask = next(int(line.split()[1], 16) for line in lines if line.startswith("SigIgn:"))
    return {number for number in signal.Signals if mask >> (number - 1) & 1}


def test_a_group_of_another_user_is_there_and_does_not_keep_the_others_alive(monkeypatch):
    def refuse(group, number):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "killpg", refuse)
    assert signal_group(1, 0)
    end([1], Ending(signal.SIGTERM, 0.0))
