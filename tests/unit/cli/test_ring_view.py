"""What is made of a session that a host tells of, and of one that cannot be."""

from __future__ import annotations

import itertools

import descriptions as make
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmbridge.cli.ring_view import FREE, PUBLISHED, READ, WRITTEN, count_problems, field_rows, slot_states, view_session
from shmbridge.counters import RingStatistics
from shmbridge.layout import action_layout, observation_layout
from shmbridge.spec import TensorSpec


def view(**changes):
    client = make.client(**changes)
    return view_session(client, client.session)


def test_a_session_that_is_as_told_has_no_problems():
    found = view()
    assert found.adds_up
    assert [found.problems, found.observation.problems, found.action.problems] == [[], [], []]
    assert found.observation.layout == observation_layout(make.OBSERVATION, make.NUM_ENVS)
    assert found.action.layout == action_layout(make.ACTION, make.NUM_ENVS, 4)


def test_stacked_observations_are_laid_out_stacked():
    layout = observation_layout(make.OBSERVATION, make.NUM_ENVS, 3)
    nbytes = layout.segment_size(2) + action_layout(make.ACTION, make.NUM_ENVS, 4).segment_size(2)
    found = view(nbytes=nbytes, session=make.session(observation_steps=3, observation_digest=layout.digest))
    assert not found.problems and not found.observation.problems
    assert found.observation.layout == layout


@pytest.mark.parametrize(
    ("counts", "states"),
    [
        ({"slots": 4, "free": 4, "moved": 6}, [FREE, FREE, FREE, FREE]),
        ({"slots": 4, "free": 1, "full": 1, "held": 1, "moved": 6}, [FREE, READ, PUBLISHED, WRITTEN]),
        ({"slots": 4, "free": 0, "full": 3, "held": 1, "moved": 1}, [READ, PUBLISHED, PUBLISHED, PUBLISHED]),
        ({"slots": 4, "free": 1, "full": 0, "held": 3, "moved": 3}, [READ, READ, READ, FREE]),
        ({"slots": 2, "free": 1, "full": 1, "held": 0, "moved": 3}, [FREE, PUBLISHED]),
    ],
)
def test_slots_of_a_ring_that_the_host_reads(counts, states):
    told = make.ring(**counts)
    assert count_problems(told, told.slots, host_reads=True) == []
    assert slot_states(told, host_reads=True) == states


@pytest.mark.parametrize(
    ("counts", "states"),
    [
        ({"slots": 4, "free": 4, "moved": 6}, [FREE, FREE, FREE, FREE]),
        ({"slots": 4, "free": 2, "full": 1, "held": 1, "moved": 5}, [PUBLISHED, WRITTEN, FREE, FREE]),
        ({"slots": 4, "free": 1, "full": 1, "held": 1, "moved": 6}, [READ, PUBLISHED, WRITTEN, FREE]),
        ({"slots": 2, "free": 1, "full": 0, "held": 0, "moved": 1}, [READ, FREE]),
        ({"slots": 2, "free": 0, "full": 2, "held": 0, "moved": 2}, [PUBLISHED, PUBLISHED]),
    ],
)
def test_slots_of_a_ring_that_the_host_writes(counts, states):
    told = make.ring(**counts)
    assert count_problems(told, told.slots, host_reads=False) == []
    assert slot_states(told, host_reads=False) == states


class Ring:
    """A ring as both ends move it, with the state that each slot really has."""

    def __init__(self, slots):
        self.states = [FREE] * slots
        self.writing = self.reading = 0
        self.written = self.taken = 0

    def step(self, what):
        slots = len(self.states)
        if what == "loan" and not self.writing and self.states[self.written % slots] == FREE:
            self.states[self.written % slots], self.writing = WRITTEN, 1
        elif what == "publish" and self.writing:
            self.states[self.written % slots], self.writing, self.written = PUBLISHED, 0, self.written + 1
        elif what == "take" and self.states[self.taken % slots] == PUBLISHED:
            self.states[self.taken % slots], self.reading, self.taken = READ, self.reading + 1, self.taken + 1
        elif what == "release" and self.reading:
            self.states[(self.taken - self.reading) % slots], self.reading = FREE, self.reading - 1

    def told(self, host_reads):
        moved, held = (self.taken, self.reading) if host_reads else (self.written, self.writing)
        return make.ring(len(self.states), free=self.states.count(FREE), full=self.states.count(PUBLISHED), moved=moved, held=held)


@given(st.integers(2, 6), st.lists(st.sampled_from(["loan", "publish", "take", "release"]), max_size=60), st.booleans())
def test_slots_are_where_a_ring_that_is_used_has_them(slots, steps, host_reads):
    ring = Ring(slots)
    for step in steps:
        ring.step(step)
    told = ring.told(host_reads)
    assert count_problems(told, slots, host_reads=host_reads) == []
    assert slot_states(told, host_reads=host_reads) == ring.states


@given(st.builds(RingStatistics, *[st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-2, 70)] * 5), st.integers(-2, 70), st.booleans())
def test_counts_either_have_a_problem_or_give_a_state_to_each_slot(told, slots, host_reads):
    if not count_problems(told, slots, host_reads=host_reads):
        assert len(slot_states(told, host_reads=host_reads)) == slots


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ({"free": -1}, "free is -1"),
        ({"free": 2, "full": 1}, "more than 2 slots"),
        ({"slots": 3, "free": 3}, "told 3 slots in this ring, 2 in the agreement"),
        ({"free": 0}, "2 slots are being written at once"),
    ],
)
def test_counts_that_contradict_each_other_are_said_and_give_no_states(counts, text):
    found = view(session=make.session(observation_ring=make.ring(**counts)))
    assert not found.adds_up
    assert found.observation.states == []
    assert text in found.observation.problems[0]
    assert found.action.states


def test_a_layout_that_the_host_has_otherwise_is_said_with_both_digests():
    found = view(session=make.session(action_digest="\x1bother"))
    (problem,) = found.action.problems
    assert "\\x1bother" in problem and found.action.layout.digest in problem
    assert not found.observation.problems


def test_memory_that_does_not_fit_the_layout_is_said():
    (problem,) = view(nbytes=5).problems
    assert "told 5 B (5 bytes)" in problem


@pytest.mark.parametrize(
    ("client", "session"),
    [
        ({"num_envs": 0}, {}),
        ({"num_envs": 1 << 60}, {}),
        ({}, {"horizon": -1}),
        ({}, {"horizon": 1 << 60}),
        ({}, {"observation_steps": 0}),
        ({}, {"observation": [*make.OBSERVATION, *make.OBSERVATION]}),
        ({}, {"observation": [TensorSpec("huge", (1 << 40, 1 << 40), "float64")]}),
    ],
)
def test_what_cannot_be_laid_out_is_said_and_laid_out_as_nothing(client, session):
    found = view(**client, session=make.session(**session))
    assert "cannot be laid out" in found.problems[0]
    assert found.observation.layout is None and found.action.layout is None


@pytest.mark.parametrize("slots", [-1, 0, 1, 65, 1 << 62])
def test_a_number_of_slots_that_cannot_be_is_said(slots):
    rings = {name: make.ring(slots) for name in ("observation_ring", "action_ring")}
    found = view(session=make.session(slots=slots, **rings))
    assert f"told {slots} slots" in found.problems[0]
    assert found.observation.states == [] and found.action.states == []


def test_each_byte_of_a_slot_that_means_something_has_a_row():
    layout = observation_layout(make.OBSERVATION, 2)
    rows = field_rows(layout, make.OBSERVATION)
    assert [row.name for row in rows[:4]] == list(layout.header._fields)
    assert [row.offset for row in rows] == sorted(row.offset for row in rows)
    assert all(one.offset + one.nbytes <= other.offset for one, other in itertools.pairwise(rows))
    camera = next(row for row in rows if row.name == "camera")
    assert (camera.dtype, camera.shape, camera.unit, camera.nbytes) == ("uint8", (2, 8, 8, 3), "sRGB", 384)


def test_a_dtype_is_shown_as_people_gave_it():
    specs = [TensorSpec("b", (2,), "bfloat16"), TensorSpec("t", (), "utf8[32]")]
    rows = {row.name: row.dtype for row in field_rows(observation_layout(specs, 1), specs)}
    assert (rows["b"], rows["t"]) == ("bfloat16", "utf8[32]")
    assert rows["@episodes"] == np.dtype(np.uint64).name
    assert rows["@tasks"] == "utf8[256]"
