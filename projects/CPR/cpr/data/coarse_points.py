"""Simulated clicks: points drawn from the rectified Gaussian RG(p; 0, sigma) of Eq. 11.

Every annotation has a random stream of its own, a hash of (seed, annotation id, draw), so a click
does not depend on the order of the annotations, on other annotations, or on the number of workers.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from cpr_deploy.files import InputError

from .point_json import is_ignored

logger = logging.getLogger(__name__)

SOURCES = ("mask", "box", "center")
# What pycocotools is given to work on: beyond this it would take all memory, or crash.
MAX_MASK_PIXELS = 1 << 29
MAX_OUTLINE = 1e7  # px, of all polygons of a mask


def uniforms(ids: np.ndarray, seed: int, count: int) -> np.ndarray:
    """Counter-based random numbers (splitmix64): (N, count) in (0, 1), one row per id."""
    ids = np.atleast_1d(np.asarray(ids)).astype(np.int64).astype(np.uint64)
    gamma = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        stream = _mix(_mix(np.array([seed % 2**64], dtype=np.uint64) + gamma) ^ _mix(ids + gamma))
        draws = np.arange(1, count + 1, dtype=np.uint64) * gamma
        bits = _mix(stream[:, None] + draws)
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _mix(value: np.ndarray) -> np.ndarray:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def sample_in_box(
    boxes: np.ndarray, ids: np.ndarray, *, sigma: float = 0.25, seed: int = 0
) -> np.ndarray:
    """One click per box: the centre plus a truncated normal in [-0.5, 0.5) of the sides.

    Source: Eq. 11 with the box as mask; the official sampler.

    Args:
        boxes: (N, 4) xywh in continuous px.
        ids: (N,) whole numbers, the streams (annotation ids).
        sigma: standard deviation before truncation, in units of the box's sides; 0 = the centre.
        seed: the seed of all streams.

    Returns:
        (N, 2) x, y in continuous px, inside the boxes.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    draws = uniforms(ids, seed, 2)
    if len(draws) != len(boxes):
        raise ValueError(f"{len(boxes)} boxes but {len(draws)} ids")
    offsets = truncated_normal(draws, sigma)
    corner, sides = boxes[:, :2], boxes[:, 2:]
    return np.clip(corner + (offsets + 0.5) * sides, corner, corner + sides)


def truncated_normal(uniform: np.ndarray, sigma: float) -> np.ndarray:
    """Maps uniform numbers in (0, 1) to a normal (0, sigma) truncated to [-0.5, 0.5)."""
    if not (np.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"sigma must be a finite number >= 0, not {sigma}")
    if sigma == 0:
        return np.zeros_like(uniform)
    low, high = ndtr(-0.5 / sigma), ndtr(0.5 / sigma)
    values = ndtri(low + uniform * (high - low)) * sigma
    return np.clip(values, -0.5, np.nextafter(0.5, 0))


def mask_probabilities(mask: np.ndarray, sigma: float | Sequence[float] = 0.25) -> np.ndarray:
    """Probability of each pixel of a box-sized mask to be clicked (Eq. 11, official code).

    Args:
        mask: (h, w) bool, on the pixel grid of the object's box.
        sigma: standard deviation in units of the box's sides, one number or (x, y).

    Returns:
        (h, w) float64, summing to 1; all zero if no pixel of the mask has a weight.
    """
    mask = np.asarray(mask, dtype=bool)
    sigma_x, sigma_y = np.broadcast_to(np.asarray(sigma, dtype=np.float64), (2,))
    weights = np.outer(_axis_weights(mask.shape[0], sigma_y), _axis_weights(mask.shape[1], sigma_x))
    weights = weights * mask
    total = weights.sum()
    return weights / total if total > 0 else weights


def _axis_weights(length: int, sigma: float) -> np.ndarray:
    """Gaussian weights of the pixels along a side; a side of one pixel is its own centre."""
    if not (np.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma must be a finite number > 0 for masks, not {sigma}")
    if length == 1:
        return np.ones(1)
    normalised = np.arange(length) / (length - 1) - 0.5
    return np.exp(-0.5 * (normalised / sigma) ** 2)


def sample_in_mask(
    mask: np.ndarray,
    ids: np.ndarray,
    *,
    sigma: float | Sequence[float] = 0.25,
    seed: int = 0,
) -> np.ndarray | None:
    """Clicks inside one mask: a pixel by inverse CDF, then uniform inside that pixel.

    Args:
        mask: (h, w) bool, on the pixel grid of the object's box.
        ids: (N,) streams, one click each.
        sigma, seed: see `mask_probabilities` and `sample_in_box`.

    Returns:
        (N, 2) x, y in continuous px from the mask's top-left corner (pixel i spans [i, i + 1)), or
        None if the mask is empty.
    """
    cumulative = mask_probabilities(mask, sigma).ravel().cumsum()
    if cumulative.size == 0 or cumulative[-1] <= 0:
        return None
    draws = uniforms(ids, seed, 3)
    # Scaled by the sum itself, so that rounding can never choose a pixel behind the last one.
    pixels = np.searchsorted(cumulative, draws[:, 0] * cumulative[-1], side="right")
    rows, columns = np.divmod(pixels, mask.shape[1])
    return np.stack([columns, rows], axis=1) + draws[:, 1:]


def add_coarse_points(
    dataset: dict[str, Any],
    *,
    source: str = "mask",
    sigma: float = 0.25,
    seed: int = 0,
    progress=lambda iterable: iterable,
) -> dict[str, Any]:
    """A copy of the data set in which every object has a simulated click as `point`.

    Args:
        dataset: COCO-like dict with boxes, and masks where there are some.
        source: "mask": from the mask, or from the box of a record without one; "box": from the
            box; "center": the box's centre.
        sigma: of Eq. 11, in units of the box's sides.
        seed: the seed; the click of an annotation depends on it, its id, its box or mask alone.
        progress: wraps the list of objects whose masks are drawn from, for example tqdm.

    Returns:
        The copy. Regions (`ignore`, `iscrowd`) keep what they have. How many clicks came from what
        is logged and noted under "coarse_points". Clicks are moved into the image where a box
        reaches out of it.

    Raises:
        InputError: there is no object, one has neither box nor mask, or sigma is not usable.
    """
    if source not in SOURCES:
        raise InputError(f"source {source!r}: choose one of {', '.join(SOURCES)}.")
    if not (np.isfinite(sigma) and sigma > 0):
        raise InputError(f"sigma {sigma!r}: give a finite number above 0 (the paper: 0.25).")
    annotations = [dict(annotation) for annotation in dataset["annotations"]]
    objects = [annotation for annotation in annotations if not is_ignored(annotation)]
    if not objects:
        raise InputError("the data set holds no object to click: add annotations.")
    images = {image["id"]: image for image in dataset["images"]}
    boxes = np.array([_box_of(annotation, images) for annotation in objects]).reshape(-1, 4)
    ids = np.array([annotation["id"] for annotation in objects], dtype=np.int64)

    if source == "center":
        points = boxes[:, :2] + boxes[:, 2:] / 2
    else:
        points = sample_in_box(boxes, ids, sigma=sigma, seed=seed)
    used = Counter({"center" if source == "center" else "box": len(objects)})
    if source == "mask":
        for index, annotation in enumerate(progress(objects)):
            point = _click_in_mask(annotation, boxes[index], images, sigma, seed)
            if point is not None:
                points[index] = point
                used.update(mask=1, box=-1)

    sizes = np.array([_image_size(images[a["image_id"]]) for a in objects]).reshape(-1, 2)
    inside = np.clip(points, 0.0, sizes)
    moved = int((inside != points).any(axis=1).sum())
    counts = {name: count for name, count in sorted(used.items()) if count}
    logger.info(
        "clicks: %s; %d moved onto the image border; %d regions got none",
        ", ".join(f"{count} from {name}" for name, count in counts.items()) or "none",
        moved,
        len(annotations) - len(objects),
    )
    for annotation, point in zip(objects, inside.tolist(), strict=True):
        annotation["point"] = point
    settings = {"source": source, "sigma": sigma, "seed": seed, "counts": counts}
    return {**dataset, "annotations": annotations, "coarse_points": settings}


def _image_size(image: dict[str, Any]) -> tuple[float, float]:
    return image["width"], image["height"]


def _box_of(annotation: dict[str, Any], images: dict[Any, dict]) -> list[float]:
    """The xywh box of an annotation; from its mask if it has no box."""
    if annotation.get("bbox") is not None:
        return annotation["bbox"]
    if annotation.get("segmentation"):
        from pycocotools import mask as coco_mask

        box = coco_mask.toBbox(_encoded_mask(annotation, images, origin=(0, 0), size=None))
        if box[2] > 0 and box[3] > 0:
            return box.tolist()
    raise InputError(
        f"annotation id {annotation['id']}: has neither bbox nor a mask to draw a click from. Add"
        " one, or click it by hand."
    )


def _click_in_mask(
    annotation: dict[str, Any],
    box: np.ndarray,
    images: dict[Any, dict],
    sigma: float,
    seed: int,
) -> np.ndarray | None:
    """A click in continuous image px, or None if the record has no usable mask."""
    if not annotation.get("segmentation"):
        return None
    mask, corner = _mask_on_box(annotation, box, images)
    points = sample_in_mask(mask, [annotation["id"]], sigma=sigma, seed=seed)
    if points is None:
        return None
    # A box with broken sides ends inside its last pixel.
    return np.clip(corner + points[0], box[:2], box[:2] + box[2:])


def _mask_on_box(
    annotation: dict[str, Any], box: np.ndarray, images: dict[Any, dict]
) -> tuple[np.ndarray, np.ndarray]:
    """The mask on the pixel grid of the box: (h, w) bool and the grid's corner (x, y)."""
    if isinstance(annotation["segmentation"], dict):
        # A run-length mask lies on the image's own grid.
        corner = np.floor(np.maximum(box[:2], 0))
        columns, rows = np.maximum(np.ceil(box[:2] + box[2:]) - corner, 1).astype(int)
        x, y = corner.astype(int)
        full = _decoded_mask(annotation, images, origin=(0, 0), size=None)
        return full[y : y + rows, x : x + columns].astype(bool), corner
    # A polygon is drawn on a grid that starts at the box's corner, as the official code does.
    columns, rows = np.maximum(np.ceil(box[2:]), 1).astype(int)
    mask = _decoded_mask(annotation, images, origin=tuple(box[:2]), size=(rows, columns))
    return mask.astype(bool), box[:2]


def _decoded_mask(annotation: dict[str, Any], images: dict[Any, dict], **grid: Any) -> np.ndarray:
    """The segmentation as (rows, columns) uint8; `grid` as for `_encoded_mask`."""
    from pycocotools import mask as coco_mask

    try:
        return coco_mask.decode(_encoded_mask(annotation, images, **grid))
    except InputError:
        raise
    except ValueError as error:  # run lengths that do not add up to the mask's size
        raise _bad_segmentation(annotation, error) from None


def _bad_segmentation(annotation: dict[str, Any], error: Exception) -> InputError:
    return InputError(
        f"annotation id {annotation['id']}: the segmentation is not a COCO polygon or run-length"
        f" mask ({error}). Correct or remove it, or use --source box."
    )


def _encoded_mask(
    annotation: dict[str, Any],
    images: dict[Any, dict],
    *,
    origin: tuple[float, float],
    size: tuple[int, int] | None,
) -> dict[str, Any]:
    """The segmentation as one compressed run-length mask of `size` (rows, columns)."""
    from pycocotools import mask as coco_mask

    segmentation = annotation["segmentation"]
    image = images[annotation["image_id"]]
    rows, columns = (int(n) for n in size or (image["height"], image["width"]))
    try:
        if rows * columns > MAX_MASK_PIXELS:
            raise ValueError(f"a mask of {columns} x {rows} px is too large")
        if isinstance(segmentation, dict):
            if list(segmentation["size"]) != [image["height"], image["width"]]:
                raise ValueError(f"its size {segmentation['size']} is not the image's")
            if isinstance(segmentation["counts"], list):
                segmentation = coco_mask.frPyObjects(segmentation, rows, columns)
            return segmentation
        polygons = [
            (np.asarray(polygon, dtype=np.float64).reshape(-1, 2) - origin).ravel().tolist()
            for polygon in segmentation
        ]
        if (
            any(len(polygon) < 6 for polygon in polygons)
            or not np.isfinite(sum(polygons, [])).all()
        ):
            raise ValueError("a polygon needs three points of finite numbers")
        if sum(_outline(polygon) for polygon in polygons) > MAX_OUTLINE:
            raise ValueError("its outline is longer than any in an image")
        return coco_mask.merge(coco_mask.frPyObjects(polygons, rows, columns))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise _bad_segmentation(annotation, error) from None


def _outline(polygon: list[float]) -> float:
    """About the length of a polygon [x, y, x, y, ...], px."""
    corners = np.reshape(polygon, (-1, 2))
    return float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())
