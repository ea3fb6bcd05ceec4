"""Self-refinement (baseline of Table 1): clicks move to what a localizer predicts (numpy only).

The paper replaces each click by the weighted mean of the points that a localizer trained on the
clicks predicts for it. The rest follows a tool that matches this sentence and was published with
the official code for a while, but for two points. There, boxes are averaged and enlarged to hold
the click; here, points are averaged and the click plays no part. There, a prediction is dropped if
a corner coordinate lies too far from the click; here, if its point does.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class SelfRefinement(NamedTuple):
    """Result for the M objects of one image.

    Attributes:
        points: (M, 2) float64, refined; the clicks where `refined` is False.
        scores: (M,) float64, mean score of the kept points, 0 without any.
        refined: (M,) bool, whether any point was kept.
        kept: M arrays of int64: which points are averaged, best first.
    """

    points: np.ndarray
    scores: np.ndarray
    refined: np.ndarray
    kept: list[np.ndarray]


def assign_and_average(
    clicks: np.ndarray,
    click_labels: np.ndarray,
    points: np.ndarray,
    point_labels: np.ndarray,
    scores: np.ndarray,
    *,
    topk: int,
    max_distance: float,
) -> SelfRefinement:
    """Self-refinement of the objects of one image.

    Each predicted point belongs to the nearest click of its class, the first one of several. Of
    those of a click, the `topk` best scores are kept (among equals the first), and of these the
    ones that are not farther than `max_distance` from it. The refined point is their mean, weighted
    by score. Points of score 0 weigh nothing and are left out.

    Args:
        clicks: (M, 2) x, y.
        click_labels: (M,) int.
        points: (N, 2) x, y, in the same frame as the clicks.
        point_labels: (N,) int.
        scores: (N,) 0 to 1.
        topk: at least 1.
        max_distance: in the unit of the coordinates.
    """
    clicks = np.asarray(clicks, dtype=np.float64).reshape(-1, 2)
    points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    scores = np.asarray(scores, dtype=np.float64)
    nearest, distance = _nearest_click(clicks, click_labels, points, point_labels)
    nearest[~(scores > 0)] = -1

    refined_points = clicks.copy()
    mean_scores = np.zeros(len(clicks))
    kept = []
    best_first = np.argsort(-scores, kind="stable")
    for index in range(len(clicks)):
        mine = best_first[nearest[best_first] == index][:topk]
        mine = mine[distance[mine] <= max_distance]
        kept.append(mine)
        if len(mine):
            mean = scores[mine] @ points[mine] / scores[mine].sum()
            # Rounding must not take it beyond its points, which may lie on the image's border.
            refined_points[index] = mean.clip(points[mine].min(axis=0), points[mine].max(axis=0))
            mean_scores[index] = scores[mine].mean()
    return SelfRefinement(
        points=refined_points,
        scores=mean_scores,
        refined=np.array([len(mine) > 0 for mine in kept], dtype=bool),
        kept=kept,
    )


def _nearest_click(
    clicks: np.ndarray, click_labels: np.ndarray, points: np.ndarray, point_labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) index of the nearest click of the own class, -1 without any, and (N,) distance to it."""
    nearest = np.full(len(points), -1)
    distance = np.full(len(points), np.inf)
    click_labels, point_labels = np.asarray(click_labels), np.asarray(point_labels)
    for label in np.unique(click_labels):
        of_clicks = np.flatnonzero(click_labels == label)
        of_points = np.flatnonzero(point_labels == label)
        offsets = points[of_points, None] - clicks[of_clicks]
        squared = (offsets**2).sum(axis=2)
        first = squared.argmin(axis=1)
        nearest[of_points] = of_clicks[first]
        distance[of_points] = np.sqrt(squared[np.arange(len(first)), first])
    return nearest, distance
