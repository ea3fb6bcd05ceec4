"""Algorithm 2: from the scores of a bag to the semantic points and the refined point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from .point_sampling import inside

# Entries of the largest distance array that constraint III makes at once (64 MiB of float32).
MAX_DISTANCES = 1 << 24


@dataclass(frozen=True)
class RefinementSettings:
    """What Algorithm 2 leaves open; see MODEL.CPRNET.REFINE in `cpr/config.py`."""

    delta1: float = 0.1
    delta2: float = 0.5
    constraint_i: bool = True
    constraint_ii: bool = True
    constraint_iii: bool = True
    score_thresh: float = 0.1
    force_annotated: bool = False


class Refinement(NamedTuple):
    """Result for the M objects of one image; U points per bag.

    Attributes:
        points: (M, 2) refined points, the annotated ones where `refined` is False.
        scores: (M,) mean score of the kept points, 0 without any.
        refined: (M,) bool.
        kept: (M, U) bool, the semantic points B+.
        kept_by: (M, 4) int64, points that pass, each by itself: inside the image, constraints I,
            II, III (the last three among those inside).
    """

    points: torch.Tensor
    scores: torch.Tensor
    refined: torch.Tensor
    kept: torch.Tensor
    kept_by: torch.Tensor


class ClassEvidence(NamedTuple):
    """What the surroundings of M clicks look like, see `class_evidence`.

    Attributes:
        own_scores: (M,) of the annotated class.
        other_labels: (M,) int64, the best of the other classes.
        other_scores: (M,) of that one.
    """

    own_scores: torch.Tensor
    other_labels: torch.Tensor
    other_scores: torch.Tensor


def refine_points(
    bag_points: torch.Tensor,
    bag_scores: torch.Tensor,
    annotated: torch.Tensor,
    labels: torch.Tensor,
    image_size: tuple[float, float],
    settings: RefinementSettings,
) -> Refinement:
    """Algorithm 2 for all objects of one image, in the form of the official code.

    A bag point is kept if it lies inside the unpadded image and passes the constraints that are
    switched on. The refined point is the mean of the kept points, weighted by their scores. The
    annotated point is one of the candidates, or always kept with `force_annotated` (the paper).
    An object whose kept points have a mean score below `score_thresh` keeps its annotated point.

    Args:
        bag_points: (M, U, 2) px of the network input; the annotated point is the last of U.
        bag_scores: (M, U, K) class probabilities.
        annotated: (M, 2) px.
        labels: (M,) int64.
        image_size: height, width of the image without padding, px.
    """
    size = torch.tensor(image_size, dtype=bag_points.dtype, device=bag_points.device)
    own = bag_scores.gather(2, labels[:, None, None].expand(-1, bag_points.shape[1], 1)).squeeze(2)

    in_image = inside(bag_points, size)
    constraints = torch.stack(
        (
            _is_confident(own, settings.delta1, settings.delta2),
            _is_own_class(bag_scores, own, labels),
            _is_nearest(bag_points, annotated, labels),
        )
    )
    active = (settings.constraint_i, settings.constraint_ii, settings.constraint_iii)
    kept = in_image.clone()
    for on, passed in zip(active, constraints, strict=True):
        if on:
            kept &= passed
    if settings.force_annotated:
        kept[:, -1] = True

    weights = own * kept
    total = weights.sum(dim=1)
    scores = total / (kept.sum(dim=1) + 1e-8)
    # Relative to the annotated point, which keeps float32 exact far from the origin.
    shift = (weights[..., None] * (bag_points - annotated[:, None])).sum(dim=1)
    means = annotated + shift / (total[:, None] + 1e-8)
    refined = kept.any(dim=1) & (scores >= settings.score_thresh)
    kept_by = torch.stack((in_image, *(in_image & c for c in constraints)), dim=1).sum(dim=2)
    return Refinement(
        points=torch.where(refined[:, None], means, annotated),
        scores=scores,
        refined=refined,
        kept=kept,
        kept_by=kept_by,
    )


def class_evidence(
    bag_points: torch.Tensor,
    bag_scores: torch.Tensor,
    annotated: torch.Tensor,
    labels: torch.Tensor,
    image_size: tuple[float, float],
) -> ClassEvidence:
    """Which class the surroundings of each click look like, to find clicks of a wrong class.

    A class scores its mean probability over the bag points that lie inside the image and have no
    other click of the image, of whatever class, nearer than their own: what R reaches of a
    neighbour says nothing about an object. 0 for all classes if no point is left.

    Args:
        as for `refine_points`; K of at least 2.
    """
    size = torch.tensor(image_size, dtype=bag_points.dtype, device=bag_points.device)
    # As if all were of one class.
    own_points = _is_nearest(bag_points, annotated, torch.zeros_like(labels))
    own_points &= inside(bag_points, size)
    total = (bag_scores * own_points[..., None]).sum(dim=1)
    scores = total / own_points.sum(dim=1, keepdim=True).clamp(min=1)
    own = scores.gather(1, labels[:, None])
    other = scores.scatter(1, labels[:, None], -1.0).max(dim=1)
    return ClassEvidence(own.squeeze(1), other.indices, other.values)


def _is_confident(own: torch.Tensor, delta1: float, delta2: float) -> torch.Tensor:
    """Constraint I: score above delta1 and above delta2 times that of the annotated point."""
    return (own > delta1) & (own > delta2 * own[:, -1:])


def _is_own_class(
    bag_scores: torch.Tensor, own: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Constraint II: the annotated class scores best; a tie goes to the lower class."""
    lower = torch.arange(bag_scores.shape[2], device=labels.device) < labels[:, None, None]
    own = own[..., None]
    return ~((bag_scores > own) | ((bag_scores == own) & lower)).any(dim=2)


def _is_nearest(
    bag_points: torch.Tensor, annotated: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Constraint III: among the points of the class, the own one is nearest; ties: lower index."""
    num_objects, num_points, _ = bag_points.shape
    result = torch.ones(bag_points.shape[:2], dtype=torch.bool, device=bag_points.device)
    index = torch.arange(num_objects, device=labels.device)
    step = max(1, MAX_DISTANCES // max(1, num_objects * num_points))
    for start in range(0, num_objects, step):
        rows = slice(start, start + step)
        dx = bag_points[rows, :, None, 0] - annotated[:, 0]
        dy = bag_points[rows, :, None, 1] - annotated[:, 1]
        distance = dx * dx + dy * dy
        mine = distance.gather(2, index[rows, None, None].expand(-1, num_points, 1))
        rival = (labels[rows, None] == labels) & (index[rows, None] != index)
        earlier = index < index[rows, None]
        closer = (distance < mine) | ((distance == mine) & earlier[:, None])
        result[rows] = ~(closer & rival[:, None]).any(dim=2)
    return result
