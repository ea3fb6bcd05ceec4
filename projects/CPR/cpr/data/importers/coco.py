"""COCO JSON: keypoints, boxes and masks; ids of images, classes and annotations are kept.

An annotation's click is its `point` (ours: continuous px) if it has one, else its labelled keypoint
(pixel indices: the centre of the first pixel is 0, so half a pixel is added); boxes are continuous.
Everything else is carried through.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cpr_deploy.files import InputError, read_json

from ..point_json import Problem
from .records import Category, Click, Conventions, Image, finite

_MEAN = "mean"
# Keys that are read, and therefore not carried through as they are.
_IMAGE_KEYS = ("id", "file_name", "width", "height")
_CATEGORY_KEYS = ("id", "name", "keypoints", "skeleton")
_ANNOTATION_KEYS = ("id", "image_id", "category_id", "point", "bbox", "keypoints", "num_keypoints")


def read(
    path: Path, images: Mapping[str, dict], conventions: Conventions
) -> Iterator[Click | Image | Category | Problem]:
    """The annotations of a COCO file; see `cpr.data.importers`.

    Raises:
        InputError: not JSON, or without images, annotations and categories.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: is not a COCO file with images, annotations, categories.")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise InputError(f"{path}: has no list {key!r}. Give a COCO file.")
    names: dict[Any, str] = {}
    for item in _records("image", content["images"]):
        if isinstance(item, Problem):
            yield item
            continue
        record, image = item
        names[image["id"]] = image.get("file_name")
        extra = {key: value for key, value in image.items() if key not in _IMAGE_KEYS}
        size = (image.get("width"), image.get("height"))
        yield Image(record, names[image["id"]], image["id"], None if None in size else size, extra)
    labels: dict[Any, Any] = {}
    keypoint_names: dict[Any, list] = {}
    for item in _records("category", content["categories"]):
        if isinstance(item, Problem):
            yield item
            continue
        record, category = item
        labels[category["id"]] = category.get("name")
        keypoints = category.get("keypoints")
        keypoint_names[category["id"]] = keypoints if isinstance(keypoints, list) else []
        extra = {key: value for key, value in category.items() if key not in _CATEGORY_KEYS}
        yield Category(record, category.get("name"), category["id"], extra)
    for item in _records("annotation", content["annotations"]):
        if isinstance(item, Problem):
            yield item
            continue
        record, annotation = item
        image_id, category_id = annotation.get("image_id"), annotation.get("category_id")
        if not _can_be_id(image_id) or image_id not in names:
            yield Problem(record, f"image_id {image_id!r:.60} is not among the images. Add it.")
        elif not _can_be_id(category_id) or category_id not in labels:
            yield Problem(
                record, f"category_id {category_id!r:.60} is not among the classes. Add it."
            )
        else:
            yield _click(
                record,
                annotation,
                names[image_id],
                labels[category_id],
                keypoint_names[category_id],
                conventions,
            )


def _records(kind: str, records: list) -> Iterator[tuple[str, dict[str, Any]] | Problem]:
    """The records that are objects with an id of their own, and how to call them."""
    seen = set()
    for index, record in enumerate(records):
        if not isinstance(record, dict) or not _can_be_id(record.get("id")):
            yield Problem(f"{kind} {index} (from 0)", "has no id. Give it a whole number.")
        elif record["id"] in seen:
            yield Problem(
                f"{kind} id {record['id']!r:.60} ({kind} {index} from 0)",
                "the id is used twice. Give every record its own id.",
            )
        else:
            seen.add(record["id"])
            yield f"{kind} id {record['id']!r:.60} ({kind} {index} from 0)", record


def _can_be_id(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _click(
    record: str,
    annotation: dict[str, Any],
    file_name: str,
    label: str,
    keypoint_names: list,
    conventions: Conventions,
) -> Click | Problem:
    problem = _extra_problem(annotation)
    if problem:
        return Problem(record, problem)
    extra = {key: value for key, value in annotation.items() if key not in _ANNOTATION_KEYS}
    point = annotation.get("point")
    if point is not None:
        point = _numbers(point, 2)
        if point is None:
            return Problem(record, f"point {annotation['point']!r:.60} is not [x, y].")
    elif annotation.get("keypoints") is not None:
        point = _keypoint(annotation["keypoints"], keypoint_names, conventions)
        if isinstance(point, str):
            return Problem(record, point)
    box = annotation.get("bbox")
    if box is not None:
        box = _numbers(box, 4)
        if box is None:
            return Problem(record, f"bbox {annotation['bbox']!r:.60} is not [x, y, w, h].")
        if point is not None and not all(box[2:]):
            # Tools that know no click without a box write one without an area.
            box = None
    return Click(record, file_name, point, label, box, annotation["id"], extra)


def _keypoint(
    values: Any, names: list, conventions: Conventions
) -> tuple[float, float] | None | str:
    """The click among keypoints [x, y, visibility, ...], None if none is labelled, or why not."""
    if not isinstance(values, list) or len(values) % 3:
        return "its keypoints are not x, y, visibility for each. Correct them."
    numbers = [finite(value) for value in values]
    if None in numbers:
        return "its keypoints are not all numbers. Correct them."
    keypoints = list(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True))
    labelled = [index for index, keypoint in enumerate(keypoints) if keypoint[2] > 0]
    if conventions.keypoint not in (None, _MEAN):
        if conventions.keypoint not in names:
            return f"its class has no keypoint {conventions.keypoint!r}. See --keypoint."
        index = names.index(conventions.keypoint)
        labelled = [index] if index in labelled else []
    elif len(labelled) > 1 and conventions.keypoint is None:
        named = ", ".join(str(name)[:30] for name in names[:6])
        return f"has {len(labelled)} labelled keypoints ({named}). Choose with --keypoint, or mean."
    if not labelled:
        return None
    x = sum(keypoints[index][0] for index in labelled) / len(labelled)
    y = sum(keypoints[index][1] for index in labelled) / len(labelled)
    return conventions.to_continuous(x), conventions.to_continuous(y)


def _extra_problem(annotation: dict[str, Any]) -> str | None:
    """What is wrong with an entry that is carried through and that point JSON has a rule for."""
    for key in ("ignore", "iscrowd", "refined"):
        if key in annotation and annotation[key] not in (0, 1):  # False == 0 and True == 1
            return f"{key} {annotation[key]!r:.60} is not 0, 1, true or false. Correct the flag."
    click = annotation.get("coarse_point")
    if click is not None and _numbers(click, 2) is None:
        return f"coarse_point {click!r:.60} is not [x, y] of finite numbers. Correct it."
    score = annotation.get("refine_score")
    if score is not None and finite(score) is None:
        return f"refine_score {score!r:.60} is not a finite number. Correct it."
    return None


def _numbers(value: Any, length: int) -> tuple[float, ...] | None:
    if not isinstance(value, list) or len(value) != length:
        return None
    numbers = tuple(finite(number) for number in value)
    return None if None in numbers else numbers
