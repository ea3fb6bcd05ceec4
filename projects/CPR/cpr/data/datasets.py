"""Point JSON files as Detectron2 data sets.

A data set needs no code: "points:annotations.json@images" in DATASETS.TRAIN or DATASETS.TEST names
a point JSON and its image folder (relative paths start at the working directory).
"""

from __future__ import annotations

import functools
import logging
import os

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from cpr_deploy.files import InputError

from .point_json import (
    category_index,
    check_image_root,
    find_problems,
    image_path,
    is_ignored,
    load_points,
)

logger = logging.getLogger(__name__)

PREFIX = "points:"


def parse_spec(spec: str) -> tuple[str, str]:
    """Splits "points:annotations.json@images" into the paths of the JSON and of the images.

    Raises:
        InputError: if `spec` has another form.
    """
    json_file, separator, image_root = spec.removeprefix(PREFIX).rpartition("@")
    if ".json@" in spec:
        # An "@" may also occur further on, in the name of the image folder.
        json_file, separator, image_root = spec.removeprefix(PREFIX).partition(".json@")
        json_file += ".json"
    if not spec.startswith(PREFIX) or not separator or not json_file or not image_root:
        raise InputError(
            f"{spec!r} is not a data set: write points:annotations.json@image_folder in"
            " DATASETS.TRAIN and DATASETS.TEST, or register the name with Detectron2."
        )
    return json_file, image_root


def make_spec(json_file: str | os.PathLike, image_root: str | os.PathLike) -> str:
    """The data set name of a point JSON and its image folder, for DATASETS.TRAIN and TEST."""
    return f"{PREFIX}{json_file}@{image_root}"


@functools.lru_cache(maxsize=4)
def _load_cached(json_file: str, modified_ns: int, size: int) -> dict:
    return load_points(json_file, require=None)


def load_dataset(json_file: str | os.PathLike) -> dict:
    """The point JSON, read once while the file does not change. Treat as read-only.

    Objects may lack point and box here; `ensure_registered` checks for what a step needs.
    """
    json_file = str(json_file)
    try:
        stat = os.stat(json_file)
    except OSError:
        return load_points(json_file, require=None)  # says what is wrong
    return _load_cached(json_file, stat.st_mtime_ns, stat.st_size)


def to_dataset_dicts(dataset: dict, image_root: str | os.PathLike) -> list[dict]:
    """A point JSON as Detectron2's list of dicts, one for each image.

    Args:
        dataset: what `load_dataset` returns.
        image_root: folder of the images.

    Returns:
        dicts with file_name, image_id, height, width, "annotations" (id, category_id = contiguous
        class, and point, float64 (2,), original px, where there is one) of the objects that are
        not ignored, and "ignore_regions" (G, 4), x1 y1 x2 y2 original px: the boxes of the ignored
        and crowd annotations. No other box is passed on, so none can reach the training.

    Raises:
        InputError: if an image file is missing or lies outside `image_root`.
    """
    labels = category_index(dataset)
    by_image: dict = {image["id"]: ([], []) for image in dataset["images"]}
    for annotation in dataset["annotations"]:
        objects, regions = by_image[annotation["image_id"]]
        if is_ignored(annotation):
            if annotation.get("bbox") is not None:
                x, y, width, height = annotation["bbox"]
                regions.append((x, y, x + width, y + height))
            continue
        record = {"id": annotation["id"], "category_id": labels[annotation["category_id"]]}
        if annotation.get("point") is not None:
            record["point"] = np.asarray(annotation["point"], dtype=np.float64)
        objects.append(record)
    return [
        {
            "file_name": str(image_path(image_root, image)),
            "image_id": image["id"],
            "height": int(image["height"]),
            "width": int(image["width"]),
            "annotations": by_image[image["id"]][0],
            "ignore_regions": np.array(by_image[image["id"]][1], dtype=np.float64).reshape(-1, 4),
        }
        for image in dataset["images"]
    ]


def register_points(spec: str) -> None:
    """Registers "points:annotations.json@images" with Detectron2; again if the file has changed.

    The metadata of the name holds thing_classes, category_ids (original id of each contiguous
    class), thing_dataset_id_to_contiguous_id, json_file and image_root.
    """
    json_file, image_root = parse_spec(spec)
    check_image_root(image_root)
    dataset = load_dataset(json_file)
    labels = category_index(dataset)
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    if spec in DatasetCatalog:
        DatasetCatalog.remove(spec)
        MetadataCatalog.pop(spec)
    DatasetCatalog.register(spec, lambda: to_dataset_dicts(load_dataset(json_file), image_root))
    MetadataCatalog.get(spec).set(
        thing_classes=[names[category_id] for category_id in labels],
        category_ids=list(labels),
        thing_dataset_id_to_contiguous_id=dict(labels),
        json_file=str(json_file),
        image_root=str(image_root),
        evaluator_type="points",
    )


def ensure_registered(cfg: CfgNode, *, train: bool = True, evaluate: bool = True) -> None:
    """Registers the data sets of a config and checks that they fit it and each other.

    Args:
        cfg: full config.
        train: also look at DATASETS.TRAIN; False for evaluation, where it need not exist.
        evaluate: DATASETS.TEST will be scored, not only predicted on: either all of its objects
            have a box or none has.

    Raises:
        InputError: data that is missing or bad, classes that differ between the data sets or from
            the config's NUM_CLASSES, clicks that are missing where they are needed.
    """
    train_names = tuple(cfg.DATASETS.TRAIN) if train else ()
    if train and not train_names:
        raise InputError(
            "DATASETS.TRAIN is empty: name the training data, for example"
            " DATASETS.TRAIN points:annotations.json@images"
        )
    refines = cfg.MODEL.META_ARCHITECTURE == "CPRNet"
    first = None
    for name in dict.fromkeys(train_names + tuple(cfg.DATASETS.TEST)):
        if not name.startswith(PREFIX):
            if name not in DatasetCatalog:
                parse_spec(name)  # says what a name looks like
            continue
        register_points(name)
        _check_num_classes(cfg, name)
        if name in train_names or refines:
            _check(name, require="point")
        # Before the training, not after it.
        if name in cfg.DATASETS.TEST and not refines and evaluate and _has_boxes(name):
            _check(name, require="box")
        first = first or name
        _check_same_classes(first, name)


def _check_num_classes(cfg: CfgNode, name: str) -> None:
    key = f"MODEL.{cfg.MODEL.META_ARCHITECTURE.upper()}.NUM_CLASSES"
    node = cfg.MODEL.get(cfg.MODEL.META_ARCHITECTURE.upper(), {})
    if "NUM_CLASSES" not in node:
        return
    metadata = MetadataCatalog.get(name)
    classes = len(metadata.thing_classes)
    if node["NUM_CLASSES"] != classes:
        raise InputError(
            f"{key} is {node['NUM_CLASSES']}, but {metadata.json_file} has {classes}"
            f" categories. Set {key} {classes}."
        )


def _check_same_classes(first: str, second: str) -> None:
    one, two = MetadataCatalog.get(first), MetadataCatalog.get(second)
    if one.category_ids != two.category_ids or one.thing_classes != two.thing_classes:
        raise InputError(
            f"{two.json_file}: its categories differ from those of {one.json_file}. Give both"
            " files the same list of category ids and names."
        )


def _check(name: str, require: str) -> None:
    json_file = MetadataCatalog.get(name).json_file
    for problem in find_problems(load_dataset(json_file), require=require):
        if problem.is_error:
            raise InputError(f"{json_file}: {problem.record}: {problem.text}")
        logger.warning("%s: %s: %s", json_file, problem.record, problem.text)


def _has_boxes(name: str) -> bool:
    annotations = load_dataset(MetadataCatalog.get(name).json_file)["annotations"]
    return any(a.get("bbox") is not None for a in annotations if not is_ignored(a))
