"""Train the network on collected demonstrations; needs torch, and no simulator.

    python -m shmbridge_policies.pixel_bc.train demonstrations.npz --task drawer-open-v3 --epochs 15

Brightness, tint and position of the images vary in training, so that another renderer's rounding and lighting do not matter.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from shmbridge_policies.pixel_bc.network import PixelNetwork, to_network_input

BATCH = 128
DARKEST, BRIGHTEST = 0.5, 1.5
LARGEST_SHIFT = 2


def main() -> None:
    """Train, and write a safetensors file whose metadata name the task and the observations."""
    flags = _parse()
    torch.manual_seed(flags.seed)
    torch.set_num_threads(flags.num_threads)
    parts = [np.load(path) for path in flags.demonstrations]
    observations = parts[0]["observations"].tolist()
    images = torch.from_numpy(np.concatenate([part["images"] for part in parts]))
    actions = torch.from_numpy(np.concatenate([part["actions"] for part in parts]))
    network = train(images, actions, epochs=flags.epochs)
    out = Path(flags.out or Path(__file__).parent / "weights" / f"{flags.task}.safetensors")
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), out, metadata={"task": flags.task, "observations": " ".join(observations)})
    print(f"wrote {out}, {out.stat().st_size} bytes")


def train(images: torch.Tensor, actions: torch.Tensor, *, epochs: int) -> PixelNetwork:
    """Return a network that imitates.

    Args:
        images: (steps, cameras, 60, 80, 3) uint8, sRGB.
        actions: (steps, 4) float32 in [-1, 1].
        epochs: Passes over all steps.
    """
    network = PixelNetwork(images.shape[1])
    batches = len(images) // BATCH
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=epochs * batches)
    began = time.monotonic()
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(images))[: batches * BATCH].split(BATCH):
            loss = nn.functional.smooth_l1_loss(network(augment(to_network_input(images[rows]))), actions[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total / batches:.5f}, {time.monotonic() - began:.0f} s", flush=True)
    return network


def augment(images: torch.Tensor) -> torch.Tensor:
    """Return (rows, cameras, 3, 60, 80) float32 images, each lit, tinted and shifted [px] in its own way."""
    rows, cameras, _, height, width = images.shape
    light = torch.empty(rows, cameras, 1, 1, 1).uniform_(DARKEST, BRIGHTEST)
    tint = torch.empty(rows, cameras, 3, 1, 1).uniform_(-0.05, 0.05)
    shift = torch.empty(rows * cameras, 2).uniform_(-LARGEST_SHIFT, LARGEST_SHIFT)
    lit = (images + 1.0) * light - 1.0 + tint
    moved = _shift(lit.flatten(0, 1), shift / torch.tensor([width / 2, height / 2]))
    return moved.clamp(-1.0, 1.0).unflatten(0, (rows, cameras))


def _shift(images: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """Move (rows, 3, height, width) images by (rows, 2), x and y, in half widths and half heights; edges are repeated."""
    transform = torch.eye(2, 3).repeat(len(images), 1, 1)
    transform[:, :, 2] = by
    grid = nn.functional.affine_grid(transform, list(images.shape), align_corners=False)
    moved: torch.Tensor = nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return moved


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demonstrations", nargs="+", help="files written by collect.py")
    parser.add_argument("--task", default="drawer-open-v3")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-threads", "--num_threads", type=int, default=2)
    parser.add_argument("--out", help="by default, the folder 'weights' beside this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
