"""GeoJSON (RFC 7946): finds as points, their ellipses, the flight and what it has seen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from cpr_deploy.files import write_json

from .report import Report, ellipse_of
from .shapes import cut_line, cut_polygon

_DIGITS = 8


def write_geojson(path: str | os.PathLike, report: Report) -> None:
    """Writes a FeatureCollection; `kind` of a feature is find, ellipse, flight or footprint.

    A point's third coordinate is its height above the ellipsoid, as the standard has it, and is
    left out where that is not known. Rings are counter-clockwise and cut at the antimeridian.
    """
    write_json(path, {"type": "FeatureCollection", "features": list(_features(report))})


def _features(report: Report) -> Iterator[dict[str, Any]]:
    for outline in report.footprints:
        yield _feature(_polygon(outline[:, ::-1]), {"kind": "footprint"})
    for line in report.lines:
        parts = [_numbers(part) for part in cut_line(line[:, [1, 0]])]
        if parts:
            kind = "LineString" if len(parts) == 1 else "MultiLineString"
            geometry = {"type": kind, "coordinates": parts[0] if len(parts) == 1 else parts}
            yield _feature(geometry, {"kind": "flight"})
    for find in report.finds:
        yield _feature(_polygon(ellipse_of(find)), {"kind": "ellipse", "find": find["id"]})
    for find in report.finds:
        place = [find["longitude"], find["latitude"]]
        if "altitude_ellipsoid" in find:
            place.append(find["altitude_ellipsoid"])
        properties = {
            key: value for key, value in find.items() if key not in ("latitude", "longitude")
        }
        yield {
            **_feature({"type": "Point", "coordinates": place}, {"kind": "find", **properties}),
            "id": find["id"],
        }


def _feature(geometry: dict[str, Any] | None, properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def _polygon(ring: np.ndarray) -> dict[str, Any] | None:
    """None, a feature without a place, for what has no area."""
    rings = [_numbers(part) for part in cut_polygon(ring)]
    if not rings:
        return None
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": rings}
    return {"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}


def _numbers(points: np.ndarray) -> list[list[float]]:
    return np.round(points, _DIGITS).tolist()
