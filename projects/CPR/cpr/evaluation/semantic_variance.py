"""Relative semantic variance (RSV) and relative-position heat maps (Eq. 13-15).

Points and boxes share one frame, continuous px. The relative position of a point is its offset
from the box's centre in units of the box's sides: (0, 0) is the centre, +-0.5 the border.
"""

from __future__ import annotations

import numpy as np


def relative_positions(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """x' = (x - xc) / w, y' = (y - yc) / h of Eq. 13.

    Args:
        points: (N, 2) x, y.
        boxes: (N, 4) xywh with positive sides; row j is the box of point j.

    Returns:
        (N, 2) float64.

    Raises:
        ValueError: numbers of points and boxes differ, or a side is not positive.
    """
    points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    if len(points) != len(boxes):
        raise ValueError(f"{len(points)} points but {len(boxes)} boxes")
    if not (boxes[:, 2:] > 0).all():
        raise ValueError("every side of a box must be positive")
    return (points - boxes[:, :2] - boxes[:, 2:] / 2) / boxes[:, 2:]


def rsv(points: np.ndarray, boxes: np.ndarray) -> dict[str, float | int | None]:
    """Relative semantic variance over all objects, whatever their class (Eq. 13 and 15).

    Only points inside their box enter the RSV (population variance), so the share of such points
    belongs to every RSV: two point sets are comparable only with both numbers.

    Args:
        points: (N, 2) x, y.
        boxes: (N, 4) xywh.

    Returns:
        {"rsv": sqrt(Var(x') Var(y')) or None without a point inside its box,
         "inside": share of points inside their box (border included) or None if N = 0,
         "mean_distance": mean point-box distance (Eq. 12) over all points or None if N = 0,
         "count": N}
    """
    relative = relative_positions(points, boxes)
    if len(relative) == 0:
        return {"rsv": None, "inside": None, "mean_distance": None, "count": 0}
    inside = _is_inside(relative)
    variance = relative[inside].var(axis=0) if inside.any() else None
    return {
        "rsv": None if variance is None else float(np.sqrt(variance.prod())),
        "inside": float(inside.mean()),
        "mean_distance": float(np.hypot(relative[:, 0], relative[:, 1]).mean()),
        "count": len(relative),
    }


def heat_map(points: np.ndarray, boxes: np.ndarray, bins: int = 50) -> np.ndarray:
    """Prob(x', y') of Eq. 14: (bins, bins) histogram of the points inside their box.

    Row = y' from -0.5 (top) to 0.5, column = x'; sums to 1, or all zero without such a point. The
    paper gives no number of bins.
    """
    relative = relative_positions(points, boxes)
    relative = relative[_is_inside(relative)]
    edges = np.linspace(-0.5, 0.5, bins + 1)
    counts, _, _ = np.histogram2d(relative[:, 1], relative[:, 0], bins=(edges, edges))
    return counts / max(counts.sum(), 1.0)


def _is_inside(relative: np.ndarray) -> np.ndarray:
    return (np.abs(relative) <= 0.5).all(axis=1)
