"""Boxes for Detectron2's box detectors: pseudo boxes around points, or true boxes."""

from __future__ import annotations

import math

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances

from cpr_deploy.files import InputError

from ..architectures import is_box_detector
from .dataset_mapper import PointDatasetMapper, is_inside, make_instances

# Detectron2's `filter_empty_instances`: clipped boxes with a side up to this (px) are dropped.
MIN_SIDE = 1e-5


def build_mapper(cfg: CfgNode, is_train: bool) -> PointDatasetMapper:
    """The mapper that the network of a config needs."""
    mapper = BoxDatasetMapper if is_box_detector(cfg) else PointDatasetMapper
    return mapper(cfg, is_train)


class BoxDatasetMapper(PointDatasetMapper):
    """As `PointDatasetMapper`, for detectors that learn boxes (pseudo-box baseline, Table 3).

    The instances also have gt_boxes, x1 y1 x2 y2 in px of the augmented image:
        of data sets "points:...", squares of MODEL.PSEUDO_BOX.SIZE (original px) around the points,
        moved along with the image. They are not clipped, because the point must stay the centre;
        objects whose point lies outside the augmented image are left out.
        of data sets "boxes:...", the true boxes, clipped to the augmented image, without those
        that lie outside of it, as in Detectron2's own mapper.
    gt_points are the centres of gt_boxes.

    Detectron2's detectors know no regions to ignore: to them `ignore_regions` are background.
    """

    @configurable
    def __init__(self, *, pseudo_box_size: float, **settings) -> None:
        super().__init__(**settings)
        self.pseudo_box_size = pseudo_box_size

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        size = cfg.MODEL.PSEUDO_BOX.SIZE
        if not (math.isfinite(size) and size > 0):
            raise InputError(f"MODEL.PSEUDO_BOX.SIZE is {size!r}; it must be above 0 px.")
        return {**super().from_config(cfg, is_train), "pseudo_box_size": size}

    def targets(
        self, annotations: list[dict], transforms: T.TransformList, size: tuple[int, int]
    ) -> Instances:
        annotations = [a for a in annotations if "bbox" in a or "point" in a]
        real = np.array(["bbox" in a for a in annotations], dtype=bool)
        boxes = np.array([self._box(a) for a in annotations], dtype=np.float64).reshape(-1, 4)
        boxes = transforms.apply_box(boxes).reshape(-1, 4)
        limits = np.array([size[1], size[0]] * 2)
        boxes[real] = boxes[real].clip(0, limits)
        points = (boxes[:, :2] + boxes[:, 2:]) / 2
        keep = np.where(
            real, (boxes[:, 2:] - boxes[:, :2] > MIN_SIDE).all(axis=1), is_inside(points, size)
        )
        instances = make_instances(annotations, points, keep, size)
        instances.gt_boxes = Boxes(torch.from_numpy(boxes[keep].astype(np.float32)))
        return instances

    def _box(self, annotation: dict) -> np.ndarray:
        """x1, y1, x2, y2 in original px."""
        if "bbox" in annotation:
            return annotation["bbox"]
        half = self.pseudo_box_size / 2
        return np.concatenate([annotation["point"] - half, annotation["point"] + half])
