"""What the records of a point JSON and of a detections JSON look like on their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cpr.data.point_json import is_ignored
from cpr.visualization.draw import crop_around, draw_layers, marker_radius

# Side of a crop around an object: this many times the longer side of what is drawn in it.
CROP_CONTEXT = 1.8
MIN_CROP = 24.0


def annotation_layers(annotations: Sequence[Mapping]) -> dict[str, np.ndarray]:
    """The arrays of `draw_layers` for annotations of one image, in original pixels.

    boxes (B, 4), clicks (C, 2), semantic (S, 2), refined (R, 2). An annotation with `coarse_point`
    was refined: its click is the coarse point, and `point` the refined one. Otherwise `point` is
    the click. Ignored and crowd annotations are left out.
    """
    boxes, clicks, semantic, refined = [], [], [], []
    for annotation in annotations:
        if is_ignored(annotation):
            continue
        if annotation.get("bbox") is not None:
            boxes.append(annotation["bbox"])
        if annotation.get("coarse_point") is not None:
            clicks.append(annotation["coarse_point"])
            if annotation.get("point") is not None:
                refined.append(annotation["point"])
        elif annotation.get("point") is not None:
            clicks.append(annotation["point"])
        semantic.extend(annotation.get("semantic_points") or [])
    return {
        "boxes": _array(boxes, 4),
        "clicks": _array(clicks, 2),
        "semantic": _array(semantic, 2),
        "refined": _array(refined, 2),
    }


def draw_annotations(
    image: np.ndarray, annotations: Sequence[Mapping], *, boxes: bool = True
) -> np.ndarray:
    """A copy of `image` (RGB) with boxes, clicks, semantic and refined points drawn on it."""
    layers = annotation_layers(annotations)
    if not boxes:
        del layers["boxes"]
    return draw_layers(image.copy(), **layers)


def draw_detections(
    image: np.ndarray,
    detections: Sequence[Mapping],
    labels: Mapping[int, int],
    *,
    annotations: Sequence[Mapping] = (),
) -> np.ndarray:
    """A copy of `image` (RGB) with detections (`category_id`, `point` or `bbox`) of that image.

    labels: category id -> contiguous label, which chooses the colour. The boxes of `annotations`
    are drawn below.
    """
    points = np.array([detection_point(d) for d in detections]).reshape(-1, 2)
    return draw_layers(
        image.copy(),
        boxes=annotation_layers(annotations)["boxes"],
        predicted=points,
        predicted_labels=[labels[d["category_id"]] for d in detections],
    )


def detection_point(detection: Mapping) -> tuple[float, float]:
    """The point (x, y) of a detection, or its box's centre, in original pixels."""
    if "point" in detection:
        return tuple(detection["point"])
    x, y, width, height = detection["bbox"]
    return x + width / 2, y + height / 2


def object_crop(
    image: np.ndarray,
    annotation: Mapping,
    *,
    output_size: int = 224,
    fit: Sequence[Mapping] = (),
) -> np.ndarray:
    """One object, enlarged, with its box, click, semantic points and refined point.

    fit: other records of the object for which there must be room too, so that crops of several of
    its records show the same cut.
    """
    layers = annotation_layers([annotation])
    shown = annotation_layers([annotation, *fit])
    corners = [shown[name] for name in ("clicks", "semantic", "refined")]
    corners += [shown["boxes"][:, :2], shown["boxes"][:, :2] + shown["boxes"][:, 2:]]
    corners = np.vstack(corners)
    if not len(corners):
        raise ValueError(f"annotation {annotation.get('id')} has neither a point nor a box")
    low, high = corners.min(axis=0), corners.max(axis=0)
    size = max(CROP_CONTEXT * float((high - low).max()), MIN_CROP)
    crop = crop_around(image, (low + high) / 2, size, output_size=output_size)
    moved = {name: crop.points(layers[name]) for name in ("clicks", "semantic", "refined")}
    canvas = crop.image.copy()
    radius = 1.5 * marker_radius(canvas)
    return draw_layers(canvas, boxes=crop.boxes(layers["boxes"]), radius=radius, **moved)


def _array(rows: list, width: int) -> np.ndarray:
    return np.array(rows, dtype=np.float64).reshape(-1, width)
