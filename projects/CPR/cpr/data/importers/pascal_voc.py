"""Pascal VOC XML: one file an image, one box an object.

Coordinates are taken as continuous px; with --one-based as in PASCAL's own files: numbers of
pixels from 1, the first and the last of the box included. `difficult` marks a region.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from cpr_deploy.files import InputError

from ..point_json import Problem
from .names import AnnotationFile, ImageNames, annotation_files, reason
from .records import Click, Conventions, Image, box_between, number_in, whole_number_in
from .xml_file import Element, read_children

_SIDES = ("xmin", "ymin", "xmax", "ymax")


def read(
    path: Path, images: Mapping[str, dict], conventions: Conventions
) -> Iterator[Click | Image | Problem]:
    """The boxes of VOC files, file by file; see `cpr.data.importers`.

    Raises:
        InputError: no such file or folder, or no XML file in it.
    """
    names = ImageNames(images)
    for file in annotation_files(path, (".xml",)):
        if isinstance(file, Problem):
            yield file
            continue
        try:
            children = list(read_children(file.path, root="annotation"))
        except InputError as error:
            yield Problem(repr(file.name), reason(error, file.path))
            continue
        yield from _objects(file, children, names, conventions)


def _objects(
    file: AnnotationFile, children: list[Element], names: ImageNames, conventions: Conventions
) -> Iterator[Click | Image | Problem]:
    written = next((c.text.strip() for c in children if c.tag == "filename"), "")
    # Images lie beside their files, or in a folder of their own.
    name = names.of_path(written, beside=file.name) if written else None
    if written and not names.has(name):
        name = names.of_path(written)
    if name is None or not names.has(name):
        # Some tools leave the suffix out, or the name: then the files are called the same.
        by_file = names.of_file(file.name)
        if isinstance(by_file, str):
            name = by_file
        elif name is None:
            yield by_file
            return
    size = next((c for c in children if c.tag == "size"), None)
    if size is not None:
        texts = (size.text_of("width") or "", size.text_of("height") or "")
        size = tuple(text if (n := whole_number_in(text)) is None else n for text in texts)
        if size == (0, 0):  # some tools do not know it
            size = None
    yield Image(repr(file.name), name, size=size)
    for element in children:
        if element.tag == "object":
            yield _click(
                f"{file.name!r}, object in line {element.line}", name, element, conventions
            )


def _click(record: str, name: str, element: Element, conventions: Conventions) -> Click | Problem:
    label = element.text_of("name")
    if label is None:
        return Problem(record, "names no class. Add <name>.")
    box = element.find("bndbox")
    if box is None:
        return Problem(record, "has no <bndbox>. Draw an upright box.")
    sides = [number_in(box.text_of(key)) for key in _SIDES]
    if None in sides:
        texts = [str(box.text_of(key))[:20] for key in _SIDES]
        return Problem(
            record, f"{' '.join(texts)!r} are not {', '.join(_SIDES)} in px. Correct it."
        )
    left, top, right, bottom = (side - conventions.one_based for side in sides)
    if right < left or bottom < top:
        return Problem(record, "xmax or ymax is less than xmin or ymin. Correct the box.")
    # Numbers of pixels: the box ends behind its last one.
    last = 1.0 if conventions.one_based or conventions.origin == "centre" else 0.0
    difficult = element.text_of("difficult") or "0"
    if difficult.lower() not in ("0", "1", "false", "true", "unspecified"):
        return Problem(record, f"difficult {difficult[:30]!r} is not 0 or 1. Correct it.")
    extra = {"ignore": 1} if difficult.lower() in ("1", "true") else {}
    corners = (left, top), (right + last, bottom + last)
    return Click(record, name, None, label, box_between(*corners), extra=extra)
