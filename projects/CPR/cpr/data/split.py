"""Dividing a data set into parts: to train on, to choose settings with, held out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from cpr_deploy.files import InputError

from .point_json import is_ignored

logger = logging.getLogger(__name__)

# As `by`: the folder part of an image's file name, or every image file for itself.
FOLDER = "folder"
IMAGE = "image"
# The key by which `frames` says of which video an image is.
SEQUENCE = "sequence"
# Training, validation and test part, as in SeaPerson.
RATIO = (10.0, 1.0, 10.0)
# Orders that are tried for the one whose parts come nearest to the ratio.
_TRIALS = 64


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
            `file_name`, or "image": the file itself, if no image has a key of that name. None: the
            file itself, or `sequence` if the images have it.

    Returns:
        the training part and the held-out part, point JSONs with the ids and the order of
        `dataset`.

    Raises:
        InputError: `val` is no share; an image without the key `by`; fewer than two groups.
    """
    if not 0 < val < 1:
        raise InputError(f"val {val}: give the share to hold out, above 0 and below 1.")
    groups = _groups(dataset, by, parts=2)
    order = _order(groups, seed)
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


def split_by_ratio(
    dataset: dict[str, Any],
    ratio: Sequence[float] = RATIO,
    *,
    seed: int = 0,
    by: str | None = None,
) -> list[dict[str, Any]]:
    """Divides a point JSON into as many parts as `ratio` has numbers, as `split_dataset` does.

    Args:
        dataset, seed, by: see `split_dataset`.
        ratio: how the images are to be shared, the training part first; met as nearly as whole
            groups allow, with at least one group in each part.

    Returns:
        the parts, point JSONs with the ids and the order of `dataset`.

    Raises:
        InputError: no such ratio; an image without the key `by`; fewer groups than parts.
    """
    ratio = [float(share) for share in ratio]
    if len(ratio) < 2 or not all(0 < share < float("inf") for share in ratio):
        text = ":".join(f"{share:g}" for share in ratio)
        raise InputError(f"ratio {text}: give two or more numbers above 0, such as 10:1:10.")
    wanted = [share / sum(ratio) * len(dataset["images"]) for share in ratio]
    groups = _groups(dataset, by, parts=len(ratio))
    sizes = {name: len(ids) for name, ids in groups.items()}
    trials = (_fill(_order(groups, f"{seed}.{n}"), sizes, wanted) for n in range(_TRIALS))

    def off(parts: list[list[str]]) -> float:
        numbers = [sum(sizes[name] for name in names) for names in parts]
        # Rounded, so that of equally good ones the first is taken.
        return round(sum(abs(a - b) for a, b in zip(numbers, wanted, strict=True)), 6)

    result = [
        _part(dataset, {image_id for name in names for image_id in groups[name]})
        for names in min(trials, key=off)
    ]
    _warn_of_absent_classes(dataset, result[0])
    return result


def _fill(order: list[str], sizes: dict[str, int], wanted: Sequence[float]) -> list[list[str]]:
    """Each group, in order, to the part that lacks most; the last ones to parts without any."""
    parts: list[list[str]] = [[] for _ in wanted]
    lacking = list(wanted)
    for place, name in enumerate(order):
        empty = [part for part in range(len(parts)) if not parts[part]]
        candidates = empty if len(order) - place <= len(empty) else range(len(parts))
        part = max(candidates, key=lambda part: lacking[part])
        parts[part].append(name)
        lacking[part] -= sizes[name]
    return parts


def sequence_key(dataset: dict[str, Any]) -> str | None:
    """`sequence` if the images say of which one they are; else None.

    Raises:
        InputError: some images have that key, and some have not.
    """
    without = [image for image in dataset["images"] if SEQUENCE not in image]
    if len(without) == len(dataset["images"]):
        return None
    if without:
        raise InputError(
            f"image id {without[0]['id']!r}: has no {SEQUENCE!r}, others have. Add it, or say by"
            f" which key images belong together, or {FOLDER!r}, or {IMAGE!r}: each for itself."
        )
    return SEQUENCE


def _groups(dataset: dict[str, Any], by: str | None, *, parts: int) -> dict[str, list]:
    """The image ids of each group; InputError if there are fewer groups than parts."""
    if by is None and sequence_key(dataset):
        by = SEQUENCE
        logger.info("images with the same %r stay in one part", by)
    by = by or IMAGE
    groups: dict[str, list] = {}
    for image in dataset["images"]:
        groups.setdefault(group_of(image, by), []).append(image["id"])
    if len(groups) < parts:
        what = "different image files" if by == IMAGE else f"different values of {by!r}"
        hint = (
            ""
            if by == IMAGE
            else f', or divide by "{IMAGE}" (--by-sequence): all parts then show the same'
        )
        raise InputError(f"{len(groups)} {what}: too few for {parts} parts. Add images{hint}.")
    return groups


def _order(groups: dict[str, list], seed: int | str) -> list[str]:
    """The groups in an order that the seed decides."""
    return sorted(groups, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())


def group_of(image: dict[str, Any], by: str) -> str:
    """The group of an image: its value of the key `by`, or what "folder" and "image" mean.

    Raises:
        InputError: it has no such key.
    """
    if by in image:
        return repr(image[by])
    if by == IMAGE:
        # Tiles that were cut to files name the image they are of.
        return image.get("full_file_name", image["file_name"])
    if by == FOLDER:
        return str(PurePosixPath(image["file_name"]).parent)
    raise InputError(
        f"image id {image['id']!r}: has no key {by!r}, which names its sequence. Add it to the"
        f' image records, or use "{FOLDER}" or "{IMAGE}".'
    )


def _part(dataset: dict[str, Any], image_ids: set) -> dict[str, Any]:
    return {
        **dataset,
        "images": [image for image in dataset["images"] if image["id"] in image_ids],
        "annotations": [a for a in dataset["annotations"] if a["image_id"] in image_ids],
    }


def _warn_of_absent_classes(dataset: dict[str, Any], train: dict[str, Any]) -> None:
    found = {a["category_id"] for a in train["annotations"] if not is_ignored(a)}
    if not dataset["annotations"]:
        return  # not annotated yet
    for category in dataset["categories"]:
        if category["id"] not in found:
            logger.warning("the training part has no %r; try another seed", category["name"])
