"""torch in and out of slots. The only module that imports torch; nothing imports it unless torch was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from shmbridge.errors import SpecError
from shmbridge.spec import TensorSpec, describe, dtype_name, unflatten


def to_torch(observation: Mapping[str, np.ndarray], device: Any = "cpu") -> dict[str, Any]:
    """Return a policy's observation as tensors that own their memory.

    A tensor never aliases the read-only slot: an in-place operation on one would be a segmentation fault that ends every session.

    Args:
        observation: As :meth:`shmbridge.Policy.infer` gets it. bfloat16 comes out where the array holds its bits: view it so.
        device: Where the tensors are to lie.
    """
    return {name: array if array.dtype.kind == "S" else torch.tensor(array, device=device) for name, array in observation.items()}


class TorchArrays:
    """Tensors of any device in, tensors on ``device`` out."""

    def __init__(self, device: Any = None) -> None:
        try:
            self._device = torch.empty(0, device=device if device is not None else "cpu").device
        except Exception as error:  # torch has a kind for each way of not having a device
            raise SpecError(f"device={device!r} cannot be used: {error}") from None

    def check(self, value: Any, spec: TensorSpec, num_envs: int) -> torch.Tensor | np.ndarray:
        if not isinstance(value, torch.Tensor):
            return spec.validate(value, num_envs, what="observation")
        expected = (num_envs, *spec.shape)
        if tuple(value.shape) != expected or dtype_name(value.dtype, spec.name) != spec.dtype:
            found = describe(tuple(value.shape), str(value.dtype))
            raise SpecError(f"observation {spec.name!r}: expected {describe(expected, spec.dtype)}, found {found}")
        if (value.is_floating_point() or value.is_complex()) and bool(torch.isnan(value).any()):
            raise SpecError(f"observation {spec.name!r}: NaN in rows {torch.isnan(value).reshape(num_envs, -1).any(1).nonzero().flatten().tolist()}")
        return value

    def write(self, value: torch.Tensor | np.ndarray, out: np.ndarray) -> None:
        if isinstance(value, torch.Tensor):
            # One copy, straight from the device into the slot; synchronous, so that the slot is whole when it is published.
            _as_tensor(out, value.dtype).copy_(value)
        else:
            np.copyto(out, value)

    def result(self, actions: Mapping[str, np.ndarray], specs: Sequence[TensorSpec]) -> Mapping[str, Any]:
        return unflatten({spec.name: self._tensor(actions[spec.name], spec) for spec in specs})

    def _tensor(self, array: np.ndarray, spec: TensorSpec) -> Any:
        if array.dtype.kind == "S":
            return array
        return _as_tensor(np.asarray(array, order="C"), torch.bfloat16 if spec.dtype == "bfloat16" else None).to(self._device)


def _as_tensor(array: np.ndarray, dtype: torch.dtype | None) -> torch.Tensor:
    if dtype is torch.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
