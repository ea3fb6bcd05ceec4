"""What the importers of all formats share: from the records of a file to a point JSON."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cpr_deploy.files import InputError, is_broken_text, safe_child

from ..image_folder import list_images
from ..point_json import MAX_COORDINATE, Problem
from . import FORMATS

logger = logging.getLogger(__name__)

Origin = Literal["corner", "centre"]
ORIGINS = ("corner", "centre")
# The class of clicks that name none.
DEFAULT_CLASS = "object"


@dataclass(frozen=True)
class Conventions:
    """How a file counts pixels. Ours: the first pixel spans 0 to 1, its centre is 0.5.

    Attributes:
        origin: "corner": coordinates are continuous, 0 is the image's left or top edge. "centre":
            they are pixel indices, 0 is the centre of the first pixel.
        one_based: the file counts from 1 instead of 0.
    """

    origin: Origin = "corner"
    one_based: bool = False

    def __post_init__(self) -> None:
        if self.origin not in ORIGINS:
            raise InputError(f"origin {self.origin!r}: use one of {', '.join(ORIGINS)}.")

    def to_continuous(self, coordinate: float) -> float:
        """A coordinate of the file in continuous px from the image's corner."""
        return coordinate - self.one_based + (0.5 if self.origin == "centre" else 0.0)


@dataclass(frozen=True)
class Click:
    """One object of a foreign file.

    Attributes:
        record: where it stands, for messages, e.g. "line 7".
        file_name: its image, as the file names it, relative to the image folder.
        point: x, y in continuous px from the image's top-left corner.
        label: the name of its class; None if the file knows no classes.
    """

    record: str
    file_name: str
    point: tuple[float, float]
    label: str | None = None


@dataclass(frozen=True)
class Imported:
    """What `import_points` makes.

    Attributes:
        dataset: a point JSON; ids of images, classes and annotations count from 1.
        skipped: what was left out, with the reason.
    """

    dataset: dict[str, Any]
    skipped: list[Problem]


def import_points(
    path: str | os.PathLike,
    image_root: str | os.PathLike,
    *,
    file_format: str,
    conventions: Conventions = Conventions(),
    classes: Sequence[str] | None = None,
    skip_bad: bool = False,
) -> Imported:
    """Reads the clicks of another tool and lists them with all images of a folder.

    Args:
        path: the file to read.
        image_root: folder of the images; images without clicks belong to the data set too.
        file_format: one of `FORMATS`.
        conventions: how the file counts pixels.
        classes: the names of the classes in the order of their ids; others are bad records.
            None: the names found, sorted.
        skip_bad: leave bad records and damaged images out instead of stopping at the first.

    Returns:
        the point JSON, with the images in the order of their names, and what was left out.

    Raises:
        InputError: naming file, record, rule and fix.
    """
    if file_format not in FORMATS:
        raise InputError(f"format {file_format!r}: use one of {', '.join(sorted(FORMATS))}.")
    _check_classes(classes)
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file. Check the path.")
    skipped: list[Problem] = []
    images = list_images(image_root, skipped=skipped if skip_bad else None)
    by_name = {image["file_name"]: image for image in images}
    find_image = _ImageFinder(image_root, by_name)

    clicks: list[tuple[Click, int]] = []
    module = importlib.import_module(f"{__package__}.{FORMATS[file_format].module}")
    for click in module.read(Path(path), by_name, conventions):
        problem = click
        if isinstance(click, Click):
            image, text = find_image(click.file_name)
            text = text or _point_problem(click, image) or _class_problem(click.label, classes)
            if text is None:
                clicks.append((click, image["id"]))
                continue
            problem = Problem(click.record, text)
        if not skip_bad:
            raise InputError(f"{path}: {problem.record}: {problem.text}")
        skipped.append(problem)
    if not clicks:
        raise InputError(f"{path}: no usable click in it. Give the file that holds the clicks.")
    return Imported(_build(clicks, images, classes), skipped)


def _build(
    clicks: list[tuple[Click, int]], images: list[dict], classes: Sequence[str] | None
) -> dict[str, Any]:
    labels = [DEFAULT_CLASS if click.label is None else click.label for click, _ in clicks]
    names = list(classes or sorted(set(labels)))
    _warn_of_similar(names)
    category_ids = {name: index for index, name in enumerate(names, start=1)}
    return {
        "images": images,
        "categories": [{"id": number, "name": name} for name, number in category_ids.items()],
        "annotations": [
            {
                "id": index,
                "image_id": image_id,
                "category_id": category_ids[label],
                "point": list(click.point),
            }
            for index, ((click, image_id), label) in enumerate(
                zip(clicks, labels, strict=True), start=1
            )
        ],
    }


class _ImageFinder:
    """The image record of a name in a foreign file, or what is wrong with that name."""

    def __init__(self, image_root: str | os.PathLike, by_name: dict[str, dict]) -> None:
        self._root = image_root
        self._by_name = by_name
        # Each name is checked once: resolving links takes longer than all the rest.
        self._known: dict[str, tuple[dict, str | None]] = {}
        self._similar = {name.rpartition("/")[2].lower(): name for name in by_name}

    def __call__(self, name: str) -> tuple[dict, str | None]:
        if name not in self._known:
            self._known[name] = self._look_up(name)
        return self._known[name]

    def _look_up(self, name: str) -> tuple[dict, str | None]:
        try:
            safe_child(self._root, name)
        except InputError as error:
            return {}, f"image {name!r}: {error}"
        image = self._by_name.get(name)
        if image is not None:
            return image, None
        text = f"image {name!r} is not in the image folder {os.fspath(self._root)!r}."
        similar = self._similar.get(name.rpartition("/")[2].lower())
        if similar:
            return {}, f"{text} Did you mean {similar!r}?"
        return {}, f"{text} Add the image, or correct the name or the folder."


def _point_problem(click: Click, image: dict) -> str | None:
    x, y = click.point
    # Not so for NaN either.
    if not (abs(x) <= MAX_COORDINATE and abs(y) <= MAX_COORDINATE):
        return f"the point ({x:g}, {y:g}) is no pixel. Correct it."
    if not (0 <= x <= image["width"] and 0 <= y <= image["height"]):
        return (
            f"the point ({x:g}, {y:g}) lies outside {click.file_name} of {image['width']} x"
            f" {image['height']} px. Correct it, and see --origin and --one-based."
        )
    return None


def _class_problem(label: str | None, classes: Sequence[str] | None) -> str | None:
    name = DEFAULT_CLASS if label is None else label
    if not name:
        return "names no class. Write its name, or leave the column out for one class."
    if is_broken_text(name):
        return f"the class {name!r} holds characters that nothing can show. Rename it."
    if classes is not None and name not in classes:
        return f"the class {name!r} is not among --classes {','.join(classes)}. Add or correct it."
    return None


def _check_classes(classes: Sequence[str] | None) -> None:
    if classes is None:
        return
    if not classes or len(set(classes)) < len(classes):
        raise InputError(f"classes {','.join(classes)!r}: name each class once.")
    for name in classes:
        if _class_problem(name, None):
            raise InputError(f"classes {','.join(classes)!r}: {_class_problem(name, None)}")


def _warn_of_similar(names: list[str]) -> None:
    spellings: dict[str, str] = {}
    for name in names:
        other = spellings.setdefault(name.casefold(), name)
        if other != name:
            logger.warning("the classes %r and %r differ in case only; are they one?", other, name)
