"""A segment: one ring's memory, without a name, held by descriptor and mapping."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shmbridge.layout import Layout, Slot, make_slots
from shmbridge.memory import posix

if TYPE_CHECKING:
    from mmap import mmap


class Segment:
    """Memory of one ring on one side. The host creates it, the client attaches; one of them may write.

    The kernel frees the memory when the last descriptor and mapping are gone, so a crash leaves nothing.
    """

    def __init__(self, layout: Layout, slots: int, descriptor: int, *, writable: bool) -> None:
        """Map the ring behind ``descriptor``, which stays the caller's.

        Raises:
            SegmentNotReadyError: The memory is not as long as the layout needs.
        """
        mapping = posix.map_file(descriptor, layout.segment_size(slots), writable=writable)
        self._mapping: mmap | None = mapping
        self.slots: list[Slot] = make_slots(layout, mapping, slots, writable=writable)

    def close(self) -> None:
        """Drop our own arrays and unmap. Arrays that someone else still holds keep the mapping alive until they are gone."""
        self.slots = []
        mapping, self._mapping = self._mapping, None  # or this reference alone would keep it, when the last array is gone
        if mapping is not None:
            posix.unmap(mapping)


class CreatedSegment(Segment):
    """A segment on the side that made it, with the descriptor to be passed to the peer."""

    def __init__(self, layout: Layout, slots: int, *, writable_here: bool) -> None:
        """Reserve the memory and map it, writable on exactly one side.

        Raises:
            SharedMemoryFullError: There is too little. Nothing stays reserved.
        """
        writable, readable = posix.create_anonymous(layout.segment_size(slots))
        ours, self.for_peer = (writable, readable) if writable_here else (readable, writable)
        try:
            super().__init__(layout, slots, ours, writable=writable_here)
        except BaseException:
            os.close(self.for_peer)
            raise
        finally:
            os.close(ours)  # the mapping keeps the memory

    def forget_descriptor(self) -> None:
        """Close the descriptor for the peer, once it was passed or never will be."""
        if self.for_peer >= 0:
            os.close(self.for_peer)
            self.for_peer = -1
