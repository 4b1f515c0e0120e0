"""The policy: two camera images in, one action out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

import shmbridge
from shmbridge_policies.pixel_bc.downscale import HEIGHT, WIDTH, downscale, fits
from shmbridge_policies.pixel_bc.network import ACTION_SIZE, PixelNetwork, to_network_input

ACTION = shmbridge.TensorSpec("action", (ACTION_SIZE,), "float32")
DEFAULT_WEIGHTS = Path(__file__).parent / "weights" / "drawer-open-v3.safetensors"


@dataclass(frozen=True)
class PixelBcConfig:
    """Which weights, and where they run.

    Attributes:
        weights: A safetensors file written by ``train.py``; None takes the one that comes with this folder (drawer-open-v3).
        torch_device: For example ``cpu`` or ``cuda:0``.
        num_threads: CPU threads of torch in this whole process. Results are bit for bit the same only where it is the same.
    """

    weights: str | None = None
    torch_device: str = "cpu"
    num_threads: int = 1


@shmbridge.register_policy("pixel_bc")
class PixelBcPolicy(shmbridge.Policy):
    """Cloned from scripted demonstrations; sees the cameras named in its weights, and nothing else.

    Observes ``camera_obs/<camera>_rgb`` (height, width, 3) uint8, sRGB, height a multiple of 60 and width of 80, as many as
    it was trained with. Gives ``action`` (4,) float32 in [-1, 1], one step at a time.
    """

    config_type = PixelBcConfig

    def __init__(self, config: PixelBcConfig | None = None) -> None:
        config = config or PixelBcConfig()
        super().__init__(config)
        torch.set_num_threads(config.num_threads)
        self._device = torch.device(config.torch_device)
        self._network, self._names = _load(Path(config.weights) if config.weights else DEFAULT_WEIGHTS, self._device)

    def specs(self, offered: Mapping[str, shmbridge.TensorSpec]) -> shmbridge.PolicySpecs:
        images = [offered.get(name, shmbridge.TensorSpec(name, (480, 640, 3), "uint8")) for name in self._names]
        for spec in images:
            if spec.dtype != "uint8" or not fits(spec.shape):
                expected = f"(n·{HEIGHT}, m·{WIDTH}, 3) uint8 with n·m at most 256"
                raise shmbridge.SpecError(f"{spec.name!r} is offered as {spec}; pixel_bc takes {expected}")
        return shmbridge.PolicySpecs(observation=images, action=[ACTION])

    @torch.inference_mode()
    def infer(self, session: None, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> dict[str, np.ndarray]:
        # Scaling down copies, so no tensor refers to the arrays given, which are read-only and only lent.
        small = np.stack([downscale(observation[name]) for name in self._names], axis=1)
        actions = self._network(to_network_input(torch.from_numpy(small).to(self._device)))
        return {ACTION.name: actions.clamp(-1.0, 1.0).cpu().numpy()[:, np.newaxis]}


def _load(path: Path, device: torch.device) -> tuple[PixelNetwork, list[str]]:
    """Return the network of a weights file, and the observations it was trained on, in order.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not one that ``train.py`` wrote.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}; train some with policies/pixel_bc/train.py, or leave 'weights' out for the default")
    with safe_open(path, framework="pt", device=str(device)) as file:
        names = (file.metadata() or {}).get("observations")
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
    if not names:
        raise ValueError(f"{path} does not name the observations it was trained on; expected a file written by pixel_bc's train.py")
    network = PixelNetwork(len(names.split())).to(device)
    network.load_state_dict(tensors)
    return network.eval(), names.split()
