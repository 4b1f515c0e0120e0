"""The one way in which camera images become network input: numpy alone, so that collecting and inferring share it bit for bit."""

from __future__ import annotations

import numpy as np

HEIGHT = 60
WIDTH = 80
MAX_BLOCK = 256


def fits(shape: tuple[int, ...]) -> bool:
    """Whether images of ``shape``, (height, width, 3), divide evenly into blocks for :func:`downscale`."""
    height, width, channels = shape if len(shape) == 3 else (0, 0, 0)
    if channels != 3 or height % HEIGHT or width % WIDTH:
        return False
    return height * width <= MAX_BLOCK * HEIGHT * WIDTH


def downscale(images: np.ndarray) -> np.ndarray:
    """Return block means.

    Args:
        images: (rows, height, width, 3) uint8, sRGB; height a multiple of 60, width of 80. Blocks hold at most 256 pixels.

    Returns:
        (rows, 60, 80, 3) uint8, rounded down; a copy owned by the caller.
    """
    rows, height, width, channels = images.shape
    tall, wide = height // HEIGHT, width // WIDTH
    # Sums of at most 256 bytes fit in 16 bits. First down the columns, where memory is contiguous and most of the work is;
    # then across, one strided addition per column of a block, which is three times as fast as a sum over that short axis.
    columns = images.reshape(rows, HEIGHT, tall, width * channels).sum(axis=2, dtype=np.uint16)
    parts = columns.reshape(rows, HEIGHT, WIDTH, wide, channels)
    blocks = parts[:, :, :, 0].copy()
    for column in range(1, wide):
        blocks += parts[:, :, :, column]
    small: np.ndarray = (blocks // (tall * wide)).astype(np.uint8)
    return small
