"""The losses of P2PNet (official code).

Shape shorthand: B images, L references per image, K classes, M objects of all images together.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F


def class_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    *,
    alpha: float,
    gamma: float,
) -> torch.Tensor:
    """Sigmoid focal loss, summed over references and classes.

    Args:
        logits: (B, L, K).
        labels: (B, L) int64 class of each reference, K for background.
        weights: (B, L) weight of each reference; 0 leaves it out.
        alpha: weight of the positive part, 1 - alpha of the negative one.
        gamma: focusing exponent.
    """
    logits = logits.float()
    classes = torch.arange(logits.shape[-1], device=logits.device)
    positive = labels[..., None] == classes
    score = logits.sigmoid()
    # By what the score misses its target, 1 or 0.
    error = torch.where(positive, 1 - score, score)
    balance = torch.where(positive, alpha, 1 - alpha)
    # softplus(-x) = -log(sigmoid(x)) without overflow.
    log_loss = F.softplus(torch.where(positive, -logits, logits))
    return (balance * error.pow(gamma) * log_loss * weights[..., None]).sum()


def point_loss(
    pred_points: torch.Tensor,
    gt_points: torch.Tensor,
    positive: torch.Tensor,
    *,
    stride: int,
    beta: float,
) -> torch.Tensor:
    """Smooth-L1 of predicted minus annotated points in cells, summed over references and axes.

    Args:
        pred_points, gt_points: (B, L, 2) px; rows that are not positive do not count.
        positive: (B, L) bool.
        stride: px per cell.
        beta: error, in cells, from which the loss is linear; 0 is L1.
    """
    error = torch.where(positive[..., None], (pred_points - gt_points) / stride, 0.0)
    return F.smooth_l1_loss(error, torch.zeros_like(error), beta=beta, reduction="sum")


def p2p_losses(
    logits: torch.Tensor,
    pred_points: torch.Tensor,
    assigned: torch.Tensor,
    weights: torch.Tensor,
    gt_points: torch.Tensor,
    gt_labels: torch.Tensor,
    *,
    stride: int,
    alpha: float,
    gamma: float,
    beta: float,
    point_weight: float,
    normalizer: Callable[[torch.Tensor], torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Both losses of a batch, each divided by the number of positives.

    Args:
        logits: (B, L, K).
        pred_points: (B, L, 2) px.
        assigned: (B, L) int64 row of `gt_points` that a reference is a positive of, or -1.
        weights: (B, L) weight of each reference in the class loss, 0 for invalid references and
            for background that does not count.
        gt_points: (M, 2) px; gt_labels: (M,) int64. M may be 0.
        stride: px per cell.
        alpha, gamma: see `class_loss`. beta: see `point_loss`.
        point_weight: weight of the point loss.
        normalizer: divisor from the number of positives, see `distributed.count_normalizer`.

    Returns:
        {"loss_cls", "loss_point"}; without any object the second is zero and differentiable.
    """
    positive = assigned >= 0
    divisor = normalizer(positive.sum().float())
    # The last row stands for "none", which -1 picks.
    points = torch.cat([gt_points, gt_points.new_zeros(1, 2)])
    labels = torch.cat([gt_labels, gt_labels.new_full((1,), logits.shape[-1])])
    loss_cls = class_loss(logits, labels[assigned], weights, alpha=alpha, gamma=gamma)
    loss_point = point_loss(pred_points, points[assigned], positive, stride=stride, beta=beta)
    return {"loss_cls": loss_cls / divisor, "loss_point": point_weight * loss_point / divisor}
