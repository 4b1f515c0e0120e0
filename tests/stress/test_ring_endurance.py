"""A bare ring between two processes, for as long as it takes to see what goes wrong rarely."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from helpers import Line

from shmbridge.layout import observation_layout
from shmbridge.memory.posix import Semaphore, unlink_semaphore
from shmbridge.memory.ring import Consumer
from shmbridge.memory.segment import CreatedSegment
from shmbridge.memory.waiting import Deadline
from shmbridge.spec import TensorSpec
from shmbridge.testing import unique_name

SLOTS = 2
GROWTH_BYTES = 4 << 20


@pytest.mark.slow
@pytest.mark.parametrize(("nbytes", "messages"), [(64, 1_000_000), (1_843_200, 20_000)], ids=["a million small ones", "20000 of 1.8 MB"])
def test_messages_arrive_in_order_and_whole_and_memory_stays_constant(nbytes, messages):
    layout = observation_layout([TensorSpec("payload", (nbytes,), "uint8")], 1)
    segment = CreatedSegment(layout, SLOTS, writable_here=False)
    names = [f"/shmbridge.{unique_name()}.0.{kind}" for kind in ("free", "full")]
    free, full = (Semaphore.create(name, value) for name, value in zip(names, (SLOTS, 0), strict=True))
    words = [sys.executable, str(Path(__file__).with_name("ring_writer.py")), str(segment.for_peer), *names, str(nbytes), str(messages)]
    with subprocess.Popen(words, pass_fds=[segment.for_peer], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "attached\n"
        for name in names:
            unlink_semaphore(name)
        segment.forget_descriptor()
        growth = _read_all(Consumer(segment.slots, free, full, Line()), messages)
        assert int(writer.stdout.readline()) < GROWTH_BYTES
        assert writer.wait(30) == 0
    assert growth < GROWTH_BYTES
    assert (free.value, full.value) == (SLOTS, 0), "a slot was lost"
    free.close()
    full.close()
    segment.close()


def _read_all(consumer, messages):
    """Check every message, and return by how much this process grew after the first tenth."""
    resident = 0
    for number in range(1, messages + 1):
        slot = consumer.take(Deadline(30))
        assert slot is not None, f"message {number} never came"
        assert slot.read_header().sequence == number
        payload = slot.tensors["payload"]
        assert (payload == number % 251).all(), f"message {number} is torn"
        del payload
        consumer.release(slot)
        if number == messages // 10:
            resident = psutil.Process(os.getpid()).memory_info().rss
    return psutil.Process(os.getpid()).memory_info().rss - resident
