"""Smooth ways of tracks that are over: forward by a Kalman filter, then backward (Rauch, Tung and
Striebel), so that each position knows what came after it. On pixels, metres, or latitudes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from cpr_deploy.files import InputError

# WGS 84.
_AXIS = 6_378_137.0
_ECCENTRICITY_SQUARED = 6.694379990141e-3


def smooth_path(
    seconds: np.ndarray, positions: np.ndarray, *, noise: float, acceleration: float
) -> np.ndarray:
    """(N, D) positions, smoothed; in the unit of `positions` throughout.

    Args:
        seconds: (N,) that never fall.
        noise: sigma of a position.
        acceleration: unit per second^1.5, how much a velocity wanders in a second.

    Raises:
        InputError: times fall, or something is no number.
    """
    seconds = np.asarray(seconds, np.float64)
    positions = np.asarray(positions, np.float64)
    count = len(seconds)
    steps = np.diff(seconds)
    if (steps < 0).any() or not np.isfinite(seconds).all() or not np.isfinite(positions).all():
        raise InputError("smoothing: times must not fall, and positions must be numbers.")
    if noise <= 0 or acceleration <= 0:
        raise InputError("smoothing: noise and acceleration above 0 are needed.")
    if count < 2:
        return positions.copy()
    # A velocity is not known at first: anything up to crossing the whole way in the shortest step.
    span = np.ptp(positions, axis=0).max() + noise
    start = span / max(steps[steps > 0].min(initial=1.0), 1e-3)
    state = np.stack([positions[0], np.zeros_like(positions[0])])
    covariance = np.diag([noise**2, start**2])
    states, covariances, predictions, turns = [state], [covariance], [], []
    for step, position in zip(steps, positions[1:], strict=True):
        turn = np.array([[1.0, step], [0.0, 1.0]])
        wander = np.array([[step**3 / 3, step**2 / 2], [step**2 / 2, step]])
        ahead = turn @ covariance @ turn.T + acceleration**2 * wander
        predicted = turn @ state
        gain = ahead[:, 0] / (ahead[0, 0] + noise**2)
        state = predicted + gain[:, None] * (position - predicted[0])
        covariance = ahead - np.outer(gain, ahead[0])
        states.append(state)
        covariances.append(covariance)
        predictions.append((predicted, ahead))
        turns.append(turn)
    smooth = [states[-1]]
    for index in range(count - 2, -1, -1):
        predicted, ahead = predictions[index]
        back = covariances[index] @ turns[index].T @ np.linalg.pinv(ahead)
        smooth.append(states[index] + back @ (smooth[-1] - predicted))
    return np.stack(smooth[::-1])[:, 0]


def smooth_geo(
    records: Iterable[Mapping[str, Any]],
    *,
    noise: float,
    acceleration: float = 1.0,
    clock: str = "pts",
) -> list[dict[str, Any]]:
    """Position records with smooth `latitude` and `longitude` (degrees, WGS 84), as
    deploy/georeference.py writes them: with track_id, `stream` where there are several, and their
    seconds under the key `clock`.

    Each track for itself, in metres north and east of its first position; good for ways of some
    kilometres. noise: m, sigma from one position to the next, without what all have in common (a
    wrong altitude does not jitter). acceleration: m per second^1.5. Records keep their order and
    other fields; those without track_id or position stay as they are.

    Raises:
        InputError: a record of a track lacks its time.
    """
    records = [dict(record) for record in records]
    tracks: dict[Any, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        if record.get("track_id") is None or record.get("latitude") is None:
            continue
        if record.get(clock) is None:
            raise InputError(f"position record {index}: has no {clock}. Name another clock.")
        tracks[record.get("stream", 1), record["track_id"]].append(index)
    for rows in tracks.values():
        rows.sort(key=lambda row: records[row][clock])
        degrees = np.array([[records[row][k] for k in ("latitude", "longitude")] for row in rows])
        metres = metres_per_degree(degrees[0, 0])
        moved = degrees - degrees[0]
        moved[:, 1] = (moved[:, 1] + 180) % 360 - 180  # across the date line
        way = smooth_path(
            np.array([records[row][clock] for row in rows]),
            moved * metres,
            noise=noise,
            acceleration=acceleration,
        )
        for row, (latitude, longitude) in zip(rows, degrees[0] + way / metres, strict=True):
            records[row]["latitude"] = round(float(latitude), 8)
            records[row]["longitude"] = round(float((longitude + 180) % 360 - 180), 8)
    return records


def metres_per_degree(latitude: float) -> np.ndarray:
    """(2,) metres of a degree of latitude and of one of longitude, at a latitude in degrees."""
    angle = np.deg2rad(latitude)
    bend = 1 - _ECCENTRICITY_SQUARED * np.sin(angle) ** 2
    north = _AXIS * (1 - _ECCENTRICITY_SQUARED) / bend**1.5
    east = _AXIS * np.cos(angle) / np.sqrt(bend)
    return np.deg2rad(np.array([north, max(east, 1e-6)]))
