"""SeaPerson and TinyPerson in the paper's form: one class, flags, tiles 640/100, clicks in boxes.

Of the flags of an annotation, `ignore`, `uncertain` and `logo` make it a region: no click, masked
out in training, neither hit nor false alarm in evaluation. Images with `in_dense_image` (more
people than could be labelled one by one) are no part of the benchmark. People in the sea and on
land are one class.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cpr_deploy.files import InputError, check_output_folder

from ..point_json import image_path
from .layout import Options, Prepared, Split, find_source, link_images, read_split, write_tiled

logger = logging.getLogger(__name__)

LAYOUTS = {
    "SeaPerson": {
        "train": ("anns/release/rgb_train.json", "imgs"),
        "val": ("anns/release/rgb_valid.json", "imgs"),
        "test": ("anns/release/rgb_test.json", "imgs"),
    },
    # TinyPerson is divided in two.
    "TinyPerson": {
        "train": ("annotations/tiny_set_train.json", "train"),
        "val": ("annotations/tiny_set_test.json", "test"),
    },
    "annotations and images": {
        "train": ("annotations/train.json", "images"),
        "val": ("annotations/val.json", "images"),
        "test": ("annotations/test.json", "images"),
    },
}
IGNORED = ("ignore", "uncertain", "logo")
DENSE = "in_dense_image"
DENSE_CHOICES = ("drop", "ignore", "keep")
PERSON = [{"id": 1, "name": "person"}]


def prepare(
    source: Path,
    output: Path,
    options: Options,
    *,
    coarse: Path | None = None,
    dense: str = "drop",
    one_class: bool = True,
) -> Prepared:
    """Writes the layout of `cpr.data.benchmarks` in tiles.

    Args:
        source: the unpacked data set: anns/release and imgs, or TinyPerson's annotations, train
            and test, or annotations/{train,val}.json and images.
        output: the benchmark's folder.
        options: see there.
        coarse: one of the authors' files of clicks, on tiles or on full images, instead of
            simulated clicks.
        dense, one_class: see `apply_flags`.

    Raises:
        InputError: naming file, record and fix.
    """
    parts = find_source(source, LAYOUTS)
    check_output_folder(output, [source])
    prepared = Prepared()
    folders = {split: images for split, (_, images) in parts.items()}
    if not options.cut:
        link_images(folders, output)

    def read(path: Path, require: str, may_be_empty: bool = False) -> dict[str, Any]:
        dataset = read_split(
            path,
            prepared,
            skip_bad=options.skip_bad,
            require=require,
            may_be_empty=may_be_empty,
        )
        try:
            return apply_flags(dataset, dense=dense, one_class=one_class)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def splits() -> Iterator[Split]:
        for split, (path, images) in parts.items():
            yield Split(split, read(path, "box", may_be_empty=split == "test"), images)

    clicks = None
    if coarse is not None:
        clicks = (coarse, read(coarse, "point"))
        _check_images(coarse, clicks[1], folders["train"])
    write_tiled(splits(), output, options, prepared, click_source="box", coarse=clicks)
    return prepared


def _check_images(path: Path, dataset: dict[str, Any], image_root: Path) -> None:
    """InputError if the file of clicks is of other images, such as tiles that have files."""
    for image in {image["file_name"]: image for image in dataset["images"]}.values():
        try:
            image_path(image_root, image)
        except InputError as error:
            raise InputError(f"{path}: {error} The clicks must be on images of --source.") from None


def apply_flags(
    dataset: dict[str, Any], *, dense: str = "drop", one_class: bool = True
) -> dict[str, Any]:
    """A copy in which the flags of the data set have become regions.

    Segmentations, which are the boxes once more in these sets, are left out.

    Args:
        dataset: a valid point JSON with the data set's own flags; not changed, its flags are kept.
        dense: images with `in_dense_image`: "drop" them (the benchmark), make all their boxes
            regions ("ignore"), or "keep" them as any other.
        one_class: make all classes one, `person`.

    Raises:
        InputError: a flag that is neither true nor false.
    """
    if dense not in DENSE_CHOICES:
        raise InputError(f"dense {dense!r}: use one of {', '.join(DENSE_CHOICES)}.")
    for annotation in dataset["annotations"]:
        for key in (*IGNORED, DENSE):
            if annotation.get(key, 0) not in (0, 1):  # False == 0 and True == 1
                raise InputError(
                    f"annotation id {annotation['id']}: {key} {annotation[key]!r} is not 0, 1,"
                    " true or false. Correct the flag."
                )
    flagged = {a["image_id"] for a in dataset["annotations"] if a.get(DENSE)}
    # By file: a tile of such an image may hold none of its boxes.
    files = {image["file_name"] for image in dataset["images"] if image["id"] in flagged}
    crowded = {image["id"] for image in dataset["images"] if image["file_name"] in files}
    images, annotations = dataset["images"], []
    if dense == "drop":
        images = [image for image in images if image["id"] not in crowded]
    for annotation in dataset["annotations"]:
        in_crowd = annotation["image_id"] in crowded
        if in_crowd and dense == "drop":
            continue
        changed = dict(annotation)
        changed.pop("segmentation", None)
        if any(annotation.get(key) for key in IGNORED) or (in_crowd and dense == "ignore"):
            changed["ignore"] = 1
        if one_class:
            changed["category_id"] = PERSON[0]["id"]
        annotations.append(changed)
    regions = sum(bool(annotation.get("ignore")) for annotation in annotations)
    logger.info(
        "%d images with too many people to label (%s); %d of %d annotations are regions",
        len(files),
        {"drop": "left out", "ignore": "regions", "keep": "kept"}[dense],
        regions,
        len(annotations),
    )
    categories = [dict(c) for c in PERSON] if one_class else dataset["categories"]
    return {**dataset, "images": images, "annotations": annotations, "categories": categories}
