"""RepPoints, a box detector that describes objects by points, as a Detectron2 meta-architecture.

Source: "RepPoints: Point Set Representation for Object Detection", ICCV 2019. It is the pseudo-box
baseline of the CPR paper (Tables 1 and 3), where the centre of a predicted box is the point.

Every location of a feature pyramid first moves N points from its centre to an object (stage 1).
Deformable convs then read the features at those points, for the classes and for a second move of
the points (stage 2). Boxes follow from the points, see `point_sets.points_to_boxes`.

Shape shorthand: B images, H x W cells of a level, L locations of all levels, N points per location,
K classes, M objects of all images together. Boxes are x1, y1, x2, y2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import Boxes, ImageList, Instances

from .box_decoding import BoxDecodeSettings, decode_boxes
from .distributed import count_normalizer
from .inputs import ImageNetwork, batch_regions, padded_sizes, region_mask
from .losses_p2p import focal_class_loss
from .point_sets import (
    BACKGROUND,
    NODE,
    AssignSettings,
    BoxLossSettings,
    box_loss,
    iou_assign,
    matched_iou,
    nearest_centre_assign,
)
from .reference_grid import ReferenceGrid, maps_to_references
from .reppoints_head import RepPointsHead
from .require import require


def _require(good: bool, key: str, value: object, need: str) -> None:
    require(good, f"{NODE}.{key}", value, need)


@dataclass(frozen=True)
class Locations:
    """The cell centres of all levels of a batch, level after level, row by row.

    Attributes:
        points: (L, 2) x, y, network px.
        levels: (L,) int64 position of the level in IN_FEATURES.
        strides: (L,) px per cell.
        valid: (B, L) bool, locations within each image's own padded size.
    """

    points: torch.Tensor
    levels: torch.Tensor
    strides: torch.Tensor
    valid: torch.Tensor


class Predictions(NamedTuple):
    """What the network says about all locations of a batch.

    Attributes:
        logits: (B, L, K).
        init_boxes, refine_boxes: (B, L, 4) boxes of stage 1 and 2, network px.
    """

    logits: torch.Tensor
    init_boxes: torch.Tensor
    refine_boxes: torch.Tensor


@META_ARCH_REGISTRY.register()
class RepPoints(ImageNetwork):
    """Anchor-free box detector. Arguments are the keys of MODEL.REPPOINTS in `cpr/config.py`.

    Attributes:
        diagnostics: scalars of the last training step (detached tensors, on the device): the mean
            IoU of the positives' boxes with their objects at both stages, and the number of
            positives per object of stage 2.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: RepPointsHead,
        in_features: list[str],
        num_classes: int,
        assign: AssignSettings,
        loss: BoxLossSettings,
        loss_normalizer: str,
        ignore_as_background: bool,
        decode: BoxDecodeSettings,
        pixel_mean: list[float],
        pixel_std: list[float],
    ):
        super().__init__(backbone, pixel_mean, pixel_std)
        shapes = backbone.output_shape()
        _require(
            len(in_features) > 0 and set(in_features) <= set(shapes),
            "IN_FEATURES",
            in_features,
            f"outputs of the backbone, which gives {sorted(shapes)} (see MODEL.FPN.IN_FEATURES)",
        )
        strides = [shapes[name].stride for name in in_features]
        _require(
            strides == sorted(set(strides))
            and len({shapes[name].channels for name in in_features}) == 1,
            "IN_FEATURES",
            in_features,
            f"levels from fine to coarse with the same channels; their strides are {strides}",
        )
        self.head = head
        self.in_features = list(in_features)
        self.strides = strides
        self.num_classes = num_classes
        self.assign_settings = assign
        self.loss_settings = loss
        self.normalizer = count_normalizer(loss_normalizer, key=f"{NODE}.LOSS_NORMALIZER")
        self.ignore_as_background = ignore_as_background
        self.decode = decode
        self.diagnostics: dict[str, torch.Tensor] = {}

    @classmethod
    def from_config(cls, cfg) -> dict:
        node = cfg.MODEL.REPPOINTS
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        # A level that does not exist is refused by __init__, with its reason.
        channels = [shapes[name].channels for name in node.IN_FEATURES if name in shapes]
        return {
            "backbone": backbone,
            "head": RepPointsHead(
                in_channels=channels[0] if channels else cfg.MODEL.FPN.OUT_CHANNELS,
                num_convs=node.NUM_CONVS,
                conv_dim=node.CONV_DIM,
                norm=node.NORM,
                point_conv_dim=node.POINT_CONV_DIM,
                num_points=node.NUM_POINTS,
                num_classes=node.NUM_CLASSES,
                transform=node.TRANSFORM,
                moment_mul=node.MOMENT_MUL,
                gradient_mul=node.GRADIENT_MUL,
                prior_prob=node.PRIOR_PROB,
            ),
            "in_features": node.IN_FEATURES,
            "num_classes": node.NUM_CLASSES,
            # Assignment and losses
            "assign": AssignSettings(
                point_base_scale=node.POINT_BASE_SCALE,
                init_positives=node.INIT_POSITIVES,
                positive_iou=node.POSITIVE_IOU,
                negative_iou=node.NEGATIVE_IOU,
                min_positive_iou=node.MIN_POSITIVE_IOU,
            ),
            "loss": BoxLossSettings(
                focal_alpha=node.FOCAL_ALPHA,
                focal_gamma=node.FOCAL_GAMMA,
                smooth_l1_beta=node.SMOOTH_L1_BETA,
                init_loss_weight=node.INIT_LOSS_WEIGHT,
                refine_loss_weight=node.REFINE_LOSS_WEIGHT,
            ),
            "loss_normalizer": node.LOSS_NORMALIZER,
            "ignore_as_background": node.IGNORE_AS_BACKGROUND,
            # Inference
            "decode": BoxDecodeSettings(
                score_thresh=node.SCORE_THRESH,
                pre_nms_topk=node.PRE_NMS_TOPK,
                nms_thresh=node.NMS_THRESH,
                max_dets=node.MAX_DETS,
                clip_boxes=node.CLIP_BOXES,
            ),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict]:
        """One step of training, or detection.

        Args:
            batched_inputs: a dict per image with "image" (uint8, 3 x h x w), "height" and "width"
                of the original image (default: those of "image"); for training "instances" with
                gt_boxes (px of "image") and gt_classes, and optionally "ignore_regions" (G x 4).

        Returns:
            Training: "loss_cls", "loss_box_init", "loss_box_refine". Inference: per image
            {"instances"} with pred_boxes (Boxes of n) in original px, scores (n,) and pred_classes
            (n,), best first.
        """
        images = self.batch_images(batched_inputs)
        features = self.backbone(images.tensor)
        features = [features[name] for name in self.in_features]
        locations = self.locations([x.shape[-2:] for x in features], images)
        predictions = self.predict(features, locations)
        if self.training:
            return self.losses(predictions, locations, batched_inputs)
        return self.inference(predictions, locations, images, batched_inputs)

    def locations(self, map_sizes: list[tuple[int, int]], images: ImageList) -> Locations:
        """The locations of a batch whose levels have (height, width) `map_sizes`, in cells."""
        sizes = padded_sizes(images.image_sizes, max(self.backbone.size_divisibility, 1))
        grids = [
            ReferenceGrid(height=height, width=width, stride=stride, offset=0.5, points_per_cell=1)
            for (height, width), stride in zip(map_sizes, self.strides, strict=True)
        ]

        def per_level(values: list[int], dtype: torch.dtype) -> torch.Tensor:
            parts = [
                torch.full((grid.num_points,), value, dtype=dtype, device=self.device)
                for grid, value in zip(grids, values, strict=True)
            ]
            return torch.cat(parts)

        return Locations(
            points=torch.cat([grid.points(self.device) for grid in grids]),
            levels=per_level(list(range(len(grids))), torch.int64),
            strides=per_level(self.strides, torch.float32),
            valid=torch.stack(
                [torch.cat([grid.inside(size, self.device) for grid in grids]) for size in sizes]
            ),
        )

    def predict(self, features: list[torch.Tensor], locations: Locations) -> Predictions:
        """The head on all levels, its points turned into boxes in network px."""
        levels = [[maps_to_references(x, 1) for x in self.head(feature)] for feature in features]
        logits, *stages = (torch.cat(maps, dim=1) for maps in zip(*levels, strict=True))
        centres = locations.points.repeat(1, 2)
        strides = locations.strides[:, None]
        return Predictions(logits, *(centres + strides * self.head.boxes(x) for x in stages))

    def losses(
        self, predictions: Predictions, locations: Locations, batched_inputs: list[dict]
    ) -> dict[str, torch.Tensor]:
        """The three losses of a batch, each divided by the number of positives of its stage."""
        boxes, labels, counts = self._objects(batched_inputs)
        first, second = self.assign(predictions.init_boxes.detach(), locations, boxes, counts)
        weights = second >= BACKGROUND
        if not self.ignore_as_background:
            weights &= (second >= 0) | ~self._ignored(locations, batched_inputs)
        positives = [first >= 0, second >= 0]
        divisors = self.normalizer(torch.stack([x.sum() for x in positives]).float()).unbind()
        # The last row stands for "none", which negative rows pick.
        boxes = torch.cat([boxes, boxes.new_zeros(1, 4)])
        labels = torch.cat([labels, labels.new_full((1,), self.num_classes)])
        first, second = first.clamp(min=-1), second.clamp(min=-1)

        settings = self.loss_settings
        scale = self.assign_settings.point_base_scale * locations.strides
        cls_loss = focal_class_loss(
            predictions.logits,
            labels[second],
            weights,
            alpha=settings.focal_alpha,
            gamma=settings.focal_gamma,
        )
        init_loss, refine_loss = (
            box_loss(predicted, boxes[rows], positive, scale=scale, beta=settings.smooth_l1_beta)
            for predicted, rows, positive in zip(
                predictions[1:], (first, second), positives, strict=True
            )
        )
        self.diagnostics = {}
        if sum(counts):
            self._diagnose(predictions, (boxes[first], boxes[second]), positives, sum(counts))
        return {
            "loss_cls": cls_loss / divisors[1],
            "loss_box_init": settings.init_loss_weight * init_loss / divisors[0],
            "loss_box_refine": settings.refine_loss_weight * refine_loss / divisors[1],
        }

    @torch.no_grad()
    def assign(
        self, init_boxes: torch.Tensor, locations: Locations, boxes: torch.Tensor, counts: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Which object each location learns at both stages.

        Args:
            init_boxes: (B, L, 4) boxes of stage 1, network px.
            locations: of the batch.
            boxes: (M, 4) objects of all images, network px.
            counts: objects per image.

        Returns:
            two of (B, L) int64: row of `boxes`, or what `point_sets` says of the others.
        """
        settings = self.assign_settings
        stages, start = [], 0
        for predicted, valid, own in zip(
            init_boxes, locations.valid, boxes.split(counts), strict=True
        ):
            first = nearest_centre_assign(
                locations.points,
                locations.levels,
                valid,
                own,
                strides=self.strides,
                base_scale=settings.point_base_scale,
                positives=settings.init_positives,
            )
            second = iou_assign(
                predicted,
                valid,
                own,
                positive_iou=settings.positive_iou,
                negative_iou=settings.negative_iou,
                min_positive_iou=settings.min_positive_iou,
            )
            both = torch.stack([first, second])
            stages.append(torch.where(both >= 0, both + start, both))
            start += len(own)
        first, second = torch.stack(stages, dim=1)
        return first, second

    def inference(
        self,
        predictions: Predictions,
        locations: Locations,
        images: ImageList,
        batched_inputs: list[dict],
    ) -> list[dict]:
        """The detections of each image, in original px."""
        results = []
        for logits, boxes, valid, size, inputs in zip(
            predictions.logits,
            predictions.refine_boxes,
            locations.valid,
            images.image_sizes,
            batched_inputs,
            strict=True,
        ):
            detections = decode_boxes(
                logits[valid],
                boxes[valid],
                locations.levels[valid],
                image_size=size,
                settings=self.decode,
            )
            height, width = inputs.get("height", size[0]), inputs.get("width", size[1])
            result = Instances((height, width))
            result.pred_boxes = Boxes(detections.boxes)
            result.pred_boxes.scale(width / size[1], height / size[0])
            result.scores = detections.scores
            result.pred_classes = detections.labels
            results.append({"instances": result})
        return results

    def _objects(self, batched_inputs: list[dict]) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """Boxes (M, 4) in network px and labels (M,) of a batch, and the objects per image."""
        instances = [x["instances"] for x in batched_inputs]
        boxes = torch.cat([x.gt_boxes.tensor for x in instances]).float()
        labels = torch.cat([x.gt_classes for x in instances])
        boxes, labels = (x.to(self.device, non_blocking=True) for x in (boxes, labels))
        return boxes, labels, [len(x) for x in instances]

    def _ignored(self, locations: Locations, batched_inputs: list[dict]) -> torch.Tensor:
        """(B, L) bool: locations in an ignored region of their image."""
        regions, index = batch_regions(batched_inputs, self.device)
        return region_mask(regions, index, locations.points, len(batched_inputs))

    @torch.no_grad()
    def _diagnose(
        self,
        predictions: Predictions,
        targets: tuple[torch.Tensor, torch.Tensor],
        positives: list[torch.Tensor],
        num_objects: int,
    ) -> None:
        ious = [
            torch.where(positive, matched_iou(predicted, target), 0).sum()
            / positive.sum().clamp(min=1)
            for predicted, target, positive in zip(predictions[1:], targets, positives, strict=True)
        ]
        self.diagnostics = {
            "reppoints/init_iou": ious[0],
            "reppoints/refine_iou": ious[1],
            "reppoints/positives_per_object": positives[1].sum() / num_objects,
        }
