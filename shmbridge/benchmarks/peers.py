"""The policy's side of each path: a process of its own, pinned, that ends with the one that started it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import numpy as np

import shmbridge
from shmbridge.benchmarks.matched_ring import NobodyThereError, RingPair, Shapes, make_memory, make_semaphore, open_semaphore
from shmbridge.benchmarks.scenarios import ACTION, SCENARIOS, BenchmarkPolicy, Scenario
from shmbridge.memory.naming import new_semaphore_names
from shmbridge.memory.posix import unlink_semaphore
from shmbridge.transport.base import DEFAULT_SLOTS

_READY = b"ready\n"
_START_SECONDS = 60.0
_END_SECONDS = 3.0
_PATIENCE_SECONDS = 30.0
_LOOK_SECONDS = 0.5
"""How soon a side notices that the process that started it is gone."""


def main(words: Sequence[str]) -> int:
    """Be one side until the process that started it ends this one, or is gone itself."""
    role, scenario, *rest = words
    _ROLES[role](SCENARIOS[scenario], rest)
    return 0


def _host(scenario: Scenario, words: Sequence[str]) -> None:
    """Serve the policy through the public API."""
    signal.signal(signal.SIGTERM, _leave)
    parent = os.getppid()
    with shmbridge.serve(BenchmarkPolicy(), f"shm://{words[0]}") as host:
        _say_ready()
        while os.getppid() == parent and not host.wait(_LOOK_SECONDS):
            pass


def _ring(scenario: Scenario, words: Sequence[str]) -> None:
    """Answer over the matched ring."""
    policy, state, env_ids = _policy(scenario)
    _answer(scenario, words, lambda observation: policy.infer(state, observation, env_ids))


def _reads(scenario: Scenario, words: Sequence[str]) -> None:
    """Answer over the matched ring with the nanoseconds that the policy took, as the action's second number."""
    policy, state, env_ids = _policy(scenario)

    def infer(observation: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        started = time.perf_counter_ns()
        answer = policy.infer(state, observation, env_ids)
        answer["action"][0, 0, 1] = time.perf_counter_ns() - started
        return answer

    _answer(scenario, words, infer)


_ROLES: dict[str, Callable[[Scenario, Sequence[str]], None]] = {"host": _host, "ring": _ring, "reads": _reads}


def _policy(scenario: Scenario) -> tuple[BenchmarkPolicy, np.ndarray, list[int]]:
    policy = BenchmarkPolicy()
    return policy, policy.new_session(scenario.num_envs), list(range(scenario.num_envs))


def _answer(scenario: Scenario, words: Sequence[str], infer: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]) -> None:
    parent = os.getppid()
    pair = RingPair([int(words[0]), int(words[1])], ring_shapes(scenario), DEFAULT_SLOTS, [open_semaphore(name) for name in words[2:]], _LOOK_SECONDS)
    _say_ready()
    while os.getppid() == parent:
        with contextlib.suppress(NobodyThereError):
            while True:
                pair.answer(infer)


def ring_shapes(scenario: Scenario) -> tuple[Shapes, Shapes]:
    """Return the tensors of an observation slot and of an action slot."""
    observation = {spec.name: ((scenario.num_envs, *spec.shape), spec.dtype) for spec in scenario.specs}
    return observation, {ACTION.name: ((scenario.num_envs, 1, *ACTION.shape), ACTION.dtype)}


@contextlib.contextmanager
def host(scenario: Scenario, name: str, core: int) -> Iterator[shmbridge.Client]:
    """Serve the benchmark's policy in another process as ``shm://name``, and connect to it."""
    with (
        process(["host", scenario.name, name], core),
        shmbridge.connect(f"shm://{name}", observation_specs=scenario.specs, num_envs=scenario.num_envs) as client,
    ):
        yield client


@contextlib.contextmanager
def ring_memory(scenario: Scenario) -> Iterator[list[int]]:
    """Reserve the memory of both rings and yield its descriptors. Several pairs may share it, if one is used at a time."""
    with contextlib.ExitStack() as stack:
        descriptors = []
        for shapes in ring_shapes(scenario):
            descriptors.append(make_memory(shapes, DEFAULT_SLOTS))
            stack.callback(os.close, descriptors[-1])
        yield descriptors


@contextlib.contextmanager
def ring(role: str, scenario: Scenario, name: str, core: int, descriptors: Sequence[int]) -> Iterator[RingPair]:
    """Start the other side of a matched ring and yield ours. The semaphores lose their names as soon as both sides have opened them."""
    names = new_semaphore_names(name)
    with contextlib.ExitStack() as stack:
        with contextlib.ExitStack() as named:
            semaphores = []
            for semaphore, value in zip(names, (DEFAULT_SLOTS, 0, DEFAULT_SLOTS, 0), strict=True):
                named.callback(unlink_semaphore, semaphore)
                semaphores.append(make_semaphore(semaphore, value))
            stack.enter_context(process([role, scenario.name, *map(str, descriptors), *names], core, descriptors))
        try:
            yield RingPair(descriptors, ring_shapes(scenario), DEFAULT_SLOTS, semaphores, _PATIENCE_SECONDS)
        except NobodyThereError as error:
            raise shmbridge.ShmbridgeError(f"{error}; look above for why") from None


@contextlib.contextmanager
def process(words: Sequence[str], core: int, descriptors: Sequence[int] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """Run one side in a process of its own, pinned to ``core``, until the block ends.

    Raises:
        ShmbridgeError: It ended, or did not get ready; it has said why on standard error.
    """
    path = os.pathsep.join(filter(None, [str(Path(shmbridge.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "shmbridge.benchmarks", *words]
    with pinned(core):  # which the child inherits; it leads a session, so that a Ctrl-C reaches us alone, and we end it in order
        child = subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=descriptors, start_new_session=True, env={**os.environ, "PYTHONPATH": path})
    try:
        _await_ready(child, words[0])
        yield child
    finally:
        _end(child)


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Keep this thread, and the threads and processes it starts meanwhile, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _await_ready(child: subprocess.Popen[bytes], role: str) -> None:
    assert child.stdout is not None
    heard, _, _ = select.select([child.stdout], [], [], _START_SECONDS)
    if not heard or child.stdout.readline() != _READY:
        how = f"ended (status {child.wait(_END_SECONDS)})" if heard else f"was not ready within {_START_SECONDS:.0f} s"
        raise shmbridge.ShmbridgeError(f"the benchmark's {role} process {how}; look above for why")


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait(_END_SECONDS)
    if child.stdout is not None:
        child.stdout.close()


def _say_ready() -> None:
    os.write(sys.stdout.fileno(), _READY)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
