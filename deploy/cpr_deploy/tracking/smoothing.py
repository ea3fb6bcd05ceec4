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
        noise: sigma of a position, or (N,) of each.
        acceleration: unit per second^1.5, how much a velocity wanders in a second.

    Raises:
        InputError: times fall, or something is no number.
    """
    seconds = np.asarray(seconds, np.float64)
    positions = np.asarray(positions, np.float64)
    count = len(seconds)
    noises = np.broadcast_to(np.asarray(noise, np.float64), (count,))
    steps = np.diff(seconds)
    if (steps < 0).any() or not np.isfinite(seconds).all() or not np.isfinite(positions).all():
        raise InputError("smoothing: times must not fall, and positions must be numbers.")
    if not (noises > 0).all() or acceleration <= 0:
        raise InputError("smoothing: noise and acceleration above 0 are needed.")
    if count < 2:
        return positions.copy()
    # A velocity is not known at first: anything up to crossing the whole way in the shortest step.
    span = np.ptp(positions, axis=0).max() + noises.max()
    start = span / max(steps[steps > 0].min(initial=1.0), 1e-3)
    state = np.stack([positions[0], np.zeros_like(positions[0])])
    covariance = np.diag([noises[0] ** 2, start**2])
    states, covariances, predictions, turns = [state], [covariance], [], []
    for step, position, sigma in zip(steps, positions[1:], noises[1:], strict=True):
        turn = np.array([[1.0, step], [0.0, 1.0]])
        wander = np.array([[step**3 / 3, step**2 / 2], [step**2 / 2, step]])
        ahead = turn @ covariance @ turn.T + acceleration**2 * wander
        predicted = turn @ state
        gain = ahead[:, 0] / (ahead[0, 0] + sigma**2)
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
    records: Iterable[Mapping[str, Any]], *, noise_m: float, acceleration: float = 1.0
) -> list[dict[str, Any]]:
    """Position records {track_id, seconds, lat, lon, ..} (degrees, WGS 84) with smooth lat and lon.

    Each track for itself, in metres north and east of its first position; good for ways of some
    kilometres. noise_m: sigma of a position, or `sigma_m` of a record where it has one.
    acceleration: m per second^1.5. Records keep their order and other fields; those without a
    track_id are left as they are.
    """
    records = [dict(record) for record in records]
    tracks: dict[Any, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        if record.get("track_id") is not None:
            tracks[record["track_id"]].append(index)
    for rows in tracks.values():
        rows.sort(key=lambda row: records[row]["seconds"])
        degrees = np.array([[records[row]["lat"], records[row]["lon"]] for row in rows], float)
        metres = metres_per_degree(degrees[0, 0])
        moved = degrees - degrees[0]
        moved[:, 1] = (moved[:, 1] + 180) % 360 - 180  # across the date line
        way = smooth_path(
            np.array([records[row]["seconds"] for row in rows]),
            moved * metres,
            noise=np.array([records[row].get("sigma_m", noise_m) for row in rows]),
            acceleration=acceleration,
        )
        for row, (lat, lon) in zip(rows, degrees[0] + way / metres, strict=True):
            records[row]["lat"] = float(lat)
            records[row]["lon"] = float((lon + 180) % 360 - 180)
    return records


def metres_per_degree(latitude: float) -> np.ndarray:
    """(2,) metres that a degree of latitude and one of longitude are long at a latitude, degrees."""
    angle = np.deg2rad(latitude)
    bend = 1 - _ECCENTRICITY_SQUARED * np.sin(angle) ** 2
    north = _AXIS * (1 - _ECCENTRICITY_SQUARED) / bend**1.5
    east = _AXIS * np.cos(angle) / np.sqrt(bend)
    return np.deg2rad(np.array([north, max(east, 1e-6)]))
