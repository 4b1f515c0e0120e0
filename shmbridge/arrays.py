"""How values of the caller's kind get into slots and out of them. numpy here; torch has its own module, loaded only when asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from shmbridge.errors import SpecError
from shmbridge.spec import TensorSpec


class Arrays(Protocol):
    """One kind of arrays: checks a value, writes it into a slot, and returns copies of what came back."""

    def check(self, value: Any, spec: TensorSpec, num_envs: int) -> Any:
        """Return ``value`` ready to be written, ``(num_envs, *spec.shape)``, or raise SpecError."""

    def write(self, value: Any, out: np.ndarray) -> None:
        """Copy a checked value into a slot."""

    def result(self, actions: Mapping[str, np.ndarray], specs: Sequence[TensorSpec]) -> Mapping[str, Any]:
        """Return the actions as arrays of this kind, in the form its users expect. They are copies already and may be kept."""


class NumpyArrays:
    """numpy in, numpy out; bfloat16 as its bits (uint16), text as bytes of fixed length."""

    def check(self, value: Any, spec: TensorSpec, num_envs: int) -> np.ndarray:
        return spec.validate(value, num_envs, what="observation")

    def write(self, value: np.ndarray, out: np.ndarray) -> None:
        out[...] = value  # a third of what np.copyto costs for a small array

    def result(self, actions: Mapping[str, np.ndarray], specs: Sequence[TensorSpec]) -> Mapping[str, Any]:
        return actions


def arrays_of_kind(kind: str, device: Any) -> Arrays:
    """Return the arrays called ``numpy`` or ``torch``.

    Raises:
        SpecError: There is no such kind, or a device was named without torch.
    """
    if kind == "numpy":
        if device is not None:
            raise SpecError(f"device={device!r} needs array='torch': numpy arrays live in main memory")
        return NumpyArrays()
    if kind != "torch":
        raise SpecError(f"array={kind!r}: expected 'numpy' or 'torch'")
    try:
        from shmbridge.torch_tensors import TorchArrays  # torch is optional, and slow to import
    except ImportError:
        raise SpecError("array='torch' needs torch, which is not installed here: pip install 'shmbridge[torch]'") from None

    return TorchArrays(device)
