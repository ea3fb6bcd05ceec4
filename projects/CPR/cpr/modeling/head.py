"""What all heads have in common: towers of 3x3 convs, and how they start."""

from __future__ import annotations

import math

from detectron2.layers import Conv2d, get_norm
from torch import nn

from .require import require

# Of get_norm's "GN".
NUM_GROUPS = 32
NORMS = ("", "GN", "BN", "SyncBN")
INITS = ("normal", "xavier")


def conv_tower(
    in_channels: int, *, num_convs: int, conv_dim: int, norm: str, node: str
) -> nn.Sequential:
    """`num_convs` x (3x3 conv, norm, ReLU): (B, in_channels, H, W) -> (B, conv_dim, H, W).

    Convs have a bias only without a norm. No conv at all leaves the input as it is.

    Args:
        norm: one of NORMS.
        node: the config node that the settings come from, such as "MODEL.CPRNET", for errors.
    """
    require(num_convs >= 0, f"{node}.NUM_CONVS", num_convs, "at least 0")
    require(norm in NORMS, f"{node}.NORM", norm, f"one of {NORMS}")
    require(
        conv_dim >= 1 and (norm != "GN" or conv_dim % NUM_GROUPS == 0),
        f"{node}.CONV_DIM",
        conv_dim,
        f"at least 1, with {node}.NORM 'GN' a multiple of {NUM_GROUPS}",
    )
    return nn.Sequential(
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


def init_head(
    head: nn.Module, cls_score: nn.Conv2d, *, prior_prob: float, init: str, node: str
) -> None:
    """Starts all convs of a head: weights as `init` says, biases 0.

    Args:
        head: the module whose convs are meant, towers and outputs.
        cls_score: its class output, whose bias makes every score `prior_prob` at first.
        init: "normal", standard deviation 0.01 (official code), or "xavier", uniform (paper).
        node: see `conv_tower`.
    """
    require(0 < prior_prob < 1, f"{node}.PRIOR_PROB", prior_prob, "between 0 and 1")
    require(init in INITS, f"{node}.HEAD_INIT", init, f"one of {INITS}")
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            if init == "normal":
                nn.init.normal_(module.weight, std=0.01)
            else:
                nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.constant_(cls_score.bias, -math.log((1 - prior_prob) / prior_prob))
