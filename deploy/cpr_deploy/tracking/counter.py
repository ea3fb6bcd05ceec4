"""Counts of the tracks of one stream: objects, classes, zones, lines; and the alarms they set off.

Works on frame records with `tracks`, during a run or on a file of records afterwards. A track
counts where it was seen; the predictions of a hidden one do not. Who goes behind a tree on one side
of a line and comes out on the other has crossed it.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from cpr_deploy.model_spec import FLAG_NOT_FINITE
from cpr_deploy.tracking.density import DensityGrid
from cpr_deploy.tracking.stream_tracks import RESET_EVENTS
from cpr_deploy.tracking.zones import Zones

DIRECTIONS = ("left_to_right", "right_to_left")
# Longer pauses between frames are no presence.
_LONGEST_STEP = 2.0
# Seconds outside of a zone after which a track has left it: a point on the border comes and goes.
_LEAVE = 1.0


@dataclasses.dataclass
class _Stay:
    """A visit of a track to a zone: begin, and when it was last inside."""

    since: float
    until: float


@dataclasses.dataclass
class _Known:
    """What is known of a track that is alive. stays: zone -> the visit that goes on; visited:
    zones so far; alarms: rules that went off; sides: line -> the newest position clearly on one
    side, and its distance."""

    class_name: str
    stays: dict[str, _Stay] = dataclasses.field(default_factory=dict)
    visited: set[str] = dataclasses.field(default_factory=set)
    alarms: set[str] = dataclasses.field(default_factory=set)
    sides: dict[str, tuple[np.ndarray, float]] = dataclasses.field(default_factory=dict)


class TrackCounter:
    """`update` with each record, in order; `summary` at any time. Memory does not grow with the
    number of tracks."""

    def __init__(self, zones: Zones | None = None):
        self._drawn = zones
        self._zones: Zones | None = None
        self._size: tuple[int, int] | None = None
        self._known: dict[int, _Known] = {}
        # Of tracks that have ended.
        self._classes: Counter[str] = Counter()
        self._visitors: Counter[tuple[str, str]] = Counter()
        self._dwell: Counter[str] = Counter()
        self._crossings: Counter[tuple[str, str, str]] = Counter()
        self._most = 0
        self._frames = 0
        self._alarms = 0
        self._seconds: float | None = None
        self._passed = 0.0
        self.density: DensityGrid | None = None

    def update(self, record: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What happened at this record: `enter`, `exit`, `crossing` and `alarm` entries.

        Records of other types, and frames without tracks (such as frozen ones), only mark time.
        """
        if record.get("type") in RESET_EVENTS:
            return self._leave_all(record)
        if record.get("type") != "frame" or "tracks" not in record or not is_seen(record):
            return []
        self._set_size(record["width"], record["height"])
        seconds = record_seconds(record)
        step = 0.0 if self._seconds is None else seconds - self._seconds
        step = step if 0 < step <= _LONGEST_STEP else 0.0
        self._seconds = seconds
        self._passed += step
        self._frames += 1
        events = self._end_tracks(record)
        seen = [track for track in record["tracks"] if not track.get("missed")]
        self._most = max(self._most, len(seen))
        if not seen:
            return events
        points = np.array([[track["x"], track["y"]] for track in seen], np.float64)
        for track in seen:
            known = self._known.setdefault(track["track_id"], _Known(track["class_name"]))
            known.class_name = track["class_name"]
        self.density.add(points, step)
        if self._zones is not None:
            events += self._visits(record, seen, points, step)
            events += self._crossed(record, seen, points)
        return events

    def _set_size(self, width: int, height: int) -> None:
        if self._size == (width, height):
            return
        self._size = (width, height)
        if self._drawn is not None:
            self._zones = self._drawn.scaled(width, height)
        # A stream that comes back with another size begins a new grid: pixels mean other places.
        self.density = DensityGrid(width, height)
        for known in self._known.values():
            known.sides.clear()

    # --- zones ------------------------------------------------------------------------------------

    def _visits(self, record, seen, points, step: float) -> list[dict[str, Any]]:
        events = []
        for zone in self._zones.zones:
            for track, inside in zip(seen, zone.contains(points).tolist(), strict=True):
                known = self._known[track["track_id"]]
                stay = known.stays.get(zone.name)
                if inside:
                    if stay is None:
                        stay = known.stays[zone.name] = _Stay(self._passed, self._passed)
                        known.visited.add(zone.name)
                        events.append(self._event("enter", record, track, zone=zone.name))
                    stay.until = self._passed
                    self._dwell[zone.name] += step
                    events += self._alarms_of(record, track, known, zone.name)
                elif stay is not None and self._passed - stay.until > _LEAVE:
                    events.append(self._exit(record, track, zone.name, known.stays.pop(zone.name)))
        return events

    def _exit(self, record, track, zone: str, stay: _Stay) -> dict[str, Any]:
        seconds = round(stay.until - stay.since, 3)
        return self._event("exit", record, track, zone=zone, seconds=seconds)

    def _alarms_of(self, record, track, known: _Known, zone: str) -> list[dict[str, Any]]:
        events = []
        inside = self._passed - known.stays[zone].since
        for rule in self._zones.alarms:
            wanted = not rule.classes or track["class_name"] in rule.classes
            if rule.zone != zone or not wanted or inside < rule.seconds:
                continue
            if rule.name not in known.alarms:
                known.alarms.add(rule.name)
                self._alarms += 1
                # A receiver may get an alarm twice; by this id it can tell.
                more = {"id": uuid.uuid4().hex, "rule": rule.name, "zone": zone}
                more["seconds"] = round(inside, 3)
                events.append(self._event("alarm", record, track, **more))
        return events

    # --- lines ------------------------------------------------------------------------------------

    def _crossed(self, record, seen, points) -> list[dict[str, Any]]:
        events = []
        for line in self._zones.lines:
            for track, point, distance in zip(
                seen, points, line.distance(points).tolist(), strict=True
            ):
                if abs(distance) <= line.margin:
                    continue
                sides = self._known[track["track_id"]].sides
                before = sides.get(line.name)
                sides[line.name] = (point, distance)
                if before is None or before[1] * distance > 0:
                    continue
                if line.is_met_by(before[0], point):
                    direction = DIRECTIONS[distance < 0]
                    self._crossings[line.name, direction, track["class_name"]] += 1
                    more = {"line": line.name, "direction": direction}
                    events.append(self._event("crossing", record, track, **more))
        return events

    # --- ends -------------------------------------------------------------------------------------

    def _end_tracks(self, record) -> list[dict[str, Any]]:
        """Forgets tracks that are no more; who was in a zone leaves it."""
        alive = {track["track_id"] for track in record["tracks"]}
        events = []
        for track_id in sorted(self._known.keys() - alive):
            known = self._known.pop(track_id)
            self._classes[known.class_name] += 1
            self._visitors.update((zone, known.class_name) for zone in known.visited)
            track = {"track_id": track_id, "class_name": known.class_name}
            events += [self._exit(record, track, *stay) for stay in known.stays.items()]
        return events

    def _leave_all(self, record) -> list[dict[str, Any]]:
        self._seconds = None
        return self._end_tracks({**record, "tracks": []})

    def _event(self, kind: str, record, track, **more: Any) -> dict[str, Any]:
        place = {key: record[key] for key in ("stream", "source", "frame") if key in record}
        times = {key: record[key] for key in ("pts", "captured_at", "at") if key in record}
        who = {
            key: track[key] for key in ("track_id", "class_name", "x", "y", "score") if key in track
        }
        return {"type": kind, **more, **place, **times, **who}

    def summary(self) -> dict[str, Any]:
        """Counts as JSON values: objects (tracks so far), classes, most at a time, zones, lines."""
        classes = self._classes + Counter(known.class_name for known in self._known.values())
        result: dict[str, Any] = {
            "frames": self._frames,
            "seconds": round(self._passed, 3),
            "objects": classes.total(),
            "classes": dict(sorted(classes.items())),
            "most_at_a_time": self._most,
        }
        if self._drawn is None:
            return result
        result["zones"] = {zone.name: self._zone_summary(zone.name) for zone in self._drawn.zones}
        result["lines"] = {line.name: self._line_summary(line.name) for line in self._drawn.lines}
        result["alarms"] = self._alarms
        return result

    def _zone_summary(self, zone: str) -> dict[str, Any]:
        alive = [known for known in self._known.values() if zone in known.visited]
        classes = Counter({name: n for (at, name), n in self._visitors.items() if at == zone})
        classes.update(known.class_name for known in alive)
        return {
            "objects": classes.total(),
            "classes": dict(sorted(classes.items())),
            "inside_now": sum(zone in known.stays for known in alive),
            "seconds": round(self._dwell[zone], 3),
        }

    def _line_summary(self, line: str) -> dict[str, Any]:
        return {
            direction: {
                name: number
                for (name_of, way, name), number in sorted(self._crossings.items())
                if name_of == line and way == direction
            }
            for direction in DIRECTIONS
        }


def is_seen(record: Mapping[str, Any]) -> bool:
    """Whether a frame record tells of the world: the picture is new, and the network knows it."""
    return not record.get("frozen") and not record.get("flags", 0) & FLAG_NOT_FINITE


def record_seconds(record: Mapping[str, Any]) -> float:
    """Seconds of a frame record: of its file, or of the wall clock for a live source, whose own
    times may begin anew."""
    live = "age_ms" in record
    return record["captured_at"] if live or record.get("pts") is None else record["pts"]
