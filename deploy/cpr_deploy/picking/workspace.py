"""The part of space that targets may lie in."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cpr_deploy.files import InputError


@dataclasses.dataclass(frozen=True)
class Workspace:
    """A box, an upright prism over a polygon, or the part that is in both. Base frame, m.

    box: ((x, y, z) lowest, (x, y, z) highest). polygon: corners (x, y) in order; it need not be
    convex. None: no limit.

    Raises:
        InputError: an empty box, a polygon whose sides cross or that has no area.
    """

    box: tuple[Sequence[float], Sequence[float]] | None = None
    polygon: Sequence[Sequence[float]] | None = None

    def __post_init__(self):
        if self.box is not None:
            box = _array(
                self.box, "workspace box", (2, 3), "((x, y, z), (x, y, z)) lowest, highest"
            )
            if (box[0] >= box[1]).any():
                raise InputError(
                    f"workspace box {box.tolist()}: is empty; the first corner must be lower than"
                    " the second in x, y and z."
                )
            object.__setattr__(self, "box", tuple(map(tuple, box.tolist())))
        if self.polygon is not None:
            corners = _array(self.polygon, "workspace polygon", (None, 2), "3 or more (x, y)")
            check_polygon(corners, "workspace polygon")
            object.__setattr__(self, "polygon", tuple(map(tuple, corners.tolist())))

    @classmethod
    def from_dict(cls, value: Any) -> Workspace:
        """From {"box": ..., "polygon": ...}, each optional."""
        if not isinstance(value, Mapping) or not set(value) <= {"box", "polygon"}:
            raise InputError(f'workspace {value!r}: {{"box": .., "polygon": ..}} is needed.')
        return cls(**value)

    def contains(self, xyz: np.ndarray) -> np.ndarray:
        """(N, 3) -> (N,) bool."""
        inside = np.ones(len(xyz), bool)
        if self.box is not None:
            low, high = np.array(self.box)
            inside &= ((xyz >= low) & (xyz <= high)).all(axis=1)
        if self.polygon is not None:
            inside &= in_polygon(xyz[:, :2], np.array(self.polygon))
        return inside


def in_polygon(xy: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """(N, 2) -> (N,) bool: inside by the even-odd rule."""
    x, y = xy[:, 0, None], xy[:, 1, None]
    (x1, y1), (x2, y2) = corners.T, np.roll(corners, -1, axis=0).T
    straddles = (y1 > y) != (y2 > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = x1 + (y - y1) * (x2 - x1) / (y2 - y1)
    return np.count_nonzero(straddles & (x < crossing), axis=1) % 2 == 1


def check_polygon(corners: np.ndarray, name: str) -> None:
    """InputError if sides cross or touch, or there is no area."""
    count = len(corners)
    if count < 3:
        raise InputError(f"{name}: {count} corners; at least 3 are needed.")
    ends = np.roll(corners, -1, axis=0)
    for i, j in itertools.combinations(range(count), 2):
        neighbours = j == i + 1 or (i == 0 and j == count - 1)
        if neighbours:
            # They share a corner; they overlap if the path turns back on itself there.
            first, second = (i, j) if j == i + 1 else (j, i)
            into, out = ends[first] - corners[first], ends[second] - corners[second]
            bad = _cross(into, out) == 0 and into @ out <= 0
        else:
            bad = _touch(corners[i], ends[i], corners[j], ends[j])
        if bad:
            raise InputError(
                f"{name}: side {i + 1}, from {corners[i].tolist()}, crosses or touches side"
                f" {j + 1}, from {corners[j].tolist()}. Give the corners in order around the area."
            )
    # Corners on one line: the loop above finds the turn back.


def _cross(a: np.ndarray, b: np.ndarray) -> float:
    return float(a[0] * b[1] - a[1] * b[0])


def _touch(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> bool:
    """Whether the segments ab and cd have a point in common."""
    sides = [np.sign(_cross(b - a, p - a)) for p in (c, d)]
    sides += [np.sign(_cross(d - c, p - c)) for p in (a, b)]
    if sides[0] != sides[1] and sides[2] != sides[3]:
        return True
    # On one line, or an end on the other segment.
    return any(
        side == 0 and (np.minimum(p, q) <= r).all() and (r <= np.maximum(p, q)).all()
        for side, p, q, r in zip(sides, (a, a, c, c), (b, b, d, d), (c, d, a, b), strict=True)
    )


def _array(value: Any, name: str, shape: tuple[int | None, int], needed: str) -> np.ndarray:
    try:
        array = np.array(value, float)
    except (TypeError, ValueError):
        array = np.empty(0)
    fits = array.ndim == 2 and array.shape[1] == shape[1] and shape[0] in (None, len(array))
    if not fits or not np.isfinite(array).all():
        raise InputError(f"{name} {value!r}: {needed} finite numbers (m) are needed.")
    return array
