"""The data set of an experiment: where it lies, and the part of it that is used."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cpr_deploy.files import InputError

from ..data.point_json import check_image_root, image_path, is_ignored, load_points

# Images whose clicks are refined during the training of CPRNet, for the RSV curve of Fig. 6.
CURVE_IMAGES = 100


@dataclass(frozen=True)
class ExperimentData:
    """COCO files of boxes for training and for the held-out part, with their image folders."""

    name: str
    train: Path
    val: Path
    train_images: Path
    val_images: Path


def find_data(name: str, root: Path | None = None) -> ExperimentData:
    """The data set called `name`.

    It is one of, in this order:
    a folder (a path, or below `root`, by default $DETECTRON2_DATASETS or ./datasets) with
    annotations/train.json, annotations/val.json and images/ (or images/train and images/val);
    a data set of which Detectron2 knows `name`_train and `name`_val as COCO files.

    Raises:
        InputError: there is no such data set; the text says what was looked for.
    """
    root = root or Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    for folder in (Path(name), root / name):
        annotations = folder / "annotations"
        if (annotations / "train.json").is_file() and (annotations / "val.json").is_file():
            images = folder / "images"
            split = (images / "train").is_dir() and (images / "val").is_dir()
            return ExperimentData(
                name=folder.resolve().name,
                train=annotations / "train.json",
                val=annotations / "val.json",
                train_images=images / "train" if split else images,
                val_images=images / "val" if split else images,
            )
    registered = _find_registered(name)
    if registered is not None:
        return registered
    raise InputError(
        f"{name!r}: no such data set. Give a folder with annotations/train.json,"
        f" annotations/val.json and images (looked at {Path(name)} and {root / name}; set"
        f" DETECTRON2_DATASETS to look elsewhere), or a name that Detectron2 knows as {name}_train"
        f" and {name}_val."
    )


def _find_registered(name: str) -> ExperimentData | None:
    from detectron2.data import DatasetCatalog, MetadataCatalog

    parts = []
    for part in ("train", "val"):
        if f"{name}_{part}" not in DatasetCatalog:
            return None
        metadata = MetadataCatalog.get(f"{name}_{part}")
        if not metadata.get("json_file") or not metadata.get("image_root"):
            raise InputError(
                f"{name}_{part}: is registered with Detectron2, but not as a COCO file. Register"
                " it with json_file and image_root (register_coco_instances does)."
            )
        parts.append((Path(metadata.json_file), Path(metadata.image_root)))
    (train, train_images), (val, val_images) = parts
    return ExperimentData(name, train, val, train_images, val_images)


def choose_classes(dataset: dict, classes: Sequence[str] = (), top: int | None = None) -> list[str]:
    """The names of the classes to use, in the order of their category ids.

    Args:
        dataset: the training part.
        classes: names to choose; empty: all.
        top: only so many of them, those with the most objects.

    Raises:
        InputError: a name that the data set does not have.
    """
    names = {c["id"]: c["name"] for c in dataset["categories"]}
    if top is not None and top < 1:
        raise InputError(f"--top-classes {top}: give 1 or more.")
    unknown = sorted(set(classes) - set(names.values()))
    if unknown:
        raise InputError(
            f"--classes {unknown[0]}: the data set has {', '.join(map(str, names.values()))}."
        )
    counts = Counter(names[a["category_id"]] for a in dataset["annotations"] if not is_ignored(a))
    chosen = [names[key] for key in sorted(names) if not classes or names[key] in classes]
    if top is not None:
        best = sorted(chosen, key=lambda name: (-counts[name], chosen.index(name)))[:top]
        chosen = [name for name in chosen if name in best]
    return chosen


def select(
    dataset: dict, *, classes: Sequence[str] | None = None, images: int | None = None
) -> dict:
    """A part of a data set.

    Args:
        dataset: COCO-like dict; not changed.
        classes: names of the classes to keep; objects of others are dropped (background).
        images: at most so many images, evenly spread over the ids; None: all. Images without
            objects count.
    """
    categories = [c for c in dataset["categories"] if classes is None or c["name"] in classes]
    category_ids = {c["id"] for c in categories}
    if images is not None and images < 1:
        raise InputError(f"--train-images {images}: give 1 or more.")
    # Numbers before texts, which cannot be compared with each other.
    chosen = sorted(dataset["images"], key=lambda i: (isinstance(i["id"], str), i["id"]))
    if images is not None and images < len(chosen):
        chosen = [chosen[i * len(chosen) // images] for i in range(images)]
    image_ids = {image["id"] for image in chosen}
    return {
        **dataset,
        "images": chosen,
        "categories": categories,
        "annotations": [
            a
            for a in dataset["annotations"]
            if a["image_id"] in image_ids and a["category_id"] in category_ids
        ],
    }


def load_boxes(path: Path) -> dict:
    """A COCO file whose objects all have a box; experiments simulate clicks and score with them."""
    return load_points(path, require="box", drop_flat=True)


def check_parts(data: ExperimentData, train: dict, val: dict) -> None:
    """InputError if the held-out part has other classes, or an image of either part is missing."""
    classes = [
        sorted((category["id"], category["name"]) for category in part["categories"])
        for part in (train, val)
    ]
    if classes[0] != classes[1]:
        raise InputError(
            f"{data.val}: its categories differ from those of {data.train}. Give both files the"
            " same list of category ids and names."
        )
    for part, folder in ((train, data.train_images), (val, data.val_images)):
        check_image_root(folder)
        for image in part["images"]:
            image_path(folder, image)


def has_masks(dataset: dict) -> bool:
    """Whether objects have segmentations, so that clicks fall on the object itself."""
    return any(a.get("segmentation") for a in dataset["annotations"] if not is_ignored(a))
