"""The part of space that targets may lie in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cpr_deploy.files import InputError
from cpr_deploy.polygons import in_polygon, polygon_problem


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
            problem = polygon_problem(corners)
            if problem:
                raise InputError(f"workspace polygon: {problem}")
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


def _array(value: Any, name: str, shape: tuple[int | None, int], needed: str) -> np.ndarray:
    try:
        array = np.array(value, float)
    except (TypeError, ValueError):
        array = np.empty(0)
    fits = array.ndim == 2 and array.shape[1] == shape[1] and shape[0] in (None, len(array))
    if not fits or not np.isfinite(array).all():
        raise InputError(f"{name} {value!r}: {needed} finite numbers (m) are needed.")
    return array
