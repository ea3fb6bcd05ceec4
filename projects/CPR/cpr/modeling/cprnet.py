"""CPRNet, the coarse point refinement network, as a Detectron2 meta-architecture.

Shape shorthand: B images, M objects, U points per bag, K classes, H x W cells.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList, Instances
from torch import nn

from .distributed import count_normalizer
from .inputs import PointTargets, batch_images, batch_targets, padded_sizes, region_mask, to_device
from .losses import bag_scores, cpr_losses
from .point_sampling import (
    cell_centres,
    circle_offsets,
    inside,
    negative_mask,
    point_bags,
    sample_maps,
)
from .refinement import RefinementSettings, refine_points


class CPRHead(nn.Module):
    """A tower of 3x3 convs and the two linear branches of Eq. 5, as 1x1 convs.

    forward: (B, C, H, W) -> (B, 2 K, H, W) float32, K class logits, then K instance logits.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_convs: int,
        conv_dim: int,
        norm: str,
        num_classes: int,
        prior_prob: float,
    ):
        super().__init__()
        self.tower = nn.Sequential(
            *(
                Conv2d(
                    conv_dim if i else in_channels,
                    conv_dim,
                    kernel_size=3,
                    padding=1,
                    bias=norm == "",
                    norm=get_norm(norm, conv_dim),
                    activation=nn.ReLU(),
                )
                for i in range(num_convs)
            )
        )
        channels = conv_dim if num_convs else in_channels
        self.cls_score = nn.Conv2d(channels, num_classes, kernel_size=1)
        self.ins_score = nn.Conv2d(channels, num_classes, kernel_size=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.constant_(self.cls_score.bias, -math.log((1 - prior_prob) / prior_prob))

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return self.logits(self.tower(feature))

    def logits(self, feature: torch.Tensor) -> torch.Tensor:
        """Both branches in one conv: the tower's large gradient is written once, not twice."""
        weight = torch.cat((self.cls_score.weight, self.ins_score.weight))
        bias = torch.cat((self.cls_score.bias, self.ins_score.bias))
        return F.conv2d(feature, weight, bias).float()


@META_ARCH_REGISTRY.register()
class CPRNet(nn.Module):
    """Coarse point refinement network (paper, section 3; official code, see the project's README).

    Training learns, from one click per object, which points look like the object's class wherever
    they are. Inference moves each given click to the centre of its semantic points (Algorithm 2);
    it needs the clicks, so its input holds "instances" in both modes.

    Attributes:
        diagnostics: scalars of the last training step (detached tensors, on the device): the mean
            bag score of the annotated class and the share of bags whose best class is right.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: CPRHead,
        in_feature: str,
        num_classes: int,
        radius: int,
        u0: int,
        sample_offset: float,
        loss_weights: dict[str, float],
        gamma: float,
        loss_normalizer: str,
        ignore_as_background: bool,
        refinement: RefinementSettings,
        pixel_mean: list[float],
        pixel_std: list[float],
    ):
        super().__init__()
        shapes = backbone.output_shape()
        if in_feature not in shapes:
            raise ValueError(
                f"MODEL.CPRNET.IN_FEATURE {in_feature!r} is not made by the backbone, which gives"
                f" {sorted(shapes)}: change it or the first of MODEL.FPN.IN_FEATURES."
            )
        if radius < 1 or u0 < 1:
            raise ValueError("MODEL.CPRNET.RADIUS and MODEL.CPRNET.U0 must be at least 1.")
        self.backbone = backbone
        self.head = head
        self.in_feature = in_feature
        self.stride = shapes[in_feature].stride
        self.num_classes = num_classes
        self.radius = radius
        self.sample_offset = sample_offset
        self.loss_weights = loss_weights
        self.gamma = gamma
        self.normalizer = count_normalizer(loss_normalizer)
        self.ignore_as_background = ignore_as_background
        self.refinement = refinement
        self.diagnostics: dict[str, torch.Tensor] = {}
        self.register_buffer("offsets", circle_offsets(radius, u0), persistent=False)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg) -> dict:
        node = cfg.MODEL.CPRNET
        backbone = build_backbone(cfg)
        if node.IN_FEATURE not in backbone.output_shape():
            in_channels = cfg.MODEL.FPN.OUT_CHANNELS
        else:
            in_channels = backbone.output_shape()[node.IN_FEATURE].channels
        annotated = node.REFINE.ANNOTATED_POINT
        if annotated not in ("candidate", "forced"):
            raise ValueError(
                f"MODEL.CPRNET.REFINE.ANNOTATED_POINT is {annotated!r}; use 'candidate' or 'forced'"
            )
        return {
            "backbone": backbone,
            "head": CPRHead(
                in_channels=in_channels,
                num_convs=node.NUM_CONVS,
                conv_dim=node.CONV_DIM,
                norm=node.NORM,
                num_classes=node.NUM_CLASSES,
                prior_prob=node.PRIOR_PROB,
            ),
            "in_feature": node.IN_FEATURE,
            "num_classes": node.NUM_CLASSES,
            # Bags and losses
            "radius": node.RADIUS,
            "u0": node.U0,
            "sample_offset": node.SAMPLE_OFFSET,
            "loss_weights": {
                "mil": node.LOSS_SCALE * node.ALPHA_MIL,
                "ann": node.LOSS_SCALE * node.ALPHA_ANN,
                "neg": node.LOSS_SCALE * node.ALPHA_NEG,
            },
            "gamma": node.GAMMA,
            "loss_normalizer": node.LOSS_NORMALIZER,
            "ignore_as_background": node.IGNORE_AS_BACKGROUND,
            # Inference
            "refinement": RefinementSettings(
                delta1=node.REFINE.DELTA1,
                delta2=node.REFINE.DELTA2,
                constraint_i=node.REFINE.CONSTRAINT_I,
                constraint_ii=node.REFINE.CONSTRAINT_II,
                constraint_iii=node.REFINE.CONSTRAINT_III,
                score_thresh=node.REFINE.SCORE_THRESH,
                force_annotated=annotated == "forced",
            ),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict]:
        """One step of training, or the refinement of the given clicks.

        Args:
            batched_inputs: a dict per image with "image" (uint8, 3 x H x W), "instances" with
                gt_points (px of "image"), gt_classes and, for inference, gt_ids; optionally
                "ignore_regions" (G x 4), and "height", "width" of the original image.

        Returns:
            Training: "loss_mil", "loss_ann", "loss_neg". Inference: per image {"instances"} with
            gt_ids, gt_classes, coarse_points and refined_points (original px), refine_scores,
            refined, bag_points (N, U, 2; original px), kept (N, U) and kept_by (N, 4), see
            `refinement.Refinement`.
        """
        images = batch_images(
            batched_inputs, self.pixel_mean, self.pixel_std, self.backbone.size_divisibility
        )
        targets = batch_targets(batched_inputs, self.device)
        feature = self.backbone(images.tensor)[self.in_feature]
        maps = self.head(feature)
        if self.training:
            return self.losses(maps, images, targets)
        return self.inference(maps[:, : self.num_classes], targets, images, batched_inputs)

    def losses(
        self, maps: torch.Tensor, images: ImageList, targets: PointTargets
    ) -> dict[str, torch.Tensor]:
        """L_CPR (Eq. 3) from the dense logits of the head, (B, 2 K, H, W)."""
        cls_map = maps[:, : self.num_classes]
        sizes = to_device(
            padded_sizes(images.image_sizes, self.backbone.size_divisibility),
            torch.float32,
            self.device,
        )
        bags = point_bags(targets.points, self.offsets, self.stride)
        valid = inside(bags, sizes[targets.batch_index][:, None])
        bag_cls, bag_ins = self._sample(maps, bags, targets).split(self.num_classes, dim=2)
        mask = negative_mask(
            targets.points,
            targets.labels,
            targets.batch_index,
            sizes,
            num_classes=self.num_classes,
            radius=self.radius,
            stride=self.stride,
            map_size=cls_map.shape[2:],
        )
        if not self.ignore_as_background and len(targets.regions):
            centres = cell_centres(*cls_map.shape[2:], self.stride, self.device)
            ignored = region_mask(targets.regions, targets.region_index, centres, len(mask))
            mask &= ~ignored.reshape(len(mask), 1, *cls_map.shape[2:])
        losses = cpr_losses(
            bag_cls,
            bag_ins,
            valid,
            targets.labels,
            cls_map,
            mask,
            weights=self.loss_weights,
            gamma=self.gamma,
            normalizer=self.normalizer,
        )
        if len(targets.labels):
            self._diagnose(bag_cls.detach(), bag_ins.detach(), valid, targets.labels)
        return losses

    def inference(
        self,
        cls_map: torch.Tensor,
        targets: PointTargets,
        images: ImageList,
        batched_inputs: list[dict],
    ) -> list[dict]:
        """Algorithm 2 image by image, in original px."""
        bags = point_bags(targets.points, self.offsets, self.stride)
        scores = self._sample(cls_map, bags, targets).sigmoid()
        counts = targets.counts
        results = []
        for size, inputs, bag, score, points, labels in zip(
            images.image_sizes,
            batched_inputs,
            bags.split(counts),
            scores.split(counts),
            targets.points.split(counts),
            targets.labels.split(counts),
            strict=True,
        ):
            refined = refine_points(bag, score, points, labels, size, self.refinement)
            height, width = inputs.get("height", size[0]), inputs.get("width", size[1])
            scale = to_device([width / size[1], height / size[0]], torch.float32, self.device)
            result = Instances((height, width))
            result.gt_ids = inputs["instances"].gt_ids.to(self.device)
            result.gt_classes = labels
            result.coarse_points = points * scale
            result.refined_points = refined.points * scale
            result.refine_scores = refined.scores
            result.refined = refined.refined
            result.bag_points = bag * scale
            result.kept = refined.kept
            result.kept_by = refined.kept_by
            results.append({"instances": result})
        return results

    def _sample(
        self, maps: torch.Tensor, bags: torch.Tensor, targets: PointTargets
    ) -> torch.Tensor:
        return sample_maps(
            maps, bags, targets.batch_index, targets.counts, self.stride, self.sample_offset
        )

    @torch.no_grad()
    def _diagnose(
        self,
        bag_cls: torch.Tensor,
        bag_ins: torch.Tensor,
        valid: torch.Tensor,
        labels: torch.Tensor,
    ) -> None:
        scores = bag_scores(bag_cls, bag_ins, valid)
        self.diagnostics = {
            "cpr/bag_score": scores.gather(1, labels[:, None]).mean(),
            "cpr/bag_accuracy": (scores.argmax(dim=1) == labels).float().mean(),
        }
