"""Layout: specs and a number of environments turned into byte offsets. Every byte of a slot is named here and nowhere else.

A ring is a run of slots, each ``stride`` bytes long. A slot starts with a header of little-endian 64-bit words, then the
per-environment words of the protocol (names starting with ``@``), then the tensors. Normative text: docs/reference/wire-format.md.
"""

from __future__ import annotations

import functools
import hashlib
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from shmbridge.errors import SpecError
from shmbridge.policy import PolicySpecs
from shmbridge.spec import TensorSpec

FORMAT_VERSION = 2
PAGE = 4096
"""Alignment of large fields and of slots. Fixed, so that a layout does not depend on the machine it was computed on."""
LINE = 64
MAX_ENVS = 65_536
MAX_SLOT_BYTES = 1 << 40
TASK_BYTES = 256
FAILURE_BYTES = 16_384


class ObservationHeader(NamedTuple):
    """First words of an observation slot."""

    generation: int
    """Session the slot belongs to."""
    sequence: int
    """Number of the request, counted from 1."""
    has_changes: int
    """1 where ``@changes`` and ``@tasks`` were written, else 0 and they are not read."""
    all_rows: int
    """1 where every environment asks for an action, else 0 and ``@rows`` says which."""


class ActionHeader(NamedTuple):
    """First words of an action slot."""

    generation: int
    sequence: int
    """Number of the request that this answers."""
    outcome: int
    """An :class:`Outcome`."""
    infer_ns: int
    """Nanoseconds the policy took."""
    all_rows: int
    """1 where every environment is answered, else 0 and ``@rows`` says which."""


class Outcome:
    """What an action slot holds: an answer, or a failure as text in ``@failure``."""

    ANSWERED = 0
    FAILED = 1


class Change:
    """What ``@changes`` says of an environment, whose text is in ``@tasks``."""

    NONE = 0
    EPISODE = 1
    """It begins an episode."""
    INSTRUCTION = 2
    """Its episode goes on under another instruction."""


@dataclass(frozen=True)
class Field:
    """One array in a slot: its whole shape, batch axis included, and where it starts, in bytes from the slot's start."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Layout:
    """Where everything lies in the slots of one ring.

    Attributes:
        fields: In order of their offsets.
        stride: Bytes from one slot to the next, a multiple of :data:`PAGE`.
        digest: Hexadecimal SHA-256 of all of the above and the format version; equal exactly where layouts are.
        header: The named tuple with which the slot begins.
    """

    fields: tuple[Field, ...]
    stride: int
    digest: str
    header: type[ObservationHeader | ActionHeader]

    def segment_size(self, slots: int) -> int:
        """Bytes of a ring of ``slots`` slots."""
        return self.stride * slots


def observation_layout(specs: Sequence[TensorSpec], num_envs: int, steps: int = 1) -> Layout:
    """Lay out an observation slot: tensors are ``(num_envs, *spec.shape)``, or ``(num_envs, steps, *spec.shape)`` where several are stacked."""
    each = (num_envs,)
    words = [("@episodes", each, "<u8"), ("@rows", each, "|u1"), ("@changes", each, "|u1"), ("@tasks", each, f"|S{TASK_BYTES}")]
    return _lay_out(ObservationHeader, words, specs, each if steps == 1 else (num_envs, steps))


def action_layout(specs: Sequence[TensorSpec], num_envs: int, horizon: int) -> Layout:
    """Lay out an action slot: tensors are ``(num_envs, horizon, *spec.shape)``."""
    words = [("@episodes", (num_envs,), "<u8"), ("@rows", (num_envs,), "|u1"), ("@failure", (), f"|S{FAILURE_BYTES}")]
    return _lay_out(ActionHeader, words, specs, (num_envs, horizon))


class Layouts(NamedTuple):
    """Both rings' layouts of one session."""

    observation: Layout
    action: Layout


def session_layouts(specs: PolicySpecs, num_envs: int) -> Layouts:
    """Return both layouts of a session of ``num_envs`` environments."""
    return Layouts(observation_layout(specs.observation, num_envs, specs.observation_steps), action_layout(specs.action, num_envs, specs.horizon))


class Slot:
    """One place in a ring, as numpy arrays over its memory.

    Attributes:
        tensors: The arrays of the tensors by name. They are views and keep the memory alive, not its content.
        words: The arrays of the protocol, ``@episodes`` and so on.
        read_words: Returns the slot's first words as plain numbers, in the order of the layout's header.
        write_words: Writes them, one argument each.
        episodes_held: What the writing side last wrote to ``@episodes``, so that it need not write the same again.
        referents: The tensors and what they are views of: whoever keeps a view of a tensor adds to the references of one of them.
    """

    def __init__(self, layout: Layout, buffer: Any, index: int, *, writable: bool) -> None:
        self._header = layout.header
        start, header = index * layout.stride, struct.Struct(f"<{len(layout.header._fields)}Q")
        self.read_words: Callable[[], tuple[int, ...]] = functools.partial(header.unpack_from, buffer, start)
        self.write_words: Callable[..., None] = functools.partial(header.pack_into, buffer, start)
        arrays = {field.name: _array(buffer, field, start, writable) for field in layout.fields}
        self.words = {name: array for name, array in arrays.items() if name.startswith("@")}
        self.tensors = {name: array for name, array in arrays.items() if not name.startswith("@")}
        self.episodes_held: np.ndarray | None = None
        self.referents = [part for array in self.tensors.values() for part in (array, array.base)]

    def write_header(self, header: ObservationHeader | ActionHeader) -> None:
        """Write the slot's first words."""
        self.write_words(*header)

    def read_header(self) -> Any:
        """Return the slot's first words as the layout's header tuple."""
        return self._header._make(self.read_words())


def make_slots(layout: Layout, buffer: Any, count: int, *, writable: bool) -> list[Slot]:
    """Return ``count`` consecutive slots over ``buffer``, which must hold ``layout.segment_size(count)`` bytes."""
    return [Slot(layout, buffer, index, writable=writable) for index in range(count)]


def _array(buffer: Any, field: Field, start: int, writable: bool) -> np.ndarray:
    dtype = np.dtype(field.dtype)
    count = field.nbytes // dtype.itemsize
    # frombuffer, not ndarray(buffer=…): only the former keeps a mapping alive as long as a view of it is.
    array = np.frombuffer(buffer, dtype, count, start + field.offset).reshape(field.shape)
    if not writable:
        array.flags.writeable = False
    return array


def _lay_out(header: Any, words: Sequence[tuple[str, tuple[int, ...], str]], specs: Sequence[TensorSpec], batch: tuple[int, ...]) -> Layout:
    if not 1 <= batch[0] <= MAX_ENVS:
        raise SpecError(f"num_envs must lie between 1 and {MAX_ENVS}, not {batch[0]}")
    offset = len(header._fields) * 8
    fields = []
    for name, shape, dtype in [*words, *((spec.name, (*batch, *spec.shape), spec.storage.str) for spec in specs)]:
        nbytes = Field(name, shape, dtype, 0).nbytes
        offset = _round_up(offset, PAGE if nbytes >= PAGE else LINE)
        fields.append(Field(name, shape, dtype, offset))
        offset += nbytes
    stride = _round_up(offset, PAGE)
    if stride > MAX_SLOT_BYTES:
        raise SpecError(f"one slot would take {stride} bytes; at most {MAX_SLOT_BYTES} are supported")
    return Layout(tuple(fields), stride, _digest(header, fields, specs, stride), header)


def _digest(header: Any, fields: Sequence[Field], specs: Sequence[TensorSpec], stride: int) -> str:
    lines = [f"shmbridge layout {FORMAT_VERSION}", ",".join(header._fields), f"stride {stride}"]
    lines += [f"{field.name} {field.shape} {field.dtype} {field.offset}" for field in fields]
    lines += [f"{spec.name} {spec.dtype}" for spec in specs]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _round_up(size: int, step: int) -> int:
    return -(-size // step) * step
