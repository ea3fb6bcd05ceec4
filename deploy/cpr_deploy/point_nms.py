"""Exact greedy point NMS per class, with a neighbour search whose memory grows with N only."""

from __future__ import annotations

import numpy as np

RULES = ("pseudo_box", "radius", "none")


def points_conflict(
    dx: np.ndarray,
    dy: np.ndarray,
    *,
    rule: str,
    size: float = 0.0,
    iou: float = 0.0,
    radius: float = 0.0,
) -> np.ndarray:
    """Whether points that lie `dx`, `dy` px apart exclude each other; boolean, shape of `dx`.

    "pseudo_box": squares of side `size` around them overlap by an IoU above `iou`, that is
    (size - |dx|)(size - |dy|) > 2 size^2 iou / (1 + iou). "radius": closer than `radius`. "none":
    never, for networks trained to give one point per object.
    """
    if rule == "pseudo_box":
        overlap = np.maximum(size - np.abs(dx), 0) * np.maximum(size - np.abs(dy), 0)
        return overlap > 2 * size**2 * iou / (1 + iou)
    if rule == "radius":
        return dx**2 + dy**2 < radius**2
    if rule == "none":
        return np.zeros(np.broadcast_shapes(np.shape(dx), np.shape(dy)), dtype=bool)
    raise ValueError(f"NMS rule {rule!r}: one of {RULES} is needed")


def point_nms(
    points: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    rule: str,
    size: float = 0.0,
    iou: float = 0.0,
    radius: float = 0.0,
) -> np.ndarray:
    """Indices (int64, best first) of the points that greedy class-wise NMS keeps.

    `points` (N, 2) px, `scores` (N,), `labels` (N,). Points are visited by falling score (equal
    scores in input order); each kept one removes the later ones of its class that conflict with it
    (`points_conflict`). Two points never conflict across classes.
    """
    points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    scores = np.asarray(scores).reshape(-1)
    labels = np.asarray(labels).reshape(-1)
    if rule not in RULES:
        raise ValueError(f"NMS rule {rule!r}: one of {RULES} is needed")
    if not np.isfinite(points).all() or np.isnan(scores).any():
        raise ValueError("points must be finite and scores must not be NaN")
    order = np.argsort(-scores, kind="stable")
    if rule == "none":
        return order
    settings = {"rule": rule, "size": size, "iou": iou, "radius": radius}
    kept = np.zeros(len(points), dtype=bool)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        kept[members[_greedy(points[members], settings)]] = True
    return order[kept[order]]


def _greedy(points: np.ndarray, settings: dict) -> np.ndarray:
    """Keep mask (n,) of points (n, 2) of one class that are sorted best first."""
    reach = settings["size"] if settings["rule"] == "pseudo_box" else settings["radius"]
    if reach <= 0:
        return np.ones(len(points), dtype=bool)
    # Cells as wide as the reach: whatever conflicts with a point lies in the 3 x 3 cells around
    # it. In the order of their cells, the three cells of a row are one slice.
    cells = np.floor((points - points.min(axis=0)) / reach).astype(np.int64)
    columns = int(cells[:, 0].max()) + 3
    keys = (cells[:, 1] + 1) * columns + cells[:, 0] + 1
    by_cell = np.argsort(keys, kind="stable")
    sorted_keys, sorted_points = keys[by_cell], points[by_cell]
    rows = keys[:, None] + np.array([-columns, 0, columns])
    begins = np.searchsorted(sorted_keys, rows - 1, side="left")
    ends = np.searchsorted(sorted_keys, rows + 1, side="right")

    removed = np.zeros(len(points), dtype=bool)  # in cell order
    place = np.empty(len(points), dtype=np.int64)
    place[by_cell] = np.arange(len(points))
    keep = np.zeros(len(points), dtype=bool)
    for index, (x, y) in enumerate(points):
        if removed[place[index]]:
            continue
        keep[index] = True
        for begin, end in zip(begins[index], ends[index], strict=True):
            if begin < end:
                near = sorted_points[begin:end]
                removed[begin:end] |= points_conflict(near[:, 0] - x, near[:, 1] - y, **settings)
    return keep
