"""What the importers of all formats share: from the records of a file to a point JSON."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpr_deploy.files import InputError

from ..image_folder import check_size, list_images
from ..point_json import Problem, is_ignored, load_points
from . import FORMATS, Format
from .dataset_builder import DatasetBuilder, class_name_problem
from .names import file_problem
from .records import Conventions


@dataclass(frozen=True)
class Imported:
    """What `import_points` makes.

    Attributes:
        dataset: a point JSON; ids that the file does not give count from 1, or on from the last.
        skipped: what was left out, with the reason.
    """

    dataset: dict[str, Any]
    skipped: list[Problem]


def default_conventions(file_format: str) -> Conventions:
    """How files of a format count pixels unless one knows better."""
    entry = _format(file_format)
    return Conventions(entry.origin or "corner", entry.one_based)


def import_points(
    path: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
    *,
    file_format: str,
    conventions: Conventions | None = None,
    classes: Sequence[str] | None = None,
    original: str | os.PathLike | None = None,
    annotated_only: bool = False,
    skip_bad: bool = False,
) -> Imported:
    """Reads the annotations of another tool and lists them with all images of a folder.

    Args:
        path: the file to read; for formats with a file for each image also a folder of them.
        image_root: folder of the images; images without clicks belong to the data set too. None:
            the images that the file lists, if it tells their sizes, or those of `original`.
        file_format: one of `FORMATS`.
        conventions: how the file counts pixels; None: as is usual for the format.
        classes: the names of the classes in the order of their ids; others are bad records. None:
            those that the file lists, in its order, then those found, sorted.
        original: the point JSON that was exported, reviewed elsewhere and now comes back: its
            classes, the ids of its images, and what else it says of images and of the annotations
            whose ids come back are kept. Annotations that do not come back are gone.
        annotated_only: leave out images that the file does not list (a table: that have no line),
            or says not to be annotated; else they count as free of objects, with a warning.
        skip_bad: leave bad records and damaged images out instead of stopping at the first.

    Returns:
        the point JSON, with the images in the order of their names (without a folder: of the file
        or of `original`), and what was left out.

    Raises:
        InputError: naming file, record, rule and fix.
    """
    entry = _format(file_format)
    path = Path(path)
    conventions = _checked_conventions(conventions, file_format, entry)
    _check_classes(classes)
    if entry.file_per_image and not path.exists():
        raise InputError(f"{path}: no such file or folder. Check the path.")
    if not entry.file_per_image and not path.is_file():
        raise InputError(f"{path}: no such file. Check the path.")
    text = file_problem(path) if path.is_file() else None
    if text:
        raise InputError(f"{path}: {text}")
    if image_root is None and original is None and not entry.has_sizes:
        raise InputError(
            f"format {file_format}: the files do not tell the sizes of the images. Give the image"
            " folder (--image-root)."
        )
    if classes is not None and original is not None:
        raise InputError("classes: the original names them; give one of the two.")

    skipped: list[Problem] = []
    before = None if original is None else load_points(original, require=None)
    images = _known_images(image_root, before, skipped if skip_bad else None)
    builder = DatasetBuilder(image_root, images, classes, before)
    module = importlib.import_module(f"{__package__}.{entry.module}")
    # A copy: images that only the file lists are no help in finding those that it means.
    for item in module.read(path, dict(images), conventions):
        problem = item if isinstance(item, Problem) else builder.add(item)
        if problem is None:
            continue
        problem = Problem(_shortened(problem.record), _shortened(problem.text))
        if not skip_bad:
            raise InputError(f"{path}: {problem.record}: {problem.text}")
        skipped.append(problem)
    if not builder.clicks:
        raise InputError(
            f"{path}: no usable click or box in it. Give the file that holds the annotations."
        )
    if all(is_ignored(click.extra) for click in builder.clicks):
        raise InputError(f"{path}: all of its objects are to be ignored. Add some that are not.")
    builder.log_unused(path)
    if not annotated_only:
        builder.log_unannotated(path)
    return Imported(builder.dataset(annotated_only=annotated_only), skipped)


def _format(file_format: str) -> Format:
    if file_format not in FORMATS:
        raise InputError(f"format {file_format!r}: use one of {', '.join(FORMATS)}.")
    return FORMATS[file_format]


def _checked_conventions(
    conventions: Conventions | None, file_format: str, entry: Format
) -> Conventions:
    default = default_conventions(file_format)
    if conventions is None:
        return default
    pixels = (conventions.origin, conventions.one_based)
    if entry.origin is None and pixels != (default.origin, default.one_based):
        raise InputError(
            f"format {file_format}: has shares of the image, not pixels. Leave origin and one_based"
            " out."
        )
    if conventions.keypoint is not None and entry.module != "coco":
        raise InputError(f"format {file_format}: has no keypoints to choose from. Leave it out.")
    return conventions


def _known_images(
    image_root: str | os.PathLike | None,
    before: dict[str, Any] | None,
    skipped: list[Problem] | None,
) -> dict[str, dict]:
    """File name -> image record, of a folder or of an earlier data set; their ids are not final."""
    earlier: dict[str, dict] = {}
    for image in [] if before is None else before["images"]:
        if image["file_name"] in earlier:
            raise InputError(
                f"the original lists the file {image['file_name']!r} twice (tiles of one image?)."
                " Import into a data set of whole images."
            )
        earlier[image["file_name"]] = image
    if image_root is None:
        return earlier
    images = {image["file_name"]: image for image in list_images(image_root, skipped=skipped)}
    for name, image in images.items():
        if name in earlier:
            check_size(name, (image["height"], image["width"]), earlier[name])
    return images


def _shortened(text: str) -> str:
    """A message that names and values of a damaged file have made too long, without its middle."""
    return text if len(text) <= 600 else f"{text[:300]} ... {text[-290:]}"


def _check_classes(classes: Sequence[str] | None) -> None:
    if classes is None:
        return
    if not classes or len(set(classes)) < len(classes):
        raise InputError(f"classes {','.join(classes)!r}: name each class once.")
    for name in classes:
        if class_name_problem(name):
            raise InputError(f"classes {','.join(classes)!r}: {class_name_problem(name)}")
