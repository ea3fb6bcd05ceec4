"""Annotations of CVAT ("CVAT for images 1.1", annotations.xml).

Coordinates are continuous px of the upright image. `points` are clicks, one for each point of a
shape; `box` and `polygon` become boxes, a polygon also the outline. Two attributes of a shape are
understood, which our own export writes: `annotation_id` and `ignore`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from cpr_deploy.files import InputError

from ..point_json import Problem
from .names import ImageNames
from .records import (
    Category,
    Click,
    Conventions,
    Image,
    box_around,
    box_between,
    number_in,
    outline,
    turned_rectangle,
    whole_number_in,
)
from .xml_file import Element, read_children

logger = logging.getLogger(__name__)

# Shapes that are neither a place nor an area of one object.
REFUSED = {
    "polyline": "its first vertex is not taken for a click. Click the object with a point",
    "ellipse": "draw a box or a point",
    "cuboid": "draw a box or a point",
    "skeleton": "export it as COCO keypoints",
    "mask": "draw a point, a box or a polygon",
}
ID_ATTRIBUTE, IGNORE_ATTRIBUTE = "annotation_id", "ignore"


def read(
    path: Path, images: Mapping[str, dict], conventions: Conventions
) -> Iterator[Click | Image | Category | Problem]:
    """The shapes of a CVAT file, image by image; see `cpr.data.importers`.

    Raises:
        InputError: not such an XML file, or one of CVAT for video.
    """
    tags = 0
    frames: set[int | None] = set()
    names = ImageNames(images)
    for element in read_children(path, root="annotations"):
        if element.tag == "meta":
            yield from _labels(element)
        elif element.tag == "image":
            yield from _image(element, names, frames, conventions)
            tags += sum(child.tag == "tag" for child in element.children)
        elif element.tag == "track":
            raise InputError(
                f"{path}: line {element.line}: a track: this is `CVAT for video`. Export it as"
                " `CVAT for images 1.1`."
            )
    if tags:
        logger.info("%s: %d tags of whole images are not used", path, tags)


def _labels(meta: Element) -> Iterator[Category]:
    for element in meta.walk():
        # Labels of the parts of a skeleton name their parent.
        if element.tag == "label" and element.find("name") and not element.text_of("parent"):
            yield Category(f"label in line {element.line}", element.find("name").text)


def _image(
    element: Element, names: ImageNames, frames: set[int | None], conventions: Conventions
) -> Iterator[Click | Image | Problem]:
    written = element.attributes.get("name", "")
    name = names.of_upload(written)
    size = None
    if "width" in element.attributes and "height" in element.attributes:
        texts = (element.attributes["width"], element.attributes["height"])
        size = tuple(text if (n := whole_number_in(text)) is None else n for text in texts)
    # The tasks of a project may each number their frames from 0.
    frame = whole_number_in(element.attributes.get("id"))
    image_id = None if frame in frames else frame
    frames.add(frame)
    yield Image(f"image {written!r} (line {element.line})", name, image_id, size)
    for shape in element.children:
        record = f"image {written!r}, {shape.tag[:30]} in line {shape.line}"
        if shape.tag == "tag":
            continue
        if shape.tag in REFUSED:
            yield Problem(record, f"a {shape.tag} is no click: {REFUSED[shape.tag]}.")
        elif shape.tag in ("points", "box", "polygon"):
            yield from _shape(record, name, shape, conventions)
        else:
            yield Problem(record, "is no shape of `CVAT for images 1.1`. Remove it.")


def _shape(
    record: str, name: str, shape: Element, conventions: Conventions
) -> Iterator[Click | Problem]:
    label = shape.attributes.get("label", "")
    attributes = {
        child.attributes.get("name", ""): child.text
        for child in shape.children
        if child.tag == "attribute"
    }
    text = attributes.get(ID_ATTRIBUTE, "").strip()
    annotation_id = whole_number_in(text)
    if text and annotation_id is None:
        yield Problem(record, f"{ID_ATTRIBUTE} {text[:60]!r} is not a whole number. Correct it.")
        return
    ignored = attributes.get(IGNORE_ATTRIBUTE, "").strip().lower() in ("true", "1")
    extra = {"ignore": 1} if ignored else {}
    if shape.tag == "box":
        yield _box(record, name, shape, label, annotation_id, extra, conventions)
        return
    points = _points(shape.attributes.get("points", ""), conventions)
    if points is None:
        text = shape.attributes.get("points", "")
        yield Problem(record, f"points {text[:60]!r} is not `x,y;x,y`. Correct it.")
    elif shape.tag == "polygon":
        if len(points) < 3:
            yield Problem(record, f"a polygon of {len(points)} points. Draw it again.")
            return
        extra |= outline(points)
        yield Click(record, name, None, label, box_around(points), annotation_id, extra)
    elif len(points) == 1:
        yield Click(record, name, points[0], label, None, annotation_id, extra)
    elif annotation_id is not None:
        yield Problem(
            record,
            f"{len(points)} points share the {ID_ATTRIBUTE} {annotation_id}. Make each of them a"
            " shape of its own, or remove the attribute.",
        )
    else:
        for index, point in enumerate(points, start=1):
            yield Click(f"{record}, point {index}", name, point, label, None, None, extra)


def _box(
    record: str,
    name: str,
    shape: Element,
    label: str,
    annotation_id: int | None,
    extra: dict,
    conventions: Conventions,
) -> Click | Problem:
    sides = [number_in(shape.attributes.get(key)) for key in ("xtl", "ytl", "xbr", "ybr")]
    degrees = number_in(shape.attributes.get("rotation", "0"))
    if None in sides or degrees is None or abs(degrees) > 1e6:
        return Problem(record, "xtl, ytl, xbr, ybr or rotation is not a number. Correct it.")
    left, top, right, bottom = map(conventions.to_continuous, sides)
    box = box_between((left, top), (right, bottom))
    if degrees % 360:
        centre = (box[0] + box[2] / 2, box[1] + box[3] / 2)
        corners = turned_rectangle(box[:2], box[2:], degrees, centre)
        box, extra = box_around(corners), extra | outline(corners)
    return Click(record, name, None, label, box, annotation_id, extra)


def _points(text: str, conventions: Conventions) -> list[tuple[float, float]] | None:
    """The points of `x,y;x,y`, in continuous px."""
    points = []
    for pair in text.split(";"):
        values = [number_in(part.strip()) for part in pair.split(",")]
        if len(values) != 2 or None in values:
            return None
        points.append((conventions.to_continuous(values[0]), conventions.to_continuous(values[1])))
    return points
