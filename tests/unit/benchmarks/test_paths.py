"""Each path makes real requests, and counts what is its own."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

import shmbridge
from shmbridge.benchmarks import paths
from shmbridge.benchmarks.figures import COPIED, IN_PLACE, IN_PLACE_WRITTEN, MEMCPY, READS, READS_WRITTEN, RING, RING_WRITTEN
from shmbridge.benchmarks.matched_ring import NobodyThereError, RingPair, make_semaphore, open_semaphore
from shmbridge.benchmarks.paths import make_paths
from shmbridge.benchmarks.peers import ring_memory, ring_shapes
from shmbridge.benchmarks.scenarios import SCENARIOS, BenchmarkPolicy, Scenario
from shmbridge.memory.naming import new_semaphore_names
from shmbridge.memory.posix import unlink_semaphore
from shmbridge.spec import TensorSpec
from shmbridge.transport.base import DEFAULT_SLOTS

CAMERA = Scenario("camera", 2, (TensorSpec("camera", (16, 24, 3), "uint8"),), 4)


@pytest.fixture
def open_pair(unique_name: str) -> Iterator[Callable[..., RingPair]]:
    """Open pairs of rings whose other side is a thread of this process, which looks every now and then whether it is to stop."""
    with contextlib.ExitStack() as stack:
        stop = threading.Event()

        def open_one(scenario: Scenario, infer: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]) -> RingPair:
            memory = stack.enter_context(ring_memory(scenario))
            names = new_semaphore_names(unique_name)
            for name in names:
                stack.callback(unlink_semaphore, name)
            ours = [make_semaphore(name, value) for name, value in zip(names, (DEFAULT_SLOTS, 0, DEFAULT_SLOTS, 0), strict=True)]
            theirs = [open_semaphore(name) for name in names]
            other = RingPair(memory, ring_shapes(scenario), DEFAULT_SLOTS, theirs, 0.05)
            thread = threading.Thread(target=_answer, args=(other, infer, stop))
            thread.start()
            stack.callback(thread.join)
            stack.callback(stop.set)
            return RingPair(memory, ring_shapes(scenario), DEFAULT_SLOTS, ours, 60.0)

        yield open_one


def _answer(pair: RingPair, infer: Any, stop: threading.Event) -> None:
    while not stop.is_set():
        with contextlib.suppress(NobodyThereError):
            pair.answer(infer)


def make(scenario: Scenario, open_pair: Callable[..., RingPair], **changed: Any) -> dict[str, paths.Path]:
    policy = BenchmarkPolicy()
    state = policy.new_session(scenario.num_envs)

    def infer(observation: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        answer = policy.infer(state, observation, range(scenario.num_envs))
        answer["action"][0, 0, 1] = 1234
        return answer

    client = shmbridge.connect(BenchmarkPolicy(), observation_specs=scenario.specs, num_envs=scenario.num_envs)
    return make_paths(scenario, client, changed.get("ring") or open_pair(scenario, infer), open_pair(scenario, infer))


@pytest.mark.parametrize(("scenario", "written"), [(SCENARIOS["state"], set()), (CAMERA, {IN_PLACE_WRITTEN, RING_WRITTEN, READS_WRITTEN})])
def test_every_path_can_be_gone_again_and_again(scenario: Scenario, written: set[str], open_pair: Callable[..., RingPair]) -> None:
    made = make(scenario, open_pair)
    assert made.keys() == {IN_PLACE, COPIED, RING, MEMCPY, READS} | written
    for _ in range(3):
        assert all(call() > 0 for call in made.values())


def test_what_the_policy_took_is_what_its_own_side_says(open_pair: Callable[..., RingPair]) -> None:
    made = make(CAMERA, open_pair)
    assert made[READS]() == made[READS_WRITTEN]() == 1234


def test_writing_in_place_is_the_cameras_time_not_ours(open_pair: Callable[..., RingPair], monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(CAMERA, open_pair)
    ticks = iter(range(10**9))
    monkeypatch.setattr(paths, "_now", lambda: next(ticks))
    monkeypatch.setattr(paths, "_write", lambda slot, observation: [next(ticks) for _ in range(10**4)])
    assert made[IN_PLACE_WRITTEN]() < 10**4
    assert made[RING_WRITTEN]() < 10**4
    assert made[MEMCPY]() > 10**4


def test_copies_go_round_all_slots(open_pair: Callable[..., RingPair]) -> None:
    policy = BenchmarkPolicy()
    ring = open_pair(CAMERA, lambda seen: policy.infer(np.zeros((2, 1, 7), np.float32), seen, range(2)))
    made = make(CAMERA, open_pair, ring=ring)
    for slot in ring.observations.slots:
        slot["camera"][:] = 0
    for _ in range(DEFAULT_SLOTS):
        made[MEMCPY]()
    assert all(np.array_equal(slot["camera"], CAMERA.observation()["camera"]) for slot in ring.observations.slots)


def test_a_side_that_reads_something_else_stops_the_benchmark(open_pair: Callable[..., RingPair]) -> None:
    ring = open_pair(CAMERA, lambda seen: {"action": np.full((2, 1, 7), 3, np.float32)})
    with pytest.raises(shmbridge.ShmbridgeError, match=r"matched ring read 3\.0"):
        make(CAMERA, open_pair, ring=ring)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two sides on one core only take turns")
def test_the_real_sides_are_started_and_ended(unique_name: str) -> None:
    with paths.open_paths(SCENARIOS["state"], unique_name, max(os.sched_getaffinity(0))) as opened:
        assert all(call() > 0 for call in opened.values())
