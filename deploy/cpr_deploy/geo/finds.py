"""Records of positions, and finds: the objects that positions of many frames belong to."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from cpr_deploy.files import InputError

from . import earth
from .codes import REASONS, GeoRefusal
from .flight_path import Heights
from .georeferencer import GeoPositions

# What neither XML nor UTF-8 can hold: control characters, halves of characters.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_POINT = ("x", "y", "score", "label", "class_name", "track_id")


def clean(text: str) -> str:
    """Text that every output can hold."""
    return _FORBIDDEN.sub("\ufffd", text)


def _fields(point: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: point[key] for key in _POINT if key in point}
    return {**found, "class_name": clean(point["class_name"])}


def utc_text(seconds: float | None) -> str | None:
    """ISO 8601 of seconds since 1970, to ms."""
    if seconds is None:
        return None
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def refusal_record(
    head: Mapping[str, Any], point: Mapping[str, Any], code: GeoRefusal
) -> dict[str, Any]:
    """A point without a position, as a JSON value."""
    return {
        "type": "refusal",
        **head,
        **_fields(point),
        "code": code.value,
        "reason": REASONS[code],
    }


def position_record(
    head: Mapping[str, Any],
    point: Mapping[str, Any],
    positions: GeoPositions,
    index: int,
    heights: Heights,
) -> dict[str, Any]:
    """A point with its position, as a JSON value.

    Degrees to 1e-8 (1 mm), m to 1 mm. `altitude` counts from `altitude_reference`; altitude_msl and
    altitude_ellipsoid are there where they are known. The ellipse holds the true place with 95 %.
    """
    altitude = float(positions.altitude[index])
    known = {
        f"altitude_{kind}": heights.convert(altitude, positions.reference, kind)
        for kind in ("msl", "ellipsoid")
    }
    return {
        "type": "position",
        **head,
        **_fields(point),
        "latitude": round(float(positions.latitude[index]), 8),
        "longitude": round(float(positions.longitude[index]), 8),
        "altitude": round(altitude, 3) + 0.0,  # no -0.0
        "altitude_reference": positions.reference,
        **{key: round(value, 3) for key, value in known.items() if value is not None},
        "distance": round(float(positions.distance[index]), 3),
        "semi_major": round(float(positions.semi_major[index]), 3),
        "semi_minor": round(float(positions.semi_minor[index]), 3),
        "azimuth": round(float(positions.azimuth[index]), 2),
        "sigma_altitude": round(float(np.sqrt(positions.covariance[index, 2, 2])), 3),
    }


def _last(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a find keeps of its newest position."""
    return {
        "last_time": record.get("time"),
        "last_pts": record.get("pts"),
        "last_latitude": record["latitude"],
        "last_longitude": record["longitude"],
    }


class FindBook:
    """Joins positions of one object.

    Positions with a `track_id` belong to one find per track. Others belong to the nearest find of
    their class within `radius` m, or, without a radius, are finds of their own. A new track takes
    over the nearest find of its class within `radius` m that has no track: an object has some
    points before it has a track.

    A find's place is the mean of its positions, weighted by 1 / semi_major^2; its ellipse is that
    of its best position. It does not shrink with their number: within one flight most of the error
    (compass, barometer, mounting) is common to all of them. For what moves, the mean is the middle
    of its way; last_latitude and last_longitude are its newest position alone.
    """

    def __init__(self, radius: float | None = None):
        if radius is not None and not radius > 0:
            raise InputError(f"--merge {radius}: a distance above 0 m is needed.")
        self._radius = radius
        self.finds: list[dict[str, Any]] = []
        self._sums: list[np.ndarray] = []  # weight, weighted x, y, z, altitude
        self._tracks: dict[tuple, int] = {}
        self._classes: dict[str, list[int]] = {}

    def add(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The find that a record of `position_record` belongs to, with this record in it."""
        place = earth.to_ecef(record["latitude"], record["longitude"], 0.0)
        weight = 1 / max(record["semi_major"], 1e-3) ** 2
        part = weight * np.array([1.0, *place, record["altitude"]])
        number = self._number(record, place)
        if number is None:
            return self._new(record, part)
        self._sums[number] += part
        find = self.finds[number]
        total = self._sums[number] / self._sums[number][0]
        latitude, longitude, _ = earth.to_geodetic(total[1:4])
        shift = round(float(total[4]), 3) - find["altitude"]
        for key in ("altitude", "altitude_msl", "altitude_ellipsoid"):
            if key in find:
                find[key] = round(find[key] + shift, 3)
        find |= {
            "latitude": round(float(latitude), 8),
            "longitude": round(float(longitude), 8),
            "count": find["count"] + 1,
            **_last(record),
        }
        if record["semi_major"] < find["semi_major"]:
            keys = ("semi_major", "semi_minor", "azimuth", "sigma_altitude", "distance")
            find |= {key: record[key] for key in keys}
        find["score"] = max(find["score"], record["score"])
        return find

    def _number(self, record: Mapping[str, Any], place: np.ndarray) -> int | None:
        numbers = self._classes.get(record["class_name"], [])
        if "track_id" in record:
            track = self._track(record)
            if track in self._tracks:
                return self._tracks[track]
            numbers = [n for n in numbers if "track_id" not in self.finds[n]]
            number = self._nearest(numbers, place)
            if number is not None:
                self._tracks[track] = number
                self.finds[number]["track_id"] = record["track_id"]
            return number
        return self._nearest(numbers, place)

    def _nearest(self, numbers: list[int], place: np.ndarray) -> int | None:
        """That of these finds within the radius, if there is one."""
        if self._radius is None or not numbers:
            return None
        sums = np.array([self._sums[number] for number in numbers])
        away = np.linalg.norm(sums[:, 1:4] / sums[:, :1] - place, axis=1)
        nearest = int(away.argmin())
        return numbers[nearest] if away[nearest] <= self._radius else None

    @staticmethod
    def _track(record: Mapping[str, Any]) -> tuple:
        return record.get("stream", 1), record["track_id"]

    def _new(self, record: Mapping[str, Any], part: np.ndarray) -> dict[str, Any]:
        number = len(self.finds)
        same = self._classes.setdefault(record["class_name"], [])
        same.append(number)
        if "track_id" in record:
            self._tracks[self._track(record)] = number
        find = {
            "id": number + 1,
            "name": f"{record['class_name']} {len(same)}",
            **{key: value for key, value in record.items() if key != "type"},
            "count": 1,
            **_last(record),
        }
        self.finds.append(find)
        self._sums.append(part)
        return find
