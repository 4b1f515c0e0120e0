"""One client's or one policy call's fault is not the host's."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import psutil
import pytest

from shmbridge import PeerLostError, PolicyHost, PolicyRaisedError, ShmbridgeError, SpecError, TensorSpec, connect, serve
from shmbridge.connecting import describe_host
from shmbridge.memory.naming import socket_path
from shmbridge.testing import MarkingPolicy, leftovers, marks_of

OBSERVATION = {"mark": np.zeros(1)}


class FirstAnswerPolicy(MarkingPolicy):
    """Returns what it is told to at its first inference, which is the warm-up; then behaves."""

    def __init__(self, first: Any) -> None:
        super().__init__()
        self._first = [first]

    def infer(self, session: np.ndarray, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> Mapping[str, np.ndarray]:
        if self._first:
            first = self._first.pop()
            if isinstance(first, Exception):
                raise first
            return {"action": first}
        return super().infer(session, observation, env_ids)


def is_served(name: str) -> bool:
    with connect(f"shm://{name}", example=OBSERVATION, num_envs=1, start_timeout=10) as client:
        return marks_of(client.act({"mark": np.array([5.0])})["action"]) == [5.0]


BAD_FIRSTS = {"ragged": [[1.0], [1.0, 2.0]], "object": object(), "wordless": ValueError(""), "surrogate": FileNotFoundError("weights-\udcff.bin")}


@pytest.mark.parametrize("first", BAD_FIRSTS.values(), ids=BAD_FIRSTS)
def test_a_policy_that_fails_its_warm_up_in_any_way_is_told_and_the_host_lives(unique_name: str, first: Any) -> None:
    with serve(FirstAnswerPolicy(first), f"shm://{unique_name}"):
        with pytest.raises(PolicyRaisedError):
            is_served(unique_name)
        assert is_served(unique_name)


def test_a_layout_beyond_all_bounds_is_refused_and_the_host_lives(unique_name: str) -> None:
    huge = [TensorSpec("mark", (), "float64"), TensorSpec("huge", (1 << 32, 1 << 32), "uint8")]
    with serve(AskingPolicy(), f"shm://{unique_name}"):
        with pytest.raises(SpecError, match="bytes"):
            connect(f"shm://{unique_name}", observation_specs=huge, num_envs=1, start_timeout=10)
        assert is_served(unique_name)


class AskingPolicy(MarkingPolicy):
    """Asks for everything that is offered."""

    def specs(self, offered: Mapping[str, TensorSpec]) -> Any:
        marking = super().specs(offered)
        return type(marking)(list(offered.values()), marking.action)


@contextlib.contextmanager
def warming_up(name: str) -> Iterator[tuple[PolicyHost, MarkingPolicy]]:
    """A host with a client that is held in its warm-up."""
    policy = HeldPolicy()
    with serve(policy, f"shm://{name}") as host:
        client = threading.Thread(target=_connect_in_vain, args=(name,))
        client.start()
        assert policy.entered.wait(10)
        yield host, policy
        policy.gate.set()
        client.join(20)
        assert not client.is_alive()


class HeldPolicy(MarkingPolicy):
    """Its first inference waits for the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate.clear()
        self.entered = threading.Event()

    def warm_up(self, session: np.ndarray, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> None:
        self.entered.set()
        self.gate.wait(20)


def _connect_in_vain(name: str) -> None:
    with contextlib.suppress(ShmbridgeError), connect(f"shm://{name}", example=OBSERVATION, num_envs=1, start_timeout=10):
        pass


def test_a_host_closed_during_a_warm_up_leaves_nothing_once_the_policy_lets_go(unique_name: str) -> None:
    with warming_up(unique_name) as (host, policy):
        assert not host.close(grace=0.1), "the policy is held, so the worker cannot have ended"
        assert leftovers(unique_name) == [], "semaphores have names although nobody may attach"
        policy.gate.set()
        assert host.close(grace=10)
        assert leftovers(unique_name) == []


def test_a_host_out_of_descriptors_serves_on_and_lets_others_in_later(unique_name: str) -> None:
    policy = "shmbridge.testing:MarkingPolicy"
    words = [sys.executable, "-m", "shmbridge", "serve", "--name", unique_name, "--policy_type", policy, "--timeout_ms", "500"]
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))  # noqa: E731  # between fork and exec
    with subprocess.Popen(words, preexec_fn=limit, stderr=subprocess.DEVNULL) as host:  # noqa: PLW1509  # likewise
        try:
            assert is_served(unique_name)
            with contextlib.ExitStack() as crowd:
                for _ in range(60):
                    sock = crowd.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                    sock.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        sock.connect(socket_path(unique_name))
            assert is_served(unique_name)
            assert host.poll() is None
        finally:
            host.terminate()
            assert host.wait(20) == 143
    assert leftovers(unique_name) == []


def test_a_stopped_host_holds_nobody_past_the_deadline(unique_name: str) -> None:
    words = [sys.executable, "-m", "shmbridge", "serve", "--name", unique_name, "--policy_type", "shmbridge.testing:MarkingPolicy"]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as host:
        try:
            assert is_served(unique_name)
            os.kill(host.pid, signal.SIGSTOP)
            assert _is_eventually(lambda: psutil.Process(host.pid).status() == psutil.STATUS_STOPPED)
            for _ in range(80):
                with pytest.raises(ShmbridgeError):
                    describe_host(unique_name, timeout=0.01)
            os.kill(host.pid, signal.SIGCONT)
            assert is_served(unique_name)
        finally:
            host.terminate()
            os.kill(host.pid, signal.SIGCONT)
            assert host.wait(20) == 143


def test_memory_of_a_closed_session_is_free_at_once(unique_name: str) -> None:
    image = {"mark": np.zeros(1), "image": np.zeros((1, 480, 640, 3), np.uint8)}
    with serve(AskingPolicy(), f"shm://{unique_name}", max_sessions=1):
        for _ in range(4):
            with connect(f"shm://{unique_name}", example=image, num_envs=1, start_timeout=10) as client:
                client.act(image)
                client.loan()
            assert _is_eventually(lambda: not mapped_rings()), "a closed session still maps its rings"


def mapped_rings() -> list[str]:
    """Return the mappings of this process that lie in anonymous files of /dev/shm; host and client are both in it."""
    with open("/proc/self/maps") as maps:
        return [line for line in maps if "/dev/shm/#" in line]


def _is_eventually(ready: Any) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if ready():
            return True
        time.sleep(0.01)
    return False


def test_a_client_whose_host_stops_in_the_handshake_learns_it(unique_name: str) -> None:
    policy = HeldPolicy()
    with serve(policy, f"shm://{unique_name}") as host:
        stopper = threading.Thread(target=lambda: (policy.entered.wait(10), host.close(grace=0.1)))
        stopper.start()
        with pytest.raises(PeerLostError, match="stopping"):
            connect(f"shm://{unique_name}", example=OBSERVATION, num_envs=1, start_timeout=10)
        stopper.join()
        policy.gate.set()
