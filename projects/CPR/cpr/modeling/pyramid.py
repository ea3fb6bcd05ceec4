"""ResNet with a feature pyramid of several levels, for box detectors.

Detectron2's own FPN. Unlike its builders, this one takes any stages of the ResNet (also without
res5, for which there may be no weights) and any number of levels on top.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN, build_resnet_backbone
from torch import nn

from .require import require


class ExtraLevels(nn.Module):
    """Levels above the highest of the FPN: 3x3 convs of stride 2, each on the level below.

    Source: P6 and P7 of RetinaNet, here on the output of the FPN and with its norm.

    Args:
        in_feature: name of the FPN's highest level, for example p5.
        channels: of every level.
        num_levels: how many there are.
        norm: norm after every conv; convs have a bias only without one.

    forward: (B, C, H, W) -> [(B, C, ceil(H / 2), ceil(W / 2)), ...]
    """

    def __init__(self, *, in_feature: str, channels: int, num_levels: int, norm: str):
        super().__init__()
        # Both are read by Detectron2's FPN.
        self.in_feature = in_feature
        self.num_levels = num_levels
        self.convs = nn.ModuleList(
            Conv2d(
                channels,
                channels,
                kernel_size=3,
                stride=2,
                padding=1,
                bias=norm == "",
                norm=get_norm(norm, channels),
            )
            for _ in range(num_levels)
        )
        for conv in self.convs:
            nn.init.xavier_uniform_(conv.weight)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, feature: torch.Tensor) -> list[torch.Tensor]:
        levels = [self.convs[0](feature)]
        for conv in self.convs[1:]:
            levels.append(conv(F.relu(levels[-1])))
        return levels


@BACKBONE_REGISTRY.register()
def build_resnet_fpn_pyramid_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """ResNet-18/34/50/101 + FPN: a level for each of MODEL.FPN.IN_FEATURES and more on top.

    The levels are called p2 (stride 4), p3, ...; MODEL.FPN.EXTRA_LEVELS says how many are on top.

    Raises:
        InputError: stages that the ResNet does not give or that are not consecutive, a negative
            number of levels, a detector that reads a level that is not there.
    """
    bottom_up = build_resnet_backbone(cfg, input_shape)
    stages, extra = list(cfg.MODEL.FPN.IN_FEATURES), cfg.MODEL.FPN.EXTRA_LEVELS
    given = list(bottom_up.output_shape())
    start = given.index(stages[0]) if stages and stages[0] in given else 0
    require(
        bool(stages) and stages == given[start : start + len(stages)],
        "MODEL.FPN.IN_FEATURES",
        stages,
        f"consecutive stages out of MODEL.RESNETS.OUT_FEATURES, {given}",
    )
    require(extra >= 0, "MODEL.FPN.EXTRA_LEVELS", extra, "0 or more")
    channels, norm = cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FPN.NORM
    top = None
    if extra:
        top = ExtraLevels(
            in_feature=stages[-1].replace("res", "p"),
            channels=channels,
            num_levels=extra,
            norm=norm,
        )
    fpn = FPN(
        bottom_up=bottom_up,
        in_features=stages,
        out_channels=channels,
        norm=norm,
        top_block=top,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
    _check_readers(cfg, list(fpn.output_shape()))
    return fpn


def _check_readers(cfg, levels: list[str]) -> None:
    """Each level must be there, and be read.

    Detectron2's detectors end with a bare KeyError for a level that is not there, and training on
    several processes stops at a level that nobody reads.
    """
    readers = {
        "RetinaNet": ("RETINANET",),
        "GeneralizedRCNN": ("RPN", "ROI_HEADS"),
        "RepPoints": ("REPPOINTS",),
    }
    nodes = readers.get(cfg.MODEL.META_ARCHITECTURE, ())
    read: set[str] = set()
    for node in nodes:
        names = list(cfg.MODEL[node].IN_FEATURES)
        read.update(names)
        require(
            bool(names) and set(names) <= set(levels),
            f"MODEL.{node}.IN_FEATURES",
            names,
            f"levels out of {levels} (see MODEL.FPN.IN_FEATURES and MODEL.FPN.EXTRA_LEVELS)",
        )
    unread = sorted(set(levels) - read)
    require(
        not nodes or not unread,
        f"MODEL.{nodes[0] if nodes else ''}.IN_FEATURES",
        sorted(read),
        f"all levels, {levels}; nobody reads {unread} (fewer: MODEL.FPN.EXTRA_LEVELS)",
    )
