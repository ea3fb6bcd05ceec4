"""Lines and polygons in longitude and latitude, cut at the antimeridian (RFC 7946, 3.1.9)."""

from __future__ import annotations

import numpy as np


def cut_line(line: np.ndarray) -> list[np.ndarray]:
    """Parts of a line (N, 2+), longitude first, none of which crosses the antimeridian."""
    unwrapped = _unwrap(line)
    parts, part = [], [unwrapped[0]]
    for before, after in zip(unwrapped[:-1], unwrapped[1:], strict=True):
        zone = np.floor((before[0] + 180) / 360)
        if np.floor((after[0] + 180) / 360) != zone:
            edge = 360 * zone + (180 if after[0] > before[0] else -180)
            share = (edge - before[0]) / (after[0] - before[0])
            crossing = before + share * (after - before)
            parts.append(np.array([*part, crossing]))
            part = [crossing]
        part.append(after)
    parts.append(np.array(part))
    return [_shifted(part) for part in parts if np.ptp(part[:, :2], axis=0).any()]


def cut_polygon(ring: np.ndarray) -> list[np.ndarray]:
    """Rings (M, 2) that together cover a ring (N, 2), counter-clockwise and closed.

    A ring around a pole is led along the antimeridian to the pole and back.
    """
    ring = _unwrap(np.concatenate([ring, ring[:1]]))
    turn = ring[-1, 0] - ring[0, 0]
    if abs(turn) > 180:
        pole = 90.0 if ring[:, 1].mean() > 0 else -90.0
        ring = np.concatenate([ring, [[ring[-1, 0], pole], [ring[0, 0], pole]]])
    else:
        ring = ring[:-1]
    rings = []
    first = int(np.floor((ring[:, 0].min() + 180) / 360))
    last = int(np.floor((ring[:, 0].max() + 180) / 360))
    for zone in range(first, last + 1):
        west = 360.0 * zone - 180
        part = _clip(_clip(ring, west, 1), west + 360, -1)
        if len(part) < 3:
            continue
        part = part - [360.0 * zone, 0]
        area = _area(part)
        if abs(area) < 1e-18:
            continue
        part = part if area > 0 else part[::-1]
        rings.append(np.concatenate([part, part[:1]]))
    return rings


def _unwrap(line: np.ndarray) -> np.ndarray:
    line = np.array(line, float)
    line[:, 0] = np.degrees(np.unwrap(np.radians(line[:, 0])))
    return line


def _shifted(part: np.ndarray) -> np.ndarray:
    """Back to -180..180, by the side on which the part's middle lies."""
    middle = (part[:, 0].min() + part[:, 0].max()) / 2
    part[:, 0] -= 360 * np.floor((middle + 180) / 360)
    part[:, 0] = part[:, 0].clip(-180, 180)
    return part


def _clip(ring: np.ndarray, edge: float, side: int) -> np.ndarray:
    """The part of a ring with longitude >= edge (side 1) or <= edge (side -1)."""
    kept = []
    for before, after in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        inside = [side * (point[0] - edge) >= 0 for point in (before, after)]
        if inside[0]:
            kept.append(before)
        if inside[0] != inside[1]:
            share = (edge - before[0]) / (after[0] - before[0])
            kept.append(before + share * (after - before))
    return np.array(kept).reshape(-1, 2)


def _area(ring: np.ndarray) -> float:
    """Signed, positive counter-clockwise."""
    x, y = (ring - ring[0]).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2
