"""Tracks and zones drawn on frames: numbers, short traces, polygons, lines."""

from __future__ import annotations

import math
from collections.abc import Mapping

import cv2
import numpy as np

from cpr_deploy.overlay import class_colour, draw_text
from cpr_deploy.tracking.tracker import FrameTracks
from cpr_deploy.tracking.zones import Zones

# Coordinates are given to OpenCV in 1/16 px.
_SHIFT = 4
_ZONE_COLOUR = (255, 255, 255)


def _places(points: np.ndarray) -> np.ndarray:
    # OpenCV puts the centre of the first pixel at 0, we at 0.5.
    return np.rint((np.asarray(points) - 0.5) * 2**_SHIFT).astype(np.int32)


def draw_tracks(image: np.ndarray, tracks: FrameTracks, traces: Mapping[int, np.ndarray]) -> None:
    """Draws number and trace of each track onto `image` (H, W, 3) uint8 BGR; those that were not
    seen in this frame have a ring at their prediction."""
    unit = _unit(image)
    for track, position, label, missed in zip(
        tracks.ids.tolist(), tracks.positions, tracks.labels, tracks.missed, strict=True
    ):
        colour = class_colour(label)
        way = traces.get(track)
        if way is not None:
            thick = max(1, round(0.5 * unit))
            cv2.polylines(image, [_places(way)], False, colour, thick, cv2.LINE_AA, _SHIFT)
        if missed:
            centre = tuple(_places(position).tolist())
            radius = round(3 * unit * 2**_SHIFT)
            cv2.circle(image, centre, radius, colour, 1, cv2.LINE_AA, _SHIFT)
        place = (int(position[0] + 3 * unit), int(position[1] - 2 * unit))
        draw_text(image, str(track), place, max(0.33, 0.3 * unit), colour)


def draw_zones(image: np.ndarray, zones: Zones) -> None:
    """Draws outlines, lines with an arrow from left to right, and names."""
    unit = _unit(image)
    thick = max(1, round(0.5 * unit))
    scale = max(0.33, 0.28 * unit)
    for zone in zones.zones:
        outline = [_places(zone.polygon)]
        cv2.polylines(image, outline, True, _ZONE_COLOUR, thick, cv2.LINE_AA, _SHIFT)
        _name(image, zone.name, zone.polygon[zone.polygon[:, 1].argmin()], scale, unit)
    for line in zones.lines:
        ends = _places(np.stack([line.start, line.end]))
        cv2.polylines(image, [ends], False, _ZONE_COLOUR, thick, cv2.LINE_AA, _SHIFT)
        middle = (line.start + line.end) / 2
        # On a picture, where y goes down, the right of (dx, dy) is (-dy, dx).
        ahead = (line.end - line.start) / np.linalg.norm(line.end - line.start)
        tip = middle + 8 * unit * np.array([-ahead[1], ahead[0]])
        start, end = (tuple(place.tolist()) for place in _places(np.stack([middle, tip])))
        cv2.arrowedLine(image, start, end, _ZONE_COLOUR, thick, cv2.LINE_AA, _SHIFT, 0.4)
        _name(image, line.name, line.start, scale, unit)


def _name(image: np.ndarray, name: str, point: np.ndarray, scale: float, unit: float) -> None:
    place = (int(point[0] + 2 * unit), int(point[1] + 6 * unit))
    draw_text(image, name, place, scale, _ZONE_COLOUR)


def _unit(image: np.ndarray) -> float:
    return max(1.0, math.sqrt(image.shape[0] * image.shape[1]) / 500)
