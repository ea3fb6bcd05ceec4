"""P2PNet from uint8 images to points, as one graph without data-dependent control flow.

It holds everything: normalisation, network, decoding as `modeling.decoding.decode_points` does it
(the best locations, then every class above the threshold) and exact class-wise point NMS, with
outputs of fixed size.

Shape shorthand: B images, L locations (x points per location), K classes, N = PRE_NMS_TOPK
locations, M candidates (location, class), D = MAX_DETS outputs.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from cpr_deploy.model_spec import (
    FLAG_CANDIDATES_OVERFLOWED,
    FLAG_NMS_NOT_CONVERGED,
    FLAG_NOT_FINITE,
)

from .modeling.class_scores import class_scores
from .modeling.point_ops import points_conflict

SIZE_MULTIPLE = 32
# Greedy NMS is the fixed point of "kept = not suppressed by a kept, better one". As many rounds
# settle every chain of suppressions up to this length; queues in crowds of 2,000 need more than 8.
NMS_ITERATIONS = 16
# A chunk of locations may hold this many times its even share of the N best ones.
CHUNK_ALLOWANCE = 8


class PointLocalizerGraph(nn.Module):
    """`P2PNet` from uint8 images to a fixed number of points; what is exported.

    forward: images (B, H, W, 3) uint8 BGR, H and W multiples of 32; scale (B, 2) float32, network
    px per original px in x and y. Returns, best first:
        points (B, D, 2) float32 original px, scores (B, D) float32, labels (B, D) int64,
        valid (B,) int64: how many have a score above the threshold; the slots after them hold
            weaker points (score 0 and label -1 where there are none),
        flags (B,) int64: bit 0: NMS not converged, bit 1: more candidates than the graph can hold;
            both speak of points above the threshold that reach the output. Bit 2: the network gave
            numbers that are not finite, so that nothing is known of the image.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        input_format: str,
        max_candidates: int | None = None,
        nms_iterations: int = NMS_ITERATIONS,
    ):
        super().__init__()
        if input_format not in ("BGR", "RGB"):
            raise ValueError(f"INPUT.FORMAT {input_format!r}: BGR or RGB is needed")
        self.model = model
        self.flip_channels = input_format == "RGB"
        self.num_classes = model.num_classes
        self.pre_nms_topk = model.decode.pre_nms_topk
        most = self.pre_nms_topk * self.num_classes
        # With several classes a location may pass with more than one. NMS takes M x M comparisons.
        room = max(self.pre_nms_topk, min(2 * self.pre_nms_topk, 2000))
        self.max_candidates = min(most, max_candidates or room)
        self.max_dets = min(model.decode.max_dets, self.max_candidates)
        self.nms_iterations = nms_iterations
        self.trunk_dtype = torch.float32

    def forward(self, images: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, ...]:
        height, width = images.shape[1], images.shape[2]
        logits, points = self.model.predict_maps(self.normalize(images))
        broken = _not_finite(logits) | _not_finite(points)
        scores = class_scores(logits, self.model.decode.class_loss)
        chosen, exists, hidden = self._best_locations(scores, height, width)
        scores = torch.gather(scores, 1, chosen[..., None].expand(-1, -1, self.num_classes))
        scores = scores * exists[..., None]
        points = torch.gather(points, 1, chosen[..., None].expand(-1, -1, 2))
        # A size as a tensor: traced exports would freeze a plain number.
        far = torch.stack([torch.full((), side, dtype=points.dtype) for side in (width, height)])
        points = torch.minimum(points.clamp(min=0), far)
        points = points / scale[:, None]

        points, scores, labels, too_many = self._candidates(points, scores)
        keep, changed = self._nms(points, labels)
        best, order = torch.topk(scores * keep, self.max_dets, dim=1)
        last, threshold = best[:, -1], self.model.decode.score_thresh
        # What precedes the first change is final: changes after the last output do not matter, nor
        # do candidates left out that are weaker than it.
        matters = (scores > threshold) & (scores >= last[:, None])
        unsettled = (changed & matters).any(dim=1)
        overflow = ((hidden > threshold) & (hidden >= last)) | (too_many & (last <= threshold))
        points = torch.gather(points, 1, order[..., None].expand(-1, -1, 2))
        labels = torch.where(best > 0, torch.gather(labels, 1, order), -1)
        valid = (best > threshold).long().sum(dim=1)
        flags = (
            FLAG_NMS_NOT_CONVERGED * unsettled.long()
            + FLAG_CANDIDATES_OVERFLOWED * overflow.long()
            + FLAG_NOT_FINITE * broken.long()
        )
        return points, best, labels, valid, flags

    def half_(self) -> PointLocalizerGraph:
        """Backbone and head compute in float16 from here on; decoding and coordinates do not."""
        self.model.backbone.half()
        self.model.head.half()
        self.trunk_dtype = torch.float16
        return self

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """(B, H, W, 3) uint8 BGR -> (B, 3, H, W) as the network takes it, of its type."""
        x = images.permute(0, 3, 1, 2)
        if self.flip_channels:
            x = torch.cat([x[:, 2:3], x[:, 1:2], x[:, 0:1]], dim=1)
        mean = self.model.pixel_mean.reshape(1, 3, 1, 1)
        std = self.model.pixel_std.reshape(1, 3, 1, 1)
        return ((x.float() - mean) / std).to(self.trunk_dtype)

    def _best_locations(
        self, scores: torch.Tensor, height: int, width: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The N locations with the best class score, in two steps.

        One top-k over all locations is slow on accelerators. Locations are dealt out to chunks by
        their place within blocks of 32 x 32 px, so that neighbours lie in different chunks; the
        best of each chunk meet in a second, small top-k.

        Returns location numbers (B, N) int64, float32 1 where there is one (grids may be smaller
        than N) else 0, and a bound (B,) of the scores that a full chunk could not pass on, or 0.
        """
        batch, count = scores.shape[0], self.pre_nms_topk
        cells = SIZE_MULTIPLE // self.model.stride
        rows, columns = height // SIZE_MULTIPLE, width // SIZE_MULTIPLE
        per_location = int(self.model.points_per_location)
        chunks = cells * cells * per_location
        from_chunk = min(count, math.ceil(CHUNK_ALLOWANCE * count / chunks))

        def deal(x: torch.Tensor) -> torch.Tensor:
            blocks = x.reshape(-1, rows, cells, columns, cells, per_location)
            return blocks.permute(0, 2, 4, 5, 1, 3).reshape(-1, chunks, rows * columns)

        best = deal(scores.amax(dim=-1))
        numbers = deal(torch.arange(scores.shape[1], device=scores.device)[None])
        # Small grids have fewer locations than are asked for: fill up with non-existing ones.
        best = torch.cat([best, best.new_full((batch, chunks, from_chunk), -torch.inf)], dim=2)
        numbers = torch.cat([numbers, numbers.new_zeros((1, chunks, from_chunk))], dim=2)
        passed, place = torch.topk(best, from_chunk, dim=2)
        numbers = torch.gather(numbers.expand(batch, -1, -1), 2, place)
        top, place = torch.topk(passed.reshape(batch, -1), count, dim=1)
        chosen = torch.gather(numbers.reshape(batch, -1), 1, place)
        # A chunk whose weakest passed location is better than the weakest of the N may hide more.
        weakest = passed[:, :, -1]
        hidden = torch.where(weakest > top[:, -1:], weakest, 0).amax(dim=1)
        return chosen, (top > -torch.inf).float(), hidden

    def _candidates(
        self, points: torch.Tensor, scores: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The M best (location, class) pairs: points (B, M, 2), scores (B, M), labels (B, M), and
        whether more than M are above the threshold."""
        passing = (scores > self.model.decode.score_thresh).long().sum(dim=(1, 2))
        pair_scores, pair = torch.topk(scores.flatten(1), self.max_candidates, dim=1)
        location = torch.div(pair, self.num_classes, rounding_mode="floor")
        points = torch.gather(points, 1, location[..., None].expand(-1, -1, 2))
        labels = pair - location * self.num_classes
        return points, pair_scores, labels, passing > self.max_candidates

    def _nms(self, points: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Greedy class-wise point NMS of sorted candidates as an unrolled fixed point.

        Returns keep (B, M) float32 0/1, and what the last round still changed (B, M) bool.
        """
        if self.model.decode.nms_rule == "none":
            keep = torch.ones_like(points[..., 0])
            return keep, torch.zeros_like(keep, dtype=torch.bool)
        conflict = points_conflict(points[:, :, None], points[:, None], **self.model.decode.nms)
        rank = torch.arange(self.max_candidates, device=points.device)
        conflict = conflict & (labels[:, :, None] == labels[:, None, :])
        suppresses = (conflict & (rank[:, None] < rank)).float()
        keep = previous = torch.ones_like(points[:, None, :, 0])
        for _ in range(self.nms_iterations):
            previous = keep
            keep = (torch.matmul(keep, suppresses) < 0.5).float()
        return keep[:, 0], (keep != previous)[:, 0]


def _not_finite(maps: torch.Tensor) -> torch.Tensor:
    """(B,) bool: is there a NaN or an infinity in (B, L, ...)? Both survive a sum."""
    total = maps.float().sum(dim=(1, 2))
    return (total - total) != 0
