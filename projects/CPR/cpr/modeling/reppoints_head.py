"""The head of RepPoints: two stages of points, and the classes read where the points are.

Source: "RepPoints: Point Set Representation for Object Detection", ICCV 2019, and its published
settings.

Shape shorthand: B images, H x W cells of a level, N points per location, K classes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import nn
from torchvision.ops import deform_conv2d

from .head import conv_tower, init_head
from .point_sets import NODE, TRANSFORMS, points_to_boxes, scale_gradient
from .require import require


def _require(good: bool, key: str, value: object, need: str) -> None:
    require(good, f"{NODE}.{key}", value, need)


class PointConv(nn.Conv2d):
    """A conv whose N = k * k samples are taken at given points instead of on the k x k grid.

    forward: feature (B, C, H, W) and points (B, N, 2, H, W), x, y in cells from the centre of each
    cell -> (B, D, H, W) float32. Point n takes the weight of the n-th cell of the kernel, row by
    row; outside the map the feature is 0.

    Args:
        in_channels, out_channels: C, D.
        num_points: N, the square of an odd number.
    """

    def __init__(self, in_channels: int, out_channels: int, num_points: int):
        side = math.isqrt(num_points)
        super().__init__(in_channels, out_channels, side, padding=side // 2, bias=False)
        reach = torch.arange(side) - side // 2
        # Where the grid of an ordinary conv samples, y before x as torchvision counts.
        grid = torch.stack(torch.meshgrid(reach, reach, indexing="ij"), dim=-1).reshape(-1, 2)
        self.register_buffer("grid", grid[..., None, None].float(), persistent=False)

    def forward(self, feature: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        # The kernel has no 16-bit version on every device, and points need the precision.
        with torch.autocast(feature.device.type, enabled=False):
            if feature.device.type == "cpu":
                return self.sample_and_mix(feature.float(), points.float())
            return self.deform(feature.float(), points.float())

    def deform(self, feature: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """By torchvision's deformable convolution."""
        offsets = (points.flip(2) - self.grid).flatten(1, 2)
        return deform_conv2d(feature, offsets, self.weight, padding=self.padding)

    def sample_and_mix(self, feature: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """The same by bilinear sampling and a matrix product: several times faster on a CPU."""
        batch, channels, height, width = feature.shape
        rows = torch.arange(height, device=feature.device)[:, None].expand(height, width)
        columns = torch.arange(width, device=feature.device).expand(height, width)
        # align_corners=False maps the index i of n cells to (2 i + 1) / n - 1.
        size = points.new_tensor([width, height])[:, None, None]
        index = points + torch.stack((columns, rows))
        grid = ((2 * index + 1) / size - 1).permute(0, 1, 3, 4, 2)
        samples = F.grid_sample(feature, grid.flatten(1, 2), align_corners=False)
        samples = samples.reshape(batch, -1, height, width)  # channels, then points
        return F.conv2d(samples, self.weight.flatten(1)[..., None, None])


class RepPointsHead(nn.Module):
    """The head that all levels share: two towers, two stages of points, and the classes.

    forward: (B, C, H, W) -> class logits (B, K, H, W), points of stage 1 and of stage 2
    (B, N * 2, H, W), x, y in cells from the centre of the cell; float32.

    Args:
        in_channels: C.
        num_convs, conv_dim, norm: the towers, see `head.conv_tower`.
        point_conv_dim: channels between a tower and an output.
        num_points: N.
        num_classes: K.
        transform: see `point_sets.points_to_boxes`.
        moment_mul: factor on the gradient of the learned spread of "moment".
        gradient_mul: factor on the gradient that stage 2 sends to the points of stage 1.
        prior_prob: see `head.init_head`.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_convs: int,
        conv_dim: int,
        norm: str,
        point_conv_dim: int,
        num_points: int,
        num_classes: int,
        transform: str,
        moment_mul: float,
        gradient_mul: float,
        prior_prob: float,
    ):
        super().__init__()
        _require(num_classes >= 1, "NUM_CLASSES", num_classes, "at least 1")
        _require(point_conv_dim >= 1, "POINT_CONV_DIM", point_conv_dim, "at least 1")
        side = math.isqrt(max(num_points, 0))
        _require(
            side * side == num_points and side % 2 == 1 and side > 1,
            "NUM_POINTS",
            num_points,
            "the square of an odd number: 9, 25, ...",
        )
        _require(transform in TRANSFORMS, "TRANSFORM", transform, f"one of {TRANSFORMS}")
        _require(moment_mul >= 0, "MOMENT_MUL", moment_mul, "at least 0")
        _require(gradient_mul >= 0, "GRADIENT_MUL", gradient_mul, "at least 0")

        def tower() -> nn.Sequential:
            return conv_tower(
                in_channels, num_convs=num_convs, conv_dim=conv_dim, norm=norm, node=NODE
            )

        channels = conv_dim if num_convs else in_channels
        self.transform = transform
        self.moment_mul = moment_mul
        self.gradient_mul = gradient_mul
        self.cls_tower = tower()
        self.point_tower = tower()
        self.init_conv = Conv2d(channels, point_conv_dim, 3, padding=1, activation=nn.ReLU())
        self.init_offset = nn.Conv2d(point_conv_dim, 2 * num_points, 1)
        self.refine_conv = PointConv(channels, point_conv_dim, num_points)
        self.refine_offset = nn.Conv2d(point_conv_dim, 2 * num_points, 1)
        self.cls_conv = PointConv(channels, point_conv_dim, num_points)
        self.cls_score = nn.Conv2d(point_conv_dim, num_classes, 1)
        # Logarithm of the half sides of a box over the standard deviations of its points.
        self.log_spread = nn.Parameter(torch.zeros(2)) if transform == "moment" else None
        init_head(self, self.cls_score, prior_prob=prior_prob, init="normal", node=NODE)

    def forward(self, feature: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        cls_feature, point_feature = self.cls_tower(feature), self.point_tower(feature)
        first = self._offsets(self.init_offset, self.init_conv(point_feature))
        samples = scale_gradient(first, self.gradient_mul).unflatten(1, (-1, 2))
        move = self._offsets(self.refine_offset, self.refine_conv(point_feature, samples).relu())
        logits = self.cls_score(self.cls_conv(cls_feature, samples).relu()).float()
        # Stage 2 corrects stage 1 and does not teach it.
        return logits, first, first.detach() + move

    @staticmethod
    def _offsets(conv: nn.Module, feature: torch.Tensor) -> torch.Tensor:
        """Without 16-bit rounding, which is a third of a px at stride 32."""
        with torch.autocast(feature.device.type, enabled=False):
            return conv(feature.float())

    def boxes(self, points: torch.Tensor) -> torch.Tensor:
        """(..., N * 2) points of a location -> (..., 4) its box, both in cells from its centre."""
        spread = self.log_spread
        if spread is not None:
            spread = scale_gradient(spread, self.moment_mul)
        return points_to_boxes(points.unflatten(-1, (-1, 2)), self.transform, spread)
