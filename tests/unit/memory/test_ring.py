"""Rings: order, loans, leases and loss, within a process and between two."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from helpers import Child, Line

from shmbridge.counters import RingStatistics
from shmbridge.errors import LocalProtocolError, PeerLostError
from shmbridge.layout import Layout, ObservationHeader, observation_layout
from shmbridge.memory.posix import Semaphore, unlink_semaphore
from shmbridge.memory.ring import Consumer, Producer
from shmbridge.memory.segment import CreatedSegment, Segment
from shmbridge.memory.waiting import Deadline
from shmbridge.spec import TensorSpec

LAYOUT: Layout = observation_layout([TensorSpec("number", (16,), "int64")], 1)
SOON, LONG = Deadline(0.0), 60.0


@dataclass
class Ring:
    """Both ends of one ring in one process, each with a mapping of its own."""

    name: str
    slots: int

    def __post_init__(self) -> None:
        self.made = CreatedSegment(LAYOUT, self.slots, writable_here=True)
        self.attached = Segment(LAYOUT, self.slots, self.made.for_peer, writable=False)
        self.made.forget_descriptor()
        self.free = Semaphore.create(f"/shmbridge.{self.name}.0.free", self.slots)
        self.full = Semaphore.create(f"/shmbridge.{self.name}.0.full", 0)
        self.writers_line, self.readers_line = Line(), Line()
        self.producer = Producer(self.made.slots, self.free, self.full, self.writers_line)
        self.consumer = Consumer(self.attached.slots, self.free, self.full, self.readers_line)

    def put(self, number: int) -> None:
        slot = self.producer.loan(Deadline(LONG))
        assert slot is not None
        slot.tensors["number"][...] = number
        slot.write_header(ObservationHeader(1, number, 0, 1))
        self.producer.publish()

    def get(self) -> int:
        slot = self.consumer.take(Deadline(LONG))
        assert slot is not None
        number = int(slot.read_header().sequence)
        assert set(slot.tensors["number"].ravel().tolist()) == {number}
        self.consumer.release(slot)
        return number

    def close(self) -> None:
        for name in ("free", "full"):
            unlink_semaphore(f"/shmbridge.{self.name}.0.{name}")
        self.free.close()
        self.full.close()


@pytest.fixture(params=[2, 3])
def ring(request: pytest.FixtureRequest, unique_name: str) -> Iterator[Ring]:
    made = Ring(unique_name, request.param)
    yield made
    made.close()


def test_what_goes_in_comes_out_in_order(ring: Ring) -> None:
    for number in range(1, 20, ring.slots):
        batch = range(number, number + ring.slots)
        for value in batch:
            ring.put(value)
        assert ring.consumer.waiting == ring.slots
        assert [ring.get() for _ in batch] == list(batch)


def test_a_full_ring_lends_nothing(ring: Ring) -> None:
    for number in range(ring.slots):
        ring.put(number)
    assert ring.producer.loan(SOON) is None
    assert ring.producer.try_loan() is None
    ring.get()
    assert ring.producer.try_loan() is not None


def test_an_empty_ring_gives_nothing(ring: Ring) -> None:
    assert ring.consumer.take(SOON) is None
    assert ring.consumer.try_take() is None
    assert ring.consumer.waiting == 0


def test_a_loan_is_the_same_until_it_is_published(ring: Ring) -> None:
    slot = ring.producer.loan(SOON)
    assert slot is not None
    assert ring.producer.loan(SOON) is slot
    assert ring.producer.try_loan() is slot
    assert ring.free.value == ring.slots - 1
    ring.producer.publish()
    assert ring.producer.loan(SOON) is not slot


def test_failed_loan_publishes_nothing_and_keeps_its_slot(ring: Ring) -> None:
    for number in range(ring.slots):
        ring.put(number)
    assert ring.producer.loan(SOON) is None
    with pytest.raises(LocalProtocolError, match="nothing is lent"):
        ring.producer.publish()
    assert ring.consumer.waiting == ring.slots
    assert [ring.get() for _ in range(ring.slots)] == list(range(ring.slots))


def test_publishing_twice_is_our_callers_fault(ring: Ring) -> None:
    ring.put(1)
    with pytest.raises(LocalProtocolError):
        ring.producer.publish()


def test_ending_a_younger_lease_first_keeps_its_slot_back(ring: Ring) -> None:
    ring.put(1)
    ring.put(2)
    older, younger = ring.consumer.take(SOON), ring.consumer.take(SOON)
    assert older is not None and younger is not None
    free = ring.free.value
    ring.consumer.release(younger)
    assert ring.free.value == free
    assert older.read_header().sequence == 1
    ring.consumer.release(older)
    assert ring.free.value == free + 2


def test_after_leases_ended_out_of_order_slots_still_go_round_in_order(ring: Ring) -> None:
    for round_number in range(5):
        ring.put(2 * round_number)
        ring.put(2 * round_number + 1)
        older, younger = ring.consumer.take(SOON), ring.consumer.take(SOON)
        assert older is not None and younger is not None
        assert (older.read_header().sequence, younger.read_header().sequence) == (2 * round_number, 2 * round_number + 1)
        ring.consumer.release(younger)
        ring.consumer.release(older)
    assert ring.free.value == ring.slots


def test_a_slot_is_released_once(ring: Ring) -> None:
    ring.put(1)
    ring.put(2)
    older, younger = ring.consumer.take(SOON), ring.consumer.take(SOON)
    assert older is not None and younger is not None
    ring.consumer.release(younger)
    with pytest.raises(LocalProtocolError, match="not leased"):
        ring.consumer.release(younger)
    ring.consumer.release(older)
    with pytest.raises(LocalProtocolError, match="not leased"):
        ring.consumer.release(older)
    assert ring.free.value == ring.slots


def test_a_slot_of_the_other_side_cannot_be_released(ring: Ring) -> None:
    ring.put(1)
    with pytest.raises(LocalProtocolError, match="not leased"):
        ring.consumer.release(ring.made.slots[0])


def test_the_readers_arrays_cannot_be_written(ring: Ring) -> None:
    ring.put(1)
    slot = ring.consumer.take(SOON)
    assert slot is not None
    with pytest.raises(ValueError, match="read-only"):
        slot.tensors["number"][...] = 2


def test_a_lost_consumer_is_said_before_anything_is_lent(ring: Ring) -> None:
    ring.writers_line.ended = PeerLostError("gone")
    with pytest.raises(PeerLostError, match="gone"):
        ring.producer.loan(SOON)
    assert ring.free.value == ring.slots


def test_a_lost_producer_is_said_before_what_it_published_is_read(ring: Ring) -> None:
    ring.put(1)
    ring.readers_line.ended = PeerLostError("gone")
    with pytest.raises(PeerLostError, match="gone"):
        ring.consumer.take(SOON)
    with pytest.raises(PeerLostError, match="gone"):
        ring.consumer.try_take()


def test_a_post_that_stands_for_no_slot_wakes_the_reader_and_gives_it_nothing(ring: Ring) -> None:
    errors: list[PeerLostError] = []

    def read() -> None:
        try:
            ring.consumer.take(Deadline(LONG))
        except PeerLostError as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    ring.readers_line.ended = PeerLostError("killed")  # first the mark, then the post: what the one who is woken sees
    ring.full.release()
    reader.join()
    assert [str(error) for error in errors] == ["killed"]


def test_a_post_that_stands_for_no_slot_wakes_the_writer_and_lends_it_nothing(ring: Ring) -> None:
    for number in range(ring.slots):
        ring.put(number)
    errors: list[PeerLostError] = []

    def write() -> None:
        try:
            ring.producer.loan(Deadline(LONG))
        except PeerLostError as error:
            errors.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    ring.writers_line.ended = PeerLostError("killed")
    ring.free.release()
    writer.join()
    assert len(errors) == 1
    ring.writers_line.ended = None
    with pytest.raises(LocalProtocolError, match="nothing is lent"):
        ring.producer.publish()


def test_each_end_says_where_the_ring_stands(ring: Ring) -> None:
    slots = ring.slots
    assert ring.producer.statistics() == RingStatistics(slots=slots, free=slots, full=0, moved=0, held=0)
    assert ring.consumer.statistics() == RingStatistics(slots=slots, free=slots, full=0, moved=0, held=0)
    ring.put(1)
    ring.put(2)
    first = ring.consumer.take(SOON)
    assert first is not None
    assert ring.producer.statistics() == RingStatistics(slots=slots, free=slots - 2, full=1, moved=2, held=0)
    assert ring.consumer.statistics() == RingStatistics(slots=slots, free=slots - 2, full=1, moved=1, held=1)
    second = ring.consumer.take(SOON)
    assert second is not None
    ring.consumer.release(second)
    assert ring.consumer.statistics().held == 2, "its slot is kept back"
    ring.consumer.release(first)
    assert ring.consumer.statistics() == RingStatistics(slots=slots, free=slots, full=0, moved=2, held=0)


def test_a_lent_slot_is_held_until_it_is_published(ring: Ring) -> None:
    ring.producer.loan(SOON)
    ring.producer.loan(SOON)
    assert (ring.producer.statistics().held, ring.producer.statistics().free) == (1, ring.slots - 1)
    ring.producer.publish()
    assert (ring.producer.statistics().held, ring.producer.statistics().moved) == (0, 1)


def test_the_next_slot_is_the_one_that_the_number_moved_points_to(ring: Ring) -> None:
    for number in range(2 * ring.slots + 1):
        place = ring.producer.statistics().moved % ring.slots
        assert ring.producer.loan(SOON) is ring.made.slots[place]
        ring.put(number)
        assert ring.consumer.statistics().moved % ring.slots == place
        slot = ring.consumer.take(SOON)
        assert slot is ring.attached.slots[place]
        ring.consumer.release(slot)


def test_a_ring_that_is_over_holds_nothing(ring: Ring) -> None:
    ring.put(1)
    ring.producer.loan(SOON)
    ring.consumer.take(SOON)
    for end in (ring.producer, ring.consumer):
        end.forget()
        assert (end.statistics().slots, end.statistics().held) == (0, 0)


def test_two_threads_pass_thousands_in_order(ring: Ring) -> None:
    writer = threading.Thread(target=lambda: [ring.put(number) for number in range(3000)])
    writer.start()
    assert [ring.get() for _ in range(3000)] == list(range(3000))
    writer.join()


WRITER = """
import sys, os
from helpers import Line
from shmbridge.layout import ObservationHeader, observation_layout
from shmbridge.memory.posix import Semaphore
from shmbridge.memory.ring import Producer
from shmbridge.memory.segment import Segment
from shmbridge.memory.waiting import Deadline
from shmbridge.spec import TensorSpec
name, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
layout = observation_layout([TensorSpec("number", (16,), "int64")], 1)
descriptor = os.open(path, os.O_RDWR)
segment = Segment(layout, 2, descriptor, writable=True)
free, full = (Semaphore.open(f"/shmbridge.{name}.0.{kind}") for kind in ("free", "full"))
producer = Producer(segment.slots, free, full, Line())
for number in range(count):
    slot = producer.loan(Deadline(60.0))
    slot.tensors["number"][...] = number
    slot.write_header(ObservationHeader(1, number, 0, 1))
    producer.publish()
producer.loan(Deadline(60.0))
print("lent")
input()
"""


def test_two_processes_pass_thousands_in_order(unique_name: str, start: Callable[..., Child]) -> None:
    count = 4000
    made = CreatedSegment(LAYOUT, 2, writable_here=False)
    free, full = Semaphore.create(f"/shmbridge.{unique_name}.0.free", 2), Semaphore.create(f"/shmbridge.{unique_name}.0.full", 0)
    try:
        writer = start(WRITER, unique_name, f"/proc/{os.getpid()}/fd/{made.for_peer}", count)
        consumer = Consumer(made.slots, free, full, Line())
        for number in range(count):
            slot = consumer.take(Deadline(LONG))
            assert slot is not None
            assert slot.read_header().sequence == number
            assert np.all(slot.tensors["number"] == number)
            consumer.release(slot)
        writer.expect("lent")
        # Killed with a slot on loan, it published nothing more: the count is one lower than it could be, never one higher.
        writer.kill()
        assert consumer.try_take() is None
        assert free.value == 1
    finally:
        made.forget_descriptor()
        made.close()
        for kind, semaphore in (("free", free), ("full", full)):
            unlink_semaphore(f"/shmbridge.{unique_name}.0.{kind}")
            semaphore.close()
