"""When two runs of a localizer have found the same points."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """A point of two runs is the same one if class, place and score agree to this.

    Points with nearly equal scores may suppress each other in either order: `unmatched` is the
    share of points that may differ.
    """

    point_px: float
    score: float
    unmatched: float


# By precision. int8 is coarse and judged by its mAP: what is refused is a broken file. A trained
# model whose mAP stayed the same had two fifths of its points, most of them weak, beyond it.
TOLERANCES = {
    "fp32": Tolerance(0.05, 1e-3, 0.005),
    "fp16": Tolerance(0.25, 1e-2, 0.02),
    "int8": Tolerance(2.0, 0.1, 0.8),
}


def match_points(
    first: tuple[np.ndarray, np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    borderline: tuple[float, ...],
    tolerance: Tolerance,
) -> tuple[int, int, float, float]:
    """Matches two sets of (points, scores, labels) one to one.

    Returns the number of points in the larger set, how many found no partner (points at the score
    of a cut, `borderline`, are excused), and the largest differences of place and score.
    """
    points, scores, labels = second
    free = np.ones(len(scores), dtype=bool)
    unmatched = 0
    point_difference = score_difference = 0.0

    def excused(score: float) -> bool:
        return any(abs(score - cut) <= tolerance.score * max(cut, 1e-3) for cut in borderline)

    for point, score, label in zip(*first, strict=True):
        distance = np.abs(points - point).max(axis=1, initial=0)
        same = free & (labels == label) & (distance <= tolerance.point_px)
        same &= np.abs(scores - score) <= tolerance.score
        if not same.any():
            unmatched += not excused(score)
            continue
        partner = int(np.flatnonzero(same)[np.argmin(distance[same])])
        free[partner] = False
        point_difference = max(point_difference, float(distance[partner]))
        score_difference = max(score_difference, float(abs(scores[partner] - score)))
    unmatched += sum(not excused(score) for score in scores[free])
    return max(len(first[1]), len(scores)), unmatched, point_difference, score_difference
