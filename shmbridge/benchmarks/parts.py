"""Where the time of a state-only request goes: what each stage takes, as the library itself reports it, and what its parts cost alone."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from secrets import token_hex

import msgspec
import numpy as np

import shmbridge
from shmbridge.arrays import NumpyArrays
from shmbridge.benchmarks import peers
from shmbridge.benchmarks.machine import Cores
from shmbridge.benchmarks.scenarios import ACTION, SCENARIOS, BenchmarkPolicy
from shmbridge.layout import make_slots, session_layouts
from shmbridge.memory.naming import new_semaphore_names
from shmbridge.memory.posix import Semaphore, unlink_semaphore
from shmbridge.memory.waiting import Deadline
from shmbridge.policy import PolicySpecs
from shmbridge.spec import conformity

_SECONDS = 3.0
_REQUESTS = 200
_REPEATS = 7
_CALLS = 3000
_UNTIMED = 20
"""Of each turn, while the caches still belong to another one."""
_SCENARIO = SCENARIOS["state"]


class Part(msgspec.Struct, frozen=True):
    """Something that takes time."""

    part: str
    where: str
    ns: float


def stages(cores: Cores) -> list[Part]:
    """Measure state-only requests for a few seconds and return the median of each stage, which add up to that of all of it.

    Raises:
        ShmbridgeError: A side does not start.
    """
    observation = _SCENARIO.observation()
    with ExitStack() as stack:
        stack.enter_context(peers.pinned(cores.simulator))
        name = f"bench-{token_hex(4)}"
        client = stack.enter_context(peers.host(_SCENARIO, name, cores.policy))
        memory = stack.enter_context(peers.ring_memory(_SCENARIO))
        reads = stack.enter_context(peers.ring("reads", _SCENARIO, name, cores.policy, memory))
        ring = stack.enter_context(peers.ring("ring", _SCENARIO, name, cores.policy, memory))
        requests: list[Sequence[float]] = []
        policy, bare = [], []
        deadline = Deadline(_SECONDS)
        while not (requests and deadline.passed):  # in turns, so that a busy moment of the machine meets all three
            requests += [_timed_request(client, observation) for _ in range(_REQUESTS)][_UNTIMED:]
            policy += [float(reads.ask(observation)[ACTION.name][0, 0, 1]) for _ in range(_REQUESTS)][_UNTIMED:]
            bare += [_timed(lambda: ring.ask(observation)) for _ in range(_REQUESTS)][_UNTIMED:]
    return stages_of(np.array(requests), statistics.median(policy), statistics.median(bare))


def building_blocks() -> list[Part]:
    """Return what the pieces cost that a request is made of, each alone and warm: the best of several runs, less an empty call."""
    with _pieces() as pieces:
        empty = _best(lambda: None)
        return [Part(name, "either", round(max(0.0, _best(call) - empty), 1)) for name, call in pieces]


def stages_of(requests: np.ndarray, policy: float, bare: float) -> list[Part]:
    """Return the stages out of what was measured.

    Args:
        requests: (n, 5): total, write, wait, infer, read, in nanoseconds.
        policy: What the policy alone takes.
        bare: What the matched ring takes in all.
    """
    total, write, wait, infer, read = (float(value) for value in np.median(requests, axis=0))
    parts = [
        ("check the observation and copy it in (timing.write)", "client", write),
        ("both ways: semaphores, caches, looking for work (timing.wait)", "both", wait),
        ("the policy itself", "host", policy),
        ("around the policy: numbers, checks, copying the action in (timing.infer, less the policy)", "host", infer - policy),
        ("copy the action out (timing.read)", "client", read),
        ("enter, number, make the reply", "client", total - write - wait - infer - read),
        ("all of it", "", total),
        ("the matched ring: all of it, for comparison", "", bare),
    ]
    return [Part(name, where, round(value, 1)) for name, where, value in parts]


def _timed_request(client: shmbridge.Client, observation: dict[str, np.ndarray]) -> Sequence[float]:
    started = time.perf_counter_ns()
    reply = client.infer(observation)
    total = time.perf_counter_ns() - started
    timing = reply.timing
    assert timing is not None
    return (total, *(1e9 * seconds for seconds in timing))


def _timed(call: Callable[[], object]) -> int:
    started = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - started


@contextmanager
def _pieces() -> Iterator[list[tuple[str, Callable[[], object]]]]:
    (observation,) = _SCENARIO.observation().values()
    (spec,) = _SCENARIO.specs
    policy = BenchmarkPolicy()
    specs = PolicySpecs(_SCENARIO.specs, policy.specs({}).action)
    layout = session_layouts(specs, 1).observation
    (slot,) = make_slots(layout, bytearray(layout.segment_size(1)), 1, writable=True)
    destination = slot.tensors[spec.name]
    conforms, arrays = conformity(observation.shape, spec.storage), NumpyArrays()
    deadline = Deadline(3600.0)
    with ExitStack() as stack:
        semaphore = _semaphore(stack)
        bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        stack.callback(os.close, bell)
        yield [
            ("read the clock (perf_counter)", time.perf_counter),
            ("make a Deadline", lambda: Deadline(15.0)),
            ("look at a semaphore", lambda: semaphore.value),
            ("post and take a semaphore, uncontended", lambda: (semaphore.release(), semaphore.acquire(deadline))),
            ("yield the core (sched_yield)", os.sched_yield),
            ("ring the host's bell (eventfd write)", lambda: os.eventfd_write(bell, 1)),
            ("write a slot's first words", lambda: slot.write_words(1, 2, 0, 1)),
            ("read a slot's first words", slot.read_words),
            ("check 128 B: shape, dtype, NaN", lambda: conforms(observation)),
            ("copy 128 B into a slot", lambda: arrays.write(observation, destination)),
            ("copy 128 B out of a slot", destination.copy),
        ]


def _semaphore(stack: ExitStack) -> Semaphore:
    name = new_semaphore_names(f"bench-{token_hex(4)}")[0]
    try:
        semaphore = Semaphore.create(name, 0)
    finally:
        unlink_semaphore(name)
    stack.callback(semaphore.close)
    return semaphore


def _best(call: Callable[[], object]) -> float:
    """Return nanoseconds per call."""
    times = []
    for _ in range(_REPEATS):
        started = time.perf_counter_ns()
        for _ in range(_CALLS):
            call()
        times.append((time.perf_counter_ns() - started) / _CALLS)
    return min(times)
