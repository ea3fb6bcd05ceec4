"""Point JSON files as Detectron2 data sets.

A data set needs no code: "points:annotations.json@images" in DATASETS.TRAIN or DATASETS.TEST names
a point JSON and its image folder (relative paths start at the working directory).
"boxes:annotations.json@images" is the same with the objects' true boxes in place of their points,
for box detectors: the upper bound of what they reach on points. The benchmark sets that
`tools/prepare_points.py benchmark` made also have plain names, see `cpr.data.benchmarks`.
"""

from __future__ import annotations

import functools
import logging
import os

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from cpr_deploy.files import InputError

from ..architectures import REFINER, is_box_detector, num_classes
from .benchmarks import find_spec
from .point_json import (
    category_index,
    check_image_root,
    find_problems,
    image_path,
    is_ignored,
    load_points,
)
from .tiling.records import outside_core, tile_corner

logger = logging.getLogger(__name__)

POINTS = "points:"
BOXES = "boxes:"


def is_spec(name: str) -> bool:
    """Whether the name of a data set says what it is, instead of being registered by other code."""
    return name.startswith((POINTS, BOXES))


def parse_spec(spec: str) -> tuple[str, str]:
    """Splits "points:annotations.json@images" into the paths of the JSON and of the images.

    Raises:
        InputError: if `spec` has another form.
    """
    paths = spec.removeprefix(POINTS).removeprefix(BOXES)
    json_file, separator, image_root = paths.rpartition("@")
    if ".json@" in spec:
        # An "@" may also occur further on, in the name of the image folder.
        json_file, separator, image_root = paths.partition(".json@")
        json_file += ".json"
    if not is_spec(spec) or not separator or not json_file or not image_root:
        raise InputError(
            f"{spec!r} is not a data set: write points:annotations.json@image_folder (true boxes:"
            " boxes:...) in DATASETS.TRAIN and DATASETS.TEST, or register the name with Detectron2."
        )
    return json_file, image_root


def make_spec(json_file: str | os.PathLike, image_root: str | os.PathLike) -> str:
    """The data set name of a point JSON and its image folder, for DATASETS.TRAIN and TEST."""
    return f"{POINTS}{json_file}@{image_root}"


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


def to_dataset_dicts(
    dataset: dict, image_root: str | os.PathLike, *, boxes: bool = False
) -> list[dict]:
    """A point JSON as Detectron2's list of dicts, one for each image.

    Args:
        dataset: what `load_dataset` returns.
        image_root: folder of the images.
        boxes: pass on the objects' boxes instead of their points.

    Returns:
        dicts with file_name, image_id, height, width, "annotations" (id, category_id = contiguous
        class, and point, float64 (2,), original px, where there is one) of the objects that are
        not ignored, and "ignore_regions" (G, 4), x1 y1 x2 y2 original px: the boxes of the ignored
        and crowd annotations, and what lies outside of the core of a tile. No other box is passed
        on, so none can reach the training, unless `boxes` asks for them: then bbox, float64 (4,),
        x1 y1 x2 y2, takes the place of point. A tile that is to be cropped from its image also has
        its corner in it; all px are those of the tile.

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
        if boxes and annotation.get("bbox") is not None:
            x, y, width, height = annotation["bbox"]
            record["bbox"] = np.array([x, y, x + width, y + height], dtype=np.float64)
        elif not boxes and annotation.get("point") is not None:
            record["point"] = np.asarray(annotation["point"], dtype=np.float64)
        objects.append(record)
    dicts = []
    for image in dataset["images"]:
        objects, regions = by_image[image["id"]]
        regions.extend(outside_core(image))
        record = {
            "file_name": str(image_path(image_root, image)),
            "image_id": image["id"],
            "height": int(image["height"]),
            "width": int(image["width"]),
            "annotations": objects,
            "ignore_regions": np.array(regions, dtype=np.float64).reshape(-1, 4),
        }
        if image.get("corner") is not None:
            record["corner"] = tile_corner(image)
        dicts.append(record)
    return dicts


def register_points(spec: str, name: str | None = None) -> None:
    """Registers "points:annotations.json@images" with Detectron2; again if the file has changed.

    "boxes:annotations.json@images" likewise. `name`: under this name instead of `spec`.

    The metadata of the name holds thing_classes, category_ids (original id of each contiguous
    class), thing_dataset_id_to_contiguous_id, json_file and image_root.
    """
    json_file, image_root = parse_spec(spec)
    check_image_root(image_root)
    dataset = load_dataset(json_file)
    labels = category_index(dataset)
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    name = name or spec
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name)
    boxes = spec.startswith(BOXES)
    DatasetCatalog.register(
        name, lambda: to_dataset_dicts(load_dataset(json_file), image_root, boxes=boxes)
    )
    MetadataCatalog.get(name).set(
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
            the config's NUM_CLASSES, clicks or boxes that are missing where they are needed, true
            boxes for a network that learns points.
    """
    train_names = tuple(cfg.DATASETS.TRAIN) if train else ()
    if train and not train_names:
        raise InputError(
            "DATASETS.TRAIN is empty: name the training data, for example"
            " DATASETS.TRAIN points:annotations.json@images"
        )
    refines = cfg.MODEL.META_ARCHITECTURE == REFINER
    first = None
    for name in dict.fromkeys(train_names + tuple(cfg.DATASETS.TEST)):
        spec = name if is_spec(name) else find_spec(name)
        if spec is None:
            if name not in DatasetCatalog:
                parse_spec(name)  # says what a name looks like
            continue
        if name.startswith(BOXES) and not is_box_detector(cfg):
            raise InputError(
                f"{name}: {cfg.MODEL.META_ARCHITECTURE} learns points, not boxes. Write"
                f" {POINTS}{name.removeprefix(BOXES)}, or give the config of a box detector."
            )
        register_points(spec, name)
        _check_num_classes(cfg, name)
        if name in train_names or refines:
            _check(name, require="box" if name.startswith(BOXES) else "point")
        if name in train_names:
            _check_cores(cfg, name)
        # Before the training, not after it.
        scored = name in cfg.DATASETS.TEST and not refines and evaluate
        if scored and (cfg.TEST.BOX_AP or _has_boxes(name)):
            _check(name, require="box")
        first = first or name
        _check_same_classes(first, name)


def _check_num_classes(cfg: CfgNode, name: str) -> None:
    key, configured = num_classes(cfg)
    metadata = MetadataCatalog.get(name)
    classes = len(metadata.thing_classes)
    if configured not in (None, classes):
        raise InputError(
            f"{key} is {configured}, but {metadata.json_file} has {classes} categories. Set {key}"
            f" {classes}."
        )


def _check_cores(cfg: CfgNode, name: str) -> None:
    """InputError if tiles do not know all objects in them and the network would mind."""
    metadata = MetadataCatalog.get(name)
    node = cfg.MODEL.get(cfg.MODEL.META_ARCHITECTURE.upper(), {})
    if not node.get("IGNORE_AS_BACKGROUND", True):
        return
    if any(image.get("core") is not None for image in load_dataset(metadata.json_file)["images"]):
        raise InputError(
            f"{metadata.json_file}: its tiles know the objects of their core only, and"
            f" {cfg.MODEL.META_ARCHITECTURE} would learn the others as background. Tile with"
            " --copies or --grid official, or train without IGNORE_AS_BACKGROUND."
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
