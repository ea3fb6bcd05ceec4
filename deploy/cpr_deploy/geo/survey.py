"""A run over stream records: positions, refusals, finds, the flight's line and what it has seen."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from cpr_deploy.files import InputError
from cpr_deploy.model_spec import FLAG_NOT_FINITE

from .codes import GeoRefusal
from .finds import FindBook, clean, position_record, refusal_record, utc_text
from .flight_path import Pose
from .georeferencer import GeoReferencer

# Footprints are kept for the map once a second of flight, and thinned to this many.
MAX_FOOTPRINTS = 240
_HEAD = ("stream", "source", "file", "frame", "pts")


class PoseSource(Protocol):
    """Poses of frames: of a flight path, or of stills."""

    def pose(self, record: Mapping[str, Any]) -> tuple[Pose | GeoRefusal, float | None]:
        """The pose of a frame record's picture, and its time (UTC, s since 1970) if known."""

    def tell(self, record: Mapping[str, Any]) -> None:
        """Takes a record that is no frame."""

    def line(self) -> np.ndarray:
        """(N, 4) of the camera: latitude, longitude, altitude, time (s)."""


class Survey:
    """Feeds on frame records and collects what the outputs show."""

    def __init__(self, referencer: GeoReferencer, poses: PoseSource, finds: FindBook):
        self.referencer, self.poses, self.finds = referencer, poses, finds
        self.refusals: collections.Counter[str] = collections.Counter()
        self.frames = self.positions = 0
        self.footprints: list[np.ndarray] = []
        self._next_footprint = -np.inf
        self._footprint_step = 1.0
        self._referencers = {(referencer.camera.width, referencer.camera.height): referencer}

    def add(self, record: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], dict | None]]:
        """Per point of a record: its position record and find, or its refusal record and None.

        The camera is scaled to each frame's `width` and `height`. Where frames do not tell them
        they have the camera's, or those of the last `resolution` record. Other records are passed
        over.
        """
        if record.get("type") == "resolution":
            self._resize(record)
        if record.get("type") != "frame":
            self.poses.tell(record)
            return
        self.frames += 1
        pose, time = self.poses.pose(record)
        if record.get("frozen"):
            pose = GeoRefusal.FROZEN
        elif record.get("flags", 0) & FLAG_NOT_FINITE:
            pose = GeoRefusal.NO_RESULT
        head = {key: record[key] for key in _HEAD if key in record}
        head |= {key: clean(text) for key, text in head.items() if isinstance(text, str)}
        head["time"] = utc_text(time)
        points = record["points"]
        if isinstance(pose, GeoRefusal):
            for point in points:
                self.refusals[pose.value] += 1
                yield refusal_record(head, point, pose), None
            return
        referencer = self._referencer_of(record)
        self._look(referencer, pose, record)
        if not points:
            return
        positions = referencer.locate(
            np.array([[point["x"], point["y"]] for point in points], float), pose
        )
        for index, (point, code) in enumerate(zip(points, positions.codes, strict=True)):
            if code is not None:
                self.refusals[code.value] += 1
                yield refusal_record(head, point, code), None
                continue
            self.positions += 1
            found = position_record(head, point, positions, index, referencer.heights)
            find = self.finds.add(found)
            yield {**found, "find": find["id"]}, find

    def _referencer_of(self, record: Mapping[str, Any]) -> GeoReferencer:
        if "width" not in record:  # records of an older version do not tell
            return self.referencer
        return self._scaled(record["width"], record["height"], record.get("file", record["source"]))

    def _resize(self, record: Mapping[str, Any]) -> None:
        self.referencer = self._scaled(record["width"], record["height"], record["source"])

    def _scaled(self, width: int, height: int, name: str) -> GeoReferencer:
        """The referencer for pictures of another size; they must have the camera's shape."""
        size = (int(width), int(height))
        if size not in self._referencers:
            camera = self.referencer.camera
            if abs(width / height - camera.width / camera.height) > 0.01:
                raise InputError(
                    f"{name}: its pictures have {width} x {height} px, the camera"
                    f" {camera.width} x {camera.height}: another shape. Give the camera of these."
                )
            first = next(iter(self._referencers.values()))
            self._referencers[size] = GeoReferencer(
                camera.scaled(*size), first.ground, first.heights, first.sigmas, first.max_range
            )
        return self._referencers[size]

    def _look(self, referencer: GeoReferencer, pose: Pose, record: Mapping[str, Any]) -> None:
        """Keeps the frame's footprint, once a second; of stills every one."""
        pts = record.get("pts")
        clock = pts if pts is not None else record.get("captured_at")
        if "file" not in record and clock is not None:
            if self._next_footprint - 60 < clock < self._next_footprint:
                return
            self._next_footprint = clock + self._footprint_step
        outline = referencer.footprint(pose)
        if outline is None:
            return
        self.footprints.append(outline)
        if len(self.footprints) > MAX_FOOTPRINTS and "file" not in record:
            self.footprints = self.footprints[::2]
            self._footprint_step *= 2
