"""Annotations of LabelMe and tools that write its JSON (X-AnyLabeling): one file an image.

Coordinates are continuous px of the upright image. `point` is a click; `rectangle`, `circle`,
`polygon` and turned rectangles become boxes, the last two also outlines. A flag `ignore`, or
`difficult`, marks a region.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cpr_deploy.files import InputError, read_json

from ..point_json import Problem
from .names import AnnotationFile, ImageNames, annotation_files, reason
from .records import Click, Conventions, Image, box_around, box_between, finite_points, outline

# The number of points that a shape has: least, most.
_COUNTS = {"point": (1, 1), "rectangle": (2, 4), "circle": (2, 2), "polygon": (3, None)}
_COUNTS |= {"oriented_rectangle": (4, 4), "rotation": (4, 4)}
_IGNORE_FLAGS = ("ignore", "difficult")


def read(
    path: Path, images: Mapping[str, dict], conventions: Conventions
) -> Iterator[Click | Image | Problem]:
    """The shapes of LabelMe files, file by file; see `cpr.data.importers`.

    Raises:
        InputError: no such file or folder, or no JSON file in it.
    """
    names = ImageNames(images)
    for file in annotation_files(path, (".json",)):
        if isinstance(file, Problem):
            yield file
            continue
        try:
            content = read_json(file.path)
        except InputError as error:
            yield Problem(repr(file.name), reason(error, file.path))
            continue
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            yield Problem(repr(file.name), "is no file of LabelMe: it has no shapes. Remove it.")
            continue
        yield from _shapes(file, content, names, conventions)


def _shapes(
    file: AnnotationFile, content: dict[str, Any], names: ImageNames, conventions: Conventions
) -> Iterator[Click | Image | Problem]:
    image_path = content.get("imagePath")
    if not isinstance(image_path, str) or not image_path:
        yield Problem(repr(file.name), f"imagePath {image_path!r:.60} names no image. Correct it.")
        return
    name = names.of_path(image_path, beside=file.name)
    size = content.get("imageWidth"), content.get("imageHeight")
    yield Image(repr(file.name), name, size=None if None in size else size)
    for index, shape in enumerate(content["shapes"]):
        yield _click(f"{file.name!r}, shape {index} (from 0)", name, shape, conventions)


def _click(record: str, name: str, shape: Any, conventions: Conventions) -> Click | Problem:
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
        return Problem(record, "has no label. Give it one.")
    kind = shape.get("shape_type", "polygon")  # very old files have polygons only
    if not isinstance(kind, str) or kind not in _COUNTS:
        return Problem(
            record,
            f"a {str(kind)[:30]!r} is no click, and its first vertex is not taken for one. Draw a"
            " point, rectangle, circle or polygon.",
        )
    points = _points(shape.get("points"), conventions)
    least, most = _COUNTS[kind]
    if points is None or len(points) < least or (most is not None and len(points) > most):
        return Problem(record, f"its points are not those of a {kind}. Draw it again.")
    flags = shape.get("flags") if isinstance(shape.get("flags"), dict) else {}
    ignored = any(flags.get(flag) is True or shape.get(flag) is True for flag in _IGNORE_FLAGS)
    extra: dict[str, Any] = {"ignore": 1} if ignored else {}
    if kind == "point":
        return Click(record, name, points[0], shape["label"], extra=extra)
    if kind == "circle":
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        box = box_between((x - radius, y - radius), (x + radius, y + radius))
    else:
        box = box_around(points)
        if kind != "rectangle":
            extra |= outline(points)
    return Click(record, name, None, shape["label"], box, extra=extra)


def _points(points: Any, conventions: Conventions) -> list[tuple[float, float]] | None:
    pairs = finite_points(points)
    if pairs is None:
        return None
    return [(conventions.to_continuous(x), conventions.to_continuous(y)) for x, y in pairs]
