"""The policy's side, in processes of its own."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable

import numpy as np
import pytest
from helpers import Child, eventually, ours_in_shm

import shmbridge
from shmbridge.benchmarks import peers
from shmbridge.benchmarks.paths import check_answer
from shmbridge.benchmarks.scenarios import ACTION, SCENARIOS

STATE = SCENARIOS["state"]
CORE = max(os.sched_getaffinity(0))
OPEN_HOST = """
import sys, time
from shmbridge.benchmarks import peers
with peers.process(["host", "state", sys.argv[1]], int(sys.argv[2])) as child:
    print("pid", child.pid, flush=True)
    time.sleep(100)
"""


def test_a_host_answers_as_the_policy_does_and_leaves_nothing(unique_name: str) -> None:
    observation = STATE.observation()
    with peers.host(STATE, unique_name, CORE) as client:
        check_answer(observation, client.infer(observation)[ACTION.name], "host")
    assert ours_in_shm(unique_name) == []


@pytest.mark.parametrize("role", ["ring", "reads"])
def test_a_ring_answers_as_the_policy_does_and_its_semaphores_have_no_names(role: str, unique_name: str) -> None:
    observation = STATE.observation()
    with peers.ring_memory(STATE) as memory, peers.ring(role, STATE, unique_name, CORE, memory) as pair:
        assert ours_in_shm(unique_name) == []
        for _ in range(5):
            action = pair.ask(observation)[ACTION.name]
            check_answer(observation, action, role)
        assert (action[0, 0, 1] > 0) == (role == "reads")


def test_a_process_is_pinned_and_we_are_not(unique_name: str) -> None:
    before = os.sched_getaffinity(0)
    with peers.process(["host", "state", unique_name], CORE) as child:
        assert os.sched_getaffinity(child.pid) == {CORE}
        assert os.sched_getaffinity(0) == before
    assert child.returncode == 0


def test_a_process_that_does_not_start_is_an_error_with_its_status(unique_name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(shmbridge.ShmbridgeError, match=r"host process ended \(status 1\); look above"), peers.process(["host", "nothing", unique_name], CORE):
        pass
    assert "KeyError" in capfd.readouterr().err


def test_a_process_that_says_nothing_is_an_error_and_is_ended(unique_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_START_SECONDS", 0.0)
    with pytest.raises(shmbridge.ShmbridgeError, match="was not ready within 0 s"), peers.process(["host", "state", unique_name], CORE):
        pass


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_host_ends_with_the_process_that_started_it(start: Callable[..., Child], unique_name: str, number: int) -> None:
    starter = start(OPEN_HOST, unique_name, CORE)
    pid = int(starter.expect("pid"))
    ended = os.pidfd_open(pid)
    os.kill(starter.pid, number)
    starter.finish()
    try:
        assert select.select([ended], [], [], 20)[0]
    finally:
        os.close(ended)
    eventually(lambda: ours_in_shm(unique_name) == [], "an empty /dev/shm")


def test_an_answer_to_something_else_is_an_error() -> None:
    observation = STATE.observation()
    with pytest.raises(shmbridge.ShmbridgeError, match=r"host read 5\.0 out of an observation"):
        check_answer(observation, np.full((1, 1, 7), 5, np.float32), "host")
