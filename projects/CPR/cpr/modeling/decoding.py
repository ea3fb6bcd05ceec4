"""From the maps of P2PNet to points in original px (official code).

Shape shorthand: L references, K classes, n points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from cpr_deploy.point_localizer import BORDER_TOLERANCE
from cpr_deploy.tiling import merge_tiles

from .class_scores import class_scores, require_class_loss
from .point_ops import NMS_RULES, clip_points, point_nms, scale_points
from .require import require


@dataclass(frozen=True)
class DecodeSettings:
    """How points are chosen; the keys of MODEL.P2PNET of the same names.

    Attributes:
        score_thresh: scores must be above it.
        pre_nms_topk: references kept, by their best class, before NMS.
        nms_rule, nms_size, nms_iou, nms_radius: see `point_ops.points_conflict`; original px.
        max_dets: points kept per image, all classes together.
        class_loss: what the logits mean, see `class_scores`.
    """

    score_thresh: float
    pre_nms_topk: int
    nms_rule: str
    nms_size: float
    nms_iou: float
    nms_radius: float
    max_dets: int
    class_loss: str = "focal"

    def __post_init__(self) -> None:
        require_class_loss(self.class_loss)
        for key, good, need in (
            ("SCORE_THRESH", 0 <= self.score_thresh < 1, "at least 0 and below 1"),
            ("PRE_NMS_TOPK", self.pre_nms_topk >= 1, "at least 1"),
            ("NMS_RULE", self.nms_rule in NMS_RULES, f"one of {NMS_RULES}"),
            ("NMS_SIZE", self.nms_size > 0, "above 0"),
            ("NMS_IOU", 0 <= self.nms_iou < 1, "at least 0 and below 1"),
            ("NMS_RADIUS", self.nms_radius >= 0, "at least 0"),
            ("MAX_DETS", self.max_dets >= 1, "at least 1"),
        ):
            require(good, f"MODEL.P2PNET.{key}", getattr(self, key.lower()), need)

    @property
    def nms(self) -> dict:
        """The keyword arguments of `point_ops.point_nms`."""
        return {
            "rule": self.nms_rule,
            "size": self.nms_size,
            "iou": self.nms_iou,
            "radius": self.nms_radius,
        }


class PointDetections(NamedTuple):
    """Detected points of an image, best first.

    Attributes:
        points: (n, 2) x, y.
        scores: (n,).
        labels: (n,) int64.
    """

    points: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor


def decode_points(
    logits: torch.Tensor,
    points: torch.Tensor,
    *,
    image_size: tuple[int, int],
    scale_xy: tuple[float, float],
    settings: DecodeSettings,
) -> PointDetections:
    """The detections of one image.

    The references with the best scores are kept, their points moved into the image and scaled to
    original px, every class above the threshold is a candidate, and after class-wise point NMS the
    best ones of all classes remain.

    Args:
        logits: (L, K), or (L, K + 1) with the cross-entropy loss.
        points: (L, 2) network px.
        image_size: height, width of the resized image without padding, network px.
        scale_xy: network px per original px, x and y.
        settings: see `DecodeSettings`.

    Returns:
        points in original px.
    """
    scores = class_scores(logits, settings.class_loss)
    best = scores.amax(dim=1)
    # A stable sort: among equal scores the first reference counts, on every device.
    kept = best.argsort(descending=True, stable=True)[: settings.pre_nms_topk]
    scores = scores[kept]
    points = clip_points(points[kept].float(), image_size)
    points = scale_points(points, (1 / scale_xy[0], 1 / scale_xy[1]))

    rows, labels = (scores > settings.score_thresh).nonzero(as_tuple=True)
    scores, points = scores[rows, labels], points[rows]
    keep = point_nms(points, scores, labels, **settings.nms)[: settings.max_dets]
    return PointDetections(points[keep], scores[keep], labels[keep])


def drop_outside(detections: PointDetections, size: tuple[int, int]) -> PointDetections:
    """Without the points beyond the right and bottom border of (height, width), as the runtime.

    The deployed graph knows the padded input only, so its points in the padding are dropped behind
    it; see `cpr_deploy.point_localizer`.
    """
    corner = detections.points.new_tensor([size[1], size[0]])
    keep = (detections.points <= corner + BORDER_TOLERANCE).all(dim=1)
    return PointDetections(
        clip_points(detections.points[keep], size), detections.scores[keep], detections.labels[keep]
    )


def decode_tiles(
    logits: Sequence[torch.Tensor],
    points: Sequence[torch.Tensor],
    offsets: torch.Tensor,
    *,
    tile_sizes: Sequence[tuple[int, int]],
    scale_xy: tuple[float, float],
    settings: DecodeSettings,
) -> tuple[PointDetections, list[int]]:
    """The detections of an image that went through the network in overlapping tiles.

    Each tile is decoded by itself, NMS included; the points of all tiles pass the same NMS and
    the same limit again (official tiled test). With the rule "none" an object that two tiles see
    counts twice.

    Args:
        logits: per tile, see `decode_points`.
        points: per tile (L, 2), network px of the tile.
        offsets: (T, 2) x, y of the tiles' corners, original px.
        tile_sizes: per tile height, width of the resized tile without padding, network px.
        scale_xy: network px per original px, x and y.
        settings: see `DecodeSettings`.

    Returns:
        the points in px of the whole original image, and the number of points of each tile.
    """
    tiles = [
        decode_points(*maps, image_size=size, scale_xy=scale_xy, settings=settings)
        for *maps, size in zip(logits, points, tile_sizes, strict=True)
    ]
    merged = merge_tiles(
        offsets.cpu().numpy(),
        *([values.cpu().numpy() for values in field] for field in zip(*tiles, strict=True)),
        max_dets=settings.max_dets,
        **settings.nms,
    )
    device = offsets.device
    detections = PointDetections(*(torch.from_numpy(values).to(device) for values in merged))
    return detections, [len(tile.scores) for tile in tiles]
