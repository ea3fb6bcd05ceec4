"""DOTA's labelTxt files: one text file an image, one quadrilateral a line.

Quadrilaterals become upright boxes, cut to the image, and outlines, so that clicks can be drawn
inside them (`prepare_points.py coarse --source mask`). `difficult` marks a region.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from cpr_deploy.files import InputError

from ..dota_text import horizontal_box, read_quadrilaterals
from ..point_json import Problem
from .names import AnnotationFile, ImageNames, annotation_files, reason
from .records import Click, Conventions, Image, outline


def read(
    path: Path, images: Mapping[str, dict], conventions: Conventions
) -> Iterator[Click | Image | Problem]:
    """The objects of labelTxt files, file by file; see `cpr.data.importers`.

    Raises:
        InputError: no such file or folder, or no text file in it.
    """
    names = ImageNames(images)
    for file in annotation_files(path, (".txt",)):
        if isinstance(file, Problem):
            yield file
            continue
        name = names.of_file(file.name)
        if isinstance(name, Problem):
            yield name
            continue
        yield Image(repr(file.name), name)
        yield from _clicks(file, name, images[name], conventions)


def _clicks(
    file: AnnotationFile, name: str, image: dict, conventions: Conventions
) -> Iterator[Click | Problem]:
    try:
        for found in read_quadrilaterals(file.path):
            record = f"{file.name!r}, {found.record}"
            if isinstance(found, Problem):
                yield Problem(record, found.text)
                continue
            corners = [tuple(map(conventions.to_continuous, corner)) for corner in found.corners]
            box = horizontal_box(corners, image["width"], image["height"])
            if box is None:
                yield Problem(record, "lies outside its image. Correct or remove the line.")
                continue
            extra = outline(corners) | ({"ignore": 1} if found.difficult else {})
            yield Click(record, name, None, found.label, tuple(box), extra=extra)
    except InputError as error:
        yield Problem(repr(file.name), reason(error, file.path))
