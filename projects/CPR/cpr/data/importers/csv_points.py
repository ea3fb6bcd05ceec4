"""Clicks in a table: one line an object, `file_name,x,y,class` (CSV or TSV).

The first line names the columns, in any order: `file_name` or `image`, `x`, `y`, and, unless there
is one class only, `class` or `label`. `annotation_id` and `image_id`, which our own export writes,
keep the ids. Other columns are not used. Separator: comma, tab or semicolon, whichever the first
line holds. UTF-8, with or without a byte order mark.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

from cpr_deploy.files import InputError

from ..point_json import Problem
from .records import Click, Conventions, Image, number_in, whole_number_in

logger = logging.getLogger(__name__)

# Column -> the names that it may have.
COLUMNS = {
    "image": ("file_name", "image"),
    "x": ("x",),
    "y": ("y",),
    "class": ("class", "label"),
    "annotation_id": ("annotation_id",),
    "image_id": ("image_id",),
}
OPTIONAL = ("class", "annotation_id", "image_id")
SEPARATORS = ("\t", ";", ",")
HEADER_EXAMPLE = "file_name,x,y,class"
MAX_HEADER = 1 << 16  # characters
MAX_LINE = 1 << 24  # characters
MAX_BYTES = 4 << 30


def read(
    path: Path, images: Mapping[str, dict], conventions: Conventions
) -> Iterator[Click | Image | Problem]:
    """The clicks of a table, line by line; see `cpr.data.importers`.

    Args:
        path: the table.
        images: not used: a table is in pixels whatever the image.
        conventions: how the table counts pixels.

    Raises:
        InputError: too large, not a text in UTF-8, or its first line does not name the columns.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise InputError(f"{path}: {size} bytes is more than {MAX_BYTES}. Split the file.")
    try:
        # newline="": a cell in quotes may hold line ends, which is the csv module's business.
        with open(path, encoding="utf-8-sig", newline="") as file:
            header = file.readline(MAX_HEADER)
            separator = next((s for s in SEPARATORS if s in header), ",")
            file.seek(0)
            yield from _clicks(path, csv.reader(_lines(file), delimiter=separator), conventions)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error}). Save it as CSV UTF-8.") from None
    except csv.Error as error:
        raise InputError(
            f"{path}: is not a table ({error}). Save it as CSV, one line an object."
        ) from None


def _lines(file: TextIO) -> Iterator[str]:
    """The lines of a table; a file without line ends is never held as a whole."""
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise csv.Error(f"a line of more than {MAX_LINE} characters")
        yield line


def _clicks(path: Path, rows, conventions: Conventions) -> Iterator[Click | Image | Problem]:
    columns: dict[str, int] | None = None
    width = 0
    line = 1
    known_images: set[tuple[str, str]] = set()
    for row in rows:
        # A row in quotes may span several lines; line_num is its last.
        record, line = f"line {line}", rows.line_num + 1
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if columns is None:
            columns, width = _columns(path, record, cells), len(cells)
        elif len(cells) != width:
            yield Problem(
                record,
                f"has {len(cells)} cells, the first line names {width} columns. Correct the line;"
                " a text with a separator in it needs quotes, a number a decimal point.",
            )
        else:
            if "image_id" in columns:
                name, image_id = cells[columns["image"]], cells[columns["image_id"]]
                if image_id and (name, image_id) not in known_images:
                    known_images.add((name, image_id))
                    number = whole_number_in(image_id)
                    yield Image(record, name, image_id if number is None else number)
            yield _click(record, cells, columns, conventions)
    if columns is None:
        raise InputError(f"{path}: is empty. Its first line must be {HEADER_EXAMPLE}.")


def _columns(path: Path, record: str, cells: list[str]) -> dict[str, int]:
    """Column -> its place in a line."""
    names = [cell.lower() for cell in cells]
    columns = {}
    for column, synonyms in COLUMNS.items():
        places = [place for place, name in enumerate(names) if name in synonyms]
        if len(places) > 1:
            raise InputError(
                f"{path}: {record}: {' and '.join(cells[p] for p in places)} name the same column."
                " Keep one of them."
            )
        if places:
            columns[column] = places[0]
        elif column not in OPTIONAL:
            raise InputError(
                f"{path}: {record}: no column {' or '.join(synonyms)} among"
                f" {', '.join(repr(cell[:30]) for cell in cells[:8])}. The first line must name the"
                f" columns, for example {HEADER_EXAMPLE}."
            )
    unused = [cell for place, cell in enumerate(cells) if place not in columns.values()]
    if unused:
        logger.info("%s: columns that are not used: %s", path, ", ".join(unused))
    return columns


def _click(
    record: str, cells: list[str], columns: dict[str, int], conventions: Conventions
) -> Click | Problem:
    values = []
    for axis in ("x", "y"):
        text = cells[columns[axis]]
        value = number_in(text)
        if value is None:
            return Problem(record, f"{axis} {text[:60]!r} is not a number. Write it like 12.5.")
        values.append(conventions.to_continuous(value))
    label = cells[columns["class"]] if "class" in columns else None
    annotation_id = None
    if "annotation_id" in columns and cells[columns["annotation_id"]]:
        text = cells[columns["annotation_id"]]
        annotation_id = whole_number_in(text)
        if annotation_id is None:
            return Problem(record, f"annotation_id {text[:60]!r} is not a whole number.")
    return Click(record, cells[columns["image"]], (values[0], values[1]), label, id=annotation_id)
