"""An existing data set without the images that show nearly the same as another."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from cpr_deploy.files import InputError

from ..image_folder import list_images
from ..point_json import Problem, check_image_root
from ..split import FOLDER, SEQUENCE, group_of, sequence_key
from ..tiling.records import is_tiled
from .near_duplicates import THRESHOLD, check_threshold, find_near_duplicates, hash_images


class Deduplicated(NamedTuple):
    """dataset: what is kept. dropped: {file_name, sequence, duplicate_of (a file name), distance
    (bits), annotations (how many went with it)} of each dropped image. skipped: images that could
    not be read; they are kept."""

    dataset: dict[str, Any]
    dropped: list[dict[str, Any]]
    skipped: list[Problem]


def dataset_of_folder(
    image_root: str | os.PathLike,
    classes: Sequence[str] = (),
    *,
    skipped: list[Problem] | None = None,
) -> dict[str, Any]:
    """A point JSON, without annotations, of all images in a folder and below.

    If there are folders in it, each is a `sequence`. skipped: see `list_images`.
    """
    images = list_images(image_root, skipped=skipped)
    if any("/" in record["file_name"] for record in images):
        for record in images:
            record[SEQUENCE] = str(PurePosixPath(record["file_name"]).parent)
    categories = [{"id": index, "name": name} for index, name in enumerate(classes, 1)]
    return {"images": images, "annotations": [], "categories": categories}


def deduplicate(
    dataset: dict[str, Any],
    image_root: str | os.PathLike,
    *,
    threshold: int = THRESHOLD,
    across: bool = False,
    by: str | None = None,
    resume: bool = False,
    workers: int | None = None,
    skip_bad: bool = False,
    progress: Callable[..., Iterable] = lambda iterable, total: iterable,
) -> Deduplicated:
    """Drops images, and their annotations, that are near-duplicates of one that is kept.

    An image is compared with the last one that was kept of its sequence, in the order of the key
    `frame` or else of the file names (img2 before img10).

    Args:
        dataset: a valid point JSON of full images.
        image_root: the folder of the images.
        threshold: images at most so many bits apart are near-duplicates, see near_duplicates.
        across: compare also with all images that were kept before of other sequences.
        by: key of the image records that names the sequence, or "folder"; None: `sequence` if the
            images have it, else the folder.
        resume: do not read again what an earlier pass has found good, see `cpr.data.file_notes`.
        workers: threads; None: one a CPU.
        skip_bad: keep images that cannot be read and note them, instead of stopping.
        progress: wraps the iterable of files, for example tqdm; called with `total`.

    Raises:
        InputError: an image cannot be read; the data set is of tiles; an image without `by`.
    """
    check_threshold(threshold)
    check_image_root(image_root)
    if is_tiled(dataset):
        raise InputError(
            "holds tiles, and one tile of water looks like another. Deduplicate the full images,"
            " then tile."
        )
    by = by or sequence_key(dataset) or FOLDER
    groups = {image["id"]: group_of(image, by) for image in dataset["images"]}
    images = sorted(dataset["images"], key=lambda image: (groups[image["id"]], *_time(image)))
    hashes, problems = hash_images(
        image_root, images, resume=resume, workers=workers, progress=progress
    )
    if problems and not skip_bad:
        first = next(iter(problems.values()))
        raise InputError(f"{first.record}: {first.text}")
    good = [place for place in range(len(images)) if place not in problems]
    of, distances = find_near_duplicates(
        hashes[good], [groups[images[i]["id"]] for i in good], threshold, across=across
    )
    counts: dict[Any, int] = {}
    for annotation in dataset["annotations"]:
        counts[annotation["image_id"]] = counts.get(annotation["image_id"], 0) + 1
    dropped, gone = [], set()
    for place, (kept, distance) in enumerate(zip(of.tolist(), distances.tolist(), strict=True)):
        if kept == place:
            continue
        image = images[good[place]]
        gone.add(image["id"])
        dropped.append(
            {
                "file_name": image["file_name"],
                "sequence": image.get(by, groups[image["id"]]),
                "duplicate_of": images[good[kept]]["file_name"],
                "distance": distance,
                "annotations": counts.get(image["id"], 0),
            }
        )
    result = {
        **dataset,
        "images": [image for image in dataset["images"] if image["id"] not in gone],
        "annotations": [a for a in dataset["annotations"] if a["image_id"] not in gone],
    }
    return Deduplicated(result, dropped, list(problems.values()))


def _time(image: dict[str, Any]) -> tuple:
    """Sorts the images of a sequence: by frame, else by name with numbers as numbers."""
    frame = image.get("frame")
    if isinstance(frame, (int, float)):
        return (0, frame, [])
    parts = re.split(r"(\d+)", image["file_name"])
    return (1, 0, [(int(part), "") if part.isdecimal() else (-1, part) for part in parts])
