"""Specs: what one tensor is, per environment, and whether two descriptions of it agree."""

from __future__ import annotations

import cmath
import difflib
import functools
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shmbridge.errors import SpecError

DEFAULT_TEXT_BYTES = 256
MAX_NAME_CHARS = 200
MAX_DIMENSIONS = 16
_NAME = re.compile(r"[A-Za-z0-9_.\-]+(/[A-Za-z0-9_.\-]+)*")
_TEXT = re.compile(r"utf8\[([1-9][0-9]{0,6})\]")
_INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
_NUMERIC = frozenset(["bool", *_INTEGERS, "float16", "float32", "float64", "complex64", "complex128"])
DTYPES_TEXT = f"one of {', '.join(sorted(_NUMERIC))}, bfloat16, utf8[N]"


@dataclass(frozen=True)
class TensorSpec:
    """One tensor, as it is for a single environment.

    Attributes:
        name: Parts of letters, digits, ``_``, ``.`` and ``-``, joined by ``/`` where dictionaries nest.
        shape: Without the batch axis; ``()`` is a scalar.
        dtype: A numpy numeric name, ``bool``, ``bfloat16`` (in numpy arrays its bits, as uint16), or ``utf8[N]`` for text of at
            most N bytes (in numpy arrays ``SN``).
        unit: For people and for comparison, for example ``rad/s``; compared only where both sides name one.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    unit: str | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.name) > MAX_NAME_CHARS:
            raise SpecError(f"{self.name!r} cannot name a tensor: use letters, digits, '_', '.', '-', and '/' between the levels")
        object.__setattr__(self, "shape", _checked_shape(self.name, self.shape))
        object.__setattr__(self, "dtype", dtype_name(self.dtype, self.name))

    @property
    def storage(self) -> np.dtype[Any]:
        """The numpy dtype in which the tensor lies in memory."""
        return _storage_of(self.dtype)

    @property
    def is_floating(self) -> bool:
        """Whether values can be NaN in numpy's eyes (bfloat16 cannot: numpy sees its bits)."""
        return self.storage.kind in "fc"

    @property
    def nbytes(self) -> int:
        """Bytes for one environment."""
        return math.prod(self.shape) * self.storage.itemsize

    def generate(self, num_envs: int) -> np.ndarray:
        """Return a conforming array of zeros (or empty texts), ``(num_envs, *shape)``, owned by the caller."""
        return np.zeros((num_envs, *self.shape), self.storage)

    def validate(self, array: Any, num_envs: int, *, what: str = "") -> np.ndarray:
        """Return ``array`` as numpy sees it, or raise. Nothing is converted but text.

        Args:
            array: ``(num_envs, *shape)``; for text also an array or list of ``str``.
            num_envs: Rows expected.
            what: Put before the name in messages, for example ``observation``.

        Raises:
            SpecError: Shape or dtype differs, a text is too long, or a floating value is NaN.
        """
        storage, expected = _storage_of(self.dtype), (num_envs, *self.shape)
        found = encode_text(array, self, f"{what} {self.name!r}".strip()) if storage.kind == "S" else np.asarray(array)
        if found.shape != expected or found.dtype != storage:
            label, told = f"{what} {self.name!r}".strip(), describe(found.shape, str(found.dtype))
            raise SpecError(f"{label}: expected {describe(expected, self.dtype)}, found {told}")
        if storage.kind in "fc":
            refuse_nan(found, what, self.name)
        return found

    def __str__(self) -> str:
        unit = f" [{self.unit}]" if self.unit else ""
        return f"{describe(self.shape, self.dtype)}{unit}"


def describe(shape: Sequence[int], dtype: str) -> str:
    """Return a shape and dtype as people write them: ``(480, 640, 3) uint8``."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''}) {dtype}"


@functools.cache
def _storage_of(dtype: str) -> np.dtype[Any]:
    # Asked for with every tensor of every observation.
    if dtype == "bfloat16":
        return np.dtype(np.uint16)
    text = _TEXT.fullmatch(dtype)
    return np.dtype(f"S{text[1]}") if text else np.dtype(dtype)


def dtype_name(dtype: Any, tensor: str = "") -> str:
    """Return the canonical name of a numpy or torch dtype, a type, or a name.

    Raises:
        SpecError: It is none this library transfers.
    """
    text = str(dtype).removeprefix("torch.")
    if text in _NUMERIC or text == "bfloat16" or _TEXT.fullmatch(text):
        return text
    try:
        found = np.dtype("O" if dtype is None else dtype)  # numpy takes None for float64
    except (TypeError, ValueError):
        raise SpecError(f"{tensor!r}: no dtype {text!r}; expected {DTYPES_TEXT}") from None
    if found.kind in "SU":
        return f"utf8[{max(found.itemsize, DEFAULT_TEXT_BYTES)}]"
    if found.name not in _NUMERIC or not found.isnative:
        raise SpecError(f"{tensor!r}: dtype {text!r} cannot be transferred; expected {DTYPES_TEXT}, in this machine's byte order")
    return str(found.name)


def conformity(shape: tuple[int, ...], storage: np.dtype[Any]) -> Callable[[Any], bool]:
    """Return a function that tells at once whether a value is a numpy array of this shape and dtype without NaN.

    It is asked about every tensor of every request. Where it says no, the value may still be convertible, or be Infinity that looks like NaN (see
    :func:`refuse_nan`): then whoever asked looks closer.
    """
    vdot = np.vdot  # the one product that is silent about overflow
    isnan = {"f": math.isnan, "c": cmath.isnan}.get(storage.kind)

    def conforms(value: Any) -> bool:
        if type(value) is not np.ndarray or value.shape != shape or value.dtype != storage:
            return False
        if isnan is None:
            return True
        return not isnan(vdot(value, value))

    return conforms


def refuse_nan(array: np.ndarray, what: str, name: str) -> None:
    """Raise SpecError if ``array`` holds a NaN. Infinity passes: depth cameras return it.

    One product x·x reads the array once and is NaN if an element is. (inf·inf is inf; a
    complex infinity can give NaN too, so the elements are looked at before anyone is blamed.)

    Args:
        array: Of any shape, with a batch axis in front.
        what, name: Whose fault it is; joined only if needed.
    """
    if not cmath.isnan(np.vdot(array, array)):
        return
    rows = np.unique(np.argwhere(np.isnan(array))[:, 0]).tolist()
    if rows:
        raise SpecError(f"{what} {name!r}".strip() + f": NaN in rows {rows}")


def encode_text(texts: Any, spec: TensorSpec, label: str) -> np.ndarray:
    """Return texts as a fixed-length UTF-8 array of ``spec.storage``.

    Raises:
        SpecError: A text is longer than the spec allows, holds NUL, or is no text.
    """
    array = np.asarray(texts)
    if array.dtype == spec.storage:
        return array
    if array.dtype.kind == "U":
        if any("\0" in text for text in array.ravel().tolist()):
            raise SpecError(f"{label}: a text may not hold NUL")
        array = np.char.encode(array, "utf-8")
    if array.dtype.kind != "S":
        raise SpecError(f"{label}: expected text, found {array.dtype}")
    if array.dtype.itemsize > spec.storage.itemsize:
        raise SpecError(f"{label}: a text of {array.dtype.itemsize} bytes, at most {spec.storage.itemsize} fit; shorten it")
    return array.astype(spec.storage)


def decode_text(array: np.ndarray) -> np.ndarray:
    """Return a fixed-length UTF-8 array as an array of ``str`` of the same shape, owned by the caller."""
    return np.char.decode(array, "utf-8", "replace")


def as_tuple_of_specs(specs: Iterable[TensorSpec] | Mapping[str, TensorSpec], what: str) -> tuple[TensorSpec, ...]:
    """Return specs as a tuple, refusing two of one name and a name that is also a level of another.

    Raises:
        SpecError: Names collide.
    """
    values = tuple(specs.values() if isinstance(specs, Mapping) else specs)
    names = [spec.name for spec in values]
    for name in names:
        if names.count(name) > 1:
            raise SpecError(f"two {what} specs are called {name!r}; names must be unique")
        if any(other.startswith(f"{name}/") for other in names):
            raise SpecError(f"{what} spec {name!r} is also a level above another one; rename one of them")
    return values


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dictionaries as one, with ``/`` between the levels.

    Raises:
        SpecError: It is no dictionary, or two values have one name.
    """
    if not isinstance(nested, Mapping):
        raise SpecError(f"expected one value per tensor in a dict, found a {type(nested).__name__}: name it, as in {{'observation': value}}")
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        name = f"{prefix}{key}"
        inner = flatten(value, f"{name}/") if isinstance(value, Mapping) else {name: value}
        twice = flat.keys() & inner.keys()
        if twice:
            raise SpecError(f"{min(twice)!r} is there twice, nested and flat; keep one")
        flat.update(inner)
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested dictionaries that :func:`flatten` would turn into ``flat``."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *levels, last = name.split("/")
        place = nested
        for level in levels:
            place = place.setdefault(level, {})
        place[last] = value
    return nested


def specs_from_example(example: Mapping[str, Any], num_envs: int | None) -> tuple[TensorSpec, ...]:
    """Describe an observation by one that is there.

    Args:
        example: Arrays, torch tensors, numbers or texts, nested as you like; ``(num_envs, *shape)`` each.
        num_envs: Length of the leading axis, which the specs leave out; None where there is none.

    Raises:
        SpecError: A leading axis has another length, or a dtype cannot be transferred.
    """
    return as_tuple_of_specs([_spec_from_value(name, value, num_envs) for name, value in flatten(example).items()], "observation")


def specs_from_space(space: Any, name: str = "observation") -> tuple[TensorSpec, ...]:
    """Describe a gymnasium space (of a single environment): Dict, Box, Discrete, MultiDiscrete, MultiBinary, Text.

    Args:
        space: The space; nested Dict spaces become nested names.
        name: What a space that is no Dict is called.

    Raises:
        SpecError: The space has no fixed layout.
    """
    if hasattr(space, "spaces") and isinstance(space.spaces, Mapping):
        below = [specs_from_space(inner, key) for key, inner in flatten(dict(space.spaces)).items()]
        prefix = "" if name == "observation" else f"{name}/"
        return tuple(TensorSpec(f"{prefix}{s.name}", s.shape, s.dtype, s.unit) for specs in below for s in specs)
    if hasattr(space, "max_length"):
        return (TensorSpec(name, (), f"utf8[{4 * space.max_length}]"),)
    if getattr(space, "shape", None) is None or getattr(space, "dtype", None) is None:
        raise SpecError(f"space {type(space).__name__} of {name!r} has no fixed shape; wrap the environment so that it has")
    return (TensorSpec(name, tuple(space.shape), space.dtype),)


def specs_from_mapping(mapping: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
    """Describe tensors as a YAML file does: ``name: {shape: [480, 640, 3], dtype: uint8, unit: sRGB}``.

    Raises:
        SpecError: A key is missing or unknown.
    """
    specs = []
    for name, entry in mapping.items():
        if not isinstance(entry, Mapping) or not {"shape", "dtype"} <= entry.keys() <= {"shape", "dtype", "unit"}:
            raise SpecError(f"{name!r}: expected the keys shape, dtype and, if you like, unit; found {entry!r}")
        specs.append(TensorSpec(str(name), entry["shape"], entry["dtype"], entry.get("unit")))
    return as_tuple_of_specs(specs, "tensor")


def check_agreement(offered: Iterable[TensorSpec], wanted: Iterable[TensorSpec], *, left: str = "offered", right: str = "wanted") -> None:
    """Raise unless every wanted spec is offered just so.

    Raises:
        SpecError: Shows both sides in two columns, with the nearest name for each that is missing.
    """
    have = {spec.name: spec for spec in offered}
    want = {spec.name: spec for spec in wanted}
    notes = {name: _disagreement(have, spec) for name, spec in want.items()}
    if any(notes.values()):
        names = [*want, *(name for name in have if name not in want)]
        rows = [(name, str(have.get(name, "-")), str(want.get(name, "-")), notes.get(name, "")) for name in names]
        raise SpecError(f"the tensors {left} and those {right} do not agree:\n{table(('', left, right, ''), rows)}")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return aligned plain-text columns, two spaces apart."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return "\n".join("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows))


def nearest(name: str, names: Iterable[str]) -> str:
    """Return ``did you mean …?`` for the nearest of ``names``, or nothing where none is near."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else ""


def _disagreement(have: Mapping[str, TensorSpec], spec: TensorSpec) -> str:
    other = have.get(spec.name)
    if other is None:
        return f"missing; {nearest(spec.name, have)}".rstrip("; ")
    if (other.shape, other.dtype) != (spec.shape, spec.dtype):
        return "differs"
    return "unit differs" if other.unit and spec.unit and other.unit != spec.unit else ""


def _checked_shape(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    try:
        sizes = tuple(operator.index(size) for size in shape)
    except (TypeError, ValueError):
        raise SpecError(f"{name!r}: shape {shape!r} is no sequence of whole numbers") from None
    if any(size < 1 for size in sizes) or len(sizes) > MAX_DIMENSIONS:
        raise SpecError(f"{name!r}: shape {sizes} must have at most {MAX_DIMENSIONS} axes, each at least 1 long")
    return sizes


def _spec_from_value(name: str, value: Any, num_envs: int | None) -> TensorSpec:
    try:
        array = value if hasattr(value, "shape") and hasattr(value, "dtype") else np.asarray(value)
    except ValueError as error:
        raise SpecError(f"{name!r} is no tensor: {error}") from None
    shape = tuple(array.shape)
    if num_envs is not None and (not shape or shape[0] != num_envs):
        raise SpecError(f"{name!r}: expected {num_envs} rows, one per environment, found shape {shape}; pass num_envs=None if there is no batch axis")
    return TensorSpec(name, shape if num_envs is None else shape[1:], dtype_name(array.dtype, name))
