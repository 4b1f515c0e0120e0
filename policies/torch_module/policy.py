"""The policy: names and shapes from the configuration, everything else from the module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import shmbridge
from shmbridge.torch_tensors import to_torch
from shmbridge_policies.torch_module.programs import Input, load


@dataclass(frozen=True)
class TorchModuleConfig:
    """A module and the names of what goes in and comes out.

    Attributes:
        module: File of a TorchScript module or of a ``torch.export`` program.
        observation: ``{name, shape, dtype}`` and, if you like, ``unit`` of each, in the order of the module's positional inputs.
        action: Likewise, in the order of its outputs.
        horizon: Steps in an action chunk.
        observation_steps: Observations the module sees at a time, oldest first.
        torch_device: For example ``cpu`` or ``cuda:0``.
    """

    module: str
    observation: list[dict[str, Any]]
    action: list[dict[str, Any]]
    horizon: int = 1
    observation_steps: int = 1
    torch_device: str = "cpu"


@shmbridge.register_policy("torch_module")
class TorchModulePolicy(shmbridge.Policy):
    """Calls the module with one tensor per observation and takes one per action.

    Inputs are ``(rows, *shape)``, or ``(rows, observation_steps, *shape)`` where several are stacked; outputs ``(rows, horizon, *shape)``, or
    ``(rows, *shape)`` where the horizon is 1. Rows are environments that need an action now, so their number varies.

    Raises:
        PolicyError: The module cannot be loaded, or returns something else than the configuration promises.
        SpecError: The module takes other inputs, or the configuration names what no module can have.
    """

    config_type = TorchModuleConfig

    def __init__(self, config: TorchModuleConfig) -> None:
        super().__init__(config)
        self._config = config
        observation, action = _specs("observation", config.observation), _specs("action", config.action)
        self._specs = shmbridge.PolicySpecs(observation, action, config.horizon, config.observation_steps)
        batch = self._specs.observation_batch(1)[1:]
        wanted = [Input((None, *batch, *spec.shape), spec.dtype) for spec in self._specs.observation]
        self._program = load(config.module, config.torch_device, wanted)

    def specs(self, offered: Mapping[str, shmbridge.TensorSpec]) -> shmbridge.PolicySpecs:
        return self._specs

    @torch.inference_mode()
    def infer(self, session: None, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> dict[str, np.ndarray]:
        # Copies: a module that writes into its input must not find the read-only memory under it.
        tensors = to_torch({spec.name: observation[spec.name] for spec in self._specs.observation}, self._config.torch_device)
        inputs = [_typed(tensors[spec.name], spec) for spec in self._specs.observation]
        outputs = self._call(inputs, len(env_ids))
        return {spec.name: self._chunk(output, spec, len(env_ids)) for spec, output in zip(self._specs.action, outputs, strict=True)}

    def _call(self, inputs: Sequence[torch.Tensor], rows: int) -> list[torch.Tensor]:
        if not self._program.one_by_one:
            return self._outputs(self._program.call(*inputs))
        each = [self._outputs(self._program.call(*(tensor[row : row + 1] for tensor in inputs))) for row in range(rows)]
        return [torch.cat(parts) for parts in zip(*each, strict=True)]

    def _outputs(self, returned: Any) -> list[torch.Tensor]:
        outputs = list(returned) if isinstance(returned, tuple | list) else [returned]
        names = [spec.name for spec in self._specs.action]
        if len(outputs) != len(names) or not all(isinstance(output, torch.Tensor) for output in outputs):
            found = ", ".join(type(output).__name__ for output in outputs)
            raise shmbridge.PolicyError(f"{self._config.module} returned {len(outputs)} ({found}); expected {len(names)} tensor(s), for {', '.join(names)}")
        return outputs

    def _chunk(self, output: torch.Tensor, spec: shmbridge.TensorSpec, rows: int) -> np.ndarray:
        """Return an output as ``(rows, horizon, *spec.shape)``."""
        horizon = self._config.horizon
        expected = (rows, horizon, *spec.shape)
        if horizon == 1 and output.shape == (rows, *spec.shape):
            output = output.unsqueeze(1)
        if output.shape != expected or _dtype(output) != spec.dtype:
            found = f"{tuple(output.shape)} {_dtype(output)}"
            text = f"{self._config.module} returned {spec.name!r} as {found}; its configuration promises {expected} {spec.dtype} (rows, horizon, …)"
            raise shmbridge.PolicyError(text)
        if spec.dtype == "bfloat16":  # numpy has none: its bits
            return output.contiguous().view(torch.int16).numpy(force=True).view(spec.storage)
        return output.numpy(force=True)


def _typed(tensor: torch.Tensor, spec: shmbridge.TensorSpec) -> torch.Tensor:
    return tensor.view(torch.bfloat16) if spec.dtype == "bfloat16" else tensor


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _specs(what: str, entries: Sequence[Mapping[str, Any]]) -> list[shmbridge.TensorSpec]:
    found = []
    for entry in entries:
        if not isinstance(entry.get("name"), str):
            raise shmbridge.SpecError(f"each {what} of torch_module needs a name, as in {{name: policy/joint_pos, shape: [7], dtype: float32}}; found {entry}")
        found += shmbridge.specs_from_mapping({entry["name"]: {key: value for key, value in entry.items() if key != "name"}})
    if not found:
        raise shmbridge.SpecError(f"torch_module needs at least one {what}")
    for spec in found:
        if spec.storage.kind == "S":
            raise shmbridge.SpecError(f"{what} {spec.name!r} is text, and a module takes and gives numbers; leave it out")
    return found
