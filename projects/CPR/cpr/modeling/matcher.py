"""Label assignment of P2PNet: which references are positives of which annotated point.

`hungarian_topk_assign` is the official rule, k rounds of one-to-one matching on the CPU.
`candidate_topk_assign` solves the same problem among the references near each object, for the
whole batch at once and without leaving the device; it is the default for training.

Shape shorthand: B images, L references per image (row-major cells, then the references of a cell),
K classes, M objects of all images together, C candidates per object. Points are px of the network
input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from .losses_p2p import require_focal
from .reference_grid import ReferenceGrid
from .require import require

COST_RULES = ("focal", "probability")
COST_DISTANCES = ("l1", "l2")
# Added to the argument of the logarithms of the class cost (official code).
LOG_EPS = 1e-12
# Cost of a pair that must not be chosen; far above any real cost, exact enough in float32.
UNAVAILABLE = 1e9
# An object bids for its SHORTLIST_FACTOR * k cheapest candidates.
SHORTLIST_FACTOR = 32
# Bids per round, and rounds beyond k for objects that got nothing within them. Contested references
# settle within a few bids; see benchmarks/benchmark_assignment.py.
AUCTION_STEPS = 16
EXTRA_ROUNDS = 2
# Least raise of the first bid, in units of the cost, and its growth per bid. The least raise bounds
# how far a round is from the cheapest in total; its growth ends the price wars of objects at the
# same place.
LEAST_RAISE = 0.005
RAISE_GROWTH = 1.3


@dataclass(frozen=True)
class CostSettings:
    """The cost of a pair; defaults of the official CPR code.

    Attributes:
        class_weight: COST_CLASS.
        point_weight: COST_POINT, per px of distance.
        alpha, gamma: FOCAL_ALPHA, weight of the positive part, and FOCAL_GAMMA. They are those of
            the loss as well.
        rule: COST_RULE, the class cost: "focal", or "probability", minus the score of the object's
            class (original P2PNet, with class_weight 1).
        distance: COST_DISTANCE, "l1" or "l2" (original P2PNet, with point_weight 0.05).
    """

    class_weight: float = 2.0
    point_weight: float = 0.1
    alpha: float = 0.25
    gamma: float = 2.0
    rule: str = "focal"
    distance: str = "l1"

    def __post_init__(self) -> None:
        require_focal(self.alpha, self.gamma)
        for key, value, good, need in (
            ("COST_CLASS", self.class_weight, self.class_weight >= 0, "at least 0"),
            ("COST_POINT", self.point_weight, self.point_weight >= 0, "at least 0"),
            ("COST_RULE", self.rule, self.rule in COST_RULES, f"one of {COST_RULES}"),
            (
                "COST_DISTANCE",
                self.distance,
                self.distance in COST_DISTANCES,
                f"one of {COST_DISTANCES}",
            ),
        ):
            require(good, f"MODEL.P2PNET.{key}", value, need)


def assignment_cost(
    scores: torch.Tensor,
    pred_points: torch.Tensor,
    gt_points: torch.Tensor,
    cost: CostSettings,
) -> torch.Tensor:
    """Cost of (reference, object) pairs; the tensors broadcast.

    class_weight * class cost + point_weight * distance, where the class cost is the focal cost as a
    positive minus that as a negative (official CPR code), or minus the score (original P2PNet).

    Args:
        scores: (...) score of the object's class at the reference.
        pred_points: (..., 2) predicted points, px.
        gt_points: (..., 2) annotated points, px.
        cost: see `CostSettings`.

    Returns:
        (...) cost without gradient.
    """
    with torch.no_grad():
        scores = scores.float()
        if cost.rule == "focal":
            positive = -cost.alpha * (1 - scores).pow(cost.gamma) * (scores + LOG_EPS).log()
            negative = -(1 - cost.alpha) * scores.pow(cost.gamma) * (1 - scores + LOG_EPS).log()
            class_cost = positive - negative
        else:
            class_cost = -scores
        offsets = pred_points.float() - gt_points
        distance = offsets.abs().sum(dim=-1) if cost.distance == "l1" else offsets.norm(dim=-1)
        return cost.class_weight * class_cost + cost.point_weight * distance


def hungarian_topk_assign(
    scores: torch.Tensor,
    pred_points: torch.Tensor,
    valid: torch.Tensor,
    gt_points: torch.Tensor,
    gt_labels: torch.Tensor,
    counts: list[int],
    *,
    k: int,
    cost: CostSettings,
) -> torch.Tensor:
    """k rounds of one-to-one matching at the least total cost (official code); the reference.

    After each round the matched references are removed. A round takes place only while at least as
    many references are free as there are objects; with k = 1 it always does. Runs on the CPU and
    holds L x M costs of an image at a time.

    Args:
        scores: (B, L, K) class scores, see `class_scores.class_scores`.
        pred_points: (B, L, 2) predicted points, px.
        valid: (B, L) bool, references that may be used.
        gt_points: (M, 2) px, the objects of all images one after another.
        gt_labels: (M,) int64.
        counts: objects per image; their sum is M.
        k: positives per object.
        cost: see `CostSettings`.

    Returns:
        (B, L) int64: row of `gt_points` that the reference is a positive of, -1 for none.
    """
    assigned = torch.full(valid.shape, -1, dtype=torch.int64)
    start = 0
    for image, count in enumerate(counts):
        objects = slice(start, start + count)
        start += count
        if count == 0:
            continue
        rows = valid[image].nonzero()[:, 0]
        pairs = assignment_cost(
            scores[image, rows][:, gt_labels[objects]],
            pred_points[image, rows, None],
            gt_points[None, objects],
            cost,
        )
        # A diverged network must not end in scipy's complaint; the trainer reports the loss.
        pairs = pairs.nan_to_num(nan=UNAVAILABLE, posinf=UNAVAILABLE).cpu().numpy()
        rows = rows.cpu().numpy()
        for _ in range(k):
            if len(rows) < count and k > 1:
                break
            matched, gt = linear_sum_assignment(pairs)
            assigned[image, torch.from_numpy(rows[matched])] = torch.from_numpy(gt + objects.start)
            rows, pairs = np.delete(rows, matched), np.delete(pairs, matched, axis=0)
    return assigned.to(valid.device)


def candidate_topk_assign(
    scores: torch.Tensor,
    pred_points: torch.Tensor,
    valid: torch.Tensor,
    gt_points: torch.Tensor,
    gt_labels: torch.Tensor,
    counts: list[int],
    *,
    k: int,
    cost: CostSettings,
    grid: ReferenceGrid,
    radius: int,
) -> torch.Tensor:
    """As `hungarian_topk_assign`, among the references near each object, on the device.

    Each object considers the references of the cells within `radius` cells of its own and takes its
    cheapest ones. A reference that several objects want is auctioned (Bertsekas): an object bids
    the amount by which its next choice is dearer, so the reference goes to the object that would
    lose most without it, which is what makes a round cheapest in total. The numbers of rounds and
    bids are fixed: no host sync, no loop over objects, memory M x C.

    Args:
        scores, ..., cost: see `hungarian_topk_assign`.
        grid: layout of the references.
        radius: half side of the square of cells searched, in cells.

    Returns:
        (B, L) int64: row of `gt_points` that the reference is a positive of, -1 for none.

    Raises:
        ValueError: radius below 1; a bid compares two candidates.
    """
    if radius < 1:
        raise ValueError(f"radius is {radius}; an object needs at least the cells next to its own.")
    num_images, num_refs, num_classes = scores.shape
    num_objects = len(gt_points)
    device = scores.device
    # Slot `nowhere` takes what must have no effect, where a boolean mask would have to wait for the
    # number of its rows.
    nowhere = num_images * num_refs
    assigned = torch.full((nowhere + 1,), -1, dtype=torch.int64, device=device)
    if num_objects == 0:
        return assigned[:nowhere].view(num_images, num_refs)

    batch_index = torch.cat(
        [torch.full((n,), i, dtype=torch.int64, device=device) for i, n in enumerate(counts)]
    )
    candidates, inside = grid.neighbours(gt_points, radius)
    candidates = candidates + num_refs * batch_index[:, None]
    pairs = assignment_cost(
        scores.reshape(-1)[candidates * num_classes + gt_labels[:, None]],
        pred_points.reshape(-1, 2)[candidates],
        gt_points[:, None],
        cost,
    )
    usable = inside & valid.reshape(-1)[candidates] & pairs.isfinite()
    pairs = torch.where(usable, pairs, UNAVAILABLE)
    shortlist = min(SHORTLIST_FACTOR * k, pairs.shape[1])
    pairs, order = pairs.topk(shortlist, largest=False, sorted=False)
    candidates = candidates.gather(1, order)

    quota = _quota(valid, counts, k)[batch_index]
    taken = torch.zeros_like(quota)
    for _ in range(k + EXTRA_ROUNDS):
        choice = _auction(pairs, candidates, taken < quota, nowhere)
        assigned[choice] = torch.arange(num_objects, device=device)
        assigned[nowhere] = -1
        taken = taken + (choice != nowhere)
        pairs = torch.where(assigned[candidates] >= 0, UNAVAILABLE, pairs)
    return assigned[:nowhere].view(num_images, num_refs)


def _quota(valid: torch.Tensor, counts: list[int], k: int) -> torch.Tensor:
    """(B,) positives per object of each image: k, or the rounds the references suffice for."""
    free = valid.sum(dim=1)
    rounds = torch.stack([n // max(count, 1) for n, count in zip(free, counts, strict=True)])
    return rounds.clamp(min=1 if k == 1 else 0, max=k)


def _auction(
    cost: torch.Tensor, candidates: torch.Tensor, active: torch.Tensor, nowhere: int
) -> torch.Tensor:
    """One round of one-to-one matching: each active object takes at most one candidate.

    Args:
        cost: (M, C).
        candidates: (M, C) int64 slots in 0..nowhere - 1.
        active: (M,) bool, objects that take part.

    Returns:
        (M,) int64 slot of each object, `nowhere` for none; no slot twice.
    """
    num_objects = len(cost)
    objects = torch.arange(num_objects, device=cost.device)
    price = cost.new_zeros(nowhere + 1)
    # Row num_objects of `choice` stands for nobody, the owner of free slots.
    owner = objects.new_full((nowhere + 1,), num_objects)
    choice = objects.new_full((num_objects + 1,), nowhere)
    for step in range(AUCTION_STEPS):
        values, columns = (cost + price[candidates]).topk(2, largest=False)
        best, second = values.unbind(1)
        bidding = active & (choice[:-1] == nowhere) & (best < UNAVAILABLE / 2)
        wanted = candidates.gather(1, columns[:, :1])[:, 0]
        bid = price[wanted] + (second - best) + LEAST_RAISE * RAISE_GROWTH**step
        wanted = torch.where(bidding, wanted, nowhere)

        # The highest bid wins, among equal ones the first object.
        highest = torch.zeros_like(price).scatter_reduce(0, wanted, bid, "amax")
        leading = torch.where(bidding & (bid == highest[wanted]), wanted, nowhere)
        first = torch.full_like(owner, num_objects).scatter_reduce(0, leading, objects, "amin")
        won = torch.where(first[leading] == objects, leading, nowhere)

        choice[owner[won]] = nowhere
        choice[:-1] = torch.where(won != nowhere, won, choice[:-1])
        owner[won] = objects
        price[won] = bid
        owner[nowhere] = num_objects
        price[nowhere] = 0
    return choice[:-1]
