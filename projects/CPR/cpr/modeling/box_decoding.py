"""From what RepPoints says about its locations to the boxes of an image.

Shape shorthand: L locations of all levels, K classes, n boxes. Boxes are x1, y1, x2, y2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes

from .point_sets import NODE
from .require import require


@dataclass(frozen=True)
class BoxDecodeSettings:
    """How boxes are chosen; the keys of MODEL.REPPOINTS of the same names.

    Attributes:
        score_thresh: scores must be above it.
        pre_nms_topk: locations kept per level, by their best class, before NMS.
        nms_thresh: boxes of a class with an IoU above it are one object.
        max_dets: boxes kept per image, all classes together.
        clip_boxes: cut boxes off at the border of the image.
    """

    score_thresh: float
    pre_nms_topk: int
    nms_thresh: float
    max_dets: int
    clip_boxes: bool

    def __post_init__(self) -> None:
        for key, good, need in (
            ("SCORE_THRESH", 0 <= self.score_thresh < 1, "at least 0 and below 1"),
            ("PRE_NMS_TOPK", self.pre_nms_topk >= 1, "at least 1"),
            ("NMS_THRESH", 0 <= self.nms_thresh <= 1, "between 0 and 1"),
            ("MAX_DETS", self.max_dets >= 1, "at least 1"),
        ):
            require(good, f"{NODE}.{key}", getattr(self, key.lower()), need)


class BoxDetections(NamedTuple):
    """Detected boxes of an image, best first: boxes (n, 4), scores (n,), labels (n,) int64."""

    boxes: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor


def decode_boxes(
    logits: torch.Tensor,
    boxes: torch.Tensor,
    levels: torch.Tensor,
    *,
    image_size: tuple[int, int],
    settings: BoxDecodeSettings,
) -> BoxDetections:
    """The detections of one image.

    The best locations of each level are kept, every class above the threshold is a candidate, and
    after class-wise NMS the best ones of all classes remain. Boxes outside the image are dropped.

    Args:
        logits: (L, K).
        boxes: (L, 4) px of the network input.
        levels: (L,) int64, level of each location.
        image_size: height, width of the image without padding, same px.
        settings: see `BoxDecodeSettings`.

    Returns:
        boxes in the same px.
    """
    scores = logits.sigmoid()
    # A stable sort: among equal scores the first location counts, on every device.
    order = scores.amax(dim=1).argsort(descending=True, stable=True)
    kept = torch.cat(
        [order[levels[order] == level][: settings.pre_nms_topk] for level in levels.unique()]
        or [order]
    )
    scores, boxes = scores[kept], boxes[kept]
    clipped = Boxes(boxes.clone())
    clipped.clip(image_size)
    inside = clipped.nonempty()
    boxes = clipped.tensor if settings.clip_boxes else boxes
    rows, labels = ((scores > settings.score_thresh) & inside[:, None]).nonzero(as_tuple=True)
    boxes, scores = boxes[rows], scores[rows, labels]
    # IoU does not change with the scale of either axis, so network px are as good as original px.
    # torchvision keeps the classes apart by shifting them, for which no box may be negative.
    shifted = boxes - boxes.amin() if len(boxes) else boxes
    best = batched_nms(shifted, scores, labels, settings.nms_thresh)[: settings.max_dets]
    return BoxDetections(boxes[best], scores[best], labels[best])
