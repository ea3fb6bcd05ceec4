"""Pseudo boxes: boxes of a fixed size that stand for points.

The official code carries every click as a 16 x 16 box clipped to the image and keeps the real box
as `true_bbox`. Box detectors trained on points (Table 1 and 3) use such boxes too.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

OFFICIAL_SIZE = 16.0


def pseudo_boxes(
    points: np.ndarray,
    image_size: tuple[float, float],
    *,
    size: tuple[float, float] = (OFFICIAL_SIZE, OFFICIAL_SIZE),
    min_side: float = 2.0,
    min_area: float = 4.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of a fixed size around points, clipped to the image.

    Source: official code (the clipping of the published coarse files, official-size boxes).

    Args:
        points: (N, 2) x, y in continuous px of the image.
        image_size: width and height of the image in px.
        size: width and height of a box in px.
        min_side, min_area: a clipped box is dropped unless both sides are above `min_side` and its
            area is above `min_area`.

    Returns:
        boxes (N, 4) xywh float64, clipped, and kept (N,) bool, False for boxes to drop.
    """
    points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    half = np.asarray(size, dtype=np.float64) / 2
    top_left = np.maximum(points - half, 0.0)
    bottom_right = np.minimum(points + half, np.asarray(image_size, dtype=np.float64))
    sides = np.maximum(bottom_right - top_left, 0.0)
    kept = (sides > min_side).all(axis=1) & (sides.prod(axis=1) > min_area)
    return np.concatenate([top_left, sides], axis=1), kept


def add_pseudo_boxes(dataset: dict[str, Any], *, size: float = OFFICIAL_SIZE) -> dict[str, Any]:
    """A copy whose objects have a pseudo box around `point` as `bbox`, the old one as `true_bbox`.

    Annotations without a point (regions) stay as they are; objects whose clipped box is too small
    are dropped, as in the official code.
    """
    images = {image["id"]: image for image in dataset["images"]}
    annotations = []
    for annotation in dataset["annotations"]:
        annotation = copy.copy(annotation)
        annotations.append(annotation)
        if annotation.get("point") is None:
            continue
        image = images[annotation["image_id"]]
        boxes, kept = pseudo_boxes(
            np.array([annotation["point"]]), (image["width"], image["height"]), size=(size, size)
        )
        if not kept[0]:
            annotations.pop()
            continue
        if annotation.get("bbox") is not None:
            annotation["true_bbox"] = annotation["bbox"]
        annotation["bbox"] = boxes[0].tolist()
        annotation["area"] = float(boxes[0, 2] * boxes[0, 3])
    return {**dataset, "annotations": annotations}


def has_pseudo_boxes(dataset: dict[str, Any]) -> bool:
    """Whether this is one of the authors' coarse files: pseudo `bbox` beside `true_bbox`."""
    annotations = dataset.get("annotations")
    return isinstance(annotations, list) and any(
        isinstance(annotation, dict) and _is_box(annotation.get("true_bbox"))
        for annotation in annotations
    )


def from_pseudo_boxes(dataset: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Turns pseudo boxes back into points: `point` = the click, `bbox` = `true_bbox`.

    A given `point` is kept. Otherwise it is the centre of the pseudo box; where the box was
    clipped at the image border, the side that was not clipped tells where its centre had been.
    Points up to 1 px outside the image are moved onto its border, because the official mask
    sampler jitters by half a pixel around pixel indices.

    Returns:
        The converted copy, and the number of points taken from pseudo boxes.
    """
    images = {
        image["id"]: image
        for image in dataset.get("images", [])
        if isinstance(image, dict) and isinstance(image.get("id"), (int, str))
    }
    marked = [a for a in dataset["annotations"] if isinstance(a, dict) and "true_bbox" in a]
    boxes = np.array([a["bbox"] for a in marked if _is_box(a.get("bbox"))])
    # Most boxes are not clipped, so the most frequent side is the full side.
    size = _most_frequent(boxes[:, 2:].round(3).ravel()) if len(boxes) else OFFICIAL_SIZE
    converted, taken = [], 0
    for annotation in dataset["annotations"]:
        if isinstance(annotation, dict) and _is_box(annotation.get("true_bbox")):
            annotation = dict(annotation)
            image_id = annotation.get("image_id")
            image = images.get(image_id, {}) if isinstance(image_id, (int, str)) else {}
            limits = (image.get("width"), image.get("height"))
            if annotation.get("point") is None and _is_box(annotation.get("bbox")):
                box = annotation["bbox"]
                annotation["point"] = [
                    _unclipped_centre(box[axis], box[axis + 2], limits[axis], size)
                    for axis in range(2)
                ]
                taken += 1
            if _is_numbers(annotation.get("point"), 2):
                annotation["point"] = [
                    _onto_border(value, limit)
                    for value, limit in zip(annotation["point"], limits, strict=True)
                ]
            annotation["bbox"] = annotation.pop("true_bbox")
            if "area" in annotation:
                annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
        converted.append(annotation)
    return {**dataset, "annotations": converted}, taken


def _unclipped_centre(start: float, side: float, limit: float | None, size: float) -> float:
    end = start + side
    if side < size - 1e-3:
        if start <= 1e-3:
            return end - size / 2
        if _is_numbers([limit], 1) and end >= limit - 1e-3:
            return start + size / 2
    return start + side / 2


def _onto_border(value: float, limit: float | None) -> float:
    if -1 <= value < 0:
        return 0.0
    if _is_numbers([limit], 1) and limit < value <= limit + 1:
        return float(limit)
    return value


def _most_frequent(values: np.ndarray) -> float:
    """The most frequent number, the largest one of several."""
    unique, counts = np.unique(values, return_counts=True)
    return float(unique[counts == counts.max()].max())


def _is_box(value: Any) -> bool:
    return _is_numbers(value, 4)


def _is_numbers(value: Any, length: int) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == length
        and all(isinstance(number, (int, float)) and abs(number) < 1e300 for number in value)
    )
