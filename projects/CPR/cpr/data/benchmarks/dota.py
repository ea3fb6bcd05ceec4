"""DOTA in the paper's form: upright boxes around quadrilaterals, clicks in them, tiles 1024/200.

An object keeps its quadrilateral as `segmentation`, so clicks fall inside it, and
`prepare_points.py coarse` and the experiments draw theirs there too. Boxes are clipped to the
image. `difficult` objects become regions (`ignore`): no click, masked out in training, neither
hit nor false alarm in evaluation.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cpr_deploy.files import InputError, check_output_folder

from ..dota_text import Quadrilateral, horizontal_box, polygon_area, read_quadrilaterals
from ..image_folder import list_images
from ..point_json import MIN_BOX_SIDE, Problem
from .layout import Options, Prepared, Split, find_source, link_images, write_tiled

logger = logging.getLogger(__name__)

TILE, OVERLAP = 1024, 200
V1_0 = (
    *("plane", "ship", "storage-tank", "baseball-diamond", "tennis-court", "basketball-court"),
    *("ground-track-field", "harbor", "bridge", "large-vehicle", "small-vehicle", "helicopter"),
    *("roundabout", "soccer-ball-field", "swimming-pool"),
)
# In the order of the data set's own page.
CLASSES = {
    "1.0": V1_0,
    "1.5": (*V1_0, "container-crane"),
    "2.0": (*V1_0, "container-crane", "airport", "helipad"),
}


def _layout(labels: str) -> dict[str, tuple[str, str]]:
    return {s: (f"{s}/{labels}", f"{s}/images") for s in ("train", "val", "test")}


def _layouts(version: str) -> dict[str, dict[str, tuple[str, str]]]:
    names = (f"labelTxt-v{version}/labelTxt", f"labelTxt-v{version}", "labelTxt")
    return {name: _layout(name) for name in names}


def prepare(source: Path, output: Path, options: Options, *, version: str = "1.0") -> Prepared:
    """Writes the layout of `cpr.data.benchmarks` in tiles.

    Args:
        source: folder with train and val, each with images and labelTxt (also as
            labelTxt-v1.0/labelTxt). A test folder is used if it has labels.
        output: the benchmark's folder.
        options: see there.
        version: "1.0", "1.5" or "2.0": the classes that there are.

    Raises:
        InputError: naming file, line and fix.
    """
    if version not in CLASSES:
        raise InputError(f"version {version!r}: use one of {', '.join(CLASSES)}.")
    parts = find_source(source, _layouts(version))
    check_output_folder(output, [source])
    prepared = Prepared()
    if not options.cut:
        link_images({split: folder for split, (_, folder) in parts.items()}, output)

    def splits() -> Iterator[Split]:
        for split, (labels, images) in parts.items():
            dataset = read_labels(
                images, labels, CLASSES[version], prepared, skip_bad=options.skip_bad
            )
            yield Split(split, dataset, images)

    write_tiled(splits(), output, options, prepared, click_source="mask")
    return prepared


def read_labels(
    images: Path,
    labels: Path,
    classes: tuple[str, ...],
    prepared: Prepared,
    *,
    skip_bad: bool = False,
) -> dict[str, Any]:
    """The images of a folder and their labelTxt files as a COCO-like dict.

    Args:
        images: folder of the images.
        labels: folder of the label files, named as the images but for ".txt".
        classes: their category ids are 1, 2, ... in this order. Case, spaces and underscores do not
            count.
        prepared: takes what is left out.
        skip_bad: leave out bad lines, images that cannot be read or have no label file; else the
            first raises InputError. Flat quadrilaterals are always left out, with a warning.
    """
    ids = {name: number for number, name in enumerate(classes, start=1)}
    problems: list[Problem] = []
    records, annotations, flat = [], [], []
    for image in list_images(images, skipped=problems if skip_bad else None):
        path = labels / Path(image["file_name"]).with_suffix(".txt")
        try:
            found = list(read_quadrilaterals(path))
        except InputError as error:
            if not skip_bad:
                raise InputError(f"{error} An image without objects needs an empty file.") from None
            problems.append(Problem(image["file_name"], str(error)))
            continue
        records.append(image)
        for item in found:
            record = f"{path}: {item.record}"
            made = item
            if isinstance(item, Quadrilateral):
                made = _annotation(item, image, ids)
            if made is None:
                flat.append(record)
            elif isinstance(made, dict):
                annotations.append({"id": len(annotations) + 1, **made})
            elif skip_bad:
                problems.append(Problem(record, made.text))
            else:
                raise InputError(f"{record}: {made.text}")
    if flat:
        logger.warning("left out %d objects without any area, the first one %s", len(flat), flat[0])
    prepared.skipped += problems
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {"images": records, "annotations": annotations, "categories": categories}


def _annotation(
    item: Quadrilateral, image: dict[str, Any], ids: dict[str, int]
) -> dict[str, Any] | Problem | None:
    """The record without its id; None if the quadrilateral is flat."""
    name = item.label.lower().replace(" ", "-").replace("_", "-")
    if name not in ids:
        return Problem(
            item.record,
            f"the class {item.label!r} is none of {', '.join(ids)}. Correct it, or give the"
            " version of DOTA.",
        )
    xs, ys = zip(*item.corners, strict=True)
    if min(max(xs) - min(xs), max(ys) - min(ys)) < MIN_BOX_SIDE:
        return None
    box = horizontal_box(item.corners, image["width"], image["height"])
    if box is None or min(box[2:]) < MIN_BOX_SIDE:
        return Problem(
            item.record,
            f"the object lies outside its image of {image['width']} x {image['height']} px."
            " Correct or remove the line.",
        )
    return {
        "image_id": image["id"],
        "category_id": ids[name],
        "bbox": box,
        "segmentation": [[value for corner in item.corners for value in corner]],
        "area": polygon_area(item.corners),
        "iscrowd": 0,
        "ignore": int(item.difficult),
    }
