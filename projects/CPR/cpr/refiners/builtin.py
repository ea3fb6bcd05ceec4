"""The refiners of Table 1: none, self-refinement, CPR.

What is heavy is imported when a refiner is built, so that `tools/refine_points.py --help` can name
them all at once.
"""

from __future__ import annotations

import os
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from .registry import REFINER, Refiner
from .self_refinement import assign_and_average

if TYPE_CHECKING:
    from detectron2.config import CfgNode


@REFINER.register("none")
class NoRefiner(Refiner):
    """Leaves every click where it is."""

    needs_network = False

    def refine(self, dataset: dict, images: list[dict]) -> list[dict]:
        return [_unmoved(annotation) for image in images for annotation in image["annotations"]]


@REFINER.register("cpr")
class CPRRefiner(Refiner):
    """A trained CPRNet, Algorithm 2; settings: MODEL.CPRNET.REFINE."""

    def __init__(
        self, cfg: CfgNode, weights: str | os.PathLike = "", *, semantic_points: bool = False
    ) -> None:
        from ..inference import load_model

        super().__init__(cfg, weights, semantic_points=semantic_points)
        self.model, self.trained = load_model(cfg, weights, architecture="CPRNet")

    def refine(self, dataset: dict, images: list[dict]) -> list[dict]:
        from .. import inference

        return inference.refine(self.model, self.cfg, images, semantic_points=self.semantic_points)


@REFINER.register("self")
class SelfRefiner(Refiner):
    """Self-refinement by any localizer trained on the clicks; settings: TEST.SELF_REFINE.

    The localizer may be P2PNet or a box detector (the paper's: RepPoints on pseudo boxes), whose
    points are its box centres. See `self_refinement.assign_and_average`.
    """

    def __init__(
        self, cfg: CfgNode, weights: str | os.PathLike = "", *, semantic_points: bool = False
    ) -> None:
        from ..architectures import check_localizer
        from ..inference import load_model

        super().__init__(cfg, weights, semantic_points=semantic_points)
        check_localizer(cfg)
        _check_settings(cfg)
        self.model, self.trained = load_model(cfg, weights)

    def refine(self, dataset: dict, images: list[dict]) -> list[dict]:
        from .. import inference

        images = [image for image in images if image["annotations"]]
        # With its contiguous classes in place of the category ids.
        labels = list(range(len(dataset["categories"])))
        predicted = defaultdict(list)
        for detection in inference.predict(self.model, self.cfg, images, labels):
            if detection["score"] > self.cfg.TEST.SELF_REFINE.SCORE_THRESH:
                predicted[detection["image_id"]].append(detection)
        return [
            record
            for image in images
            for record in self._refine_image(image, predicted[image["image_id"]])
        ]

    def _refine_image(self, image: dict, detections: list[dict]) -> list[dict]:
        objects = image["annotations"]
        settings = self.cfg.TEST.SELF_REFINE
        points = np.array([d["point"] for d in detections], dtype=np.float64).reshape(-1, 2)
        # They have come back from the network's px, which rounding may take beyond the border.
        points = points.clip(0, [image["width"], image["height"]])
        result = assign_and_average(
            np.array([a["point"] for a in objects]),
            np.array([a["category_id"] for a in objects]),
            points,
            np.array([d["category_id"] for d in detections], dtype=np.int64),
            np.array([d["score"] for d in detections]),
            topk=settings.TOPK,
            max_distance=settings.MAX_DISTANCE * self.cfg.MODEL.PSEUDO_BOX.SIZE,
        )
        records = []
        for annotation, point, score, refined, kept in zip(objects, *result, strict=True):
            record = _unmoved(annotation)
            record |= {"point": point.tolist(), "score": float(score), "refined": bool(refined)}
            if self.semantic_points:
                record["semantic_points"] = points[kept]
            records.append(record)
        return records


def _unmoved(annotation: dict) -> dict:
    """The record of an object that keeps its click."""
    click = [float(value) for value in annotation["point"]]
    return {
        "id": annotation["id"],
        "coarse_point": click,
        "point": click,
        "score": 0.0,
        "refined": False,
    }


def _check_settings(cfg: CfgNode) -> None:
    from ..modeling.require import require

    settings = cfg.TEST.SELF_REFINE
    for key, good, need in (
        ("TOPK", settings.TOPK >= 1, "at least 1"),
        ("MAX_DISTANCE", settings.MAX_DISTANCE > 0, "above 0"),
        ("SCORE_THRESH", 0 <= settings.SCORE_THRESH < 1, "at least 0 and below 1"),
    ):
        require(good, f"TEST.SELF_REFINE.{key}", settings[key], need)
