"""Optimizers and gradient clipping as a config asks for them."""

from __future__ import annotations

import itertools

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

from cpr_deploy.files import InputError


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SOLVER.OPTIMIZER over the trainable parameters, with the config's gradient clipping.

    Detectron2's clip types "value" and "norm" work on each parameter by itself; "full_model" scales
    all gradients together so that their common norm is at most CLIP_VALUE (official code).
    """
    solver = cfg.SOLVER
    params = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        lr_factor_func=lambda name: (
            solver.BACKBONE_MULTIPLIER if name.startswith("backbone.bottom_up") else 1.0
        ),
    )
    if solver.OPTIMIZER == "SGD":
        optimizer = torch.optim.SGD(
            params, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV
        )
    elif solver.OPTIMIZER in ("Adam", "AdamW"):
        optimizer = getattr(torch.optim, solver.OPTIMIZER)(params, lr=solver.BASE_LR)
    else:
        raise InputError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}: use one of SGD, Adam, AdamW.")
    clip = solver.CLIP_GRADIENTS
    if not clip.ENABLED:
        return optimizer
    if clip.CLIP_TYPE in ("value", "norm"):
        return maybe_add_gradient_clipping(cfg, optimizer)
    if clip.CLIP_TYPE != "full_model":
        raise InputError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip.CLIP_TYPE!r}: use one of full_model, norm,"
            " value."
        )

    def clip_all(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        # Called by optimizer.step, so under AMP after the gradients are unscaled.
        parameters = itertools.chain.from_iterable(g["params"] for g in optimizer.param_groups)
        nn.utils.clip_grad_norm_(parameters, clip.CLIP_VALUE, clip.NORM_TYPE)

    optimizer.register_step_pre_hook(clip_all)
    return optimizer
