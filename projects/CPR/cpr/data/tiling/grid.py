"""How tiles lie on an image, and which of them sees a place best. All in px of the image."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

from cpr_deploy.tiling import Corner, inference_tiles

Place = tuple[int, int]  # column and row of a tile


@dataclass(frozen=True)
class Axis:
    """The tiles along one side of an image: tile i spans starts[i] to ends[i]."""

    starts: tuple[int, ...]
    ends: tuple[int, ...]

    @cached_property
    def seams(self) -> tuple[float, ...]:
        """The middles of the overlaps: what lies from seams[i - 1] to seams[i] is tile i's own."""
        return tuple(
            (start + end) / 2 for start, end in zip(self.starts[1:], self.ends[:-1], strict=True)
        )

    def owner(self, position: float) -> int:
        """The tile that sees a position most centrally: furthest from the sides that cut."""
        return bisect_right(self.seams, position)

    def core(self, index: int) -> tuple[float, float]:
        """What tile `index` owns, px from its own start."""
        bounds = (self.starts[0], *self.seams, self.ends[-1])
        return bounds[index] - self.starts[index], bounds[index + 1] - self.starts[index]

    def seeing(self, low: float, high: float, margin: float = 0.0) -> list[int]:
        """Tiles that see any of low..high; sides that cut count from `margin` px inside on."""
        last = len(self.starts) - 1
        # Starts and ends both rise.
        near = range(bisect_right(self.ends, low), bisect_right(self.starts, high))
        return [
            i
            for i in near
            if high >= self.starts[i] + margin * (i > 0)
            and low < self.ends[i] - margin * (i < last)
        ]


@dataclass(frozen=True)
class Grid:
    """The tiles of an image. Iterating gives their places, columns first (official code)."""

    xs: Axis
    ys: Axis

    def corner(self, place: Place) -> Corner:
        """Left, top, right, bottom of a tile."""
        (i, j), xs, ys = place, self.xs, self.ys
        return xs.starts[i], ys.starts[j], xs.ends[i], ys.ends[j]

    def core(self, place: Place) -> list[float]:
        """What a tile owns: left, top, right, bottom in px of the tile."""
        (left, right), (top, bottom) = self.xs.core(place[0]), self.ys.core(place[1])
        return [left, top, right, bottom]

    def owner(self, x: float, y: float) -> Place:
        """The tile that sees a place most centrally."""
        return self.xs.owner(x), self.ys.owner(y)

    def __iter__(self) -> Iterator[Place]:
        return itertools.product(range(len(self.xs.starts)), range(len(self.ys.starts)))


@lru_cache(maxsize=1024)
def make_grid(width: int, height: int, *, tile: int, overlap: int, grid: str = "even") -> Grid:
    """The grid "even" or "official-test" of an image of `width` x `height` px.

    Tiles are `tile` px wide and high, or as the image where that is smaller; neighbours overlap by
    at least `overlap` px, which is less than `tile`.
    """
    if grid == "even":
        sides = [_even_starts(size, tile, overlap) for size in (width, height)]
    elif grid == "official-test":
        offsets, _ = inference_tiles(width, height, tile=tile, overlap=overlap)
        sides = [sorted(set(offsets[:, axis].tolist())) for axis in range(2)]
    else:
        raise ValueError(f"grid {grid!r}: even or official-test is needed")
    xs, ys = (
        Axis(tuple(starts), tuple(min(start + tile, size) for start in starts))
        for starts, size in zip(sides, (width, height), strict=True)
    )
    return Grid(xs, ys)


def _even_starts(size: int, tile: int, overlap: int) -> list[int]:
    """As few tiles as the overlap allows, evenly spread."""
    if size <= tile:
        return [0]
    gaps = math.ceil((size - tile) / (tile - overlap))
    return [i * (size - tile) // gaps for i in range(gaps + 1)]
