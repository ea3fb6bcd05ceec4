"""What all writers of finds are given."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import earth

MAX_LINE_POINTS = 3000


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """The result of a survey.

    finds: as of `finds.FindBook`. lines: of the flight, each (N, 4) latitude, longitude, altitude,
    time. line_utc: whether those times are s since 1970. reference: of altitudes. footprints: each
    (M, 2) latitude, longitude. refusals: code -> count. frames, positions: counts.
    """

    title: str
    finds: Sequence[Mapping[str, Any]]
    lines: Sequence[np.ndarray] = ()
    line_utc: bool = False
    reference: str = "msl"
    footprints: Sequence[np.ndarray] = ()
    refusals: Mapping[str, int] = dataclasses.field(default_factory=dict)
    frames: int = 0
    positions: int = 0


def flight_lines(line: np.ndarray, max_gap: float) -> list[np.ndarray]:
    """Parts of a flight (N, 4) without gaps in time above `max_gap` s, thinned to be drawn."""
    breaks = np.flatnonzero(np.diff(line[:, 3]) > max_gap) + 1
    step = max(1, -(-len(line) // MAX_LINE_POINTS))
    parts = []
    for part in np.split(line, breaks):
        kept = part[::step]
        if len(part) and (len(part) - 1) % step:
            kept = np.concatenate([kept, part[-1:]])
        parts.append(kept)
    return [part for part in parts if len(part) > 1]


def ellipse_of(find: Mapping[str, Any]) -> np.ndarray:
    """(M, 2) longitude, latitude on a find's 95 % ellipse, counter-clockwise, not closed."""
    latitude, longitude = earth.ellipse_outline(
        *(find[key] for key in ("latitude", "longitude", "semi_major", "semi_minor", "azimuth"))
    )
    return np.column_stack([longitude, latitude])


def summary(find: Mapping[str, Any]) -> str:
    """A find in a line, for people."""
    parts = [
        f"{find['class_name']}, score {find['score']:.2f}",
        f"95 % within {find['semi_major']:.1f} x {find['semi_minor']:.1f} m"
        f" (longer axis {find['azimuth']:.0f} degrees)",
    ]
    if find["count"] > 1:
        parts.append(f"seen in {find['count']} frames")
    where = f"{find['source']}, "
    where += find["file"] if "file" in find else f"frame {find['frame']}"
    return "; ".join([*parts, where])
