"""Point-COCO JSON: reading with validation, writing, and small helpers.

A point JSON is a COCO instances file whose annotations carry `point: [x, y]`. Coordinates are
continuous pixels of the image file: origin at its top-left corner, centre of the first pixel at
(0.5, 0.5). Optional keys per annotation: `coarse_point`, `refine_score`, `refined`, `ignore`,
`iscrowd`, `bbox` [x, y, w, h]. Everything else is carried through untouched.

An annotation marked `ignore` or `iscrowd` is a *region*: it needs no point and gets no click.
"""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cpr_deploy.files import (
    InputError,
    explain,
    find_non_finite,
    is_broken_text,
    name_problem,
    read_json,
    safe_child,
    write_json,
)

from .pseudo_boxes import from_pseudo_boxes, has_pseudo_boxes

logger = logging.getLogger(__name__)

Require = Literal["point", "box", "any"] | None

# Larger numbers are typing errors, not pixels; float32 still resolves 1 px there.
MAX_COORDINATE = 1e7
# No image is wider or higher, px.
MAX_SIDE = 1_000_000
# Boxes with a shorter side are typing errors, px.
MIN_BOX_SIDE = 1e-3
# Ids beyond this are not exact in every JSON reader.
MAX_ID = 2**53


class Problem(NamedTuple):
    """One finding of the validation."""

    record: str  # which record, e.g. "annotation id 7"
    text: str  # what is wrong and how to mend it
    is_error: bool = True
    rule: str = ""  # what it is a case of, of the rules that `cpr.data.quality.checks` counts


def load_points(
    path: str | os.PathLike,
    *,
    require: Require = "any",
    may_be_empty: bool = False,
    drop_flat: bool = False,
) -> dict[str, Any]:
    """Reads and validates a point JSON; the authors' published coarse files are converted.

    Args:
        path: the JSON file.
        require: what every annotation that is not a region must have: a "point", a "box", "any" of
            the two, or None: nothing, and the data set may hold no objects at all.
        may_be_empty: the data set may hold no objects whatever they must have.
        drop_flat: leave out objects whose box has a side of 0 px (COCO's train2017 has two) with a
            warning, instead of refusing the file.

    Returns:
        A COCO-like dict with at least "images", "annotations" and "categories".

    Raises:
        InputError: at the first problem found, naming file, record and fix.
    """
    dataset, count = read_unchecked(path)
    if count:
        logger.info(
            "%s: a coarse file of the official code; took the centres of %d pseudo boxes as points"
            " and the true boxes as boxes",
            path,
            count,
        )
    if drop_flat:
        dataset = _without_flat_boxes(dataset, path)
    warnings = []
    for problem in find_problems(dataset, require=require, may_be_empty=may_be_empty):
        if problem.is_error:
            raise InputError(f"{path}: {problem.record}: {problem.text}")
        warnings.append(f"{problem.record}: {problem.text}")
    if warnings:
        more = f" (and {len(warnings) - 3} more)" if len(warnings) > 3 else ""
        logger.warning("%s: %s%s", path, " ".join(warnings[:3]), more)
    return dataset


def read_unchecked(path: str | os.PathLike) -> tuple[Any, int]:
    """The parsed JSON, of any shape, with the authors' published coarse files converted.

    Returns:
        the data set, and how many pseudo boxes were taken for points; 0: it was no such file.
    """
    dataset = read_json(path)
    if isinstance(dataset, dict) and has_pseudo_boxes(dataset):
        return from_pseudo_boxes(dataset)
    return dataset, 0


def _without_flat_boxes(dataset: Any, path: str | os.PathLike) -> Any:
    annotations = dataset.get("annotations") if isinstance(dataset, dict) else None
    if not isinstance(annotations, list):
        return dataset  # `find_problems` says what is wrong
    flat = [
        (place, annotation)
        for place, annotation in enumerate(annotations)
        if isinstance(annotation, dict) and _is_flat(annotation.get("bbox"))
    ]
    if not flat:
        return dataset
    logger.warning(
        "%s: left out %d objects whose box has a side of 0 px, the first one %s",
        path,
        len(flat),
        _record("annotation", flat[0][1], flat[0][0]),
    )
    dropped = {place for place, _ in flat}
    kept = [a for place, a in enumerate(annotations) if place not in dropped]
    return {**dataset, "annotations": kept}


def _is_flat(box: Any) -> bool:
    return _is_coordinates(box, 4) and 0 <= min(box[2:]) < MIN_BOX_SIDE


def save_points(path: str | os.PathLike, dataset: dict[str, Any]) -> None:
    """Writes a point JSON atomically; InputError if a number in it is NaN or infinite."""
    try:
        write_json(path, dataset)
    except ValueError as error:
        where = find_non_finite(dataset) or error
        raise InputError(
            f"{path}: not written, because {where} is NaN or infinite. Correct or remove it."
        ) from None


def is_ignored(annotation: dict[str, Any]) -> bool:
    """Whether the annotation is a region (`ignore` or `iscrowd`) instead of an object."""
    return bool(annotation.get("ignore")) or bool(annotation.get("iscrowd"))


def image_path(image_root: str | os.PathLike, image_record: dict[str, Any]) -> Path:
    """The existing image file of a record; InputError if missing or outside `image_root`."""
    try:
        path = safe_child(image_root, image_record["file_name"])
        exists = path.is_file()
    except (InputError, OSError) as error:  # OSError: for example a name that is too long
        raise InputError(f"image id {image_record['id']!r}: {explain(error) or error}") from None
    if not exists:
        raise InputError(
            f"{path}: no such image (image id {image_record['id']}). Check the image folder"
            f" {os.fspath(image_root)!r} or remove the record."
        )
    return path


def check_image_root(image_root: str | os.PathLike) -> None:
    """InputError if there is no such folder."""
    if not Path(image_root).is_dir():
        raise InputError(f"{image_root}: no such image folder. Check the path.")


def category_index(dataset: dict[str, Any]) -> dict[int, int]:
    """Category id -> contiguous label, in the order of the category ids."""
    ids = sorted(category["id"] for category in dataset["categories"])
    return {category_id: label for label, category_id in enumerate(ids)}


def load_detections(path: str | os.PathLike, dataset: dict[str, Any]) -> list[dict[str, Any]]:
    """Reads a detections JSON: list of {image_id, category_id, point [x, y] or bbox, score}.

    Raises:
        InputError: naming file, record (its place in the list) and fix.
    """
    detections = read_json(path)
    if not isinstance(detections, list):
        raise InputError(
            f"{path}: not a detections file: expected a list of records with image_id, category_id,"
            " score and point. Were annotations and predictions swapped?"
        )
    images = {image["id"] for image in dataset["images"]}
    categories = {category["id"] for category in dataset["categories"]}
    for index, detection in enumerate(detections):
        text = _detection_problem(detection, images, categories)
        if text:
            raise InputError(f"{path}: detection {index} (from 0): {text}")
    return detections


def _detection_problem(detection: Any, images: set, categories: set) -> str | None:
    if not isinstance(detection, dict):
        return "is not an object with image_id, category_id, score and point."
    for key, known in (("image_id", images), ("category_id", categories)):
        if key not in detection or not _can_be_id(detection[key]) or detection[key] not in known:
            return (
                f"{key} {detection.get(key)!r} is not in the annotations. Give the annotation file"
                " that the predictions were made for."
            )
    if not _is_number(detection.get("score")):
        return f"score {detection.get('score')!r} is not a finite number."
    if "point" in detection:
        if not _is_coordinates(detection["point"], 2):
            return f"point {detection['point']!r} is not two finite numbers [x, y]."
    elif not _is_coordinates(detection.get("bbox"), 4):
        return "has neither a point [x, y] nor a bbox [x, y, w, h] of finite numbers."
    return None


def find_problems(
    dataset: Any, *, require: Require = "any", may_be_empty: bool = False
) -> Iterator[Problem]:
    """Validates a COCO-like dict; yields every problem found.

    Args:
        dataset: the parsed JSON, of any shape.
        require, may_be_empty: see `load_points`.
    """
    if require not in ("point", "box", "any", None):
        raise ValueError(f"require must be point, box, any or None, not {require!r}")
    shape_problems = list(_shape_problems(dataset))
    if shape_problems:
        yield from shape_problems
        return
    yield from _category_problems(dataset["categories"])
    yield from _image_problems(dataset["images"])
    yield from _annotation_problems(dataset, require)
    yield from _emptiness_problems(dataset, may_be_empty or require is None)


def _shape_problems(dataset: Any) -> Iterator[Problem]:
    if not isinstance(dataset, dict):
        hint = " A list is a detections file." if isinstance(dataset, list) else ""
        text = f"is not a COCO-like object with images, annotations.{hint}"
        yield Problem("top level", text, rule="structure")
        return
    for key in ("images", "annotations", "categories"):
        if not isinstance(dataset.get(key), list):
            text = f"has no list {key!r}. Write COCO instances JSON."
            yield Problem("top level", text, rule="structure")
        elif not all(isinstance(record, dict) for record in dataset[key]):
            text = "holds something that is not an object. Remove that record."
            yield Problem(key, text, rule="structure")


def _category_problems(categories: list[dict]) -> Iterator[Problem]:
    yield from _id_problems("category", categories)
    names = Counter(c["name"] for c in categories if isinstance(c.get("name"), str))
    for index, category in enumerate(categories):
        record = _record("category", category, index)
        name = category.get("name")
        if not isinstance(name, str) or not name:
            text = f"name {name!r} is not a text. Name the class."
        elif is_broken_text(name):
            text = f"name {name!r} holds characters that nothing can show. Rename."
        elif names[name] > 1:
            names[name] = 1
            text = f"the name {name!r} is used twice. Merge or rename the classes."
        else:
            continue
        yield Problem(record, text, rule="class-name")


def _image_problems(images: list[dict]) -> Iterator[Problem]:
    yield from _id_problems("image", images, text_allowed=True)
    for index, image in enumerate(images):
        record = _record("image", image, index)
        name = image.get("file_name")
        if not isinstance(name, str) or not name:
            text = f"file_name {name!r} is not a text. Give the file's name."
            yield Problem(record, text, rule="file-name")
        elif name_problem(name):
            yield Problem(record, f"file_name {name!r} {name_problem(name)}", rule="file-name")
        for key in ("width", "height"):
            value = image.get(key)
            if not _is_number(value) or value != int(value) or value <= 0:
                text = f"{key} {value!r} is not a positive whole number. Write the size in px."
                yield Problem(record, text, rule="size")
            elif value > MAX_SIDE:
                text = f"{key} {value!r} is more than {MAX_SIDE} px. Write the image's size."
                yield Problem(record, text, rule="size")


def _annotation_problems(dataset: dict, require: Require) -> Iterator[Problem]:
    yield from _id_problems("annotation", dataset["annotations"])
    images = {image["id"]: image for image in dataset["images"] if _can_be_id(image.get("id"))}
    categories = {c["id"] for c in dataset["categories"] if _can_be_id(c.get("id"))}
    for index, annotation in enumerate(dataset["annotations"]):
        for rule, text in _texts_for_annotation(annotation, images, categories, require):
            yield Problem(_record("annotation", annotation, index), text, rule=rule)


def _texts_for_annotation(
    annotation: dict, images: dict, categories: set, require: Require
) -> Iterator[tuple[str, str]]:
    """Rule and text of each problem."""
    image_id, category_id = annotation.get("image_id"), annotation.get("category_id")
    image = images.get(image_id) if _can_be_id(image_id) else None
    if image is None:
        text = f"image_id {image_id!r} is not among the images."
        yield "image-id", f"{text} Add the image or remove the record."
    if not _can_be_id(category_id) or category_id not in categories:
        text = f"category_id {category_id!r} is not among the categories."
        yield "class-id", f"{text} Add the class or remove the record."
    flags_valid = True
    for key in ("ignore", "iscrowd", "refined"):
        if key in annotation and annotation[key] not in (0, 1):  # False == 0 and True == 1
            flags_valid = False
            text = f"{key} {annotation[key]!r} is not 0, 1, true or false. Correct the flag."
            yield "flag", text

    box = annotation.get("bbox")
    if box is not None:
        if not _is_coordinates(box, 4):
            text = f"bbox {box!r} is not [x, y, w, h] of finite numbers."
            yield "box", f"{text} Correct or remove the box."
        elif min(box[2:]) < MIN_BOX_SIDE:
            text = f"bbox {box!r} has a side that is not positive, or below {MIN_BOX_SIDE} px."
            yield "box", f"{text} Correct or remove the box."
    point = annotation.get("point")
    if point is not None:
        if not _is_coordinates(point, 2):
            text = f"point {point!r} is not [x, y] of finite numbers."
            yield "point", f"{text} Correct or remove the point."
        elif image is not None and not _is_inside(point, image):
            size = f"{image['width']} x {image['height']} px"
            text = f"point {point!r} lies outside its image {image_id!r} of {size}."
            yield "out-of-image", f"{text} Correct or remove the point."
    coarse_point = annotation.get("coarse_point")
    if coarse_point is not None and not _is_coordinates(coarse_point, 2):
        text = f"coarse_point {coarse_point!r} is not [x, y] of finite numbers. Correct it."
        yield "coarse-point", text
    score = annotation.get("refine_score")
    if score is not None and not _is_number(score):
        yield "refine-score", f"refine_score {score!r} is not a finite number. Correct it."

    if not flags_valid or require is None:
        return
    if box is None and point is None:
        text = "has neither point nor bbox. Add a point [x, y] or remove the record."
        yield "no-position", text
    elif is_ignored(annotation):
        return
    elif require == "point" and point is None:
        text = "has no point. Click it, or simulate clicks with `tools/prepare_points.py coarse`."
        yield "no-position", text
    elif require == "box" and box is None:
        text = "has no bbox, which this step needs. Add the box or mark the record as ignore."
        yield "no-position", text


def _emptiness_problems(dataset: dict, may_be_empty: bool) -> Iterator[Problem]:
    if not dataset["categories"]:
        yield Problem("categories", "is empty. Add at least one class.", rule="empty")
    if not dataset["images"]:
        yield Problem("images", "is empty: there is nothing to do. Add images.", rule="empty")
    objects = Counter(
        annotation.get("category_id")
        for annotation in dataset["annotations"]
        if _can_be_id(annotation.get("category_id")) and not is_ignored(annotation)
    )
    if may_be_empty:
        return
    if not objects:
        text = "holds no object: the data set is empty. Add annotations."
        yield Problem("annotations", text, rule="empty")
        return
    for index, category in enumerate(dataset["categories"]):
        category_id = category.get("id")
        if _can_be_id(category_id) and not objects[category_id]:
            name = category.get("name")
            record = _record("category", category, index)
            text = f"the class {name!r} has no objects."
            yield Problem(record, text, is_error=False, rule="class-without-objects")


def _id_problems(kind: str, records: list[dict], text_allowed: bool = False) -> Iterator[Problem]:
    seen: set = set()
    for index, record in enumerate(records):
        value = record.get("id")
        is_id = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_ID
        if not is_id and not (text_allowed and isinstance(value, str) and value):
            text = f"id {value!r} is not a whole number."
            yield Problem(f"{kind} {index} (from 0)", text, rule="id")
        elif value in seen:
            text = "the id is used twice. Give every record its own id."
            yield Problem(_record(kind, record, index), text, rule="id")
        else:
            seen.add(value)


def _record(kind: str, record: dict, index: int) -> str:
    if "id" in record:
        return f"{kind} id {record['id']!r} ({kind} {index} from 0)"
    return f"{kind} {index} (from 0)"


def _is_number(value: Any) -> bool:
    if isinstance(value, int):
        # A whole number in JSON may be too long for a float.
        return not isinstance(value, bool) and abs(value) < 2**1000
    return isinstance(value, float) and math.isfinite(value)


def _is_coordinates(value: Any, length: int) -> bool:
    if not isinstance(value, (list, tuple)) or len(value) != length:
        return False
    # As plain as can be: data sets have millions of numbers.
    for number in value:
        if not isinstance(number, (int, float)) or isinstance(number, bool):
            return False
        if not -MAX_COORDINATE <= number <= MAX_COORDINATE:  # NaN is not, either
            return False
    return True


def _is_inside(point: list[float], image: dict[str, Any]) -> bool:
    width, height = image.get("width"), image.get("height")
    if not _is_number(width) or not _is_number(height):
        return True  # reported with the image
    return 0 <= point[0] <= width and 0 <= point[1] <= height


def _can_be_id(value: Any) -> bool:
    """Whether a JSON value can be looked up as an id: not a list, an object or true."""
    return isinstance(value, (int, str)) and not isinstance(value, bool)
