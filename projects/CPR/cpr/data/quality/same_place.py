"""Objects that may be one: clicks at one place, two clicks on one object, two boxes around it.

Everything is in arrays of the objects of a data set: `groups` (N,) int64 tells which ones can be
one (those of an image, or of a class in an image), `points` (N, 2) are x, y in px, `boxes` (N, 4)
x, y, w, h in px, NaN without a box.
"""

from __future__ import annotations

import numpy as np

# Two boxes that overlap so much are around one object. In the densest crowds with a box around
# each whole person (CrowdHuman) fewer than one pair in ten images does.
SAME_BOX = 0.8
# Two clicks of a class are on one object if they are nearer than this share of the usual distance
# to the nearest object of the class, and of that distance among their neighbours: far parts of an
# oblique view hold smaller and denser objects.
CLASS_SHARE, LOCAL_SHARE = 0.1, 0.25
# Of a class with fewer objects than this, the usual distance is not known.
MIN_OBJECTS = 20
# A click without a box, in the box of another: on its object within this share of the shorter side.
BOX_SHARE = 0.25
# Neighbours that tell the usual distance at a place.
_NEIGHBOURS = 8
# Boxes around one object are among the nearest few, and their centres, along each axis, at most
# (1 - SAME_BOX) / (1 + SAME_BOX) of the longer side apart.
_NEAR_BOXES = 3
_REACH = 1.5 * (1 - SAME_BOX) / (1 + SAME_BOX)
# Farther apart than any two points of an image can be, px; and how far planes of images are.
_FAR, _APART = 3e7, 4e7


def repeats(
    groups: np.ndarray, points: np.ndarray, boxes: np.ndarray, distance: float
) -> np.ndarray:
    """Which objects are at the place of another of their group.

    Of objects at one place the first one with a box counts, else the first. Objects whose boxes
    differ are two objects, wherever their centres are.

    Args:
        groups, points, boxes: see the module.
        distance: px; at most so far apart is one place.

    Returns:
        (N,) int64: for each object the one that it repeats, itself if it repeats none.
    """
    first = np.arange(len(points))
    _, nearest = nearest_of_group(groups, points, distance)
    near = np.flatnonzero(nearest <= distance)
    has_box = ~np.isnan(boxes[:, 0])
    kept: dict[tuple, list[int]] = {}
    side = distance or 1.0
    # A place and its neighbours on a grid hold all that is near; all others are not looked at.
    around = [(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)] if distance else [(0, 0)]
    for index in near[np.argsort(~has_box[near], kind="stable")].tolist():
        x, y = (points[index] / side).tolist()
        group = int(groups[index])
        # Without a distance only the very same numbers are one place.
        column, row = (np.floor(x), np.floor(y)) if distance else (x, y)
        cells = (kept.get((group, column + dx, row + dy), ()) for dx, dy in around)
        others = [other for cell in cells for other in cell]
        if others:
            same = np.hypot(*(points[others] - points[index]).T) <= distance
            if has_box[index]:
                # A comparison with NaN, of what has no box, is False.
                same &= ~(overlap(boxes[others], boxes[index]) < SAME_BOX)
            if same.any():
                first[index] = others[int(np.argmax(same))]
        if first[index] == index:
            kept.setdefault((group, column, row), []).append(index)
    return first


def double_clicks(
    groups: np.ndarray,
    classes: np.ndarray,
    points: np.ndarray,
    boxes: np.ndarray,
    distance: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of objects that seem to be clicks on one object.

    Both with a box: their boxes overlap by SAME_BOX or more. One with a box: the other's click is
    near its click, by BOX_SHARE of its box. None: their clicks are much nearer than is usual for
    the class and the place. Crowds are none: there, all are near.

    Args:
        groups: image and class; see the module.
        classes: (N,) int64, whose usual distances are measured together.
        points, boxes: see the module.
        distance: px; clicks without boxes that are nearer are on one object. None: by the usual
            distances.

    Returns:
        pairs (P, 2) int64, the lower index first, sorted; distances (P,) px of their points.
    """
    has_box = ~np.isnan(boxes[:, 0])
    other, apart = nearest_of_group(groups, points)
    found = [np.empty((0, 2), np.int64)]
    if len(points) > 1:
        both = has_box & has_box[other]
        limit = _usual(groups, classes, points, apart, ~both) if distance is None else distance
        limit = np.broadcast_to(limit, apart.shape).copy()
        mixed = np.isfinite(apart) & (has_box != has_box[other])
        with_box = np.where(has_box, np.arange(len(points)), other)[mixed]
        without = np.where(has_box, other, np.arange(len(points)))[mixed]
        box = boxes[with_box]
        inside = (
            (points[without] >= box[:, :2]) & (points[without] <= box[:, :2] + box[:, 2:])
        ).all(1)
        limit[mixed] = np.where(inside, BOX_SHARE * box[:, 2:].min(1), 0)
        near = np.flatnonzero((apart < limit) & ~both)
        found.append(np.stack([near, other[near]], 1))
    framed = np.flatnonzero(has_box)
    if len(framed) > 1:
        centres = boxes[framed, :2] + boxes[framed, 2:] / 2
        reach = _REACH * boxes[framed, 2:].max()
        near = _neighbours(groups[framed], centres, _NEAR_BOXES, within=reach)[0]
        for column in near.T:
            pair = np.stack([framed, framed[column]], 1)[column >= 0]
            same = overlap(boxes[pair[:, 0]], boxes[pair[:, 1]]) >= SAME_BOX
            found.append(pair[same])
    pairs = np.unique(np.sort(np.concatenate(found), 1), axis=0)
    return pairs, np.hypot(*(points[pairs[:, 0]] - points[pairs[:, 1]]).T)


def _usual(
    groups: np.ndarray,
    classes: np.ndarray,
    points: np.ndarray,
    apart: np.ndarray,
    wanted: np.ndarray,
) -> np.ndarray:
    """(N,) px: nearer than this to another object of its class, an object is no second one."""
    limit = np.zeros(len(points))
    for number in np.unique(classes):
        of_class = classes == number
        known = apart[of_class & np.isfinite(apart)]
        if len(known) >= MIN_OBJECTS:
            limit[of_class] = CLASS_SHARE * np.median(known)
    near = np.flatnonzero((apart < limit) & wanted)
    if len(near):
        # The usual distance at the place: of the neighbours, without the pair itself.
        index, distances = _neighbours(groups, points, _NEIGHBOURS + 1, near)
        local = np.where(index >= 0, apart[index], np.nan)
        local[distances <= apart[near, None]] = np.nan
        known = ~np.isnan(local).all(1)
        limit[near[known]] = np.minimum(
            limit[near[known]], LOCAL_SHARE * np.nanmedian(local[known], 1)
        )
    return limit


def nearest_of_group(
    groups: np.ndarray, points: np.ndarray, within: float = _FAR
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest other object of each object's group, if it is at most `within` px away.

    Returns:
        (N,) int64 index, its own if there is none; (N,) px, infinite if there is none.
    """
    if len(points) < 2:
        return np.arange(len(points)), np.full(len(points), np.inf)
    index, distances = _neighbours(groups, points, 1, within=within)
    alone = index[:, 0] < 0
    return (
        np.where(alone, np.arange(len(points)), index[:, 0]),
        np.where(alone, np.inf, distances[:, 0]),
    )


def _neighbours(
    groups: np.ndarray,
    points: np.ndarray,
    count: int,
    wanted: np.ndarray | None = None,
    within: float = _FAR,
) -> tuple[np.ndarray, np.ndarray]:
    """The `count` nearest others of the same group, -1 where there are fewer; and how far, px.

    Args:
        groups, points: see the module.
        count: how many.
        wanted: rows whose neighbours are looked for; None: all.
        within: px; farther ones are not found, some that are a little farther may be.
    """
    from scipy.spatial import cKDTree

    # One tree for all groups: they lie in planes that are far apart.
    spread = np.column_stack([points, groups * _APART])
    wanted = np.arange(len(points)) if wanted is None else wanted
    tree = cKDTree(spread, balanced_tree=False, compact_nodes=False)
    distances, index = tree.query(
        spread[wanted], k=count + 1, distance_upper_bound=min(_FAR, 1.01 * within + 1e-6)
    )
    # Of several at one place, an object need not be the first one that is found.
    itself = index == wanted[:, None]
    itself[~itself.any(1), -1] = True
    shape = (len(wanted), count)
    index, distances = index[~itself].reshape(shape), distances[~itself].reshape(shape)
    return np.where(index < len(points), index, -1), distances


def overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (..., 4) x, y, w, h."""
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    common = np.prod(np.maximum(high - low, 0), axis=-1)
    areas = np.prod(first[..., 2:], axis=-1) + np.prod(second[..., 2:], axis=-1)
    return common / np.maximum(areas - common, 1e-300)
