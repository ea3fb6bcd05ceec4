"""Cutting large images into overlapping tiles, for training and at test time.

All coordinates are continuous pixels (x right, y down, origin at the top-left corner of the image).
Rules and order of the tiles are those of the official code: training tiles of huicv's
`corner_dataset`, test tiles of its tiled test-time augmentation.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from cpr_deploy.point_nms import point_nms

# Official settings of box mode: a clipped object stays with this share of its area, an ignored one
# if anything of it is left.
MIN_AREA_RATIO = 0.3
MIN_AREA_RATIO_IGNORED = 1e-6
# Official setting of point mode: distance to each side of the tile, px.
MIN_POINT_MARGIN = 2.0


Corner = tuple[int, int, int, int]


def _check(tile: int, overlap: int) -> None:
    if tile <= 0 or not 0 <= overlap < tile:
        raise ValueError(f"tile {tile} and overlap {overlap}: 0 <= overlap < tile is needed")


def training_corners(width: int, height: int, *, tile: int, overlap: int) -> list[Corner]:
    """Corners (left, top, right, bottom) of the training tiles of an image, in image px.

    Tiles start every `tile - overlap` px while they start inside the image. The last ones are cut
    at the border and not shifted back, so they can be narrow. Columns first: x is the outer loop.
    """
    _check(tile, overlap)
    step = tile - overlap
    return [
        (left, top, min(left + tile, width), min(top + tile, height))
        for left in range(0, width, step)
        for top in range(0, height, step)
    ]


def training_tiles(
    image: dict[str, Any],
    annotations: Sequence[dict[str, Any]],
    *,
    tile: int,
    overlap: int,
    mode: str,
    min_area_ratio: float | None = None,
    min_side: float = 2.0,
    min_area: float = 4.0,
    first_image_id: int = 0,
    first_annotation_id: int = 0,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training tiles of one COCO image record and the annotations inside each of them.

    `image` needs `width` and `height`; its other keys are copied to every tile record, which gets a
    new `id`, its own `width` and `height` and `corner` [left, top, right, bottom] in image px.
    Annotations are copied with all their keys, new ids, and coordinates in tile px; an object in an
    overlap appears in several tiles.

    `mode` "bbox" keeps an object if `min_area_ratio` (0.3) of its box is inside the tile (ignored
    objects: any part), clips the box, and drops it if a side is at most `min_side` or the area at
    most `min_area`. `mode` "point" keeps an object if its `point` lies at least 2 px inside the
    tile on every side, and clips its boxes (`bbox`, `true_bbox`) to the tile; annotations without a
    point, which are regions, stay by the rule of "bbox". `area` is copied, not computed anew
    (official code).
    """
    if mode not in ("bbox", "point"):
        raise ValueError(f"mode {mode!r}: 'bbox' or 'point' is needed")
    ratio = MIN_AREA_RATIO if min_area_ratio is None else min_area_ratio
    corners = training_corners(image["width"], image["height"], tile=tile, overlap=overlap)
    tiles, kept = [], []
    new_id = itertools.count(first_annotation_id)
    for tile_id, corner in enumerate(corners, start=first_image_id):
        left, top, right, bottom = corner
        tiles.append(
            {
                **image,
                "id": tile_id,
                "corner": list(corner),
                "width": right - left,
                "height": bottom - top,
            }
        )
        for annotation in annotations:
            if mode == "point" and annotation.get("point") is not None:
                stays = _point_stays(annotation, corner)
            else:
                stays = _box_stays(annotation, corner, ratio, min_side, min_area)
            if stays:
                moved = _move(annotation, corner)
                kept.append({**moved, "id": next(new_id), "image_id": tile_id})
    return tiles, kept


def _clip_box(box: Sequence[float], corner: Corner) -> list[float]:
    """Box (x, y, w, h) in image px -> its part inside the tile, in tile px.

    As in the official code a box covers the pixels x to x + w - 1 and both ends are clamped to the
    pixels of the tile, so a box outside of it becomes one pixel wide at the nearest side.
    """
    left, top, right, bottom = corner
    x, y, w, h = box
    x1, x2 = (min(max(end, left), right - 1) for end in (x, x + w - 1))
    y1, y2 = (min(max(end, top), bottom - 1) for end in (y, y + h - 1))
    return [x1 - left, y1 - top, x2 - x1 + 1, y2 - y1 + 1]


def _move(annotation: dict[str, Any], corner: Corner) -> dict[str, Any]:
    """Copy of an annotation in tile px: points shifted, boxes and polygons clipped and shifted."""
    left, top, right, bottom = corner
    moved = dict(annotation)
    for key in ("point", "coarse_point"):
        if annotation.get(key) is not None:
            x, y = annotation[key]
            moved[key] = [x - left, y - top]
    for key in ("bbox", "true_bbox"):
        if annotation.get(key) is not None:
            moved[key] = _clip_box(annotation[key], corner)
    if isinstance(annotation.get("segmentation"), list):
        limits = np.array([[left, top], [right - 1, bottom - 1]])
        moved["segmentation"] = [
            (np.clip(np.reshape(polygon, (-1, 2)), *limits) - limits[0]).ravel().tolist()
            for polygon in annotation["segmentation"]
        ]
    return moved


def _box_stays(
    annotation: dict[str, Any],
    corner: Corner,
    min_area_ratio: float,
    min_side: float,
    min_area: float,
) -> bool:
    _, _, box_w, box_h = annotation["bbox"]
    _, _, w, h = _clip_box(annotation["bbox"], corner)
    # The ratio is one of distances between first and last pixels, as in the official code.
    full = (box_w - 1) * (box_h - 1)
    share = (w - 1) * (h - 1) / full if full else 0.0
    needed = MIN_AREA_RATIO_IGNORED if annotation.get("ignore") else min_area_ratio
    large = w > min_side and h > min_side and w * h > min_area
    return share >= max(needed, MIN_AREA_RATIO_IGNORED) and large


def _point_stays(annotation: dict[str, Any], corner: Corner) -> bool:
    left, top, right, bottom = corner
    x, y = annotation["point"][0] - left, annotation["point"][1] - top
    margin = MIN_POINT_MARGIN
    return margin <= x < right - left - margin and margin <= y < bottom - top - margin


def inference_tiles(
    width: int, height: int, *, tile: int, overlap: int
) -> tuple[np.ndarray, np.ndarray]:
    """Test tiles of an image: offsets (T, 2) x, y and sizes (T, 2) width, height; int64 image px.

    Every tile but the first of a row or column is shifted back into the image, so all are full
    size where the image is that large. Rows first: y is the outer loop.
    """
    _check(tile, overlap)

    def starts(size: int) -> list[int]:
        step = tile - overlap
        return [min(start, max(0, size - tile)) for start in range(0, max(1, size - overlap), step)]

    offsets = [(x, y) for y in starts(height) for x in starts(width)]
    sizes = [(min(tile, width - x), min(tile, height - y)) for x, y in offsets]
    return np.array(offsets, dtype=np.int64), np.array(sizes, dtype=np.int64)


def merge_tiles(
    offsets: np.ndarray,
    points: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    *,
    max_dets: int,
    rule: str,
    size: float = 0.0,
    iou: float = 0.0,
    radius: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of all tiles in image px after a second, class-wise point NMS (official tiled test).

    `offsets` (T, 2); per tile `points` (n, 2) in tile px, `scores` (n,), `labels` (n,).
    Returns points (m, 2), scores (m,), labels (m,), best first, m <= `max_dets`.
    """
    if len(points) == 0:
        return np.zeros((0, 2), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
    shifted = [
        np.asarray(p).reshape(-1, 2) + np.asarray(o) for p, o in zip(points, offsets, strict=True)
    ]
    all_points, all_scores, all_labels = map(np.concatenate, (shifted, scores, labels))
    keep = point_nms(
        all_points, all_scores, all_labels, rule=rule, size=size, iou=iou, radius=radius
    )[:max_dets]
    return all_points[keep], all_scores[keep], all_labels[keep]
