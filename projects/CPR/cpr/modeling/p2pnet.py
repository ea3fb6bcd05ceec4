"""P2PNet, the point localizer, as a Detectron2 meta-architecture.

The multi-class version of the CPR paper: focal loss, smooth-L1, k positives per object, point NMS.
Each of these can be switched to the original P2PNet's (ICCV 2021), generalised to K classes:
softmax cross-entropy, L2, one positive per object, no NMS. All of them, with four references a
cell: `configs/Ablations/p2pnet_one_to_one.yaml`.

Shape shorthand: B images, H x W cells, q references per cell, L = H * W * q, K classes, M objects
of all images together.
"""

from __future__ import annotations

import math

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList, Instances
from torch import nn

from .class_scores import class_scores
from .decoding import DecodeSettings, decode_points, drop_outside
from .distributed import count_normalizer
from .head import conv_tower, init_head
from .inputs import ImageNetwork, PointTargets, batch_targets, padded_sizes, region_mask
from .losses_p2p import LossSettings, p2p_losses
from .matcher import CostSettings, candidate_topk_assign, hungarian_topk_assign
from .reference_grid import ReferenceGrid, maps_to_references
from .require import require

NODE = "MODEL.P2PNET"
ASSIGNERS = ("topk", "hungarian")
PADDING_POINTS = ("drop", "clamp")


def _require(good: bool, key: str, value: object, need: str) -> None:
    require(good, f"{NODE}.{key}", value, need)


class P2PHead(nn.Module):
    """Towers of 3x3 convs, then a 3x3 conv for the classes and one for the offsets.

    forward: (B, C, H, W) -> class logits (B, q * K, H, W), with `no_object` (B, q * (K + 1), H, W),
    and offsets (B, q * 2, H, W) in units of OFFSET_SCALE, float32.

    Args:
        in_channels: C.
        num_convs, conv_dim, norm: the towers, see `head.conv_tower`.
        shared_tower: one tower for both outputs instead of one each.
        num_classes: K.
        no_object: whether a reference has a further class logit, its last one, for "no object".
        points_per_location: q.
        prior_prob, init: see `head.init_head`; with `no_object` all classes together start at
            `prior_prob`.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_convs: int,
        conv_dim: int,
        norm: str,
        shared_tower: bool,
        num_classes: int,
        no_object: bool,
        points_per_location: int,
        prior_prob: float,
        init: str,
    ):
        super().__init__()
        _require(num_classes >= 1, "NUM_CLASSES", num_classes, "at least 1")

        def tower() -> nn.Sequential:
            return conv_tower(
                in_channels, num_convs=num_convs, conv_dim=conv_dim, norm=norm, node=NODE
            )

        channels = conv_dim if num_convs else in_channels
        self.cls_tower = tower()
        # None: the offsets are read from the tower of the classes.
        self.point_tower = None if shared_tower else tower()
        num_logits = num_classes + no_object
        self.cls_score = nn.Conv2d(channels, points_per_location * num_logits, 3, padding=1)
        self.point_offset = nn.Conv2d(channels, points_per_location * 2, 3, padding=1)
        init_head(self, self.cls_score, prior_prob=prior_prob, init=init, node=NODE)
        if no_object:
            bias = torch.full((points_per_location, num_logits), 0.0)
            bias[:, :-1] = math.log(prior_prob / (num_classes * (1 - prior_prob)))
            self.cls_score.bias.data.copy_(bias.flatten())

    def forward(self, feature: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cls_feature = self.cls_tower(feature)
        point_feature = cls_feature if self.point_tower is None else self.point_tower(feature)
        return self.cls_score(cls_feature).float(), self.point_offset(point_feature).float()


@META_ARCH_REGISTRY.register()
class P2PNet(ImageNetwork):
    """Multi-class point localizer (paper, experimental set-up; official code).

    Every reference of a regular grid predicts a point, reference + offset * OFFSET_SCALE, and a
    score per class. Arguments are the keys of MODEL.P2PNET in `cpr/config.py`.

    Attributes:
        decode: how `inference` and an exported graph choose points.
        diagnostics: scalars of the last training step (detached tensors, on the device): the mean
            distance of the positives' predicted points from their object, in network px, and the
            number of positives per object.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: P2PHead,
        in_feature: str,
        num_classes: int,
        points_per_location: int,
        reference_offset: float,
        offset_scale: float,
        assigner: str,
        topk: int,
        candidate_radius: int,
        cost: CostSettings,
        loss: LossSettings,
        loss_normalizer: str,
        ignore_as_background: bool,
        decode: DecodeSettings,
        padding_points: str,
        pixel_mean: list[float],
        pixel_std: list[float],
    ):
        super().__init__(backbone, pixel_mean, pixel_std)
        shapes = backbone.output_shape()
        _require(
            in_feature in shapes,
            "IN_FEATURE",
            in_feature,
            f"an output of the backbone, which gives {sorted(shapes)} (see MODEL.FPN.IN_FEATURES)",
        )
        _require(
            points_per_location >= 1
            and math.isqrt(points_per_location) ** 2 == points_per_location,
            "POINTS_PER_LOCATION",
            points_per_location,
            "a square number: 1, 4, 9, ...",
        )
        _require(
            0 <= reference_offset <= 1, "REFERENCE_OFFSET", reference_offset, "between 0 and 1"
        )
        _require(offset_scale >= 0, "OFFSET_SCALE", offset_scale, "px above 0, or 0 for the stride")
        _require(assigner in ASSIGNERS, "ASSIGNER", assigner, f"one of {ASSIGNERS}")
        _require(topk >= 1, "TOPK", topk, "at least 1")
        if assigner == "topk":
            _require(candidate_radius >= 1, "CANDIDATE_RADIUS", candidate_radius, "at least 1")
            candidates = (2 * candidate_radius + 1) ** 2 * points_per_location
            _require(
                topk <= candidates,
                "TOPK",
                topk,
                f"at most {candidates}, the candidates within MODEL.P2PNET.CANDIDATE_RADIUS",
            )
        self.head = head
        self.in_feature = in_feature
        self.stride = shapes[in_feature].stride
        self.num_classes = num_classes
        self.points_per_location = points_per_location
        self.reference_offset = reference_offset
        self.offset_scale = offset_scale or self.stride
        self.assigner = assigner
        self.topk = topk
        self.candidate_radius = candidate_radius
        self.cost = cost
        self.loss = loss
        self.normalizer = count_normalizer(loss_normalizer, key=f"{NODE}.LOSS_NORMALIZER")
        self.ignore_as_background = ignore_as_background
        self.decode = decode
        _require(
            padding_points in PADDING_POINTS,
            "PADDING_POINTS",
            padding_points,
            f"one of {PADDING_POINTS}",
        )
        self.padding_points = padding_points
        self.diagnostics: dict[str, torch.Tensor] = {}

    @classmethod
    def from_config(cls, cfg) -> dict:
        node = cfg.MODEL.P2PNET
        backbone = build_backbone(cfg)
        # A level that does not exist is refused by __init__, with its reason.
        shape = backbone.output_shape().get(node.IN_FEATURE)
        return {
            "backbone": backbone,
            "head": P2PHead(
                in_channels=shape.channels if shape else cfg.MODEL.FPN.OUT_CHANNELS,
                num_convs=node.NUM_CONVS,
                conv_dim=node.CONV_DIM,
                norm=node.NORM,
                shared_tower=node.SHARED_TOWER,
                num_classes=node.NUM_CLASSES,
                no_object=node.CLASS_LOSS == "cross_entropy",
                points_per_location=node.POINTS_PER_LOCATION,
                prior_prob=node.PRIOR_PROB,
                init=node.HEAD_INIT,
            ),
            "in_feature": node.IN_FEATURE,
            "num_classes": node.NUM_CLASSES,
            "points_per_location": node.POINTS_PER_LOCATION,
            "reference_offset": node.REFERENCE_OFFSET,
            "offset_scale": node.OFFSET_SCALE,
            # Assignment and losses
            "assigner": node.ASSIGNER,
            "topk": node.TOPK,
            "candidate_radius": node.CANDIDATE_RADIUS,
            "cost": CostSettings(
                class_weight=node.COST_CLASS,
                point_weight=node.COST_POINT,
                alpha=node.FOCAL_ALPHA,
                gamma=node.FOCAL_GAMMA,
                rule=node.COST_RULE,
                distance=node.COST_DISTANCE,
            ),
            "loss": LossSettings(
                class_loss=node.CLASS_LOSS,
                alpha=node.FOCAL_ALPHA,
                gamma=node.FOCAL_GAMMA,
                no_object_weight=node.NO_OBJECT_WEIGHT,
                point_loss=node.POINT_LOSS,
                beta=node.SMOOTH_L1_BETA,
                point_weight=node.POINT_LOSS_WEIGHT,
            ),
            "loss_normalizer": node.LOSS_NORMALIZER,
            "ignore_as_background": node.IGNORE_AS_BACKGROUND,
            # Inference
            "decode": DecodeSettings(
                score_thresh=node.SCORE_THRESH,
                pre_nms_topk=node.PRE_NMS_TOPK,
                nms_rule=node.NMS_RULE,
                nms_size=node.NMS_SIZE,
                nms_iou=node.NMS_IOU,
                nms_radius=node.NMS_RADIUS,
                max_dets=node.MAX_DETS,
                class_loss=node.CLASS_LOSS,
            ),
            "padding_points": node.PADDING_POINTS,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict]:
        """One step of training, or detection.

        Args:
            batched_inputs: a dict per image with "image" (uint8, 3 x h x w), "height" and "width"
                of the original image (default: those of "image"); for training "instances" with
                gt_points (px of "image") and gt_classes, and optionally "ignore_regions" (G x 4).

        Returns:
            Training: "loss_cls", "loss_point". Inference: per image {"instances"} with pred_points
            (n, 2) in original px, scores (n,) and pred_classes (n,), best first.
        """
        images = self.batch_images(batched_inputs)
        logits, points = self.predict_maps(images.tensor)
        grid = self.reference_grid(images.tensor.shape[-2:])
        valid = self.valid_references(grid, images)
        if not self.training:
            return self.inference(logits, points, valid, images, batched_inputs)
        return self.losses(logits, points, valid, grid, batch_targets(batched_inputs, self.device))

    def predict_maps(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The network without any choice of points, for export.

        Args:
            images: (B, 3, height, width) normalised, sides multiples of 32.

        Returns:
            logits (B, L, K), with the cross-entropy loss (B, L, K + 1), and points (B, L, 2) in
            network px; row-major cells, then the references of a cell.
        """
        logits, offsets = self.head(self.backbone(images)[self.in_feature])
        logits = maps_to_references(logits, self.points_per_location)
        offsets = maps_to_references(offsets, self.points_per_location)
        references = self.reference_grid(images.shape[-2:]).points(offsets.device)
        return logits, references + offsets * self.offset_scale

    def reference_grid(self, size: tuple[int, int]) -> ReferenceGrid:
        """Layout of the references for network inputs of (height, width), multiples of 32."""
        height, width = size
        return ReferenceGrid(
            height=height // self.stride,
            width=width // self.stride,
            stride=self.stride,
            offset=self.reference_offset,
            points_per_cell=self.points_per_location,
        )

    def valid_references(self, grid: ReferenceGrid, images: ImageList) -> torch.Tensor:
        """(B, L) bool: references within each image's own padded size."""
        sizes = padded_sizes(images.image_sizes, self.backbone.size_divisibility)
        return torch.stack([grid.inside(size, self.device) for size in sizes])

    def losses(
        self,
        logits: torch.Tensor,
        points: torch.Tensor,
        valid: torch.Tensor,
        grid: ReferenceGrid,
        targets: PointTargets,
    ) -> dict[str, torch.Tensor]:
        """Both losses of a batch.

        Args:
            logits: see `predict_maps`.
            points: (B, L, 2) predicted points, network px.
            valid: (B, L) bool, references that take part.
            grid: layout of the references.
            targets: annotated points and ignored regions, network px.
        """
        assigned = self.assign(logits, points, valid, grid, targets)
        weights = valid
        if not self.ignore_as_background and len(targets.regions):
            references = grid.points(self.device)
            ignored = region_mask(targets.regions, targets.region_index, references, len(valid))
            weights = valid & ((assigned >= 0) | ~ignored)
        losses = p2p_losses(
            logits,
            points,
            assigned,
            weights,
            targets.points,
            targets.labels,
            stride=self.stride,
            settings=self.loss,
            normalizer=self.normalizer,
        )
        if len(targets.points):
            self._diagnose(points.detach(), assigned, targets.points)
        else:
            self.diagnostics = {}
        return losses

    def assign(
        self,
        logits: torch.Tensor,
        points: torch.Tensor,
        valid: torch.Tensor,
        grid: ReferenceGrid,
        targets: PointTargets,
    ) -> torch.Tensor:
        """(B, L) int64 row of `targets.points` that a reference is a positive of, -1 for none."""
        scores = class_scores(logits.detach(), self.loss.class_loss)
        arguments = (scores, points, valid, targets.points, targets.labels, targets.counts)
        if self.assigner == "hungarian":
            return hungarian_topk_assign(*arguments, k=self.topk, cost=self.cost)
        return candidate_topk_assign(
            *arguments, k=self.topk, cost=self.cost, grid=grid, radius=self.candidate_radius
        )

    def inference(
        self,
        logits: torch.Tensor,
        points: torch.Tensor,
        valid: torch.Tensor,
        images: ImageList,
        batched_inputs: list[dict],
    ) -> list[dict]:
        """The detections of each image, in original px."""
        results = []
        for own_logits, own_points, own_valid, size, inputs in zip(
            logits, points, valid, images.image_sizes, batched_inputs, strict=True
        ):
            height, width = inputs.get("height", size[0]), inputs.get("width", size[1])
            drop = self.padding_points == "drop"
            (padded,) = padded_sizes([size], self.backbone.size_divisibility)
            detections = decode_points(
                own_logits[own_valid],
                own_points[own_valid],
                image_size=padded if drop else size,
                scale_xy=(size[1] / width, size[0] / height),
                settings=self.decode,
            )
            if drop:
                detections = drop_outside(detections, (height, width))
            result = Instances((height, width))
            result.pred_points = detections.points
            result.scores = detections.scores
            result.pred_classes = detections.labels
            results.append({"instances": result})
        return results

    @torch.no_grad()
    def _diagnose(
        self, points: torch.Tensor, assigned: torch.Tensor, gt_points: torch.Tensor
    ) -> None:
        positive = assigned >= 0
        distance = (points - gt_points[assigned.clamp(min=0)]).norm(dim=-1)
        count = positive.sum()
        self.diagnostics = {
            "p2p/matched_distance": torch.where(positive, distance, 0).sum() / count.clamp(min=1),
            "p2p/positives_per_object": count / len(gt_points),
        }
