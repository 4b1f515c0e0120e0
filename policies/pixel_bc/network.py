"""The network: one convolutional encoder per camera, each ending in a spatial softmax, and a small head."""

from __future__ import annotations

import torch
from torch import nn

from shmbridge_policies.pixel_bc.downscale import HEIGHT, WIDTH

ACTION_SIZE = 4


class SpatialSoftmax(nn.Module):
    """Maps (rows, channels, height, width) to where each channel is active: (rows, 2 · channels), x then y, in [-1, 1]."""

    grid: torch.Tensor

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        self.register_buffer("grid", torch.stack([x.flatten(), y.flatten()], dim=1), persistent=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        weights = features.flatten(2).softmax(dim=2)
        return (weights @ self.grid).flatten(1)


class Encoder(nn.Sequential):
    """Maps one camera's images, (rows, 3, 60, 80) float32, to (rows, 64) positions of what it has learnt to look for."""

    features = 64

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 24, kernel_size=5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(24, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, self.features // 2, kernel_size=3, padding=1),
            SpatialSoftmax(HEIGHT // 2, WIDTH // 2),
        )


class PixelNetwork(nn.Module):
    """Maps images alone to actions; there is no proprioception, so it must look.

    Args:
        cameras: How many images there are of each moment.
    """

    def __init__(self, cameras: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(Encoder() for _ in range(cameras))
        self.head = nn.Sequential(
            nn.Linear(cameras * Encoder.features, 128),
            nn.ReLU(),
            nn.Linear(128, 128),
            nn.ReLU(),
            nn.Linear(128, ACTION_SIZE),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images to actions.

        Args:
            images: (rows, cameras, 3, 60, 80) float32, from -1 (black) to 1.

        Returns:
            (rows, 4) float32; clamp it to [-1, 1] before use.
        """
        seen = [encoder(images[:, camera]) for camera, encoder in enumerate(self.encoders)]
        actions: torch.Tensor = self.head(torch.cat(seen, dim=1))
        return actions


def to_network_input(images: torch.Tensor) -> torch.Tensor:
    """Return (rows, cameras, 60, 80, 3) uint8 images as the float32 input of :class:`PixelNetwork`."""
    return images.movedim(-1, -3).float().div(127.5).sub(1.0)
