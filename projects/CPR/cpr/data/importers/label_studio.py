"""Annotations of Label Studio (its export `JSON`, not `JSON-MIN`).

Coordinates are percent of the width and height of the upright image, also where the annotator had
turned the image on the screen (`image_rotation`). Keypoints are clicks; rectangles, turned ones
too, and polygons become boxes and outlines. A region's id `annotation-17` and a note `ignore`,
which our own export writes, keep an annotation's id and flag.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from cpr_deploy.files import InputError, read_json

from ..image_folder import SUFFIXES
from ..point_json import Problem
from .names import ImageNames
from .records import (
    Click,
    Conventions,
    Image,
    box_around,
    finite,
    finite_points,
    outline,
    turned_rectangle,
    whole_number_in,
)

ID_PREFIX = "annotation-"
IGNORE_NOTE = "ignore"
# What Label Studio puts before the name of a file that was uploaded.
_UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-(?=.)")
# Parts of a result that say something about a region or a task, but not where it is.
_NO_SHAPE = {"choices", "textarea", "number", "rating", "taxonomy", "datetime", "pairwise"}
_NO_SHAPE |= {"relation", "ranker", "relations"}
# With and without "labels" behind it; and "labels" alone, the class of a region.
_SHAPES = ("keypoint", "rectangle", "polygon")


def read(
    path: Path, images: Mapping[str, dict], conventions: Conventions
) -> Iterator[Click | Image | Problem]:
    """The regions of a Label Studio export, task by task; see `cpr.data.importers`.

    Raises:
        InputError: not JSON, or not a list of tasks.
    """
    tasks = read_json(path)
    if isinstance(tasks, dict) and "data" in tasks:
        tasks = [tasks]  # one task
    if not isinstance(tasks, list):
        raise InputError(f"{path}: is not a list of tasks. Export from Label Studio as `JSON`.")
    names = ImageNames(images)
    for index, task in enumerate(tasks):
        record = f"task {index} (from 0)"
        if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
            yield Problem(record, "has no data. Export from Label Studio as `JSON`, not JSON-MIN.")
            continue
        if isinstance(task.get("id"), int):
            record = f"task id {task['id']}"
        name = _image_name(task, names)
        if isinstance(name, Problem):
            yield Problem(record, name.text)
            continue
        annotation = _annotation(task)
        if isinstance(annotation, Problem):
            yield Problem(record, annotation.text)
            continue
        regions = [] if annotation is None else _regions(annotation)
        size = _size(task["data"], regions)
        is_annotated = annotation is not None
        yield Image(record, name, _image_id(task["data"]), size, is_annotated=is_annotated)
        # Of regions that were made by a program; Label Studio itself notes the size with each.
        if size is None and name in images:
            size = images[name]["width"], images[name]["height"]
        for region in regions:
            yield _click(f"{record}, region {region[0].get('id')!r:.60}", name, region, size)


def _annotation(task: dict[str, Any]) -> dict[str, Any] | None | Problem:
    """The annotation of a task that counts; None if there is no finished one."""
    annotations = task.get("annotations", task.get("completions", []))
    if not isinstance(annotations, list) or not all(
        isinstance(a, dict) and isinstance(a.get("result", []), list) for a in annotations
    ):
        return Problem("", "its annotations are not a list of results. Export it again as `JSON`.")
    finished = [a for a in annotations if not a.get("was_cancelled")]
    best = [a for a in finished if a.get("ground_truth")] or finished
    if len(best) > 1:
        return Problem(
            "",
            f"has {len(best)} annotations, which would count each object several times. Mark one as"
            " ground truth (the star) in Label Studio, or delete the others.",
        )
    return best[0] if best else None


def _regions(annotation: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The results of an annotation that have a shape, those of one region together.

    With a tag `Labels` beside `KeyPoint`, a region's place and its class are two results of one id.
    """
    regions: dict[Any, list[dict[str, Any]]] = {}
    for index, result in enumerate(annotation.get("result", [])):
        if not isinstance(result, dict):
            regions[index] = [{}]
        elif str(result.get("type")) not in _NO_SHAPE:
            key = result.get("id")
            regions.setdefault(key if isinstance(key, str) else index, []).append(result)
    return list(regions.values())


def _click(
    record: str, name: str, region: list[dict[str, Any]], size: tuple[Any, Any] | None
) -> Click | Problem:
    """The object of a region; `size` is that of its image, where the region does not tell it."""
    first = region[0]
    value = first.get("value")
    if not isinstance(value, dict):
        return Problem(record, "has no value. Export it again as `JSON`.")
    for kind in (str(result.get("type")) for result in region):
        if kind.removesuffix("labels") not in _SHAPES and kind != "labels":
            return Problem(
                record, f"a {kind[:30]!r} is no click: draw a keypoint, rectangle or polygon."
            )
    if first.get("item_index"):
        return Problem(record, "lies on another image of its task. Use one image a task.")
    if "original_width" in first or "original_height" in first or size is None:
        size = first.get("original_width"), first.get("original_height")
    width, height = finite(size[0]), finite(size[1])
    if not width or not height or min(width, height) <= 0:
        return Problem(
            record,
            "has no original_width and original_height. Export it again, or give the image folder.",
        )
    labels = _labels(region)
    if labels is None or len(labels) > 1:
        return Problem(record, f"has the labels {str(labels)[:60]}. Give each region one label.")
    label = labels[0] if labels else None
    annotation_id = None
    if isinstance(first.get("id"), str):
        annotation_id = whole_number_in(first["id"].partition(ID_PREFIX)[2])
        if not first["id"].startswith(ID_PREFIX):
            annotation_id = None
    extra = {"ignore": 1} if IGNORE_NOTE in _notes(region) else {}

    def numbers(*keys: str) -> list[float | None]:
        return [finite(value.get(key)) for key in keys]

    if "points" in value:
        points = _polygon(value["points"], width, height)
        if points is None:
            return Problem(record, "its points are not three or more [x, y] in percent.")
        box = box_around(points)
        return Click(record, name, None, label, box, annotation_id, extra | outline(points))
    x, y = numbers("x", "y")
    if x is None or y is None:
        return Problem(record, f"x, y {str(numbers('x', 'y'))} are not numbers in percent.")
    corner = (x * width / 100, y * height / 100)
    if "height" not in value:
        return Click(record, name, corner, label, None, annotation_id, extra)
    w, h = numbers("width", "height")
    degrees = finite(value.get("rotation", 0))
    if w is None or h is None or degrees is None or abs(degrees) > 1e6:
        return Problem(record, "width, height or rotation is not a number. Correct it.")
    sides = (w * width / 100, h * height / 100)
    if degrees % 360 == 0:
        return Click(record, name, None, label, (*corner, *sides), annotation_id, extra)
    corners = turned_rectangle(corner, sides, degrees, pivot=corner)
    box = box_around(corners)
    return Click(record, name, None, label, box, annotation_id, extra | outline(corners))


def _labels(region: list[dict[str, Any]]) -> list[str] | None:
    """All labels of a region; None if they are not texts."""
    labels: list[str] = []
    for result in region:
        value = result.get("value")
        for key, entry in value.items() if isinstance(value, dict) else ():
            if key.endswith("labels"):
                if not isinstance(entry, list) or not all(isinstance(e, str) for e in entry):
                    return None
                labels += [label for label in entry if label not in labels]
    return labels


def _notes(region: list[dict[str, Any]]) -> list[Any]:
    meta = region[0].get("meta")
    notes = meta.get("text") if isinstance(meta, dict) else None
    return notes if isinstance(notes, list) else []


def _polygon(points: Any, width: float, height: float) -> list[tuple[float, float]] | None:
    pairs = finite_points(points)
    if pairs is None or len(pairs) < 3:
        return None
    return [(x * width / 100, y * height / 100) for x, y in pairs]


def _size(data: dict[str, Any], regions: list[list[dict[str, Any]]]) -> tuple[Any, Any] | None:
    """Width and height of a task's image, px: of its regions, or as our own export notes them."""
    for region in regions:
        size = region[0].get("original_width"), region[0].get("original_height")
        if None not in size:
            return size
    size = data.get("width"), data.get("height")
    return None if None in size else size


def _image_id(data: dict[str, Any]) -> int | str | None:
    image_id = data.get("image_id")
    return image_id if isinstance(image_id, (int, str)) and image_id != "" else None


def _image_name(task: dict[str, Any], names: ImageNames) -> str | Problem:
    data = task["data"]
    candidates = [data["image"]] if isinstance(data.get("image"), str) else []
    if not candidates:
        texts = [value for value in data.values() if isinstance(value, str)]
        candidates = [t for t in texts if PurePosixPath(_path_of(t)).suffix.lower() in SUFFIXES]
    if len(candidates) != 1:
        return Problem(
            "",
            f"{len(candidates)} entries of its data name an image. Name it `image`, once.",
        )
    path = _path_of(candidates[0])
    name = names.of_path(path)
    # Uploaded files: /data/upload/3/1a2b3c4d-a.png
    if not names.has(name):
        without = _UPLOAD_PREFIX.sub("", name.rpartition("/")[2], count=1)
        if names.has(names.of_upload(without)) or "/upload/" in path:
            return names.of_upload(without)
    return name


def _path_of(url: str) -> str:
    """The path of a file in an address: `/data/local-files/?d=a.png`, `s3://bucket/a.png`."""
    try:
        parts = urlsplit(url)
        local = parse_qs(parts.query).get("d") if parts.query else None
    except ValueError:  # an address that is none
        return url
    if local:
        return local[0]
    path = unquote(parts.path)
    # Of another host, only the last part can be a name in the image folder.
    return f"/{path}" if parts.scheme or parts.netloc else path
