"""What a host tells of a session, looked at without trust: layouts are computed here and compared, counts must add up.

Nothing told is used as an offset or a length; where it contradicts itself or what was computed here, that is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shmbridge.cli.wording import printable, size
from shmbridge.counters import RingStatistics
from shmbridge.errors import SpecError
from shmbridge.layout import Layout, Layouts, session_layouts
from shmbridge.messages import MAX_SLOTS, ClientDescription, SessionDescription
from shmbridge.policy import PolicySpecs
from shmbridge.spec import TensorSpec

FREE, WRITTEN, PUBLISHED, READ = "free", "being written", "published", "being read"
_WORD_BYTES = 8


class FieldRow(NamedTuple):
    """One array of a slot, or one word of its header: ``shape`` with the batch axis, ``offset`` from the slot's start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    unit: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class RingView:
    """One ring of a session.

    Attributes:
        name: ``observation`` or ``action``.
        layout: As computed here; None where what was told allows none.
        digest_told: As the host has it.
        told: The host's counts.
        states: Of each slot, in order of place; empty where the counts contradict themselves.
        problems: Where the host contradicts itself or us.
    """

    name: str
    layout: Layout | None
    digest_told: str
    told: RingStatistics
    states: Sequence[str]
    problems: Sequence[str]


class SessionView(NamedTuple):
    """Both rings of one client, and what concerns neither alone."""

    observation: RingView
    action: RingView
    problems: Sequence[str]

    @property
    def adds_up(self) -> bool:
        """Whether the counts of both rings make sense. They are read one after the other, so those of a busy ring may not."""
        return bool(self.observation.states and self.action.states)


def view_session(client: ClientDescription, session: SessionDescription) -> SessionView:
    """Compute what a session must look like and compare what was told."""
    problems = []
    layouts = None
    try:
        specs = PolicySpecs(session.observation, session.action, session.horizon, session.observation_steps)
        layouts = session_layouts(specs, client.num_envs)
    except SpecError as error:
        problems.append(f"what was told cannot be laid out: {printable(str(error), 500)}")
    if not 2 <= session.slots <= MAX_SLOTS:
        problems.append(f"told {session.slots} slots; there are 2 to {MAX_SLOTS}")
    elif layouts is not None and client.nbytes != (expected := sum(layout.segment_size(session.slots) for layout in layouts)):
        problems.append(f"told {size(client.nbytes)} ({client.nbytes} bytes) of shared memory, its layouts need {size(expected)} ({expected} bytes)")
    return SessionView(*_rings(session, layouts), problems)


def _rings(session: SessionDescription, layouts: Layouts | None) -> tuple[RingView, RingView]:
    observation, action = layouts or (None, None)
    return (
        _ring("observation", observation, session.observation_digest, session.observation_ring, session.slots),
        _ring("action", action, session.action_digest, session.action_ring, session.slots),
    )


def _ring(name: str, layout: Layout | None, digest: str, told: RingStatistics, slots: int) -> RingView:
    problems = count_problems(told, slots, host_reads=name == "observation")
    states = [] if problems else slot_states(told, host_reads=name == "observation")
    if layout is not None and layout.digest != digest:
        problems.append(f"the digest told is {printable(digest, 64)}, computed here is {layout.digest}: another version of shmbridge, or a fault")
    return RingView(name, layout, digest, told, states, problems)


def count_problems(told: RingStatistics, slots: int, *, host_reads: bool) -> list[str]:
    """Return what makes no sense in a ring's counts.

    Args:
        told: As the host sees them.
        slots: As agreed.
        host_reads: Whether the host is the ring's consumer.
    """
    counts = {"free": told.free, "full": told.full, "held by the host": told.held, "moved": told.moved}
    negative = [f"{name} is {count}" for name, count in counts.items() if count < 0]
    if negative or told.slots != slots or not 2 <= slots <= MAX_SLOTS:
        return negative or [f"told {told.slots} slots in this ring, {slots} in the agreement"]
    used = told.free + told.full + told.held
    if used > slots:
        return [f"{told.free} free + {told.full} published + {told.held} held by the host are more than {slots} slots"]
    written = slots - used if host_reads else told.held
    return [f"{written} slots are being written at once; it can only be one"] if written > 1 else []


def slot_states(told: RingStatistics, *, host_reads: bool) -> list[str]:
    """Return each slot's state, by place. The counts must make sense.

    Slots go round in order, so a ring is four runs one behind the other: read, published, written, free. The host's next slot is
    at ``moved % slots``: where the published ones begin if it reads, where the written one would be if it writes.
    """
    rest = told.slots - told.free - told.full - told.held
    runs = {READ: told.held, PUBLISHED: told.full, WRITTEN: rest} if host_reads else {READ: rest, PUBLISHED: told.full, WRITTEN: told.held}
    start = told.moved - (runs[READ] if host_reads else runs[READ] + runs[PUBLISHED])
    states = [FREE] * told.slots
    order = [state for state, count in runs.items() for _ in range(count)]
    for step, state in enumerate(order):
        states[(start + step) % told.slots] = state
    return states


def field_rows(layout: Layout, specs: Sequence[TensorSpec]) -> list[FieldRow]:
    """Return all that lies in a slot, in order of offsets: the header's words, the protocol's arrays, the tensors."""
    known = {spec.name: spec for spec in specs}
    rows = [FieldRow(name, "uint64", (), "", index * _WORD_BYTES, _WORD_BYTES) for index, name in enumerate(layout.header._fields)]
    for field in layout.fields:
        spec = known.get(field.name)
        dtype, unit = (spec.dtype, spec.unit or "") if spec else (_plain_dtype(field.dtype), "")
        rows.append(FieldRow(field.name, dtype, field.shape, unit, field.offset, field.nbytes))
    return rows


def _plain_dtype(dtype: str) -> str:
    found = np.dtype(dtype)
    return f"utf8[{found.itemsize}]" if found.kind == "S" else found.name
