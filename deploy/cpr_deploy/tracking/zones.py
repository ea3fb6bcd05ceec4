"""Zones, lines and alarm rules from a JSON file, checked so that each can only mean one thing.

    {"width": 1280, "height": 720,
     "zones": [{"name": "gate", "polygon": [[100, 80], [400, 80], [400, 300], [100, 300]]}],
     "lines": [{"name": "road", "from": [0, 500], "to": [1280, 500], "margin": 5}],
     "alarms": [{"name": "loiterer", "zone": "gate", "seconds": 10, "classes": ["person"]}]}

Coordinates are px of a frame of the given size; on frames of another one they scale with it. Left
and right of a line are those of somebody who stands at `from` and looks to `to`; within `margin`
(px, default 3) of it nobody has crossed yet. An alarm goes off once for each track that has been in
its zone for so many seconds; without `classes` of any class.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from cpr_deploy.files import InputError, is_broken_text, read_json
from cpr_deploy.polygons import in_polygon, polygon_problem

DEFAULT_MARGIN = 3.0
# Polygons with more corners are most likely no drawing of a person.
MAX_CORNERS = 200
_MAX_SIDE = 1 << 16


@dataclasses.dataclass(frozen=True)
class Zone:
    """polygon: (K, 2) px, simple, in either direction."""

    name: str
    polygon: np.ndarray

    def contains(self, points: np.ndarray) -> np.ndarray:
        """(N,) bool for (N, 2) px."""
        return in_polygon(points, self.polygon)


@dataclasses.dataclass(frozen=True)
class Line:
    """start, end: (2,) px; margin: px."""

    name: str
    start: np.ndarray
    end: np.ndarray
    margin: float

    def distance(self, points: np.ndarray) -> np.ndarray:
        """(N,) px from the endless line to (N, 2) points, above 0 on its right."""
        along = self.end - self.start
        points = np.asarray(points, np.float64).reshape(-1, 2) - self.start
        return (along[0] * points[:, 1] - along[1] * points[:, 0]) / np.hypot(*along)

    def is_met_by(self, before: np.ndarray, after: np.ndarray) -> bool:
        """Whether a step from one side to the other passes between the ends."""
        step = after - before
        sides = step[0] * (np.stack([self.start, self.end]) - before)[:, 1]
        sides -= step[1] * (np.stack([self.start, self.end]) - before)[:, 0]
        return bool(sides[0] * sides[1] <= 0)


@dataclasses.dataclass(frozen=True)
class AlarmRule:
    """seconds: a track must be in `zone` for so long; classes: names, or empty for all."""

    name: str
    zone: str
    seconds: float
    classes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Zones:
    """width, height: px of the frames that the coordinates belong to."""

    width: int
    height: int
    zones: tuple[Zone, ...] = ()
    lines: tuple[Line, ...] = ()
    alarms: tuple[AlarmRule, ...] = ()

    def scaled(self, width: int, height: int) -> Zones:
        """The same on frames of another size."""
        if (width, height) == (self.width, self.height):
            return self
        by = np.array([width / self.width, height / self.height])
        return Zones(
            width,
            height,
            tuple(dataclasses.replace(zone, polygon=zone.polygon * by) for zone in self.zones),
            tuple(
                dataclasses.replace(
                    line,
                    start=line.start * by,
                    end=line.end * by,
                    margin=line.margin * math.sqrt(by[0] * by[1]),
                )
                for line in self.lines
            ),
            self.alarms,
        )


def load_zones(path: str | os.PathLike, class_names: Iterable[str] | None = None) -> Zones:
    """Reads a file of zones, lines and alarm rules.

    Raises:
        InputError: names the entry and what is wrong with it: a polygon that crosses itself, a line
            of no length, a name given twice, an alarm on an unknown zone or (with `class_names`)
            class, a key that is not known.
    """
    return parse_zones(read_json(path), str(path), class_names)


def parse_zones(value: Any, name: str, class_names: Iterable[str] | None = None) -> Zones:
    """As `load_zones`, of the JSON value of the file `name`."""
    _check_keys(value, {"width", "height"}, {"zones", "lines", "alarms"}, name)
    sides = [value["width"], value["height"]]
    if not all(type(side) is int and 0 < side <= _MAX_SIDE for side in sides):
        raise InputError(f"{name}: width and height must be whole px of the frame.")
    zones = tuple(_zone(entry, where) for entry, where in _entries(value, "zones", name))
    lines = tuple(_line(entry, where) for entry, where in _entries(value, "lines", name))
    known = {zone.name for zone in zones}
    classes = None if class_names is None else set(class_names)
    alarms = tuple(
        _alarm(entry, where, known, classes) for entry, where in _entries(value, "alarms", name)
    )
    return Zones(*sides, zones, lines, alarms)


def _entries(value: Mapping, kind: str, name: str) -> list[tuple[Mapping, str]]:
    """Entries of a list with what to call each; names must differ."""
    entries = value.get(kind, [])
    if not isinstance(entries, list):
        raise InputError(f"{name}: {kind} must be a list.")
    result, seen = [], set()
    for index, entry in enumerate(entries):
        text = entry.get("name") if isinstance(entry, Mapping) else None
        if not isinstance(text, str) or not text.strip() or is_broken_text(text):
            raise InputError(f"{name}: {kind}[{index}] needs a name.")
        if text in seen:
            raise InputError(f"{name}: two of {kind} are called {text!r}. Rename one.")
        seen.add(text)
        result.append((entry, f"{name}: {kind}[{index}] {text!r}"))
    return result


def _check_keys(entry: Any, needed: set[str], optional: set[str], where: str) -> None:
    if not isinstance(entry, Mapping):
        raise InputError(f"{where}: a JSON object is needed.")
    missing, unknown = needed - set(entry), set(entry) - needed - optional
    if missing or unknown:
        what = f"lacks {sorted(missing)}" if missing else f"has unknown {sorted(map(str, unknown))}"
        raise InputError(f"{where}: {what}; known are {sorted(needed | optional)}.")


def _point(value: Any, where: str) -> list[float]:
    if isinstance(value, list) and len(value) == 2:
        x, y = value
        if all(type(side) in (int, float) and abs(side) <= _MAX_SIDE for side in (x, y)):
            return [float(x), float(y)]
    raise InputError(f"{where}: {value!r} is no point [x, y] in px.")


def _zone(entry: Mapping, where: str) -> Zone:
    _check_keys(entry, {"name", "polygon"}, set(), where)
    corners = entry["polygon"]
    if not isinstance(corners, list) or not 3 <= len(corners) <= MAX_CORNERS:
        raise InputError(f"{where}: a polygon has 3 to {MAX_CORNERS} points.")
    polygon = np.array([_point(corner, where) for corner in corners])
    if len(polygon) > 3 and (polygon[0] == polygon[-1]).all():
        polygon = polygon[:-1]  # closed, as GeoJSON writes them
    problem = polygon_problem(polygon)
    if problem:
        raise InputError(f"{where}: {problem}")
    return Zone(entry["name"], polygon)


def _line(entry: Mapping, where: str) -> Line:
    _check_keys(entry, {"name", "from", "to"}, {"margin"}, where)
    start, end = (np.array(_point(entry[key], where)) for key in ("from", "to"))
    if (start == end).all():
        raise InputError(f"{where}: from and to are the same point.")
    margin = _amount(entry.get("margin", DEFAULT_MARGIN), where, "margin")
    return Line(entry["name"], start, end, margin)


def _alarm(entry: Mapping, where: str, zones: set[str], classes: set[str] | None) -> AlarmRule:
    _check_keys(entry, {"name", "zone", "seconds"}, {"classes"}, where)
    if not isinstance(entry["zone"], str) or entry["zone"] not in zones:
        raise InputError(f"{where}: there is no zone {entry['zone']!r}; known are {sorted(zones)}.")
    wanted = entry.get("classes", [])
    if not isinstance(wanted, list) or not all(isinstance(item, str) for item in wanted):
        raise InputError(f"{where}: classes must be a list of names.")
    unknown = set(wanted) - classes if classes is not None else ()
    if unknown:
        raise InputError(
            f"{where}: the model has no class {sorted(unknown)}; known are {sorted(classes)}."
        )
    seconds = _amount(entry["seconds"], where, "seconds")
    return AlarmRule(entry["name"], entry["zone"], seconds, tuple(wanted))


def _amount(value: Any, where: str, key: str) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1e9:
        raise InputError(f"{where}: {key} {value!r}: a number from 0 on is needed.")
    return float(value)
