"""The yardstick carries what the library carries: every observation, in order, and its action."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from shmbridge.benchmarks.matched_ring import NobodyThereError, RingPair, make_memory, make_semaphore, open_semaphore, slot_bytes
from shmbridge.memory.naming import new_semaphore_names
from shmbridge.memory.posix import unlink_semaphore

OBSERVATION = {"q": ((2, 3), "float32"), "image": ((2, 40, 50, 3), "uint8")}
ACTION = {"action": ((2, 1, 7), "float32")}
COUNT = 2
PATIENCE = 60.0


@pytest.fixture
def ends(unique_name: str) -> Iterator[tuple[RingPair, RingPair]]:
    """Both ends of one pair of rings."""
    names = new_semaphore_names(unique_name)
    with contextlib.ExitStack() as stack:
        descriptors = [make_memory(shapes, COUNT) for shapes in (OBSERVATION, ACTION)]
        for descriptor in descriptors:
            stack.callback(os.close, descriptor)
        for name in names:
            stack.callback(unlink_semaphore, name)
        ours = [make_semaphore(name, value) for name, value in zip(names, (COUNT, 0, COUNT, 0), strict=True)]
        theirs = [open_semaphore(name) for name in names]
        yield tuple(RingPair(descriptors, (OBSERVATION, ACTION), COUNT, semaphores, PATIENCE) for semaphores in (ours, theirs))


def observation(value: int) -> dict[str, np.ndarray]:
    return {name: np.full(shape, value, dtype) for name, (shape, dtype) in OBSERVATION.items()}


def doubled(seen: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    assert (seen["image"] == int(seen["q"][0, 0])).all()
    return {"action": np.full((2, 1, 7), 2 * seen["q"][0, 0], np.float32)}


def answering(pair: RingPair, times: int) -> threading.Thread:
    thread = threading.Thread(target=lambda: [pair.answer(doubled) for _ in range(times)])
    thread.start()
    return thread


def test_each_observation_gets_its_own_action(ends: tuple[RingPair, RingPair]) -> None:
    thread = answering(ends[1], 7)
    actions = [ends[0].ask(observation(number))["action"] for number in range(7)]
    thread.join()
    assert [action[1, 0, 6] for action in actions] == [2.0 * number for number in range(7)]


def test_an_action_is_a_copy(ends: tuple[RingPair, RingPair]) -> None:
    thread = answering(ends[1], 2 * COUNT)
    first = ends[0].ask(observation(1))["action"]
    for _ in range(2 * COUNT - 1):
        ends[0].ask(observation(9))
    thread.join()
    assert (first == 2.0).all()


def test_a_loaned_slot_is_sent_as_it_was_filled(ends: tuple[RingPair, RingPair]) -> None:
    thread = answering(ends[1], 1)
    slot = ends[0].observations.loan()
    for name, array in observation(4).items():
        slot[name][...] = array
    assert (ends[0].exchange()["action"] == 8.0).all()
    thread.join()


def test_slots_go_round_in_order(ends: tuple[RingPair, RingPair]) -> None:
    thread = answering(ends[1], 3)
    for number in range(3):
        assert ends[0].observations.loan() is ends[0].observations.slots[number % COUNT]
        for name, array in observation(number).items():
            ends[0].observations.slots[number % COUNT][name][...] = array
        ends[0].exchange()
    thread.join()


def test_without_an_other_side_a_wait_ends(ends: tuple[RingPair, RingPair], monkeypatch: pytest.MonkeyPatch) -> None:
    for ring in (ends[1].observations, ends[0].actions):
        monkeypatch.setattr(ring, "_patience", 0.01)
    with pytest.raises(NobodyThereError, match="did nothing"):
        ends[1].answer(doubled)
    with pytest.raises(NobodyThereError):
        ends[0].ask(observation(1))


@pytest.mark.parametrize("take", [lambda pair: pair.observations.slots, lambda pair: pair.actions.slots])
def test_tensors_begin_on_pages_and_do_not_overlap(ends: tuple[RingPair, RingPair], take: Callable[[RingPair], list[dict[str, np.ndarray]]]) -> None:
    arrays = [array for slot in take(ends[0]) for array in slot.values()]
    places = sorted((array.ctypes.data, array.ctypes.data + array.nbytes) for array in arrays)
    assert all(start % 4096 == 0 for start, _ in places)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(places))


def test_a_slot_is_as_long_as_the_pages_of_its_tensors() -> None:
    assert slot_bytes(OBSERVATION) == 4096 + 3 * 4096
