"""The yardstick: two rings and four semaphores, and nothing else. What Python can do without a product around it.

Written on posix_ipc and mmap alone. It has the number of slots, the shapes, the policy and the cores of what it is compared with, and waits
as that does: it spins a little and then blocks. It copies in and copies out. It has no handshake, no checks, no sequence numbers, no
deadlines but a bound on each block, and learns of a death by nothing but that bound.
"""

from __future__ import annotations

import math
import mmap
import os
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import posix_ipc  # type: ignore[import-not-found, unused-ignore]  # ships no types

Shapes = Mapping[str, tuple[tuple[int, ...], str]]
"""Shape, batch axis included, and dtype of each tensor of a slot, by name."""
_SPIN_SECONDS = 100e-6
_PAGE = 4096


class NobodyThereError(Exception):
    """The other side did nothing for too long."""


class Ring:
    """Slots over shared memory, used round and round, and the two semaphores that count the free and the full ones.

    Attributes:
        slots: The arrays by name, of each slot.
    """

    def __init__(self, descriptor: int, shapes: Shapes, count: int, semaphores: Sequence[posix_ipc.Semaphore], patience: float) -> None:
        size = slot_bytes(shapes)
        memory = mmap.mmap(descriptor, count * size, mmap.MAP_SHARED | mmap.MAP_POPULATE)
        self.slots = [_arrays(memory, shapes, index * size) for index in range(count)]
        self._free, self._full = semaphores
        self._moved = 0
        self._patience = patience

    def loan(self) -> dict[str, np.ndarray]:
        """Wait for a free slot and return it, to be written."""
        _acquire(self._free, self._patience)
        return self.slots[self._moved % len(self.slots)]

    def publish(self) -> None:
        """Hand the loaned slot over."""
        self._moved += 1
        self._full.release()

    def take(self) -> dict[str, np.ndarray]:
        """Wait for a full slot and return it, to be read."""
        _acquire(self._full, self._patience)
        return self.slots[self._moved % len(self.slots)]

    def release(self) -> None:
        """Hand the taken slot back."""
        self._moved += 1
        self._free.release()


class RingPair:
    """Observations one way, actions the other.

    Attributes:
        observations, actions: The two rings.
    """

    def __init__(self, descriptors: Sequence[int], shapes: Sequence[Shapes], count: int, semaphores: Sequence[posix_ipc.Semaphore], patience: float) -> None:
        """Map both rings. The descriptors stay the caller's.

        Args:
            descriptors: Of the memory of the observations and of the actions.
            shapes: Of an observation slot and of an action slot.
            count: Slots of each ring.
            semaphores: Free and full observations, free and full actions.
            patience: Seconds to wait for the other side.
        """
        self.observations = Ring(descriptors[0], shapes[0], count, semaphores[:2], patience)
        self.actions = Ring(descriptors[1], shapes[1], count, semaphores[2:], patience)

    def ask(self, observation: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Copy an observation in, wait, and return a copy of the action."""
        for name, array in self.observations.loan().items():
            array[...] = observation[name]  # for so little data faster than np.copyto, for much no slower
        return self.exchange()

    def exchange(self) -> dict[str, np.ndarray]:
        """Publish the loaned slot as it is, wait, and return a copy of the action."""
        self.observations.publish()
        action = {name: array.copy() for name, array in self.actions.take().items()}
        self.actions.release()
        return action

    def answer(self, infer: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]) -> None:
        """Answer one observation, as the other side.

        Raises:
            NobodyThereError: None came in time.
        """
        observation = self.observations.take()
        answer = infer(observation)
        for name, array in self.actions.loan().items():
            array[...] = answer[name]
        self.actions.publish()
        self.observations.release()


def make_memory(shapes: Shapes, count: int) -> int:
    """Reserve shared memory without a name for ``count`` slots and return its descriptor, the caller's to close."""
    descriptor = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC)
    try:
        os.posix_fallocate(descriptor, 0, count * slot_bytes(shapes))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def make_semaphore(name: str, value: int) -> posix_ipc.Semaphore:
    """Make a new semaphore. Its name is the caller's to take away."""
    return posix_ipc.Semaphore(name, posix_ipc.O_CREX, mode=0o600, initial_value=value)


def open_semaphore(name: str) -> posix_ipc.Semaphore:
    """Open a semaphore that the other side made."""
    return posix_ipc.Semaphore(name)


def slot_bytes(shapes: Shapes) -> int:
    """Bytes of one slot: every tensor begins on a page."""
    return sum(_in_pages(shape, dtype) for shape, dtype in shapes.values())


def _acquire(semaphore: posix_ipc.Semaphore, patience: float) -> None:
    """Take one: spin, yielding the core between looks, and then block."""
    if semaphore.value == 0:
        end = time.monotonic() + _SPIN_SECONDS
        while semaphore.value == 0:
            if time.monotonic() > end:
                return _block(semaphore, patience)
            os.sched_yield()
    semaphore.acquire()  # nobody else takes any, so this never blocks; without a timeout it costs a third less
    return None


def _block(semaphore: posix_ipc.Semaphore, patience: float) -> None:
    try:
        semaphore.acquire(patience)
    except posix_ipc.BusyError:
        raise NobodyThereError(f"the other side of the matched ring did nothing for {patience:.3g} s") from None


def _arrays(memory: mmap.mmap, shapes: Shapes, offset: int) -> dict[str, np.ndarray]:
    arrays = {}
    for name, (shape, dtype) in shapes.items():
        arrays[name] = np.frombuffer(memory, dtype, math.prod(shape), offset).reshape(shape)
        offset += _in_pages(shape, dtype)
    return arrays


def _in_pages(shape: tuple[int, ...], dtype: str) -> int:
    return -(-math.prod(shape) * np.dtype(dtype).itemsize // _PAGE) * _PAGE
