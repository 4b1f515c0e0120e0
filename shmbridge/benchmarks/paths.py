"""The ways an observation can go, each as a function that makes one request and returns what it cost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np

import shmbridge
from shmbridge.benchmarks import peers
from shmbridge.benchmarks.figures import COPIED, IN_PLACE, IN_PLACE_WRITTEN, MEMCPY, READS, READS_WRITTEN, RING, RING_WRITTEN
from shmbridge.benchmarks.matched_ring import RingPair
from shmbridge.benchmarks.scenarios import ACTION, Scenario, read
from shmbridge.transport.base import DEFAULT_SLOTS

Path = Callable[[], int]
"""Makes one request and returns the nanoseconds that count."""
_now = time.perf_counter_ns


@contextlib.contextmanager
def open_paths(scenario: Scenario, name: str, core: int) -> Iterator[dict[str, Path]]:
    """Start the other sides on ``core`` and yield the paths by name.

    Raises:
        ShmbridgeError: A side does not start, or two sides answer differently.
    """
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(peers.host(scenario, name, core))
        descriptors = stack.enter_context(peers.ring_memory(scenario))
        ring = stack.enter_context(peers.ring("ring", scenario, name, core, descriptors))
        reads = stack.enter_context(peers.ring("reads", scenario, name, core, descriptors))
        yield make_paths(scenario, client, ring, reads)


def make_paths(scenario: Scenario, client: shmbridge.Client, ring: RingPair, reads: RingPair) -> dict[str, Path]:
    """Return the paths by name, with an observation in every slot, after all of them gave the same answer.

    Raises:
        ShmbridgeError: An answer is wrong.
    """
    observation = scenario.observation()
    for _ in range(DEFAULT_SLOTS):
        for who, action in (("host", client.infer(observation)), ("matched ring", ring.ask(observation)), ("reads", reads.ask(observation))):
            check_answer(observation, action[ACTION.name], who)
    paths = {
        IN_PLACE: _in_place(client),
        COPIED: _copied(client, observation),
        RING: _ring(ring, observation),
        MEMCPY: _memcpy(ring, observation),
        READS: _reads(reads),
    }
    if not scenario.has_images:
        return paths
    return paths | {
        IN_PLACE_WRITTEN: _in_place_written(client, observation),
        RING_WRITTEN: _ring_written(ring, observation),
        READS_WRITTEN: _reads_written(reads, observation),
    }


def check_answer(observation: Mapping[str, np.ndarray], action: np.ndarray, who: str) -> None:
    """Raise ShmbridgeError unless the other side read this very observation."""
    expected = np.float32(read(observation))
    if action[0, 0, 0] != expected:
        raise shmbridge.ShmbridgeError(f"the benchmark's {who} read {action[0, 0, 0]} out of an observation that holds {expected}: nothing was measured")


def _in_place(client: shmbridge.Client) -> Path:
    def once() -> int:
        started = _now()
        client.infer(client.loan())
        return _now() - started

    return once


def _in_place_written(client: shmbridge.Client, observation: Mapping[str, np.ndarray]) -> Path:
    def once() -> int:
        started = _now()
        slot = client.loan()
        loaned = _now() - started
        _write(slot, observation)  # the camera's work, not ours
        started = _now()
        client.infer(slot)
        return loaned + _now() - started

    return once


def _copied(client: shmbridge.Client, observation: Mapping[str, np.ndarray]) -> Path:
    def once() -> int:
        started = _now()
        client.infer(observation)
        return _now() - started

    return once


def _ring(ring: RingPair, observation: Mapping[str, np.ndarray]) -> Path:
    def once() -> int:
        started = _now()
        ring.ask(observation)
        return _now() - started

    return once


def _ring_written(ring: RingPair, observation: Mapping[str, np.ndarray]) -> Path:
    def once() -> int:
        started = _now()
        slot = ring.observations.loan()
        loaned = _now() - started
        _write(slot, observation)
        started = _now()
        ring.exchange()
        return loaned + _now() - started

    return once


def _memcpy(ring: RingPair, observation: Mapping[str, np.ndarray]) -> Path:
    """Copy into the matched ring's slots, one after the other, and tell nobody."""
    turns = _round_and_round(ring)

    def once() -> int:
        slot = next(turns)
        started = _now()
        _write(slot, observation)
        return _now() - started

    return once


def _reads(reads: RingPair) -> Path:
    def once() -> int:
        reads.observations.loan()
        return int(reads.exchange()[ACTION.name][0, 0, 1])

    return once


def _reads_written(reads: RingPair, observation: Mapping[str, np.ndarray]) -> Path:
    def once() -> int:
        _write(reads.observations.loan(), observation)
        return int(reads.exchange()[ACTION.name][0, 0, 1])

    return once


def _round_and_round(ring: RingPair) -> Iterator[dict[str, np.ndarray]]:
    while True:
        yield from ring.observations.slots


def _write(slot: Mapping[str, np.ndarray], observation: Mapping[str, np.ndarray]) -> None:
    for name, array in slot.items():
        np.copyto(array, observation[name])
