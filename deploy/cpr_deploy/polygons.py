"""Polygons on a plane: (K, 2) corners in order, not closed, convex or not."""

from __future__ import annotations

import numpy as np


def in_polygon(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """(N, 2) -> (N,) bool: an odd number of edges lies to the right of the point."""
    x, y = np.asarray(points, np.float64).reshape(-1, 2).T[:, :, None]
    (x1, y1), (x2, y2) = corners.T, np.roll(corners, -1, axis=0).T
    spans = (y1 > y) != (y2 > y)
    rise = np.where(y2 == y1, 1.0, y2 - y1)
    return ((spans & (x < x1 + (y - y1) * (x2 - x1) / rise)).sum(axis=1) % 2).astype(bool)


def polygon_problem(polygon: np.ndarray) -> str | None:
    """Why (K, 2) corners do not enclose an area in one way only, or None."""
    count = len(polygon)
    if count < 3:
        return f"{count} corners; at least 3 are needed."
    ends = np.roll(polygon, -1, axis=0)
    for index in np.flatnonzero((polygon == ends).all(axis=1)):
        return f"points {index} and {(index + 1) % count} are the same. Remove one."
    area = 0.5 * np.sum(polygon[:, 0] * ends[:, 1] - polygon[:, 1] * ends[:, 0])
    for i in range(count):
        for j in range(i + 1, count):
            neighbours = j == i + 1 or (i == 0 and j == count - 1)
            if neighbours and not _folds_back(polygon, ends, i, j):
                continue
            if neighbours or _meet(polygon[i], ends[i], polygon[j], ends[j]):
                return (
                    f"the polygon crosses itself: edge {i} ({_edge(polygon[i], ends[i])}) meets"
                    f" edge {j} ({_edge(polygon[j], ends[j])}). Give its points in order"
                    " around the area."
                )
    return None if abs(area) > 0 else "the polygon has no area."


def _edge(start: np.ndarray, end: np.ndarray) -> str:
    return f"{start[0]:g},{start[1]:g} to {end[0]:g},{end[1]:g}"


def _cross(origin: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    return (a[0] - origin[0]) * (b[1] - origin[1]) - (a[1] - origin[1]) * (b[0] - origin[0])


def _folds_back(starts: np.ndarray, ends: np.ndarray, i: int, j: int) -> bool:
    """Whether two edges that share a corner lie on each other."""
    if (ends[i] == starts[j]).all():
        far, corner, other = starts[i], ends[i], ends[j]
    else:
        far, corner, other = ends[i], starts[i], starts[j]
    return _cross(corner, far, other) == 0 and float((far - corner) @ (other - corner)) > 0


def _meet(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> bool:
    """Whether the segments a-b and c-d have a point in common."""
    low = np.maximum(np.minimum(a, b), np.minimum(c, d))
    high = np.minimum(np.maximum(a, b), np.maximum(c, d))
    if (low > high).any():
        return False
    one = np.sign(_cross(a, b, c)) * np.sign(_cross(a, b, d))
    two = np.sign(_cross(c, d, a)) * np.sign(_cross(c, d, b))
    return one <= 0 and two <= 0
