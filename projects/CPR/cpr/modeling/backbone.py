"""ResNet with a feature pyramid of which only one level is computed.

Both networks of the paper read a single level (P2, P3 or P4). Detectron2's FPN makes every output
level; here the lateral convs run from the top of the ResNet down to the chosen level and one 3x3
output conv is made, as in the official code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone import build_resnet_backbone
from torch import nn

# The padding that Detectron2 applies to a batch; a multiple of the stride of res5.
SIZE_DIVISIBILITY = 32


class SingleLevelFPN(Backbone):
    """One level of a feature pyramid over `bottom_up`.

    Args:
        bottom_up: network with the outputs `in_features`.
        in_features: consecutive stages from the chosen level to the top, e.g. res2, res3, res4.
            The output is named after the first one: res2 -> p2.
        out_channels: channels C of the output.
        norm: norm after every conv ("GN" in the paper's code); convs have a bias only without one.

    forward: images (B, 3, H, W), H and W multiples of 32 -> {name: (B, C, H / stride, W / stride)}.
    """

    def __init__(
        self, *, bottom_up: Backbone, in_features: list[str], out_channels: int, norm: str
    ):
        super().__init__()
        shapes = bottom_up.output_shape()
        missing = [name for name in in_features if name not in shapes]
        if missing:
            raise ValueError(
                f"MODEL.FPN.IN_FEATURES names {missing}, but MODEL.RESNETS.OUT_FEATURES gives"
                f" {sorted(shapes)}."
            )
        strides = [shapes[name].stride for name in in_features]
        if any(2 * low != high for low, high in zip(strides, strides[1:], strict=False)):
            raise ValueError(
                f"MODEL.FPN.IN_FEATURES {in_features} must be consecutive stages; their strides are"
                f" {strides}."
            )
        self.bottom_up = bottom_up
        self.in_features = list(in_features)
        self.lateral_convs = nn.ModuleList(
            Conv2d(
                shapes[name].channels,
                out_channels,
                kernel_size=1,
                bias=norm == "",
                norm=get_norm(norm, out_channels),
            )
            for name in in_features
        )
        self.output_conv = Conv2d(
            out_channels,
            out_channels,
            kernel_size=3,
            padding=1,
            bias=norm == "",
            norm=get_norm(norm, out_channels),
        )
        for conv in [*self.lateral_convs, self.output_conv]:
            nn.init.xavier_uniform_(conv.weight)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        self._name = in_features[0].replace("res", "p")
        self._shape = ShapeSpec(channels=out_channels, stride=strides[0])

    @property
    def size_divisibility(self) -> int:
        return SIZE_DIVISIBILITY

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {self._name: self._shape}

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.bottom_up(images)
        merged = None
        for name, lateral in zip(
            reversed(self.in_features), reversed(self.lateral_convs), strict=True
        ):
            level = lateral(features[name])
            if merged is not None:
                level = level + F.interpolate(merged, scale_factor=2.0, mode="nearest")
            merged = level
        return {self._name: self.output_conv(merged)}


@BACKBONE_REGISTRY.register()
def build_resnet_fpn_single_level_backbone(cfg, input_shape: ShapeSpec) -> SingleLevelFPN:
    """ResNet-18/34/50/101 + one FPN level.

    The level is that of the first of MODEL.FPN.IN_FEATURES. Leave res5 out of that list and of
    MODEL.RESNETS.OUT_FEATURES to run without it.
    """
    return SingleLevelFPN(
        bottom_up=build_resnet_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
    )
