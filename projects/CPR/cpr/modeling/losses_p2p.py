"""The losses of P2PNet: those of the CPR paper (official code), and the original P2PNet's.

Shape shorthand: B images, L references per image, K classes, M objects of all images together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .class_scores import require_class_loss
from .require import require

POINT_LOSSES = ("smooth_l1", "l2")


@dataclass(frozen=True)
class LossSettings:
    """Which losses, and their weights; defaults of the official CPR code.

    Attributes:
        class_loss: CLASS_LOSS, "focal" or "cross_entropy".
        alpha, gamma: FOCAL_ALPHA, FOCAL_GAMMA, see `focal_class_loss`.
        no_object_weight: NO_OBJECT_WEIGHT, see `cross_entropy_class_loss`.
        point_loss: POINT_LOSS, "smooth_l1" or "l2".
        beta: SMOOTH_L1_BETA, see `smooth_l1_point_loss`.
        point_weight: POINT_LOSS_WEIGHT.
    """

    class_loss: str = "focal"
    alpha: float = 0.25
    gamma: float = 2.0
    no_object_weight: float = 0.5
    point_loss: str = "smooth_l1"
    beta: float = 1 / 9
    point_weight: float = 0.5

    def __post_init__(self) -> None:
        require_class_loss(self.class_loss)
        require_focal(self.alpha, self.gamma)
        for key, value, good, need in (
            ("NO_OBJECT_WEIGHT", self.no_object_weight, self.no_object_weight > 0, "above 0"),
            (
                "POINT_LOSS",
                self.point_loss,
                self.point_loss in POINT_LOSSES,
                f"one of {POINT_LOSSES}",
            ),
            ("SMOOTH_L1_BETA", self.beta, self.beta >= 0, "at least 0"),
            ("POINT_LOSS_WEIGHT", self.point_weight, self.point_weight >= 0, "at least 0"),
        ):
            require(good, f"MODEL.P2PNET.{key}", value, need)


def require_focal(alpha: float, gamma: float) -> None:
    """InputError naming the key of a meaningless setting of the focal loss or its cost."""
    require(0 <= alpha <= 1, "MODEL.P2PNET.FOCAL_ALPHA", alpha, "between 0 and 1")
    # Between 0 and 1 the gradient is infinite where a score reaches its target.
    require(gamma == 0 or gamma >= 1, "MODEL.P2PNET.FOCAL_GAMMA", gamma, "0 or at least 1")


def focal_class_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    *,
    alpha: float,
    gamma: float,
) -> torch.Tensor:
    """Sigmoid focal loss, summed over references and classes (CPR paper).

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


def cross_entropy_class_loss(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, *, no_object_weight: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax cross-entropy over the classes and "no object" (original P2PNet).

    Args:
        logits: (B, L, K + 1), "no object" last.
        labels: (B, L) int64 class of each reference, K for background.
        weights: (B, L) weight of each reference; 0 leaves it out.
        no_object_weight: weight of background on top of that.

    Returns:
        the weighted sum over references, and the sum of the weights: the loss is their quotient.
    """
    background = labels == logits.shape[-1] - 1
    weights = weights * torch.where(background, no_object_weight, 1.0)
    losses = F.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), reduction="none"
    ).view_as(weights)
    return (losses * weights).sum(), weights.sum()


def smooth_l1_point_loss(
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


def l2_point_loss(
    pred_points: torch.Tensor, gt_points: torch.Tensor, positive: torch.Tensor
) -> torch.Tensor:
    """Squared distance of predicted and annotated points in px^2, summed (original P2PNet).

    Args:
        pred_points, gt_points: (B, L, 2) px; rows that are not positive do not count.
        positive: (B, L) bool.
    """
    return torch.where(positive[..., None], pred_points - gt_points, 0.0).square().sum()


def p2p_losses(
    logits: torch.Tensor,
    pred_points: torch.Tensor,
    assigned: torch.Tensor,
    weights: torch.Tensor,
    gt_points: torch.Tensor,
    gt_labels: torch.Tensor,
    *,
    stride: int,
    settings: LossSettings,
    normalizer: Callable[[torch.Tensor], torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Both losses of a batch.

    The focal loss and the point losses are divided by the number of positives, the cross-entropy by
    the sum of its weights, as each is published.

    Args:
        logits: (B, L, K), with the cross-entropy (B, L, K + 1).
        pred_points: (B, L, 2) px.
        assigned: (B, L) int64 row of `gt_points` that a reference is a positive of, or -1.
        weights: (B, L) weight of each reference in the class loss, 0 for invalid references and
            for background that does not count.
        gt_points: (M, 2) px; gt_labels: (M,) int64. M may be 0.
        stride: px per cell.
        settings: see `LossSettings`.
        normalizer: divisor from a count, see `distributed.count_normalizer`.

    Returns:
        {"loss_cls", "loss_point"}; without any object the second is zero and differentiable.
    """
    focal = settings.class_loss == "focal"
    background = logits.shape[-1] - (0 if focal else 1)
    positive = assigned >= 0
    positives = normalizer(positive.sum().float())
    # The last row stands for "none", which -1 picks.
    points = torch.cat([gt_points, gt_points.new_zeros(1, 2)])[assigned]
    labels = torch.cat([gt_labels, gt_labels.new_full((1,), background)])[assigned]

    if focal:
        loss_cls = focal_class_loss(
            logits, labels, weights, alpha=settings.alpha, gamma=settings.gamma
        )
        loss_cls = loss_cls / positives
    else:
        loss_cls, total = cross_entropy_class_loss(
            logits, labels, weights, no_object_weight=settings.no_object_weight
        )
        loss_cls = loss_cls / normalizer(total)
    if settings.point_loss == "smooth_l1":
        loss_point = smooth_l1_point_loss(
            pred_points, points, positive, stride=stride, beta=settings.beta
        )
    else:
        loss_point = l2_point_loss(pred_points, points, positive)
    return {"loss_cls": loss_cls, "loss_point": settings.point_weight * loss_point / positives}
