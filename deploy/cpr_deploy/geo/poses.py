"""Where poses of frames come from: a flight's telemetry by time, or each still by itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cpr_deploy.files import InputError

from .codes import GeoRefusal
from .flight_path import FlightPath, Heights, PathSettings, Pose
from .load import STILL_STEP, Stills
from .telemetry import Telemetry
from .telemetry_csv import CsvTelemetry

# Of a table that grows, the last so many rows are looked up.
_TAIL = 1000


class FlightPoses:
    """Poses by the time of frame records.

    Telemetry on the video's clock is asked for `pts` + offset, telemetry in UTC for start + pts +
    offset, or, of live sources, for `captured_at` + offset. After `reconnected` a stream's `pts`
    may begin anew, and tells no time any more.

    Args:
        path: the flight.
        offset: s to add to a frame's time to get the telemetry's.
        start: UTC of pts 0, s since 1970, for videos whose telemetry is in UTC.
    """

    def __init__(self, path: FlightPath, offset: float = 0.0, start: float | None = None):
        self.path, self.offset, self.start = path, offset, start
        self._reconnected: set[int] = set()

    def tell(self, record: Mapping[str, Any]) -> None:
        """Takes a record that is no frame."""
        if record.get("type") == "reconnected":
            self._reconnected.add(record.get("stream", 1))

    def pose(self, record: Mapping[str, Any]) -> tuple[Pose | GeoRefusal, float | None]:
        time, utc = self._times(record)
        return self.path.at([math.nan if time is None else time])[0], utc

    def _times(self, record: Mapping[str, Any]) -> tuple[float | None, float | None]:
        """The frame's time on the telemetry's clock, and in UTC where it is known."""
        pts, live = record.get("pts"), "age_ms" in record
        if record.get("stream", 1) in self._reconnected:
            pts = None
        utc = None
        if self.start is not None and pts is not None:
            utc = self.start + pts
        elif live:
            utc = record["captured_at"]
        if self.path.clock == "video":
            return None if pts is None else pts + self.offset, utc
        if utc is None and self.start is None:
            raise InputError(
                f"{self.path.name}: tells times in UTC, but the records are of a file, which tell"
                " only when it was processed. Give --start 2026-06-01T09:30:00Z, the UTC of the"
                " video's first frame."
            )
        if utc is None:
            return None, None
        return utc + self.offset, utc + self.offset

    def line(self) -> np.ndarray:
        return self.path.line()


class LivePoses(FlightPoses):
    """As `FlightPoses`, with a table that grows while the flight goes on.

    A frame may be ahead of its telemetry: the next sample is waited for, `patience` s at most, and
    not again until something new has come. Without waiting a frame just after the newest sample
    would get the pose of that, metres behind at one sample a second.
    """

    def __init__(
        self,
        table: CsvTelemetry,
        make_path: Callable[[Telemetry], FlightPath],
        offset: float = 0.0,
        start: float | None = None,
        patience: float = 2.0,
    ):
        super().__init__(make_path(table.telemetry(_TAIL)), offset, start)
        self._table, self._make_path, self._patience = table, make_path, patience
        self._dry = False

    def pose(self, record: Mapping[str, Any]) -> tuple[Pose | GeoRefusal, float | None]:
        moment, _ = self._times(record)
        end = time.monotonic() + self._patience
        while moment is not None and moment > self.path.end:
            if self._table.update():
                self.path = self._make_path(self._table.telemetry(_TAIL))
                self._dry = False
            elif self._dry or time.monotonic() > end:
                self._dry = True
                break
            else:
                time.sleep(0.01)
        return super().pose(record)

    def line(self) -> np.ndarray:
        return self._make_path(self._table.telemetry()).line()


class StillPoses:
    """Poses of the images of a folder, by the record's `file`."""

    def __init__(
        self,
        stills: Stills,
        reference: str,
        heights: Heights | None = None,
        fixed: Mapping[str, float] | None = None,
    ):
        self._folder, self._found = stills.folder, stills.found
        self._numbers = {name: number for number, name in enumerate(stills.found)}
        settings = PathSettings(max_gap=1.0, fixed=fixed or {})
        self._path = FlightPath(stills.telemetry, reference, heights, settings)

    def pose(self, record: Mapping[str, Any]) -> tuple[Pose | GeoRefusal, float | None]:
        name = record.get("file")
        if name not in self._numbers:
            raise InputError(f"{self._folder}: holds no image {name!r}, of which there are points.")
        pose = self._path.at([self._numbers[name] * STILL_STEP])[0]
        # Points are of the picture as it is shown, angles of the camera as it was mounted. 0 is
        # written where it is not known.
        if self._found[name]["orientation"] not in (0, 1):
            pose = GeoRefusal.TURNED
        return pose, self._found[name].get("time")

    def tell(self, record: Mapping[str, Any]) -> None:
        """Stills have no clock that could change."""

    def size(self, name: str) -> tuple[int, int] | None:
        """Width and height of an image, px."""
        row = self._found.get(name)
        return None if row is None else (int(row["width"]), int(row["height"]))

    def line(self) -> np.ndarray:
        """In the order of their times, or of their names."""
        line = self._path.line()
        times = [row.get("time", math.nan) for row in self._found.values()]
        line[:, 3] = [times[round(index / STILL_STEP)] for index in line[:, 3]]
        return line if np.isnan(line[:, 3]).any() else line[np.argsort(line[:, 3])]
