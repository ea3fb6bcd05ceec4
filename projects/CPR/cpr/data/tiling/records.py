"""Image records that are tiles of a larger image: what they say, and how they are read.

A tile has `width` and `height` of its own and

    corner: [left, top, right, bottom] px of the full image, which is to be read from its file, or
    cut_corner: the same of a tile that has a file of its own;
    full_image_id: the id of the full image, if it is known;
    core: [left, top, right, bottom] px of the tile, outside of which nothing is to be learned.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cpr_deploy.files import InputError
from cpr_deploy.tiling import Corner


def is_tiled(dataset: dict[str, Any]) -> bool:
    """Whether any image is a part of a larger one."""
    keys = ("corner", "full_image_id")
    return any(image.get(key) is not None for image in dataset["images"] for key in keys)


def tile_corner(image: dict[str, Any]) -> Corner | None:
    """Left, top, right, bottom of a tile in px of its full image; None if it is no tile.

    Raises:
        InputError: the record's corner is not that of a tile of the record's size.
    """
    corner = image.get("corner")
    if corner is None:
        corner = image.get("cut_corner")
    if corner is None:
        return None
    try:
        left, top, right, bottom = whole = tuple(int(value) for value in corner)
        size = right - left, bottom - top
        if (
            whole == tuple(corner)
            and min(left, top) >= 0
            and size == (image["width"], image["height"])
        ):
            return whole
    except (TypeError, ValueError, OverflowError):
        pass
    raise InputError(
        f"image id {image['id']!r}: corner {corner!r} is not [left, top, right, bottom] of a tile"
        f" of {image['width']} x {image['height']} px. Correct the record, or tile again."
    )


def outside_core(image: dict[str, Any]) -> list[tuple[float, float, float, float]]:
    """What of an image is not to be learned: x1, y1, x2, y2 in its px; nothing without a `core`.

    Raises:
        InputError: the record's core is no rectangle inside it.
    """
    core = image.get("core")
    if core is None:
        return []
    width, height = image["width"], image["height"]
    try:
        left, top, right, bottom = (float(value) for value in core)
    except (TypeError, ValueError, OverflowError):
        left = math.nan
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise InputError(
            f"image id {image['id']!r}: core {core!r} is not [left, top, right, bottom] inside"
            f" {width} x {height} px. Correct the record, or tile again."
        )
    strips = [
        (0.0, 0.0, left, float(height)),
        (right, 0.0, float(width), float(height)),
        (left, 0.0, right, top),
        (left, bottom, right, float(height)),
    ]
    return [strip for strip in strips if strip[0] < strip[2] and strip[1] < strip[3]]


def crop_tile(name: str, image: np.ndarray, corner: Corner) -> np.ndarray:
    """The part of an image (H, W, ...) that is the tile at `corner`, (h, w, ...), a view.

    Raises:
        InputError: about `name`, if the tile does not lie inside the image.
    """
    left, top, right, bottom = corner
    height, width = image.shape[:2]
    if right > width or bottom > height:
        raise InputError(
            f"{name}: the image is {width}x{height} (width x height), its tile {list(corner)}"
            " reaches out. Use the image that was annotated, or tile again."
        )
    return image[top:bottom, left:right]
