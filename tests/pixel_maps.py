"""A stand-in for P2PNet whose maps are written in the pixels of its input.

With it a test decides what the network "sees": an exported file, with all of its decoding and NMS,
runs on scores and points that the test has chosen.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from cpr.modeling.decoding import DecodeSettings

STRIDE = 4
LEVELS = 65535
# Range of the logits, and px that points may lie beyond the input.
LOGITS = (-6.0, 6.0)
MARGIN = 24.0


class PixelMaps(nn.Module):
    """K classes, one reference per cell of 4 x 4 px: numbers of 16 bits in the cell's first rows.

    Row k of a cell holds class k's logit in the first two pixels' blue channel; x and y are in the
    green and red channels of row 0.
    """

    stride = STRIDE
    points_per_location = 1

    def __init__(self, num_classes: int, settings: DecodeSettings):
        super().__init__()
        self.num_classes = num_classes
        self.decode = settings
        self.pixel_mean = torch.zeros(3, 1, 1)
        self.pixel_std = torch.ones(3, 1, 1)

    def predict_maps(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = x.shape[-2:]

        def number(channel: int, row: int) -> torch.Tensor:
            high = x[:, channel, row::STRIDE, 0::STRIDE]
            low = x[:, channel, row::STRIDE, 1::STRIDE]
            return ((high * 256 + low) / LEVELS).flatten(1)

        low, high = LOGITS
        logits = torch.stack([number(0, k) for k in range(self.num_classes)], dim=-1)
        sides = (width, height)
        points = [number(1 + i, 0) * (side + 2 * MARGIN) - MARGIN for i, side in enumerate(sides)]
        return logits * (high - low) + low, torch.stack(points, dim=-1)


def draw(
    levels: np.ndarray, points: np.ndarray, height: int, width: int, rng: np.random.Generator
) -> np.ndarray:
    """The image that `PixelMaps` reads as these maps.

    Args:
        levels: (N, K) int 0 to 65535, the logits; cells without a point get the lowest.
        points: (N, 2) px. They are dealt out to random cells.

    Returns:
        (height, width, 3) uint8.
    """
    rows, columns = height // STRIDE, width // STRIDE
    image = np.zeros((height, width, 3), np.uint8)
    row, column = np.divmod(rng.permutation(rows * columns)[: len(points)], columns)

    def write(channel: int, inner: int, numbers: np.ndarray) -> None:
        image[row * STRIDE + inner, column * STRIDE, channel] = numbers // 256
        image[row * STRIDE + inner, column * STRIDE + 1, channel] = numbers % 256

    for k in range(levels.shape[1]):
        write(0, k, levels[:, k])
    for axis, side in enumerate((width, height)):
        part = (points[:, axis] + MARGIN) / (side + 2 * MARGIN)
        write(1 + axis, 0, np.clip(np.round(part * LEVELS), 0, LEVELS).astype(int))
    return image
