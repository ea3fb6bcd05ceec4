"""Matching of points with boxes by the point-box distance (Eq. 12), for all images at once.

The rule (official evaluator): within an image and a class, detections take turns, best score first;
each takes the nearest box that is still free, if its distance is at most tau. Detections of equal
score share a turn: the nearest pair among them goes first. A detection that found no box but is
within tau of an ignored box counts neither as hit nor as error.

The sequential rule is computed by deferred acceptance: every detection proposes to its nearest
box, a box keeps the proposal with the highest priority, the others propose to their next box. As
all boxes rank detections by the same order, the stable matching is unique and equals the
sequential result, and every round is a few array operations over all images together.

Letters: D detections, B boxes, P candidate pairs (closer than the largest tau).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Cross products are formed in pieces of about this many pairs.
_CHUNK_PAIRS = 1 << 20
# Scores closer than this count as equal (official code).
_TIE = 1e-8


@dataclass(frozen=True)
class CandidatePairs:
    """Detection-box pairs, by detection, nearest box first.

    Attributes:
        detection, box: (P,) int64 indices.
        closeness: (P,) float32, 1 / (1 + d^2): the official measure, 1 at the box's centre.
        priority: (P,) int64, unique; a box prefers the pair with the lowest number.
    """

    detection: np.ndarray
    box: np.ndarray
    closeness: np.ndarray
    priority: np.ndarray


def closeness_threshold(tau: float) -> np.float32:
    """The closeness of a point at distance tau."""
    return np.float32(1.0 / (1.0 + tau * tau))


def find_pairs(
    points: np.ndarray,
    scores: np.ndarray,
    point_group: np.ndarray,
    centres: np.ndarray,
    sizes: np.ndarray,
    box_group: np.ndarray,
    *,
    max_tau: float,
    whole_box: np.ndarray | None = None,
) -> CandidatePairs:
    """All pairs of the same group within `max_tau`.

    Args:
        points: (D, 2) x, y, sorted by group, then best score first.
        scores: (D,) in that order.
        point_group: (D,) non-negative int64, ascending: an (image, class) number.
        centres, sizes: (B, 2) box centre and width, height, sorted by group.
        box_group: (B,) non-negative int64, ascending.
        max_tau: largest distance (Eq. 12) of a pair.
        whole_box: (B,) bool or None; such a box is a region: every point inside it has distance 0,
            every other one is infinitely far.
    """
    # float32 as in the official evaluator, so that ties and thresholds fall the same way.
    points, centres, sizes = (np.asarray(a, dtype=np.float32) for a in (points, centres, sizes))
    low = np.searchsorted(box_group, point_group, side="left")
    counts = np.searchsorted(box_group, point_group, side="right") - low
    threshold = closeness_threshold(max_tau)
    chosen = np.flatnonzero(counts)
    total = counts[chosen].cumsum()
    cuts = np.searchsorted(total, np.arange(_CHUNK_PAIRS, total[-1:].sum(), _CHUNK_PAIRS))
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for rows in np.split(chosen, np.unique(cuts)):
        repeats = counts[rows]
        detection = np.repeat(rows, repeats)
        shift = low[rows] - (repeats.cumsum() - repeats)
        box = np.arange(len(detection)) + np.repeat(shift, repeats)
        offset = np.abs(points[detection] - centres[box]) / sizes[box]
        near = 1 / (1 + (offset[:, 0] ** 2 + offset[:, 1] ** 2))
        if whole_box is not None:
            region = whole_box[box]
            near[region] = (offset[region] <= 0.5).all(axis=1)
        kept = near >= threshold
        found.append((detection[kept], box[kept], near[kept]))
    detection, box, near = (np.concatenate(parts) for parts in zip(*found, strict=True))
    # Stable: equally near boxes stay in the order of the boxes.
    order = np.lexsort((-near, detection))
    detection, box, near = detection[order], box[order], near[order]

    ranking = np.lexsort((detection, -near, _turns(scores, point_group)[detection]))
    priority = np.empty_like(ranking)
    priority[ranking] = np.arange(len(ranking))
    return CandidatePairs(detection, box, near, priority)


def _turns(scores: np.ndarray, group: np.ndarray) -> np.ndarray:
    """(D,) number of the turn of each detection: neighbours of equal score share a turn."""
    scores = np.asarray(scores, dtype=np.float64)
    new = np.ones(len(scores), dtype=bool)
    new[1:] = (scores[:-1] - scores[1:] >= _TIE) | (group[1:] != group[:-1])
    turns = new.cumsum()
    # A chain of nearly equal scores may drift: a turn ends _TIE below its *first* score.
    starts = np.flatnonzero(new)
    ends = np.append(starts[1:], len(scores))
    for start, end in zip(starts, ends, strict=True) if len(starts) < len(scores) else ():
        if end - start > 2 and scores[start] - scores[end - 1] >= _TIE:
            first = start
            for index in range(start + 1, end):
                if scores[first] - scores[index] >= _TIE:
                    first = index
                    new[index] = True
            turns = None
    return new.cumsum() if turns is None else turns


def assign(
    detection: np.ndarray, box: np.ndarray, priority: np.ndarray, num_points: int, num_boxes: int
) -> np.ndarray:
    """The greedy matching of a list of pairs sorted as in `CandidatePairs`.

    Returns:
        (num_points,) int64: the box of each detection, -1 for none.
    """
    result = np.full(num_points, -1, dtype=np.int64)
    if len(detection) == 0:
        return result
    changes = detection[1:] != detection[:-1]
    is_last = np.append(changes, True)
    proposals = np.flatnonzero(np.append(True, changes))
    best = np.full(num_boxes, np.iinfo(np.int64).max)
    holder = np.full(num_boxes, -1, dtype=np.int64)
    while proposals.size:
        target = box[proposals]
        np.minimum.at(best, target, priority[proposals])
        won = priority[proposals] == best[target]
        displaced = holder[target[won]]
        holder[target[won]] = proposals[won]
        rejected = np.concatenate([proposals[~won], displaced[displaced >= 0]])
        proposals = rejected[~is_last[rejected]] + 1
    held = holder[holder >= 0]
    result[detection[held]] = box[held]
    return result


def match_points(
    points: np.ndarray,
    scores: np.ndarray,
    centres: np.ndarray,
    sizes: np.ndarray,
    ignored: np.ndarray,
    tau: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Matches the detections of one image and class.

    Args:
        points: (D, 2) x, y, best score first.
        scores: (D,) descending.
        centres, sizes: (B, 2) centre and width, height of the boxes, same frame as the points.
        ignored: (B,) bool, boxes that are no targets but excuse unmatched detections.
        tau: largest point-box distance of a match, inclusive.

    Returns:
        matched (D,) int64: index of the box or -1; several detections may share an ignored box.
        det_ignored (D,) bool: matched an ignored box.
    """
    points, centres, sizes = (np.asarray(a, float).reshape(-1, 2) for a in (points, centres, sizes))
    ignored = np.asarray(ignored, dtype=bool).reshape(-1)
    scores = np.asarray(scores, dtype=np.float64).reshape(-1)
    if (np.diff(scores) > 0).any():
        raise ValueError("scores must be in descending order")
    groups = np.zeros(len(points), np.int64), np.zeros(len(centres), np.int64)
    pairs = find_pairs(points, scores, groups[0], centres, sizes, groups[1], max_tau=tau)
    regular = ~ignored[pairs.box]
    matched = assign(
        pairs.detection[regular],
        pairs.box[regular],
        pairs.priority[regular],
        len(points),
        len(centres),
    )
    # The pairs are sorted nearest first, so the first one of a detection is its nearest region.
    detections, first = np.unique(pairs.detection[~regular], return_index=True)
    excused = matched[detections] < 0
    matched[detections[excused]] = pairs.box[~regular][first[excused]]
    return matched, (matched >= 0) & ignored[matched] if len(ignored) else matched >= 0
