"""Work and size of a P2PNet as it is deployed, counted on shapes alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .folding import fold_norms


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates (MAC) of the convs for one image, and parameters with norms folded.

    Norms, activations and decoding are not counted: below 1 % of the arithmetic, though not of the
    time where a norm cannot be folded.
    """

    backbone_macs: int
    neck_macs: int
    head_macs: int
    parameters: int

    @property
    def macs(self) -> int:
        return self.backbone_macs + self.neck_macs + self.head_macs


def count_work(model: nn.Module, size: tuple[int, int]) -> Work:
    """Counts a P2PNet at an input of (height, width), multiples of 32. No image is computed.

    The model is changed: norms folded, weights dropped.
    """
    model = fold_norms(model.eval()).to("meta")
    images = torch.empty(1, 3, *size, device="meta")
    with torch.no_grad():
        resnet = _macs(model.backbone.bottom_up, images)
        trunk = _macs(model.backbone, images)
        head = _macs(model.head, model.backbone(images)[model.in_feature])
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Work(resnet, trunk - resnet, head, parameters)


def _macs(module: nn.Module, *inputs: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() // 2
