"""What is wrong with a data set, record by record (`tools/prepare_points.py check`)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cpr_deploy.files import InputError, name_problem
from cpr_deploy.image_files import unreadable

from .point_json import (
    MAX_COORDINATE,
    Problem,
    Require,
    check_image_root,
    find_problems,
    image_path,
    is_ignored,
)

# Larger images are refused by Pillow as decompression bombs too; DOTA's largest have 100 MP.
MAX_IMAGE_PIXELS = 178_956_970


def check_dataset(
    dataset: Any,
    image_root: str | os.PathLike | None = None,
    *,
    require: Require = "any",
    same_place: float = 0.5,
    progress=lambda iterable: iterable,
) -> list[Problem]:
    """All problems of a parsed point JSON, and of its images if `image_root` is given.

    Args:
        dataset: the parsed JSON, of any shape.
        image_root: the folder of the images; None leaves them unread.
        require: what every object must have, see `cpr.data.point_json.load_points`.
        same_place: two objects of an image that are at most this far apart (px) are reported.
        progress: wraps the iterable of images, for example tqdm.

    Returns:
        Problems; `is_error` is False for what may well be meant, such as a class without objects.

    Raises:
        InputError: no such image folder, or `same_place` is no distance.
    """
    if not same_place >= 0:
        raise InputError(f"same_place {same_place}: give a distance of 0 px or more.")
    if image_root is not None:
        check_image_root(image_root)
    problems = list(find_problems(dataset, require=require))
    if not isinstance(dataset, dict) or any(
        not isinstance(dataset.get(key), list) for key in ("images", "annotations", "categories")
    ):
        return problems
    problems.extend(_box_outside(dataset))
    problems.extend(_same_place(dataset, same_place))
    if image_root is not None:
        usable = [
            image
            for image in dataset["images"]
            if isinstance(image, dict)
            and "id" in image
            and isinstance(image.get("file_name"), str)
            and not name_problem(image["file_name"])  # reported by find_problems
        ]
        problems.extend(_unreadable_images(progress(usable), image_root))
    return problems


def _objects(dataset: dict[str, Any]) -> Iterator[tuple[dict, np.ndarray]]:
    """The objects with a usable position: point, else the centre of the box."""
    for annotation in dataset["annotations"]:
        if not isinstance(annotation, dict) or is_ignored(annotation):
            continue
        try:
            if annotation.get("point") is not None:
                position = np.array(annotation["point"], dtype=np.float64).reshape(2)
            else:
                x, y, w, h = annotation["bbox"]
                position = np.array([x + w / 2, y + h / 2], dtype=np.float64)
        except (KeyError, TypeError, ValueError):
            continue  # reported by find_problems
        if (np.abs(position) <= MAX_COORDINATE).all():  # not so for NaN either
            yield annotation, position


def _box_outside(dataset: dict[str, Any]) -> Iterator[Problem]:
    sizes = {
        image["id"]: (image.get("width"), image.get("height"))
        for image in dataset["images"]
        if isinstance(image, dict) and isinstance(image.get("id"), (int, str))
    }
    for annotation in dataset["annotations"]:
        if not isinstance(annotation, dict) or annotation.get("bbox") is None:
            continue
        try:
            x, y, w, h = annotation["bbox"]
            width, height = sizes[annotation["image_id"]]
            outside = x >= width or y >= height or x + w <= 0 or y + h <= 0
            # COCO rounds corners: up to a pixel over the border is usual.
            over = min(x, y) < -1 or x + w > width + 1 or y + h > height + 1
        except (KeyError, TypeError, ValueError):
            continue  # reported by find_problems
        record = f"annotation id {annotation.get('id')!r}"
        if outside:
            yield Problem(
                record, f"bbox {annotation['bbox']!r} lies outside its image. Correct it."
            )
        elif over:
            text = f"bbox {annotation['bbox']!r} reaches out of its image by more than 1 px."
            yield Problem(record, text, is_error=False)


def _same_place(dataset: dict[str, Any], distance: float) -> Iterator[Problem]:
    from scipy.spatial import cKDTree

    by_image: dict[Any, list[tuple[dict, np.ndarray]]] = {}
    for annotation, position in _objects(dataset):
        if isinstance(annotation.get("image_id"), (int, str)):
            by_image.setdefault(annotation["image_id"], []).append((annotation, position))
    for image_id, objects in by_image.items():
        tree = cKDTree(np.stack([position for _, position in objects]))
        for i, j in sorted(tree.query_pairs(distance)):
            first, second = objects[i][0], objects[j][0]
            same_class = first.get("category_id") == second.get("category_id")
            what = (
                "is at the same place as another object of its class"
                if same_class
                else f"is at the same place as an object of another class "
                f"({first.get('category_id')!r} and {second.get('category_id')!r})"
            )
            yield Problem(
                f"annotation id {second.get('id')!r}",
                f"{what}, annotation id {first.get('id')!r} of image {image_id!r}. Remove one.",
            )


def _unreadable_images(images: Iterable[dict], image_root: str | os.PathLike) -> Iterator[Problem]:
    for image in images:
        record = f"image id {image['id']!r}"
        try:
            width, height = _decoded_size(image_path(image_root, image))
        except InputError as error:
            yield Problem(record, str(error).removeprefix(f"{record}: "))
            continue
        corner = image.get("corner")
        if corner is None and (width, height) != (image.get("width"), image.get("height")):
            yield Problem(
                record,
                f"{image['file_name']} is {width} x {height} px, the JSON says"
                f" {image.get('width')!r} x {image.get('height')!r}. Correct the JSON or the file.",
            )
        elif corner is not None and not _holds_tile(corner, width, height):
            yield Problem(
                record,
                f"{image['file_name']} is {width} x {height} px, its tile {corner!r} reaches out.",
            )


def _holds_tile(corner: Any, width: int, height: int) -> bool:
    try:
        left, top, right, bottom = corner
        return 0 <= left < right <= width and 0 <= top < bottom <= height
    except (TypeError, ValueError):
        return False


def _decoded_size(path: Path) -> tuple[int, int]:
    """Width and height after decoding all pixels, turned as the EXIF tag says."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise InputError(
                    f"{path}: {image.width} x {image.height} px is too large. Tile it."
                )
            image.load()
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return (image.height, image.width) if turned else image.size
    except InputError:
        raise
    except Exception as error:  # Pillow raises many types for damaged files
        raise InputError(
            f"{path}: {unreadable(error)} Copy it again or remove the record."
        ) from None
