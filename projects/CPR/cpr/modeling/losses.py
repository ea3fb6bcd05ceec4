"""The losses of CPRNet (Eq. 3-10) as pure functions of tensors.

Shape shorthand: M objects, U points per bag (the annotated point is the last), K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from .distributed import count_normalizer

# Added inside the logarithms, as in the official code.
EPS = 1e-6
# The normaliser of the official code: the counts of this process.
LOCAL_COUNT = count_normalizer("local")


def focal_loss(scores: torch.Tensor, targets: torch.Tensor, gamma: float) -> torch.Tensor:
    """Focal loss of probabilities (Eq. 4 with its missing minus), per element.

    -|p - q|^gamma (q log(p + e) + (1 - q) log(1 - p + e)), e = 1e-6 (official code).

    Args:
        scores: probabilities p.
        targets: q in [0, 1], same shape.
    """
    log_likelihood = targets * torch.log(scores + EPS) + (1 - targets) * torch.log(1 - scores + EPS)
    return -((scores - targets).abs() ** gamma) * log_likelihood


def bag_scores(
    cls_logits: torch.Tensor, ins_logits: torch.Tensor, valid: torch.Tensor
) -> torch.Tensor:
    """Bag scores S_B (Eq. 5-6): sum over the bag of sigmoid(cls) * softmax(ins).

    The softmax runs over the valid points of the bag, per class. A bag without a valid point has
    score 0.

    Args:
        cls_logits, ins_logits: (M, U, K).
        valid: (M, U) bool.

    Returns:
        (M, K) in [0, 1].
    """
    weights = ins_logits.softmax(dim=1) * valid[..., None].to(ins_logits.dtype)
    # Renormalising after the mask (official code) is the softmax over the valid points.
    weights = F.normalize(weights, p=1, dim=1, eps=1e-12)
    return (weights * cls_logits.sigmoid()).sum(dim=1)


def mil_loss(
    scores: torch.Tensor, labels: torch.Tensor, valid: torch.Tensor, gamma: float
) -> torch.Tensor:
    """L_MIL (Eq. 7) before the division by M: (M, K) bag scores, (M,) labels -> scalar.

    Objects without a valid bag point weigh nothing; `valid` is (M, U).
    """
    targets = F.one_hot(labels, scores.shape[1]).to(scores.dtype)
    per_object = focal_loss(scores, targets, gamma).sum(dim=1)
    return (per_object * valid.any(dim=1)).sum()


def annotation_loss(
    cls_logits: torch.Tensor, labels: torch.Tensor, valid: torch.Tensor, gamma: float
) -> torch.Tensor:
    """L_ann (Eq. 8-9) before the division.

    Args:
        cls_logits: (M, K) at the annotated points.
        labels: (M,).
        valid: (M,) bool, whether the annotated point lies in its image.
    """
    targets = F.one_hot(labels, cls_logits.shape[1]).to(cls_logits.dtype)
    per_object = focal_loss(cls_logits.sigmoid(), targets, gamma).sum(dim=1)
    return (per_object * valid).sum()


def positive_loss(
    cls_logits: torch.Tensor, labels: torch.Tensor, valid: torch.Tensor, gamma: float
) -> torch.Tensor:
    """L_pos (Table 2, "pos") before the division: each bag point is a positive by itself.

    What L_MIL is compared with: no weighting of the points by the instance branch. The paper gives
    no equation; this is the official code's form.

    Args:
        cls_logits: (M, U, K) at the bag points.
        labels: (M,).
        valid: (M, U) bool.
    """
    targets = F.one_hot(labels, cls_logits.shape[2]).to(cls_logits.dtype)[:, None]
    per_point = focal_loss(cls_logits.sigmoid(), targets, gamma).sum(dim=2)
    return (per_point * valid).sum()


def mil_points(bag_valid: torch.Tensor, annotated_in_bag: bool) -> torch.Tensor:
    """(M, U) bool: the valid points that take part in L_MIL and L_pos.

    All of them in the official code; without `annotated_in_bag` not the annotated one (Eq. 1).
    """
    if annotated_in_bag:
        return bag_valid
    return torch.cat((bag_valid[:, :-1], torch.zeros_like(bag_valid[:, -1:])), dim=1)


def negative_loss(cls_logits: torch.Tensor, mask: torch.Tensor, gamma: float) -> torch.Tensor:
    """L_neg (Eq. 10) before the division by M: the sum over all negatives and classes.

    Args:
        cls_logits: logits of all cells.
        mask: bool of the same shape, the negatives of each class.
    """
    scores = cls_logits.sigmoid()
    loss = -(scores**gamma) * torch.log(1 - scores + EPS)
    return torch.where(mask, loss, 0).sum()


def cpr_losses(
    bag_cls_logits: torch.Tensor,
    bag_ins_logits: torch.Tensor | None,
    bag_valid: torch.Tensor,
    labels: torch.Tensor,
    neg_cls_logits: torch.Tensor | None,
    neg_mask: torch.Tensor | None,
    *,
    weights: dict[str, float],
    gamma: float,
    normalizer: Callable[[torch.Tensor], torch.Tensor] = LOCAL_COUNT,
    annotated_in_bag: bool = True,
) -> dict[str, torch.Tensor]:
    """The weighted terms of L_CPR (Eq. 3), and L_pos of Table 2.

    L_MIL and L_neg are divided by the number of objects with a valid bag point, L_ann by the number
    of valid annotated points, L_pos by that of valid bag points (official code), over all images
    together. A term of weight 0 is neither computed nor returned.

    Args:
        bag_cls_logits, bag_ins_logits: (M, U, K); the second is for L_MIL only.
        bag_valid: (M, U) bool.
        labels: (M,) int64.
        neg_cls_logits, neg_mask: same shape, see `negative_loss`; for L_neg only.
        weights: of "mil", "ann", "neg" and "pos", 0 where not given.
        normalizer: (3,) counts of this process -> (3,) divisors; by default the official one.
        annotated_in_bag: see `mil_points`.

    Returns:
        {"loss_mil", "loss_ann", "loss_neg", "loss_pos"} as far as they have a weight: scalars.
    """
    ann_valid = bag_valid[:, -1]
    bag_valid = mil_points(bag_valid, annotated_in_bag)
    counts = torch.stack((bag_valid.any(dim=1).sum(), ann_valid.sum(), bag_valid.sum()))
    num_bags, num_annotated, num_points = normalizer(counts.to(bag_cls_logits.dtype)).unbind()
    terms = {}
    if weights.get("mil"):
        scores = bag_scores(bag_cls_logits, bag_ins_logits, bag_valid)
        terms["mil"] = mil_loss(scores, labels, bag_valid, gamma), num_bags
    if weights.get("ann"):
        annotated = bag_cls_logits[:, -1]
        terms["ann"] = annotation_loss(annotated, labels, ann_valid, gamma), num_annotated
    if weights.get("neg"):
        terms["neg"] = negative_loss(neg_cls_logits, neg_mask, gamma), num_bags
    if weights.get("pos"):
        terms["pos"] = positive_loss(bag_cls_logits, labels, bag_valid, gamma), num_points
    return {f"loss_{name}": weights[name] * term / count for name, (term, count) in terms.items()}
