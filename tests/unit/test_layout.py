"""Layouts: where every byte lies, and that it lies there tomorrow too."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from shmbridge.errors import SpecError
from shmbridge.layout import (
    FAILURE_BYTES,
    FORMAT_VERSION,
    LINE,
    MAX_ENVS,
    PAGE,
    TASK_BYTES,
    ActionHeader,
    Change,
    Layout,
    ObservationHeader,
    Outcome,
    action_layout,
    make_slots,
    observation_layout,
    session_layouts,
)
from shmbridge.policy import PolicySpecs
from shmbridge.spec import TensorSpec

GOLDEN = Path(__file__).parent.parent / "golden" / "layout.json"
KNOWN_OBSERVATION = [
    TensorSpec("camera/head_rgb", (480, 640, 3), "uint8", "sRGB"),
    TensorSpec("joint_pos", (7,), "float32", "rad"),
    TensorSpec("gripper", (), "bfloat16"),
    TensorSpec("instruction", (), "utf8[64]"),
    TensorSpec("done", (), "bool"),
]
KNOWN_ACTION = [TensorSpec("action", (7,), "float32", "rad/s"), TensorSpec("mode", (), "int64")]

dtypes = st.sampled_from(["bool", "uint8", "float32", "complex128", "bfloat16", "utf8[3]", "utf8[900]"])
shapes = st.lists(st.integers(1, 7), max_size=3).map(tuple)
spec_lists = st.lists(st.tuples(shapes, dtypes), min_size=1, max_size=4).map(lambda found: [TensorSpec(f"t{i}", *pair) for i, pair in enumerate(found)])


def layouts_of(specs: list[TensorSpec], num_envs: int, horizon: int) -> tuple[Layout, Layout]:
    return observation_layout(specs, num_envs), action_layout(specs, num_envs, horizon)


@given(spec_lists, st.integers(1, 9), st.integers(1, 9))
def test_no_two_fields_overlap_and_all_lie_within_the_slot(specs: list[TensorSpec], num_envs: int, horizon: int) -> None:
    for layout in layouts_of(specs, num_envs, horizon):
        ends = [(0, 8 * len(layout.header._fields)), *((field.offset, field.offset + field.nbytes) for field in layout.fields)]
        assert all(before[1] <= after[0] for before, after in pairwise(ends))
        assert ends[-1][1] <= layout.stride


@given(spec_lists, st.integers(1, 9), st.integers(1, 9))
def test_fields_of_a_page_or_more_are_page_aligned_and_smaller_ones_have_a_line(specs: list[TensorSpec], num_envs: int, horizon: int) -> None:
    for layout in layouts_of(specs, num_envs, horizon):
        for field in layout.fields:
            assert field.offset % (PAGE if field.nbytes >= PAGE else LINE) == 0
        assert layout.stride % PAGE == 0


@given(spec_lists, st.integers(1, 9))
def test_no_byte_is_wasted_beyond_what_alignment_asks_for(specs: list[TensorSpec], num_envs: int) -> None:
    layout = observation_layout(specs, num_envs)
    end = 8 * len(layout.header._fields)
    for field in layout.fields:
        assert field.offset - end < (PAGE if field.nbytes >= PAGE else LINE)
        end = field.offset + field.nbytes
    assert layout.stride - end < PAGE


@given(spec_lists, st.integers(1, 5), st.integers(1, 5), st.integers(2, 4))
def test_writing_one_field_changes_no_other_and_no_other_slot(specs: list[TensorSpec], num_envs: int, horizon: int, count: int) -> None:
    layout = action_layout(specs, num_envs, horizon)
    memory = bytearray(layout.segment_size(count))
    slots = make_slots(layout, memory, count, writable=True)
    for number, slot in enumerate(slots):
        for index, array in enumerate([*slot.words.values(), *slot.tensors.values()]):
            array[...] = np.frombuffer(bytes([1 + (number * 17 + index) % 250]) * array.nbytes, array.dtype).reshape(array.shape)
        slot.write_header(ActionHeader(number, 1, 2, 3, 4))
    for number, slot in enumerate(slots):
        assert slot.read_header() == (number, 1, 2, 3, 4)
        for index, array in enumerate([*slot.words.values(), *slot.tensors.values()]):
            assert set(array.tobytes()) == {1 + (number * 17 + index) % 250}


def test_tensors_have_the_batch_axes_in_front() -> None:
    observation, action = session_layouts(PolicySpecs(KNOWN_OBSERVATION, KNOWN_ACTION, 16), 10)
    assert {field.name: field.shape for field in observation.fields if field.name[0] != "@"} == {
        "camera/head_rgb": (10, 480, 640, 3),
        "joint_pos": (10, 7),
        "gripper": (10,),
        "instruction": (10,),
        "done": (10,),
    }
    assert {field.name: field.shape for field in action.fields if field.name[0] != "@"} == {"action": (10, 16, 7), "mode": (10, 16)}


def test_stacked_observations_have_the_steps_behind_the_environments() -> None:
    observation, _ = session_layouts(PolicySpecs(KNOWN_OBSERVATION, KNOWN_ACTION, 16, observation_steps=3), 10)
    assert {field.name: field.shape for field in observation.fields if field.name[0] != "@"} == {
        "camera/head_rgb": (10, 3, 480, 640, 3),
        "joint_pos": (10, 3, 7),
        "gripper": (10, 3),
        "instruction": (10, 3),
        "done": (10, 3),
    }
    assert {field.shape[0] for field in observation.fields} == {10}


def test_a_stack_of_one_is_no_stack() -> None:
    assert observation_layout(KNOWN_OBSERVATION, 3, 1) == observation_layout(KNOWN_OBSERVATION, 3)
    assert PolicySpecs(KNOWN_OBSERVATION, KNOWN_ACTION).observation_batch(3) == (3,)
    assert PolicySpecs(KNOWN_OBSERVATION, KNOWN_ACTION, observation_steps=2).observation_batch(3) == (3, 2)


def test_both_sides_compute_the_same_layout() -> None:
    assert observation_layout(KNOWN_OBSERVATION, 3) == observation_layout(list(KNOWN_OBSERVATION), 3)


BASE: dict[str, Any] = {"name": "q", "shape": (7,), "dtype": "float32"}


@pytest.mark.parametrize("change", [{"name": "p"}, {"shape": (8,)}, {"shape": (7, 1)}, {"dtype": "int32"}, {"dtype": "float64"}])
def test_the_digest_changes_when_a_spec_does(change: dict[str, Any]) -> None:
    changed = [TensorSpec(**{**BASE, **change})]
    for before, after in zip(layouts_of([TensorSpec(**BASE)], 2, 3), layouts_of(changed, 2, 3), strict=True):
        assert before.digest != after.digest


def test_the_digest_tells_bfloat16_from_the_uint16_that_stores_it() -> None:
    assert observation_layout([TensorSpec("q", (7,), "bfloat16")], 2).digest != observation_layout([TensorSpec("q", (7,), "uint16")], 2).digest


def test_the_digest_changes_with_number_of_environments_horizon_order_and_ring() -> None:
    specs = [TensorSpec("a", (2,), "uint8"), TensorSpec("b", (2,), "uint8")]
    digests = [
        observation_layout(specs, 2).digest,
        observation_layout(specs, 3).digest,
        observation_layout(specs[::-1], 2).digest,
        observation_layout(specs[:1], 2).digest,
        observation_layout(specs, 2, 2).digest,
        observation_layout(specs, 2, 3).digest,
        action_layout(specs, 2, 3).digest,
        action_layout(specs, 3, 3).digest,
        action_layout(specs, 2, 4).digest,
    ]
    assert len(set(digests)) == len(digests)


@given(spec_lists, spec_lists, st.integers(1, 3), st.integers(1, 3))
def test_digests_are_equal_exactly_where_layouts_are(first: list[TensorSpec], second: list[TensorSpec], one: int, two: int) -> None:
    left, right = observation_layout(first, one), observation_layout(second, two)
    same = first == second and one == two
    assert (left.digest == right.digest) is same


def test_a_unit_does_not_change_where_bytes_lie() -> None:
    assert observation_layout([TensorSpec("q", (7,), "float32", "rad")], 2) == observation_layout([TensorSpec("q", (7,), "float32")], 2)


@pytest.mark.parametrize("num_envs", [0, -1, MAX_ENVS + 1])
def test_an_impossible_number_of_environments_is_refused(num_envs: int) -> None:
    with pytest.raises(SpecError, match="num_envs must lie between"):
        observation_layout([TensorSpec("q", (), "bool")], num_envs)


@pytest.mark.parametrize("shape", [(1 << 41,), (1 << 20, 1 << 21), (2**32, 2**32), (2**63,), (2**31, 2**31, 2**2)])
def test_a_slot_too_large_to_be_meant_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SpecError, match="at most"):
        observation_layout([TensorSpec("q", shape, "uint8")], 1)


def test_read_only_slots_cannot_be_written() -> None:
    layout = observation_layout(KNOWN_OBSERVATION, 1)
    (slot,) = make_slots(layout, bytearray(layout.segment_size(1)), 1, writable=False)
    for array in [*slot.tensors.values(), *slot.words.values()]:
        with pytest.raises(ValueError, match="read-only"):
            array[...] = array


def test_a_view_of_a_slot_keeps_the_memory_alive() -> None:
    layout = observation_layout([TensorSpec("q", (7,), "float32")], 1)
    memory = bytearray(layout.segment_size(1))
    (slot,) = make_slots(layout, memory, 1, writable=True)
    view = slot.tensors["q"][0, 2:]
    del slot
    with pytest.raises(BufferError):
        memory.extend(b"more")
    del view
    memory.extend(b"more")


def test_names_of_words_cannot_be_names_of_tensors() -> None:
    for layout in layouts_of(KNOWN_ACTION, 2, 3):
        for field in layout.fields:
            if field.name.startswith("@"):
                with pytest.raises(SpecError):
                    TensorSpec(field.name, (), "bool")


def as_golden(layout: Layout) -> dict[str, Any]:
    fields = {field.name: {"offset": field.offset, "shape": list(field.shape), "dtype": field.dtype} for field in layout.fields}
    return {"header": list(layout.header._fields), "fields": fields, "stride": layout.stride, "digest": layout.digest}


def test_the_wire_format_is_the_one_on_record() -> None:
    """If this fails, either undo the change or raise FORMAT_VERSION, write it into docs/reference/wire-format.md, and record anew."""
    layouts = session_layouts(PolicySpecs(KNOWN_OBSERVATION, KNOWN_ACTION, 16), 2)
    stacked = session_layouts(PolicySpecs(KNOWN_OBSERVATION, KNOWN_ACTION, 16, observation_steps=3), 2)
    found = {"observation": layouts.observation, "action": layouts.action, "observation of 3 steps": stacked.observation}
    assert {what: as_golden(layout) for what, layout in found.items()} == json.loads(GOLDEN.read_text())
    assert stacked.action == layouts.action


def test_header_words_are_little_endian_and_come_first() -> None:
    layout = observation_layout([TensorSpec("q", (), "uint8")], 1)
    memory = bytearray(layout.segment_size(2))
    make_slots(layout, memory, 2, writable=True)[1].write_header(ObservationHeader(0x0102030405060708, 2, 1, 0))
    assert memory[layout.stride : layout.stride + 32].hex() == "0807060504030201" + "02" + "00" * 7 + "01" + "00" * 7 + "00" * 8


def test_the_words_of_a_slot_are_where_its_header_is() -> None:
    layout = action_layout(KNOWN_ACTION, 2, 3)
    _, slot = make_slots(layout, bytearray(layout.segment_size(2)), 2, writable=True)
    slot.write_header(ActionHeader(7, 1, Outcome.ANSWERED, 99, 1))
    assert slot.read_words() == (7, 1, 0, 99, 1)
    slot.write_words(7, 2, Outcome.FAILED, 98, 0)
    assert slot.read_header() == ActionHeader(generation=7, sequence=2, outcome=1, infer_ns=98, all_rows=0)


def test_numbers_of_the_protocol_are_the_documented_ones() -> None:
    assert FORMAT_VERSION == 2
    assert (Change.NONE, Change.EPISODE, Change.INSTRUCTION) == (0, 1, 2)
    assert (Outcome.ANSWERED, Outcome.FAILED) == (0, 1)
    assert ObservationHeader._fields == ("generation", "sequence", "has_changes", "all_rows")
    assert ActionHeader._fields == ("generation", "sequence", "outcome", "infer_ns", "all_rows")


def test_sizes_of_texts_are_the_documented_ones() -> None:
    assert (TASK_BYTES, FAILURE_BYTES) == (256, 16_384)
