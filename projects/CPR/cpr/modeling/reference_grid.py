"""The regular grid of reference points of P2PNet.

Cell (row y, column x) of a feature map of stride s holds q = n * n references. With one it lies at
((x + o) s, (y + o) s), o = 0.5 for the cell's centre and 0 in the official code; with more they
divide the cell evenly around that place. References are numbered row by row, the q references of
a cell one after another, row by row as well. Points are px of the network input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ReferenceGrid:
    """Layout of the references of a feature map.

    Attributes:
        height, width: size of the feature map, in cells.
        stride: px per cell.
        offset: o above, in cells.
        points_per_cell: q, a square number.
    """

    height: int
    width: int
    stride: int
    offset: float
    points_per_cell: int

    @property
    def num_points(self) -> int:
        """L = height * width * q."""
        return self.height * self.width * self.points_per_cell

    def points(self, device: torch.device) -> torch.Tensor:
        """(L, 2) float32 x, y of all references, px."""
        side = math.isqrt(self.points_per_cell)
        # Evenly spread around 0: (0,) for one reference, (-1/4, 1/4) for two a side.
        spread = (torch.arange(side, device=device) + 0.5) / side - 0.5
        shape = (self.height, self.width, side, side)
        x = torch.arange(self.width, device=device)[:, None] + self.offset + spread
        y = torch.arange(self.height, device=device)[:, None] + self.offset + spread
        x = x[None, :, None, :].expand(shape)
        y = y[:, None, :, None].expand(shape)
        return torch.stack([x, y], dim=-1).reshape(-1, 2) * self.stride

    def inside(self, size: tuple[int, int], device: torch.device) -> torch.Tensor:
        """(L,) bool: references of cells that begin within an image of (height, width) px.

        Official rule: cell index < ceil(size / stride).
        """
        rows = torch.arange(self.height, device=device) < math.ceil(size[0] / self.stride)
        columns = torch.arange(self.width, device=device) < math.ceil(size[1] / self.stride)
        cells = (rows[:, None] & columns).reshape(-1)
        return cells.repeat_interleave(self.points_per_cell)

    def neighbours(self, points: torch.Tensor, radius: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The references of the cells within `radius` cells of the one that holds each point.

        Args:
            points: (M, 2) px.
            radius: half side of the square of cells, in cells.

        Returns:
            (M, C) int64 reference numbers, C = (2 * radius + 1)^2 * q, and (M, C) bool: False where
            the cell would lie outside the map; the number is then that of some border reference.
        """
        device = points.device
        size = torch.stack([torch.full((), n, device=device) for n in (self.width, self.height)])
        cell = (points / self.stride - self.offset + 0.5).floor().long()
        cell = torch.minimum(cell.clamp(min=0), size - 1)
        reach = torch.arange(-radius, radius + 1, device=device)
        x = cell[:, 0, None] + reach
        y = cell[:, 1, None] + reach
        x_inside = (x >= 0) & (x < self.width)
        y_inside = (y >= 0) & (y < self.height)
        cells = y.clamp(0, self.height - 1)[:, :, None] * self.width
        cells = cells + x.clamp(0, self.width - 1)[:, None, :]
        inside = y_inside[:, :, None] & x_inside[:, None, :]
        q = self.points_per_cell
        numbers = cells.flatten(1)[..., None] * q + torch.arange(q, device=device)
        return numbers.flatten(1), inside.flatten(1).repeat_interleave(q, dim=1)


def maps_to_references(maps: torch.Tensor, points_per_cell: int) -> torch.Tensor:
    """(B, q * C, H, W) maps of a head -> (B, L, C), in the order of the grid's references."""
    batch, channels, height, width = maps.shape
    maps = maps.view(batch, points_per_cell, channels // points_per_cell, height, width)
    return maps.permute(0, 3, 4, 1, 2).reshape(
        batch, height * width * points_per_cell, channels // points_per_cell
    )
