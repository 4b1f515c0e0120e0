"""The writing process of test_ring_endurance: ``ring_writer.py DESCRIPTOR FREE FULL BYTES MESSAGES``."""

import os
import sys
from typing import NoReturn

import psutil

from shmbridge.layout import ObservationHeader, observation_layout
from shmbridge.memory.posix import Semaphore
from shmbridge.memory.ring import Producer
from shmbridge.memory.segment import Segment
from shmbridge.memory.waiting import Deadline
from shmbridge.spec import TensorSpec

SLOTS = 2


class _Line:
    """A reader that is never lost."""

    ended = None

    def raise_ended(self) -> NoReturn:
        raise AssertionError("nothing ended")


def main() -> None:
    descriptor, free_name, full_name, nbytes, messages = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    layout = observation_layout([TensorSpec("payload", (nbytes,), "uint8")], 1)
    segment = Segment(layout, SLOTS, descriptor, writable=True)
    free, full = Semaphore.open(free_name), Semaphore.open(full_name)
    print("attached", flush=True)
    producer = Producer(segment.slots, free, full, _Line())
    resident = 0
    for number in range(1, messages + 1):
        slot = producer.loan(Deadline(30))
        assert slot is not None, "the reader is stuck"
        slot.tensors["payload"][:] = number % 251
        slot.write_header(ObservationHeader(1, number, 0, 1))
        producer.publish()
        if number == messages // 10:
            resident = psutil.Process(os.getpid()).memory_info().rss
    print(psutil.Process(os.getpid()).memory_info().rss - resident, flush=True)


main()
