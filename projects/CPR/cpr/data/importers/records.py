"""What the readers of all formats give, and the small conversions that they share."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cpr_deploy.files import InputError

Origin = Literal["corner", "centre"]
ORIGINS = ("corner", "centre")

# Python's float() also takes "nan", "1_000" and digits of other scripts.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WHOLE_NUMBER = re.compile(r"-?(0|[1-9]\d*)", re.ASCII)
# A number of more characters is none; and the pattern above takes long to refuse a very long text.
_MAX_NUMBER = 64


@dataclass(frozen=True)
class Conventions:
    """How a file is to be read. Ours: the first pixel spans 0 to 1, its centre is 0.5.

    Attributes:
        origin: "corner": coordinates are continuous, 0 is the image's left or top edge. "centre":
            they are pixel indices, 0 is the centre of the first pixel.
        one_based: the file counts from 1 instead of 0.
        keypoint: of objects with several keypoints: the name of the one that is the click, or
            "mean" of those that are labelled.
    """

    origin: Origin = "corner"
    one_based: bool = False
    keypoint: str | None = None

    def __post_init__(self) -> None:
        if self.origin not in ORIGINS:
            raise InputError(f"origin {self.origin!r}: use one of {', '.join(ORIGINS)}.")

    def to_continuous(self, coordinate: float) -> float:
        """A coordinate of the file in continuous px from the image's corner."""
        return coordinate - self.one_based + (0.5 if self.origin == "centre" else 0.0)


@dataclass(frozen=True, slots=True)
class Click:
    """One object of a foreign file: a click, a box, or both.

    Attributes:
        record: where it stands, for messages, e.g. "line 7".
        file_name: its image, as in the image folder; other names are bad records.
        point: x, y in continuous px from the image's top-left corner.
        label: the name of its class; None if the file knows no classes.
        bbox: x, y, w, h in continuous px.
        id: the id of its annotation; None: the next one that is not used.
        extra: what else its annotation shall hold, e.g. {"ignore": 1}.
    """

    record: str
    file_name: str
    point: tuple[float, float] | None = None
    label: str | None = None
    bbox: tuple[float, float, float, float] | None = None
    id: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Image:
    """An image that a foreign file lists; it comes before the clicks on it.

    Attributes:
        record: where it stands, for messages.
        file_name: its file, as in the image folder.
        id: its id; None: the next one that is not used.
        size: width and height in px, if the file tells.
        extra: what else its record shall hold.
        is_annotated: False: the file says that nobody has annotated it yet.
    """

    record: str
    file_name: str
    id: int | str | None = None
    size: tuple[Any, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    is_annotated: bool = True


@dataclass(frozen=True, slots=True)
class Category:
    """A class that a foreign file lists, in the order of its list.

    Attributes:
        record: where it stands, for messages.
        name: its name.
        id: its id; None: the next one that is not used.
        extra: what else its record shall hold.
    """

    record: str
    name: Any
    id: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def number_in(text: str | None) -> float | None:
    """A decimal number in a text, or None if it is none. Infinite if it is too large."""
    if text is None or len(text) > _MAX_NUMBER or not _NUMBER.fullmatch(text):
        return None
    return float(text)


def whole_number_in(text: str | None) -> int | None:
    """A whole number in its usual spelling, or None: not "+1", "007" or "1.0"."""
    if text is None or len(text) > _MAX_NUMBER or not _WHOLE_NUMBER.fullmatch(text):
        return None
    return int(text)


def finite(value: Any) -> float | None:
    """A number of a JSON file as a float, or None if it is none or infinite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, int) and abs(value) >= 2**1000:  # too long for a float
        return None
    return float(value) if math.isfinite(value) else None


def finite_points(points: Any) -> list[tuple[float, float]] | None:
    """A list of [x, y] of a JSON file, or None if it is anything else."""
    if not isinstance(points, list):
        return None
    pairs = []
    for point in points:
        if not isinstance(point, list) or len(point) != 2:
            return None
        x, y = finite(point[0]), finite(point[1])
        if x is None or y is None:
            return None
        pairs.append((x, y))
    return pairs


def box_between(
    first: Sequence[float], second: Sequence[float]
) -> tuple[float, float, float, float]:
    """The box x, y, w, h between two opposite corners x, y, in any order."""
    left, right = sorted((first[0], second[0]))
    top, bottom = sorted((first[1], second[1]))
    return left, top, right - left, bottom - top


def box_around(points: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """The upright box x, y, w, h around points x, y."""
    xs, ys = zip(*points, strict=True)
    return box_between((min(xs), min(ys)), (max(xs), max(ys)))


def outline(points: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The polygon through points x, y, as `extra` of a click: a COCO segmentation."""
    return {"segmentation": [[float(value) for point in points for value in point]]}


def turned_rectangle(
    corner: Sequence[float], sides: Sequence[float], degrees: float, pivot: Sequence[float]
) -> list[tuple[float, float]]:
    """The four corners of a rectangle that is turned about a point.

    Args:
        corner: x, y of its top-left corner before it is turned, px.
        sides: width and height, px.
        degrees: clockwise as seen on the screen, where y points down.
        pivot: x, y of the point that stays where it is, px.

    Returns:
        Four x, y, from the top-left corner on, clockwise.
    """
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    (x, y), (width, height) = corner, sides
    corners = ((x, y), (x + width, y), (x + width, y + height), (x, y + height))
    return [
        (
            pivot[0] + cosine * (u - pivot[0]) - sine * (v - pivot[1]),
            pivot[1] + sine * (u - pivot[0]) + cosine * (v - pivot[1]),
        )
        for u, v in corners
    ]
