"""BatchNorm and FrozenBatchNorm folded into their convs, for inference."""

from __future__ import annotations

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def fold_norms(model: nn.Module) -> nn.Module:
    """Folds the norm of each conv of Detectron2 (`conv.norm`) into its weight and bias, in place.

    A norm with fixed statistics is y = x * scale + shift per channel, so the conv can do it. The
    outputs in eval mode stay the same but for rounding. GroupNorm cannot be folded and stays.

    Returns the model.
    """
    for conv in model.modules():
        norm = getattr(conv, "norm", None) if isinstance(conv, nn.Conv2d) else None
        if not isinstance(norm, (FrozenBatchNorm2d, _BatchNorm)) or norm.running_mean is None:
            continue
        scale = (norm.running_var + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = norm.weight * scale
        shift = -norm.running_mean * scale
        if norm.bias is not None:
            shift = shift + norm.bias
        if conv.bias is not None:
            shift = shift + conv.bias * scale
        conv.weight.copy_(conv.weight * scale[:, None, None, None])
        conv.bias = nn.Parameter(shift, requires_grad=conv.weight.requires_grad)
        conv.norm = None
    return model
