"""CPRNet, the coarse point refinement network, as a Detectron2 meta-architecture.

Shape shorthand: B images, M objects, U points per bag, K classes, H x W cells.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList, Instances
from torch import nn

from .distributed import count_normalizer
from .head import conv_tower, init_head
from .inputs import (
    ImageNetwork,
    PointTargets,
    batch_targets,
    padded_sizes,
    region_mask,
    to_device,
)
from .losses import bag_scores, cpr_losses, mil_points
from .point_sampling import (
    cell_centres,
    circle_offsets,
    inside,
    negative_mask,
    point_bags,
    rectangle_offsets,
    sample_maps,
)
from .refinement import Refinement, RefinementSettings, class_evidence, refine_points
from .require import require

NODE = "MODEL.CPRNET"
REGIONS = ("circle", "rectangle")


class CPRHead(nn.Module):
    """A tower of 3x3 convs and the two linear branches of Eq. 5, as 1x1 convs.

    forward: (B, C, H, W) -> (B, 2 K, H, W) float32, K class logits, then K instance logits.

    Args:
        in_channels: C.
        num_convs, conv_dim, norm: see `head.conv_tower`.
        num_classes: K.
        prior_prob, init: see `head.init_head`.
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
        init: str,
    ):
        super().__init__()
        require(num_classes >= 1, f"{NODE}.NUM_CLASSES", num_classes, "at least 1")
        self.tower = conv_tower(
            in_channels, num_convs=num_convs, conv_dim=conv_dim, norm=norm, node=NODE
        )
        channels = conv_dim if num_convs else in_channels
        self.cls_score = nn.Conv2d(channels, num_classes, kernel_size=1)
        self.ins_score = nn.Conv2d(channels, num_classes, kernel_size=1)
        init_head(self, self.cls_score, prior_prob=prior_prob, init=init, node=NODE)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return self.logits(self.tower(feature))

    def logits(self, feature: torch.Tensor) -> torch.Tensor:
        """Both branches in one conv: the tower's large gradient is written once, not twice."""
        weight = torch.cat((self.cls_score.weight, self.ins_score.weight))
        bias = torch.cat((self.cls_score.bias, self.ins_score.bias))
        return F.conv2d(feature, weight, bias).float()


@META_ARCH_REGISTRY.register()
class CPRNet(ImageNetwork):
    """Coarse point refinement network (paper, Fig. 4; official code, see the project's README).

    Training learns, from one click per object, which points look like the object's class wherever
    they are. Inference moves each given click to the centre of its semantic points (Algorithm 2);
    it needs the clicks, so its input holds "instances" in both modes.
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
        region: str,
        region_aspect: float,
        sample_offset: float,
        annotated_in_bag: bool,
        loss_weights: dict[str, float],
        gamma: float,
        loss_normalizer: str,
        ignore_as_background: bool,
        refinement: RefinementSettings,
        pixel_mean: list[float],
        pixel_std: list[float],
    ):
        super().__init__(backbone, pixel_mean, pixel_std)
        shapes = backbone.output_shape()
        require(
            in_feature in shapes,
            f"{NODE}.IN_FEATURE",
            in_feature,
            f"an output of the backbone, which gives {sorted(shapes)} (see MODEL.FPN.IN_FEATURES)",
        )
        require(radius >= 1, f"{NODE}.RADIUS", radius, "at least 1")
        require(u0 >= 1, f"{NODE}.U0", u0, "at least 1")
        require(region in REGIONS, f"{NODE}.REGION", region, f"one of {REGIONS}")
        require(region_aspect > 0, f"{NODE}.REGION_ASPECT", region_aspect, "above 0")
        for name, weight in loss_weights.items():
            require(weight >= 0, f"{NODE}.ALPHA_{name.upper()} * LOSS_SCALE", weight, "at least 0")
        total = sum(loss_weights.values())
        require(total > 0, f"the sum of all {NODE}.ALPHA_* * LOSS_SCALE", total, "above 0")
        # Between 0 and 1 the gradient is infinite where a score reaches its target.
        require(gamma == 0 or gamma >= 1, f"{NODE}.GAMMA", gamma, "0 or at least 1")
        self.head = head
        self.in_feature = in_feature
        self.stride = shapes[in_feature].stride
        self.num_classes = num_classes
        self.radius = radius
        # None: circles.
        self.aspect = region_aspect if region == "rectangle" else None
        self.sample_offset = sample_offset
        self.annotated_in_bag = annotated_in_bag
        self.loss_weights = loss_weights
        self.gamma = gamma
        self.normalizer = count_normalizer(loss_normalizer, key=f"{NODE}.LOSS_NORMALIZER")
        self.ignore_as_background = ignore_as_background
        self.refinement = refinement
        # Of the last training step, for the diagnostics: logit maps, image sizes, targets.
        self._last_step: tuple[torch.Tensor, list[tuple[int, int]], PointTargets] | None = None
        if self.aspect is None:
            offsets = circle_offsets(radius, u0)
        else:
            offsets = rectangle_offsets(radius, self.aspect)
        require(
            len(offsets) > 1,
            f"{NODE}.RADIUS",
            radius,
            "larger, for a rectangle of its area to hold a cell beside the click",
        )
        self.register_buffer("offsets", offsets, persistent=False)

    @classmethod
    def from_config(cls, cfg) -> dict:
        node = cfg.MODEL.CPRNET
        backbone = build_backbone(cfg)
        # A level that does not exist is refused by __init__, with its reason.
        shape = backbone.output_shape().get(node.IN_FEATURE)
        annotated = node.REFINE.ANNOTATED_POINT
        require(
            annotated in ("candidate", "forced"),
            f"{NODE}.REFINE.ANNOTATED_POINT",
            annotated,
            "'candidate' or 'forced'",
        )
        for key, limit in (("DELTA1", 1), ("DELTA2", None), ("SCORE_THRESH", 1)):
            need = "at least 0" if limit is None else f"between 0 and {limit}"
            good = node.REFINE[key] >= 0 and (limit is None or node.REFINE[key] <= limit)
            require(good, f"{NODE}.REFINE.{key}", node.REFINE[key], need)
        return {
            "backbone": backbone,
            "head": CPRHead(
                in_channels=shape.channels if shape else cfg.MODEL.FPN.OUT_CHANNELS,
                num_convs=node.NUM_CONVS,
                conv_dim=node.CONV_DIM,
                norm=node.NORM,
                num_classes=node.NUM_CLASSES,
                prior_prob=node.PRIOR_PROB,
                init=node.HEAD_INIT,
            ),
            "in_feature": node.IN_FEATURE,
            "num_classes": node.NUM_CLASSES,
            # Bags and losses
            "radius": node.RADIUS,
            "u0": node.U0,
            "region": node.REGION,
            "region_aspect": node.REGION_ASPECT,
            "sample_offset": node.SAMPLE_OFFSET,
            "annotated_in_bag": node.ANNOTATED_POINT_IN_BAG,
            "loss_weights": {
                "mil": node.LOSS_SCALE * node.ALPHA_MIL,
                "ann": node.LOSS_SCALE * node.ALPHA_ANN,
                "neg": node.LOSS_SCALE * node.ALPHA_NEG,
                "pos": node.LOSS_SCALE * node.ALPHA_POS,
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

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict]:
        """One step of training, or the refinement of the given clicks.

        Args:
            batched_inputs: a dict per image with "image" (uint8, 3 x H x W), "instances" with
                gt_points (px of "image"), gt_classes and, for inference, gt_ids; optionally
                "ignore_regions" (G x 4), and "height", "width" of the original image.

        Returns:
            Training: "loss_mil", "loss_ann", "loss_neg", "loss_pos", those with a weight.
            Inference: per image {"instances"} with gt_ids, gt_classes, coarse_points and
            refined_points (original px), refine_scores, refined, moved (distance from the click
            over R), bag_points (N, U, 2; original px), kept (N, U) and kept_by (N, 4), see
            `refinement.Refinement`; with several classes own_scores, other_labels and other_scores,
            see `refinement.class_evidence`.
        """
        images = self.batch_images(batched_inputs)
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
        self._last_step = (maps.detach(), images.image_sizes, targets)
        cls_map = maps[:, : self.num_classes]
        sizes = to_device(
            padded_sizes(images.image_sizes, self.backbone.size_divisibility),
            torch.float32,
            self.device,
        )
        bags = point_bags(targets.points, self.offsets, self.stride)
        valid = inside(bags, sizes[targets.batch_index][:, None])
        # The instance branch takes part in L_MIL only.
        sampled = self._sample(maps if self.loss_weights["mil"] else cls_map, bags, targets)
        bag_cls, bag_ins = sampled.tensor_split([self.num_classes], dim=2)
        mask = None
        if self.loss_weights["neg"]:
            mask = self._negatives(targets, sizes, cls_map.shape[2:])
        return cpr_losses(
            bag_cls,
            bag_ins,
            valid,
            targets.labels,
            cls_map,
            mask,
            weights=self.loss_weights,
            gamma=self.gamma,
            normalizer=self.normalizer,
            annotated_in_bag=self.annotated_in_bag,
        )

    def _negatives(
        self, targets: PointTargets, sizes: torch.Tensor, map_size: tuple[int, int]
    ) -> torch.Tensor:
        """Negatives (Eq. 2) of a batch outside the ignored regions, (B, K, H, W) bool."""
        mask = negative_mask(
            targets.points,
            targets.labels,
            targets.batch_index,
            sizes,
            num_classes=self.num_classes,
            radius=self.radius,
            stride=self.stride,
            map_size=map_size,
            aspect=self.aspect,
        )
        if not self.ignore_as_background and len(targets.regions):
            centres = cell_centres(*map_size, self.stride, self.device)
            ignored = region_mask(targets.regions, targets.region_index, centres, len(mask))
            mask &= ~ignored.reshape(len(mask), 1, *map_size)
        return mask

    def inference(
        self,
        cls_map: torch.Tensor,
        targets: PointTargets,
        images: ImageList,
        batched_inputs: list[dict],
    ) -> list[dict]:
        """Algorithm 2 image by image, in original px."""
        bags = point_bags(targets.points, self.offsets, self.stride)
        bag_cls = self._sample(cls_map, bags, targets)
        results = []
        for size, inputs, bag, logits, points, labels, refined in zip(
            images.image_sizes,
            batched_inputs,
            bags.split(targets.counts),
            bag_cls.split(targets.counts),
            targets.points.split(targets.counts),
            targets.labels.split(targets.counts),
            self._refine(bags, bag_cls, images.image_sizes, targets),
            strict=True,
        ):
            height, width = inputs.get("height", size[0]), inputs.get("width", size[1])
            scale = to_device([width / size[1], height / size[0]], torch.float32, self.device)
            result = Instances((height, width))
            result.gt_ids = inputs["instances"].gt_ids.to(self.device)
            result.gt_classes = labels
            result.coarse_points = points * scale
            result.refined_points = refined.points * scale
            result.refine_scores = refined.scores
            result.refined = refined.refined
            result.moved = (refined.points - points).norm(dim=1) / (self.radius * self.stride)
            result.bag_points = bag * scale
            result.kept = refined.kept
            result.kept_by = refined.kept_by
            if self.num_classes > 1:
                evidence = class_evidence(bag, logits.sigmoid(), points, labels, size)
                for name, value in evidence._asdict().items():
                    result.set(name, value)
            results.append({"instances": result})
        return results

    def _sample(
        self, maps: torch.Tensor, bags: torch.Tensor, targets: PointTargets
    ) -> torch.Tensor:
        return sample_maps(
            maps, bags, targets.batch_index, targets.counts, self.stride, self.sample_offset
        )

    def _refine(
        self,
        bags: torch.Tensor,
        bag_cls: torch.Tensor,
        image_sizes: list[tuple[int, int]],
        targets: PointTargets,
    ) -> list[Refinement]:
        """Algorithm 2 for each image, px of the network input."""
        return [
            refine_points(*image, self.refinement)
            for image in zip(
                bags.split(targets.counts),
                bag_cls.sigmoid().split(targets.counts),
                targets.points.split(targets.counts),
                targets.labels.split(targets.counts),
                image_sizes,
                strict=True,
            )
        ]

    @property
    @torch.no_grad()
    def diagnostics(self) -> dict[str, torch.Tensor]:
        """What the last training step looked like, worked out when it is asked for.

        Returns:
            scalars on the device, {} without an object; shares from 0 to 1:
            cpr/bag_score: mean bag score of the annotated class, cpr/bag_accuracy: share of bags
                whose best class is right (both mean little without L_MIL),
            cpr/removed_I, _II, _III: share of the bag points inside their image that fail each
                constraint of Algorithm 2 by itself, also if it is switched off,
            cpr/refined: share of the objects that Algorithm 2 would move off their click.
        """
        if self._last_step is None or not len(self._last_step[2].labels):
            return {}
        maps, image_sizes, targets = self._last_step
        labels = targets.labels
        bags = point_bags(targets.points, self.offsets, self.stride)
        bag_cls, bag_ins = self._sample(maps, bags, targets).split(self.num_classes, dim=2)
        padded = padded_sizes(image_sizes, self.backbone.size_divisibility)
        sizes = to_device(padded, torch.float32, self.device)[targets.batch_index]
        valid = mil_points(inside(bags, sizes[:, None]), self.annotated_in_bag)
        scores = bag_scores(bag_cls, bag_ins, valid)
        results = self._refine(bags, bag_cls, image_sizes, targets)
        in_image, *passed = torch.cat([result.kept_by for result in results]).sum(dim=0).unbind()
        return {
            "cpr/bag_score": scores.gather(1, labels[:, None]).mean(),
            "cpr/bag_accuracy": (scores.argmax(dim=1) == labels).float().mean(),
            **{
                f"cpr/removed_{name}": 1 - count / in_image.clamp(min=1)
                for name, count in zip(("I", "II", "III"), passed, strict=True)
            },
            "cpr/refined": torch.cat([result.refined for result in results]).float().mean(),
        }
