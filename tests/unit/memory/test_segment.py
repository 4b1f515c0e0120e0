"""Segments: memory that one side may write, and that nobody leaves behind."""

from __future__ import annotations

import pytest
from helpers import mapped_segments, open_descriptors

from shmbridge.errors import SegmentNotReadyError
from shmbridge.layout import observation_layout
from shmbridge.memory.segment import CreatedSegment, Segment
from shmbridge.spec import TensorSpec

LAYOUT = observation_layout([TensorSpec("q", (3,), "float32")], 2)


@pytest.mark.parametrize("writable_here", [True, False])
def test_exactly_one_side_may_write(writable_here: bool) -> None:
    made = CreatedSegment(LAYOUT, 2, writable_here=writable_here)
    attached = Segment(LAYOUT, 2, made.for_peer, writable=not writable_here)
    writer, reader = (made, attached) if writable_here else (attached, made)
    writer.slots[1].tensors["q"][1, 2] = 5
    assert reader.slots[1].tensors["q"][1, 2] == 5
    with pytest.raises(ValueError, match="read-only"):
        reader.slots[1].tensors["q"][1, 2] = 6
    if writable_here:
        with pytest.raises(PermissionError):
            Segment(LAYOUT, 2, made.for_peer, writable=True)
    made.forget_descriptor()
    attached.close()
    made.close()


def test_closing_lets_go_of_mapping_and_descriptors() -> None:
    descriptors, mappings = open_descriptors(), mapped_segments()
    made = CreatedSegment(LAYOUT, 2, writable_here=True)
    made.forget_descriptor()
    made.forget_descriptor()
    made.close()
    assert (open_descriptors(), mapped_segments()) == (descriptors, mappings)


def test_memory_for_fewer_slots_is_refused() -> None:
    made = CreatedSegment(LAYOUT, 2, writable_here=True)
    with pytest.raises(SegmentNotReadyError, match="disagree about the layout"):
        Segment(LAYOUT, 3, made.for_peer, writable=False)
    made.forget_descriptor()
    made.close()


def test_an_array_kept_by_someone_stays_readable_after_closing() -> None:
    made = CreatedSegment(LAYOUT, 2, writable_here=True)
    kept = made.slots[0].tensors["q"][0]
    made.forget_descriptor()
    made.close()
    assert kept.tolist() == [0, 0, 0]
