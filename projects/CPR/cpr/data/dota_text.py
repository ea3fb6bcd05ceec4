"""DOTA's labelTxt files: one object a line, its four corners, class and whether it is difficult.

    imagesource:GoogleEarth
    gsd:0.146343590398
    2753.0 2408.0 2861.0 2385.0 2888.0 2468.0 2805.0 2502.0 plane 0

The two lines at the top may be missing. Coordinates are taken as continuous px from the image's
top-left corner; corners may lie outside the image.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cpr_deploy.files import InputError, is_broken_text

from .point_json import MAX_COORDINATE, Problem

# DOTA's largest label files have some hundred kB.
MAX_BYTES = 1 << 26
HEADER = re.compile(r"[A-Za-z][\w ]*:")
# v1.5 and v2.0 also grade difficulty by 2.
DIFFICULTIES = {"0": False, "1": True, "2": True}
EXAMPLE = "x1 y1 x2 y2 x3 y3 x4 y4 class difficult"


class Quadrilateral(NamedTuple):
    """One object of a labelTxt file."""

    record: str  # where it stands, e.g. "line 7"
    corners: tuple[tuple[float, float], ...]  # 4 of x, y in px
    label: str  # as written, e.g. "small-vehicle"
    difficult: bool


def read_quadrilaterals(path: str | os.PathLike) -> Iterator[Quadrilateral | Problem]:
    """The objects of a labelTxt file in its order; a `Problem` for each line that is not usable.

    Raises:
        InputError: no such file, not a text in UTF-8, or too large for one.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file. Check the path.")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: more than {MAX_BYTES} bytes are no label file of one image.")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error}). Save it as UTF-8.") from None
    in_header = True
    for number, line in enumerate(lines, start=1):
        line = line.strip()
        if not line or (in_header and HEADER.match(line)):
            continue
        in_header = False
        yield _parse(f"line {number}", line)


def _parse(record: str, line: str) -> Quadrilateral | Problem:
    words = line.split()
    if len(words) < 9:
        return Problem(record, f"{line[:60]!r} is not `{EXAMPLE}`. Correct or remove the line.")
    numbers = [_number(word) for word in words[:8]]
    if None in numbers:
        word = words[numbers.index(None)]
        return Problem(record, f"{word[:30]!r} is not a coordinate in px. Correct the line.")
    rest = words[8:]
    difficult = False
    if len(rest) > 1:
        if rest[-1] in DIFFICULTIES:
            difficult = DIFFICULTIES[rest.pop()]
        elif _number(rest[-1]) is not None:
            return Problem(record, f"difficult {rest[-1][:30]!r} is not 0, 1 or 2. Correct it.")
    label = " ".join(rest)
    if _number(label) is not None:
        return Problem(record, f"names no class. Write `{EXAMPLE}`.")
    if is_broken_text(label):
        return Problem(record, f"the class {label[:30]!r} holds characters that nothing can show.")
    corners = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    return Quadrilateral(record, corners, label, difficult)


def _number(word: str) -> float | None:
    # float() also takes "nan", "1_000" and digits of other scripts.
    if not word.isascii() or "_" in word:
        return None
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) and abs(value) <= MAX_COORDINATE else None


def horizontal_box(
    corners: Sequence[Sequence[float]], width: float, height: float
) -> list[float] | None:
    """The upright box [x, y, w, h] around `corners`, clipped to an image; None if nothing is left.

    All in px; `width` and `height` are those of the image.
    """
    xs, ys = zip(*corners, strict=True)
    left, right = max(min(xs), 0.0), min(max(xs), float(width))
    top, bottom = max(min(ys), 0.0), min(max(ys), float(height))
    if right <= left or bottom <= top:
        return None
    return [left, top, right - left, bottom - top]


def polygon_area(corners: Sequence[Sequence[float]]) -> float:
    """Area of a simple polygon, px^2 (shoelace formula)."""
    following = [*corners[1:], corners[0]]
    doubled = sum(x * v - u * y for (x, y), (u, v) in zip(corners, following, strict=True))
    return abs(doubled) / 2
