"""Dividing a data set into a part to train on and a held-out part."""

from __future__ import annotations

import hashlib
import logging
from pathlib import PurePosixPath
from typing import Any

from cpr_deploy.files import InputError

from .point_json import is_ignored

logger = logging.getLogger(__name__)

# As `by`: the folder part of an image's file name.
FOLDER = "folder"


def split_dataset(
    dataset: dict[str, Any], *, val: float = 0.2, seed: int = 0, by: str | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divides the images of a point JSON, and the annotations with them.

    Images that belong together stay together: those of one file (tiles), or with `by` those of one
    sequence, since neighbouring frames of a video show the same objects. The choice depends on
    file names or sequences and the seed, not on the order of the images or on their ids.

    Args:
        dataset: a valid point JSON.
        val: share of the images to hold out, above 0 and below 1; met as nearly as whole groups
            allow, with at least one group on each side.
        seed: another seed, another choice.
        by: key of the image records that names the sequence, or "folder": the folder in
            `file_name`, if no image has a key of that name.

    Returns:
        the training part and the held-out part, point JSONs with the ids and the order of
        `dataset`.

    Raises:
        InputError: `val` is no share; an image without the key `by`; fewer than two groups.
    """
    if not 0 < val < 1:
        raise InputError(f"val {val}: give the share to hold out, above 0 and below 1.")
    groups: dict[str, list] = {}
    for image in dataset["images"]:
        groups.setdefault(_group(image, by), []).append(image["id"])
    if len(groups) < 2:
        what = "image file" if by is None else f"value of {by!r}"
        raise InputError(f"only one {what}: two are needed for two parts. Add images.")
    order = sorted(groups, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    held_out: set = set()
    wanted = val * len(dataset["images"])
    for index, name in enumerate(order[:-1]):
        # Take a group while that comes nearer to the wanted number.
        if index and abs(len(held_out) + len(groups[name]) - wanted) > abs(len(held_out) - wanted):
            break
        held_out |= set(groups[name])
    train = {image["id"] for image in dataset["images"]} - held_out
    parts = _part(dataset, train), _part(dataset, held_out)
    _warn_of_absent_classes(dataset, parts[0])
    return parts


def _group(image: dict[str, Any], by: str | None) -> str:
    if by is None:
        # Tiles that were cut to files name the image they are of.
        return image.get("full_file_name", image["file_name"])
    if by in image:
        return repr(image[by])
    if by == FOLDER:
        return str(PurePosixPath(image["file_name"]).parent)
    raise InputError(
        f"image id {image['id']!r}: has no key {by!r}, which names its sequence. Add it to the"
        f' image records, or use "{FOLDER}".'
    )


def _part(dataset: dict[str, Any], image_ids: set) -> dict[str, Any]:
    return {
        **dataset,
        "images": [image for image in dataset["images"] if image["id"] in image_ids],
        "annotations": [a for a in dataset["annotations"] if a["image_id"] in image_ids],
    }


def _warn_of_absent_classes(dataset: dict[str, Any], train: dict[str, Any]) -> None:
    found = {a["category_id"] for a in train["annotations"] if not is_ignored(a)}
    for category in dataset["categories"]:
        if category["id"] not in found:
            logger.warning("the training part has no %r; try another seed", category["name"])
