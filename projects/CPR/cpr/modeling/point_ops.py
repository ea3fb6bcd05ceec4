"""Points: coordinates, point-box distance (Eq. 12) and point NMS.

Coordinates, here and everywhere inside the project: continuous pixels, x right, y down, x before y,
origin at the top-left corner of the image, so that the first pixel's centre is (0.5, 0.5) and the
centre of a box (x, y, w, h) is (x + w / 2, y + h / 2). Cell (row i, column j) of a feature map of
stride s is centred at ((j + 0.5) s, (i + 0.5) s). Frames: original px (the image as stored),
network px (the resized image that the network sees, before padding), cells (network px / stride),
tile px (original px minus the tile's corner). Conversion happens at the borders only.
"""

from __future__ import annotations

import torch

NMS_RULES = ("pseudo_box", "radius", "none")

# Pairs that the neighbour search of `point_nms` looks at together; bounds its memory.
_PAIRS_AT_ONCE = 1 << 22


def scale_points(points: torch.Tensor, scale_xy: tuple[float, float]) -> torch.Tensor:
    """Points (..., 2) multiplied by a factor per axis."""
    x, y = points.unbind(dim=-1)
    return torch.stack([x * scale_xy[0], y * scale_xy[1]], dim=-1)


def clip_points(points: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Points (..., 2) moved into an image of (height, width), both borders included."""
    x, y = points.unbind(dim=-1)
    return torch.stack([x.clamp(0, size[1]), y.clamp(0, size[0])], dim=-1)


def point_box_distance(points: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Distance of points to box centres in units of the box's sides (Eq. 12).

    Args:
        points: (..., 2) x, y.
        boxes: (..., 4) x, y, width, height in the frame of the points; broadcast against `points`.

    Returns:
        (...) distance: 0 at the centre, 0.5 at the middle of a side.
    """
    corner, size = boxes[..., :2], boxes[..., 2:]
    return ((points - corner - size / 2) / size).square().sum(dim=-1).sqrt()


def check_nms_rule(rule: str) -> None:
    """Raises ValueError if there is no such rule."""
    if rule not in NMS_RULES:
        raise ValueError(f"There is no point NMS rule {rule!r}; use one of {NMS_RULES}.")


def points_conflict(
    first: torch.Tensor, second: torch.Tensor, *, rule: str, size: float, iou: float, radius: float
) -> torch.Tensor:
    """Whether two points are too close to be two objects.

    Args:
        first, second: (..., 2) points of one frame, usually original px; they broadcast.
        rule: "pseudo_box": squares of side `size` around the points have an IoU above `iou`
            (papers). "radius": the points are closer than `radius`. "none": never.
        size, radius: px of the points' frame.

    Returns:
        (...) bool.
    """
    check_nms_rule(rule)
    # Axis by axis: an exported graph would otherwise hold all pairs with a last axis of two.
    dx, dy = ((first[..., axis] - second[..., axis]).abs() for axis in (0, 1))
    if rule == "none":
        return torch.zeros_like(dx + dy, dtype=torch.bool)
    if rule == "radius":
        return dx * dx + dy * dy < radius**2
    # IoU > t, with squares of the same side: intersection > 2 size^2 t / (1 + t).
    overlap = (size - dx).clamp(min=0) * (size - dy).clamp(min=0)
    return overlap > 2 * size**2 * iou / (1 + iou)


def point_nms(
    points: torch.Tensor,
    scores: torch.Tensor,
    labels: torch.Tensor,
    *,
    rule: str,
    size: float,
    iou: float,
    radius: float,
) -> torch.Tensor:
    """Exact greedy non-maximum suppression of points, class by class.

    From the highest score down, a point is kept unless it conflicts with a kept one of its class.
    Points of equal score count in the order given.

    Args:
        points: (N, 2), frame of `size` and `radius`, usually original px.
        scores: (N,).
        labels: (N,) int64.
        rule, size, iou, radius: see `points_conflict`.

    Returns:
        (n,) int64 indices of the kept points, best first.
    """
    check_nms_rule(rule)
    order = scores.argsort(descending=True, stable=True)
    if rule == "none":
        return order
    points, labels = points[order].float(), labels[order]
    reach = size if rule == "pseudo_box" else radius
    better, worse = _near_pairs(points, labels, reach)
    conflict = points_conflict(
        points[better], points[worse], rule=rule, size=size, iou=iou, radius=radius
    )
    better, worse = better[conflict], worse[conflict]

    # keep_j = no kept better point conflicts with j. The first m points are settled after at most m
    # repetitions, so the fixed point is unique: the greedy result. A few suffice in practice.
    keep = torch.ones(len(points), dtype=torch.bool, device=points.device)
    while True:
        settled = keep
        keep = torch.ones_like(settled)
        keep[worse[settled[better]]] = False
        if torch.equal(keep, settled):
            return order[keep]


def _near_pairs(
    points: torch.Tensor, labels: torch.Tensor, reach: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs i < j of the same label whose x and y both differ by at most `reach`; (P,) each.

    Points are laid out on a line, class after class and by x within a class, where the neighbours
    of a point are a run that starts behind it.
    """
    device = points.device
    count = len(points)
    if count == 0:
        empty = torch.zeros(0, dtype=torch.int64, device=device)
        return empty, empty
    x = points[:, 0].double()
    x = x - x.min()
    # Only the search uses the shifted positions; the pairs are tested again on the points.
    reach = reach * (1 + 1e-6)
    position = x + labels.double() * (x.max() + 2 * reach + 1)
    position, line = position.sort()
    ends = torch.searchsorted(position, position + reach, right=True)
    lengths = ends - torch.arange(count, device=device) - 1

    firsts, seconds = [], []
    totals = lengths.cumsum(0)
    start = 0
    while start < count:
        before = totals[start] - lengths[start]
        stop = int(torch.searchsorted(totals, before + _PAIRS_AT_ONCE, right=True))
        stop = max(stop, start + 1)
        own = torch.arange(start, stop, device=device)
        first = own.repeat_interleave(lengths[start:stop])
        step = torch.arange(len(first), device=device) - (totals - lengths)[first] + before
        second = first + 1 + step
        first, second = line[first], line[second]
        near = (points[first, 1] - points[second, 1]).abs() <= reach
        near &= labels[first] == labels[second]
        first, second = first[near], second[near]
        firsts.append(torch.minimum(first, second))
        seconds.append(torch.maximum(first, second))
        start = stop
    return torch.cat(firsts), torch.cat(seconds)
