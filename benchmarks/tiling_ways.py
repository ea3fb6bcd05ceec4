"""Ways to find points in a picture, for compare_tiling.py: full frame, tiles, SAHI, boxes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cpr_deploy.files import InputError

if TYPE_CHECKING:
    from tiling_scenes import Scene

    from cpr_deploy.point_localizer import PointLocalizer
    from cpr_deploy.regions import RegionLocalizer

# A mosaic holds more objects than a frame, and a tile of it a part of them: so many candidates may
# enter NMS (which costs the square of them), and so many points may leave.
MOSAIC_CANDIDATES, MOSAIC_POINTS = 4000, 2000
TILE_CANDIDATES, TILE_POINTS = 2000, 1000


@dataclasses.dataclass(frozen=True)
class Found:
    """Boxes (n, 4) x1, y1, x2, y2, the points (n, 2) that they stand for, scores (n,); px.

    flags: as of `PointResult`.
    """

    boxes: np.ndarray
    points: np.ndarray
    scores: np.ndarray
    flags: int = 0


# Of a picture (height, width, 3) uint8 BGR.
Way = Callable[[np.ndarray], Found]


def input_scale(cfg: Any, name: str) -> float:
    """INPUT.SCALE of a config; InputError if it has none."""
    if cfg.INPUT.SCALE <= 0:
        raise InputError(
            f"{name}: INPUT.SCALE is 0, so the size of objects in the network depends on the"
            " picture's. Give a model trained with INPUT.SCALE."
        )
    return float(cfg.INPUT.SCALE)


def scene_options(cfg: Any, scene: Scene, *, in_tiles: bool = False) -> list[str]:
    """Config keys of a P2PNet for a scene, or its tiles: resize and NMS in the scene's px."""
    node = cfg.MODEL.P2PNET
    options = [
        *("INPUT.SCALE", str(cfg.INPUT.SCALE / scene.scale)),
        *("MODEL.P2PNET.NMS_SIZE", str(node.NMS_SIZE * scene.scale)),
        *("MODEL.P2PNET.NMS_RADIUS", str(node.NMS_RADIUS * scene.scale)),
    ]
    if scene.cells > 1:
        candidates = TILE_CANDIDATES if in_tiles else MOSAIC_CANDIDATES
        points = TILE_POINTS if in_tiles else MOSAIC_POINTS
        options += ["MODEL.P2PNET.PRE_NMS_TOPK", str(candidates)]
        options += ["MODEL.P2PNET.MAX_DETS", str(points)]
    return options


def localizer_way(localizer: PointLocalizer | RegionLocalizer, side: float) -> Way:
    """Points of a localizer, with boxes of `side` px around them."""

    def run(image: np.ndarray) -> Found:
        result = localizer([image])[0]
        points = result.points
        boxes = np.concatenate([points - side / 2, points + side / 2], axis=1)
        return Found(boxes, points, result.scores, result.flags)

    return run


def box_detector_way(config_file: str, weights: str, scene: Scene) -> Way:
    """Boxes of a detector that tools/train_net.py has trained, and their centres; eager."""
    import torch

    from cpr.engine import build_cfg
    from cpr.inference import load_model

    options = ["MODEL.DEVICE", "cpu"]
    if scene.cells > 1:
        options += ["TEST.DETECTIONS_PER_IMAGE", str(MOSAIC_POINTS)]
        options += ["MODEL.RETINANET.TOPK_CANDIDATES_TEST", str(MOSAIC_CANDIDATES)]
        options += ["MODEL.RPN.PRE_NMS_TOPK_TEST", str(MOSAIC_CANDIDATES)]
        options += ["MODEL.RPN.POST_NMS_TOPK_TEST", str(MOSAIC_POINTS)]
    cfg = build_cfg(config_file, options)
    factor = input_scale(cfg, config_file) / scene.scale
    model, _ = load_model(cfg, weights)

    def run(image: np.ndarray) -> Found:
        height, width = image.shape[:2]
        size = max(1, int(width * factor + 0.5)), max(1, int(height * factor + 0.5))
        if size != (width, height):
            resized = Image.fromarray(np.ascontiguousarray(image))
            image = np.asarray(resized.resize(size, Image.Resampling.BILINEAR))
        if cfg.INPUT.FORMAT == "RGB":
            image = image[..., ::-1]
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        with torch.inference_mode():
            found = model([{"image": pixels, "height": height, "width": width}])[0]["instances"]
        boxes = found.pred_boxes.tensor.numpy()
        return Found(boxes, (boxes[:, :2] + boxes[:, 2:]) / 2, found.scores.numpy())

    return run


def sahi_way(detect: Way, *, tile: int, overlap: int, threshold: float, **options: Any) -> Way:
    """SAHI's slicing around another way.

    threshold: the least score that `detect` gives; tile, overlap: px; options: of SAHI's
    `get_sliced_prediction`, without which it runs as it comes.
    """
    from sahi.models.base import DetectionModel
    from sahi.predict import get_sliced_prediction
    from sahi.prediction import ObjectPrediction

    class Wrapped(DetectionModel):
        def load_model(self) -> None:
            self.model = detect

        def perform_inference(self, image: np.ndarray) -> None:
            self._original_predictions = self.model(image)

        def _create_object_prediction_list_from_original_predictions(
            self, shift_amount_list=None, full_shape_list=None
        ) -> None:
            # One picture at a time; SAHI gives a pair alone or in a list.
            shift, shape = (
                None if pair is None else np.reshape(pair, 2).tolist()
                for pair in (shift_amount_list or [0, 0], full_shape_list)
            )
            found = self._original_predictions
            # SAHI cuts boxes at the left and top border of their tile, which moves their centres.
            # The name takes the point past that.
            names = [f"{x} {y}" for x, y in (found.points + shift).tolist()]
            self._object_prediction_list_per_image = [
                [
                    ObjectPrediction(
                        bbox=box,
                        category_id=0,
                        category_name=name,
                        score=score,
                        shift_amount=shift,
                        full_shape=shape,
                    )
                    for box, name, score in zip(
                        found.boxes.tolist(), names, found.scores.tolist(), strict=True
                    )
                ]
            ]

    # It says on each picture that a low threshold makes it choose NMS.
    logging.getLogger("sahi").setLevel(logging.ERROR)
    model = Wrapped(device="cpu", confidence_threshold=threshold)

    def run(image: np.ndarray) -> Found:
        found = get_sliced_prediction(
            image,
            model,
            slice_height=tile,
            slice_width=tile,
            overlap_height_ratio=overlap / tile,
            overlap_width_ratio=overlap / tile,
            verbose=0,
            **options,
        ).object_prediction_list
        boxes = np.array([item.bbox.to_xyxy() for item in found]).reshape(-1, 4)
        points = np.array([item.category.name.split() for item in found], float).reshape(-1, 2)
        return Found(boxes, points, np.array([item.score.value for item in found]))

    return run
