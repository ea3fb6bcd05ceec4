"""Sets of points that stand for objects: their boxes, and which of them learn which object.

Source: "RepPoints: Point Set Representation for Object Detection", ICCV 2019, and its published
settings. An object is described by N points; its pseudo box follows from them. The points are
learned in two stages, each with a rule of its own for the locations that learn an object: the
nearest one on the pyramid level that fits its size, then those whose first box already overlaps it.

Shape shorthand: B images, L locations (of all levels, one after another), N points per set, M
objects of an image. Boxes are x1, y1, x2, y2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, pairwise_iou

from .inputs import to_device
from .require import require

NODE = "MODEL.REPPOINTS"
TRANSFORMS = ("moment", "minmax", "partial_minmax")
# "partial_minmax" looks at so many of the points; the others are free.
PARTIAL_POINTS = 4
# What a location is that learns no object.
BACKGROUND = -1
UNUSED = -2
# Least side of an object that distances are measured in, px.
MIN_SIDE = 1e-6


@dataclass(frozen=True)
class AssignSettings:
    """Which locations learn an object; the keys of MODEL.REPPOINTS of the same names.

    Attributes:
        point_base_scale, init_positives: see `nearest_centre_assign`.
        positive_iou, negative_iou, min_positive_iou: see `iou_assign`.
    """

    point_base_scale: float
    init_positives: int
    positive_iou: float
    negative_iou: float
    min_positive_iou: float

    def __post_init__(self) -> None:
        for key, good, need in (
            ("POINT_BASE_SCALE", self.point_base_scale > 0, "above 0"),
            ("INIT_POSITIVES", self.init_positives >= 1, "at least 1"),
            ("POSITIVE_IOU", 0 < self.positive_iou <= 1, "above 0 and at most 1"),
            (
                "NEGATIVE_IOU",
                0 <= self.negative_iou <= self.positive_iou,
                f"at least 0 and at most {NODE}.POSITIVE_IOU",
            ),
            ("MIN_POSITIVE_IOU", 0 <= self.min_positive_iou <= 1, "between 0 and 1"),
        ):
            require(good, f"{NODE}.{key}", getattr(self, key.lower()), need)


@dataclass(frozen=True)
class BoxLossSettings:
    """The losses; the keys of MODEL.REPPOINTS of the same names.

    Attributes:
        focal_alpha, focal_gamma: of the class loss, see `losses_p2p.focal_class_loss`.
        smooth_l1_beta: of both box losses, see `box_loss`.
        init_loss_weight, refine_loss_weight: weights of the box losses of stage 1 and 2.
    """

    focal_alpha: float
    focal_gamma: float
    smooth_l1_beta: float
    init_loss_weight: float
    refine_loss_weight: float

    def __post_init__(self) -> None:
        gamma = self.focal_gamma
        for key, good, need in (
            ("FOCAL_ALPHA", 0 <= self.focal_alpha <= 1, "between 0 and 1"),
            # Between 0 and 1 the gradient is infinite where a score reaches its target.
            ("FOCAL_GAMMA", gamma == 0 or gamma >= 1, "0 or at least 1"),
            ("SMOOTH_L1_BETA", self.smooth_l1_beta >= 0, "at least 0"),
            ("INIT_LOSS_WEIGHT", self.init_loss_weight >= 0, "at least 0"),
            ("REFINE_LOSS_WEIGHT", self.refine_loss_weight >= 0, "at least 0"),
        ):
            require(good, f"{NODE}.{key}", getattr(self, key.lower()), need)


def scale_gradient(x: torch.Tensor, factor: float) -> torch.Tensor:
    """`x` itself, except that its gradient is multiplied by `factor` on the way back."""
    constant = x.detach()
    return constant + factor * (x - constant)


def points_to_boxes(
    points: torch.Tensor, transform: str, log_spread: torch.Tensor | None = None
) -> torch.Tensor:
    """The pseudo box of each set of points.

    Args:
        points: (..., N, 2) x, y in any frame.
        transform: "moment", centre = mean and half side = standard deviation (of a sample, N - 1 as
            in the official code) * exp(log_spread). "minmax", the smallest box around all points.
            "partial_minmax", the one around the first PARTIAL_POINTS.
        log_spread: (2,) for x and y, of "moment" only.

    Returns:
        (..., 4) boxes in the frame of the points.
    """
    if transform == "moment":
        centre = points.mean(dim=-2)
        half = points.std(dim=-2) * log_spread.exp()
        return torch.cat([centre - half, centre + half], dim=-1)
    if transform == "partial_minmax":
        points = points[..., :PARTIAL_POINTS, :]
    return torch.cat([points.amin(dim=-2), points.amax(dim=-2)], dim=-1)


def nearest_centre_assign(
    locations: torch.Tensor,
    levels: torch.Tensor,
    valid: torch.Tensor,
    boxes: torch.Tensor,
    *,
    strides: Sequence[int],
    base_scale: float,
    positives: int,
) -> torch.Tensor:
    """Stage 1: an object is learned where its centre is nearest, on the level of its size.

    An object of area w h belongs to the last level whose stride is at most sqrt(w h) / base_scale,
    or to the first one. Distances are in units of its sides. A location that several objects want
    learns the nearest one, the first of those equally near.

    Args:
        locations: (L, 2) px.
        levels: (L,) int64, position in `strides` of each location's level.
        valid: (L,) bool, locations that take part.
        boxes: (M, 4) objects, px. M may be 0.
        strides: px per cell of each level, ascending.
        base_scale: side, in cells, of an object on the border between two levels.
        positives: locations that an object asks for.

    Returns:
        (L,) int64 row of `boxes`, or BACKGROUND.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=MIN_SIDE)
    centres = (boxes[:, 2:] + boxes[:, :2]) / 2
    smallest = base_scale * to_device(list(strides), torch.float32, boxes.device)
    object_level = (sides.prod(dim=1).sqrt()[:, None] >= smallest).sum(dim=1) - 1
    usable = valid & (levels == object_level.clamp(min=0)[:, None])

    distance = ((locations - centres[:, None]) / sides[:, None]).norm(dim=-1)
    distance = torch.where(usable, distance, torch.inf)
    nearest, index = distance.topk(min(positives, len(locations)), dim=1, largest=False)
    wanted = torch.full_like(distance, torch.inf).scatter(1, index, nearest)
    # Row 0 is "no object": argmin takes the first of equal values.
    none = wanted.new_full((1, len(locations)), torch.inf)
    return torch.cat([none, wanted]).argmin(dim=0) - 1


def iou_assign(
    predicted: torch.Tensor,
    valid: torch.Tensor,
    boxes: torch.Tensor,
    *,
    positive_iou: float,
    negative_iou: float,
    min_positive_iou: float,
) -> torch.Tensor:
    """Stage 2: a location learns the object that its first box overlaps.

    Every object also gets the locations that overlap it most, even below `positive_iou`, if their
    IoU is at least `min_positive_iou` and above 0. (The official code has no "above 0": an object
    that no box touches then claims all locations without overlap.)

    Args:
        predicted: (L, 4) boxes of stage 1, px.
        valid: (L,) bool, locations that take part.
        boxes: (M, 4) objects, px. M may be 0.
        positive_iou: least IoU of a positive.
        negative_iou: IoU below which a location is background.
        min_positive_iou: see above.

    Returns:
        (L,) int64 row of `boxes`, BACKGROUND, or UNUSED for locations between the two thresholds
        and those that are not valid.
    """
    iou = pairwise_iou(Boxes(boxes), Boxes(predicted)) * valid
    # Row 0 is "no object": argmax takes the first of equal values.
    none = iou.new_zeros(1, len(predicted))
    with_none = torch.cat([none, iou])
    best = with_none.amax(dim=0)
    assigned = torch.where(
        best >= positive_iou,
        with_none.argmax(dim=0) - 1,
        torch.where(best < negative_iou, BACKGROUND, UNUSED),
    )
    most = iou.amax(dim=1, keepdim=True)
    own = (iou == most) & (most >= min_positive_iou)
    claimed = torch.cat([none, torch.where(own, iou, 0)]).argmax(dim=0) - 1
    assigned = torch.where(claimed >= 0, claimed, assigned)
    return torch.where(valid, assigned, UNUSED)


def box_loss(
    predicted: torch.Tensor,
    boxes: torch.Tensor,
    positive: torch.Tensor,
    *,
    scale: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """Smooth-L1 of predicted minus annotated corners, summed over locations and coordinates.

    Args:
        predicted, boxes: (B, L, 4) px; rows that are not positive do not count.
        positive: (B, L) bool.
        scale: (L,) px that count as an error of 1: base scale * stride of the location.
        beta: error from which the loss is linear; 0 is L1.
    """
    error = torch.where(positive[..., None], (predicted - boxes) / scale[:, None], 0.0)
    return F.smooth_l1_loss(error, torch.zeros_like(error), beta=beta, reduction="sum")


def matched_iou(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    """(...) IoU of boxes (..., 4) with boxes (..., 4), pair by pair; 0 without overlap."""
    low = torch.maximum(one[..., :2], two[..., :2])
    high = torch.minimum(one[..., 2:], two[..., 2:])
    overlap = (high - low).clamp(min=0).prod(dim=-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(dim=-1) for boxes in (one, two)]
    return torch.where(overlap > 0, overlap / (sum(areas) - overlap), 0.0)
