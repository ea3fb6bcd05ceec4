"""YOLO's label files: one text file an image, one box a line, `class x y w h`.

Numbers are the box's centre and sides as shares of the image's width and height, so the images must
be there. Class names come from the data.yaml (or classes.txt) in the folder that is given, or one
folder up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from cpr_deploy.files import InputError

from ..point_json import Problem
from .names import AnnotationFile, ImageNames, annotation_files, reason
from .records import Category, Click, Conventions, Image, number_in, whole_number_in
from .yaml_names import read_names

MAX_BYTES = 1 << 26
# Shares are written with six digits, so a box of the whole image may be a little larger.
_TOLERANCE = 1e-3
_NAME_FILES = ("classes.txt", "obj.names")
# Text files of data sets that are no labels, unless there is an image of their name.
_NO_LABELS = ("classes.txt", "train.txt", "val.txt", "valid.txt", "test.txt", "readme.txt")
_NO_LABELS += ("requirements.txt", "notes.txt", "readme.dataset.txt", "readme.roboflow.txt")


def read(
    path: Path, images: Mapping[str, dict], conventions: Conventions
) -> Iterator[Click | Image | Category | Problem]:
    """The boxes of a YOLO data set, file by file; see `cpr.data.importers`.

    Args:
        path: folder of the data set or of its labels, or its data.yaml.
        images: file name -> record, for their sizes.
        conventions: not used.

    Raises:
        InputError: no such folder, no class names, no label file.
    """
    folder = path.parent if path.suffix.lower() in (".yaml", ".yml") else path
    classes = read_names(path) if folder != path else _class_names(path)
    for index, label in sorted(classes.items()):
        yield Category(f"class {index}", label, index + 1)
    names = ImageNames(images)
    for file in annotation_files(folder, (".txt",)):
        if isinstance(file, Problem):
            yield file
        else:
            yield from _boxes(file, names, images, classes)


def _class_names(path: Path) -> dict[int, str]:
    """Class index -> name, from the file that names the classes."""
    folder = path if path.is_dir() else path.parent
    for place in (folder, folder.parent):
        found = sorted(p for p in place.glob("*") if p.suffix.lower() in (".yaml", ".yml"))
        if len(found) > 1:
            raise InputError(
                f"{path}: {found[0].name} and {found[1].name} may both name the classes. Give the"
                " right one instead of the folder."
            )
        if found:
            return read_names(found[0])
        for name in _NAME_FILES:
            if (place / name).is_file():
                return _listed_names(place / name)
    raise InputError(f"{path}: neither data.yaml nor classes.txt names the classes. Add one.")


def _listed_names(path: Path) -> dict[int, str]:
    """A file with one class a line."""
    lines = [line.strip() for line in _text(path).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return dict(enumerate(lines))


def _text(path: Path) -> str:
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: more than {MAX_BYTES} bytes are no label file of one image.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error}). Save it as UTF-8.") from None


def _boxes(
    file: AnnotationFile,
    names: ImageNames,
    images: Mapping[str, dict],
    classes: Mapping[int, str],
) -> Iterator[Click | Image | Problem]:
    name = names.of_file(file.name)
    if isinstance(name, Problem):
        if file.path.name.lower() not in _NO_LABELS:
            yield name
        return
    try:
        text = _text(file.path)
    except InputError as error:
        yield Problem(repr(file.name), reason(error, file.path))
        return
    size = images[name]["width"], images[name]["height"]
    yield Image(repr(file.name), name)
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _click(f"{file.name!r}, line {number}", name, line.split(), size, classes)


def _click(
    record: str,
    name: str,
    words: list[str],
    size: tuple[int, int],
    classes: Mapping[int, str],
) -> Click | Problem:
    if len(words) not in (5, 6):  # the sixth is the score of a prediction
        return Problem(
            record,
            f"has {len(words)} numbers; `class x y w h` are five. Keypoints, polygons and turned"
            " boxes of YOLO are not read.",
        )
    index = whole_number_in(words[0])
    if index is None or index not in classes:
        return Problem(record, f"the class {words[0][:30]!r} is not among the names. Add it.")
    values = [number_in(word) for word in words[1:5]]
    if None in values or not all(-_TOLERANCE <= value <= 1 + _TOLERANCE for value in values):
        return Problem(
            record,
            f"{' '.join(words[1:5])[:60]!r} are not shares of the image from 0 to 1. Correct them.",
        )
    (x, y, w, h), (width, height) = values, size
    box = ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
    return Click(record, name, None, classes[index], box)
