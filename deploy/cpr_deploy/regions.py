"""A localizer on a part of each frame, or on tiles of it, for pictures too large or too fine."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from cpr_deploy.files import InputError
from cpr_deploy.latency import LatencyRecorder
from cpr_deploy.point_localizer import PointLocalizer, PointResult
from cpr_deploy.tiling import inference_tiles, merge_tiles


@dataclasses.dataclass(frozen=True)
class Region:
    """A rectangle, whole px of the frame; its part inside the frame counts."""

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self):
        if min(self.x, self.y) < 0 or min(self.width, self.height) < 1:
            raise InputError(
                f"--roi {self.x},{self.y},{self.width},{self.height}: x and y from 0 and a width"
                " and height above 0 are needed."
            )

    def cut(self, image: np.ndarray) -> np.ndarray:
        """The view of the rectangle; InputError if it lies outside of the frame."""
        part = image[self.y : self.y + self.height, self.x : self.x + self.width]
        if not part.size:
            height, width = image.shape[:2]
            raise InputError(
                f"--roi {self.x},{self.y},{self.width},{self.height}: lies outside of a frame of"
                f" {width}x{height} px. Give a rectangle inside of it."
            )
        return part


class RegionLocalizer:
    """Calls like `PointLocalizer`; points are in px of the whole frame.

    roi: search there only. tile, overlap (px): cut the frame, or the region, into tiles which run
    in batches; what two of them found is merged by the point NMS of the model.
    """

    def __init__(
        self,
        localizer: PointLocalizer,
        *,
        roi: Region | None = None,
        tile: int | None = None,
        overlap: int = 0,
    ):
        if tile is not None and not 0 <= overlap < tile:
            raise InputError(f"--tile {tile} --overlap {overlap}: 0 <= overlap < tile is needed.")
        self._localizer = localizer
        self._roi = roi
        self._tile = tile
        self._overlap = overlap
        self.class_names = localizer.class_names

    def __call__(
        self, images: Sequence[np.ndarray], *, latency: LatencyRecorder | None = None
    ) -> list[PointResult]:
        """Points of each image; all of one size run in batches together."""
        parts, offsets, counts = [], [], []
        for image in images:
            corner = np.zeros(2, np.int64)
            if self._roi is not None:
                image = self._roi.cut(image)
                corner = np.array([self._roi.x, self._roi.y])
            tiles, places = self._cut(image)
            parts += tiles
            offsets.append(places + corner)
            counts.append(len(tiles))
        found = self._localizer(parts, latency=latency)
        results, start = [], 0
        for image, places, count in zip(images, offsets, counts, strict=True):
            results.append(self._merge(found[start : start + count], places, image.shape[:2]))
            start += count
        return results

    def _cut(self, image: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        if self._tile is None:
            return [image], np.zeros((1, 2), np.int64)
        height, width = image.shape[:2]
        corners, sizes = inference_tiles(width, height, tile=self._tile, overlap=self._overlap)
        tiles = [image[y : y + h, x : x + w] for (x, y), (w, h) in zip(corners, sizes, strict=True)]
        return tiles, corners

    def _merge(
        self, found: list[PointResult], offsets: np.ndarray, frame: tuple[int, int]
    ) -> PointResult:
        flags = int(np.bitwise_or.reduce([result.flags for result in found]))
        if len(found) == 1:
            points = found[0].points + offsets.astype(np.float32)
            return PointResult(points, found[0].scores, found[0].labels, flags)
        spec = self._localizer.spec
        # A model without NMS sees an object near a seam once in each tile all the same.
        seams_only = spec.nms_rule == "none"
        points, scores, labels = merge_tiles(
            offsets,
            [result.points for result in found],
            [result.scores for result in found],
            [result.labels for result in found],
            max_dets=spec.max_dets,
            rule="radius" if seams_only else spec.nms_rule,
            size=spec.nms_size,
            iou=spec.nms_iou,
            radius=spec.stride if seams_only else spec.nms_radius,
        )
        points = np.minimum(points, [frame[1], frame[0]]).astype(np.float32)
        return PointResult(points, scores, labels, flags)
