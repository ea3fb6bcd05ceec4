"""From tiles back to full images: refined points by id, detections by point NMS."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cpr_deploy.files import InputError
from cpr_deploy.point_nms import point_nms
from cpr_deploy.tiling import Corner

from .records import tile_corner
from .tiles import POINTS, position_of

logger = logging.getLogger(__name__)

# What a tile says in its own px, or about itself.
OF_THE_TILE = {*POINTS, "semantic_points", "bbox", "area", "segmentation", "id", "image_id"}
OF_THE_TILE |= {"full_id"}


def untile_points(full: dict[str, Any], tiles: dict[str, Any]) -> dict[str, Any]:
    """The full images with what was found, refined or reviewed in their tiles.

    Args:
        full: the point JSON that the tiles were made from; not changed.
        tiles: what became of the result of `tiles.tile_dataset`, for example with refined points.
            Records may be missing. Of an object with several copies the one counts that
            lies most centrally in its tile.

    Returns:
        `full` with the points of the tiles, and their keys other than boxes and masks, by id.
        Annotations that are in no tile stay as they are.

    Raises:
        InputError: `tiles` are not tiles of `full`.
    """
    places = _places(full, tiles)
    categories = {category["id"] for category in full["categories"]}
    best: dict[int, tuple[tuple[bool, float], dict]] = {}
    for annotation in tiles["annotations"]:
        if annotation["category_id"] not in categories:
            raise InputError(
                f"annotation id {annotation['id']} of the tiles: the full images have no category"
                f" {annotation['category_id']!r}. Give the same classes in both files."
            )
        full_id = annotation.get("full_id", annotation["id"])
        if not isinstance(full_id, int):
            raise InputError(
                f"annotation id {annotation['id']} of the tiles: full_id {full_id!r} is not a whole"
                " number. Tile again."
            )
        # Only the tile that an object belongs to keeps its id.
        rank = ("full_id" not in annotation, places[annotation["image_id"]].depth(annotation))
        if full_id not in best or rank > best[full_id][0]:
            best[full_id] = rank, annotation
    annotations = []
    taken = len(best)
    for annotation in full["annotations"]:
        _, found = best.pop(annotation["id"], (None, None))
        if found is not None:
            annotation = _back(annotation, found, places[found["image_id"]])
        annotations.append(annotation)
    for full_id, (_, found) in best.items():
        raise InputError(
            f"annotation id {found['id']} of the tiles: the full images have no annotation"
            f" {full_id!r}. Give the annotation file that these tiles were made from."
        )
    logger.info("%d of %d annotations are those of the tiles", taken, len(annotations))
    if taken < len(annotations):
        logger.warning(
            "%d annotations are in no tile and stay as they were, also if they were removed there",
            len(annotations) - taken,
        )
    return {**full, "annotations": annotations}


@dataclass(frozen=True)
class _Place:
    """Where a tile lies."""

    full_id: int | str
    corner: Corner  # left, top, right, bottom in px of the full image
    full_size: tuple[int, int]  # width, height

    def depth(self, annotation: dict[str, Any]) -> float:
        """How far an object is from the nearest side of the tile that cuts the full image, px."""
        return self.distance(annotation.get("coarse_point") or position_of(annotation))

    def distance(self, point: Iterable[float]) -> float:
        """As `depth`, of a point (x, y) in px of the tile."""
        distances = [math.inf]
        for axis, value in enumerate(point):
            low, high = self.corner[axis], self.corner[axis + 2]
            if low > 0:
                distances.append(value)
            if high < self.full_size[axis]:
                distances.append(high - low - value)
        return min(distances)


def _places(full: dict[str, Any], tiles: dict[str, Any]) -> dict[Any, _Place]:
    """By the id of a tile."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in full["images"]}
    places = {}
    for image in tiles["images"]:
        full_id, corner = image.get("full_image_id"), tile_corner(image)
        record = f"image id {image['id']!r} of the tiles"
        if not isinstance(full_id, (int, str)) or corner is None:
            raise InputError(
                f"{record}: has no full_image_id and corner. Give a file that"
                " `tools/prepare_points.py tile` wrote, or what was made from it."
            )
        if full_id not in sizes or corner[2] > sizes[full_id][0] or corner[3] > sizes[full_id][1]:
            raise InputError(
                f"{record}: is no part of an image {full_id!r} of the full images. Give the"
                " annotation file that these tiles were made from."
            )
        places[image["id"]] = _Place(full_id, corner, sizes[full_id])
    return places


def _back(annotation: dict[str, Any], found: dict[str, Any], place: _Place) -> dict[str, Any]:
    """The annotation of a full image with what `found`, its record in a tile, says."""
    left, top = place.corner[:2]
    result = {**annotation, **{k: v for k, v in found.items() if k not in OF_THE_TILE}}
    for key in POINTS:
        point, before = found.get(key), annotation.get(key)
        if point is None:
            continue
        # What was not moved keeps its numbers to the last digit.
        if before is None or [before[0] - left, before[1] - top] != list(point):
            result[key] = [point[0] + left, point[1] + top]
    if found.get("semantic_points"):
        try:
            result["semantic_points"] = [[x + left, y + top] for x, y in found["semantic_points"]]
        except (TypeError, ValueError):
            raise InputError(
                f"annotation id {found['id']} of the tiles: semantic_points is no list of points."
                " Correct or remove it."
            ) from None
    return result


def untile_detections(
    full: dict[str, Any],
    tiles: dict[str, Any],
    detections: Iterable[dict[str, Any]],
    *,
    size: float = 16.0,
    iou: float = 0.2,
    radius: float | None = None,
    max_dets: int = 1000,
    margin: float = 0.0,
) -> list[dict[str, Any]]:
    """Detections of tiles as detections of full images; what several tiles saw counts once.

    Source: the official tiled test, a second point NMS over all tiles of an image, class by class.

    Args:
        full: the point JSON of the full images.
        tiles: that of the tiles.
        detections: of the tiles: image_id, category_id, score, point [x, y] or bbox in px of the
            tile.
        size, iou: pseudo boxes of that side (px) whose IoU is above `iou` are one detection
            (official: SeaPerson 16 and 0.2, DOTA 32 and 0.2).
        radius: if given, detections closer than this (px) are one, instead.
        max_dets: so many of an image are kept, over all classes.
        margin: a detection nearer than this (px) to a side that cuts the image is left to the
            neighbouring tile; at most half of the overlap. 0: none, as in the official code.

    Returns:
        detections with the ids of the full images, each with `point`, by image, best first.

    Raises:
        InputError: `tiles` are not tiles of `full`, or a setting is not usable.
    """
    usable = 0 < size < math.inf and 0 <= iou < 1 and 0 <= margin < math.inf and max_dets >= 1
    if not (usable and (radius is None or 0 < radius < math.inf)):
        raise InputError(
            f"size {size}, IoU {iou}, radius {radius}, margin {margin}, max_dets {max_dets}: give"
            " sizes in px above 0, an IoU from 0 to below 1, and at least 1 point of an image."
        )
    places = _places(full, tiles)
    by_image: dict[Any, list[dict]] = {image["id"]: [] for image in full["images"]}
    for detection in detections:
        place = places[detection["image_id"]]
        left, top = place.corner[:2]
        moved = {**detection, "image_id": place.full_id}
        point = detection.get("point")
        if detection.get("bbox") is not None:
            x, y, w, h = detection["bbox"]
            moved["bbox"] = [x + left, y + top, w, h]
            point = point or [x + w / 2, y + h / 2]
        if margin > 0 and place.distance(point) < margin:
            continue
        moved["point"] = [point[0] + left, point[1] + top]
        by_image[place.full_id].append(moved)

    nms = {"rule": "pseudo_box", "size": size, "iou": iou}
    if radius is not None:
        nms = {"rule": "radius", "radius": radius}
    merged = []
    for found in by_image.values():
        if not found:
            continue
        points = np.array([d["point"] for d in found], dtype=np.float64)
        scores = np.array([d["score"] for d in found], dtype=np.float64)
        labels = np.array([d["category_id"] for d in found])
        merged += [found[i] for i in point_nms(points, scores, labels, **nms)[:max_dets]]
    return merged
