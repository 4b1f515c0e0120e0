"""Kinds of arrays."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import run_python

from shmbridge.arrays import NumpyArrays, arrays_of_kind
from shmbridge.errors import SpecError
from shmbridge.spec import TensorSpec

Q = TensorSpec("q", (3,), "float32")


def test_numpy_arrays_are_checked_written_and_read_as_they_are() -> None:
    arrays = arrays_of_kind("numpy", None)
    assert isinstance(arrays, NumpyArrays)
    value, out = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    assert arrays.check(value, Q, 2) is value
    arrays.write(value, out)
    assert np.all(out == 1)
    actions = {"a/b": out}
    assert arrays.result(actions, [Q]) is actions


def test_a_wrong_numpy_array_is_named_as_observation() -> None:
    with pytest.raises(SpecError, match="observation 'q'"):
        NumpyArrays().check(np.ones((2, 3)), Q, 2)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(SpecError, match="expected 'numpy' or 'torch'"):
        arrays_of_kind("jax", None)


def test_a_device_needs_torch() -> None:
    with pytest.raises(SpecError, match="needs array='torch'"):
        arrays_of_kind("numpy", "cuda:0")


def test_importing_the_package_loads_nothing_slow_or_optional() -> None:
    loaded = run_python("import sys, shmbridge\nprint(*[name for name in ('torch', 'rich', 'psutil', 'yaml', 'ssl', 'gymnasium') if name in sys.modules])")
    assert loaded.split() == []
