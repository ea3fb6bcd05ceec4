"""The tracks of one stream: tracker, camera motion and the traces that are drawn."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from cpr_deploy.point_localizer import PointResult
from cpr_deploy.tracking.camera_motion import CameraMotion, transform
from cpr_deploy.tracking.settings import TrackSettings
from cpr_deploy.tracking.tracker import FrameTracks, PointTracker

# After these events what was seen before says nothing of what comes.
RESET_EVENTS = ("reconnected", "resolution")
# Seconds of way that are drawn behind a track.
TRACE_SECONDS = 2.0
# Between frames that have no times.
_INTERVAL = 0.04


class StreamTracks:
    """traces: id -> (K, 2) px of the newest frame, oldest first, of tracks that are alive; kept if
    `traced`."""

    def __init__(self, settings: TrackSettings, classes: int, *, traced: bool = False):
        self._tracker = PointTracker(settings, classes)
        self._motion = CameraMotion() if settings.camera else None
        self._size = settings.size
        self._traced = traced
        self._seconds = 0.0
        self._points: np.ndarray | None = None
        self._forget_traces()

    def reset(self) -> None:
        """Ends all tracks; ids go on."""
        self._tracker.reset()
        if self._motion is not None:
            self._motion.reset()
        self._points = None
        self._forget_traces()

    def _forget_traces(self) -> None:
        self._times: deque[float] = deque()
        self.traces: dict[int, np.ndarray] = {}

    def update(
        self, result: PointResult, seconds: float | None, image: np.ndarray | None = None
    ) -> FrameTracks:
        """Tracks after a frame; `seconds` on any clock that does not go back. Without `image` the
        camera is taken to stand."""
        self._seconds = self._seconds + _INTERVAL if seconds is None else seconds
        motion = None
        if self._motion is not None and image is not None:
            motion = self._motion.update(image, objects=self._points, size=self._size)
            self._points = np.array(result.points, np.float64)
        tracks = self._tracker.update(result, self._seconds, motion=motion)
        if self._traced:
            self._extend_traces(tracks, motion)
        return tracks

    def _extend_traces(self, tracks: FrameTracks, motion: np.ndarray | None) -> None:
        self._times.append(self._seconds)
        while self._seconds - self._times[0] > TRACE_SECONDS:
            self._times.popleft()
        before = self.traces
        if motion is not None and before:
            ends = np.cumsum([len(way) for way in before.values()])[:-1]
            ways = np.split(transform(motion, np.concatenate(list(before.values()))), ends)
            before = dict(zip(before, ways, strict=True))
        longest = len(self._times)
        self.traces = {
            track: np.concatenate([before[track], place])[-longest:] if track in before else place
            for track, place in zip(tracks.ids.tolist(), tracks.positions[:, None], strict=True)
        }


def add_tracks(
    record: dict[str, Any],
    tracks: FrameTracks,
    class_names: Sequence[str],
) -> None:
    """Adds tracks to a frame record in place."""
    for point, track in zip(record["points"], tracks.point_ids.tolist(), strict=True):
        if track:
            point["track_id"] = track
    record["tracks"] = track_records(tracks, class_names)


def track_records(tracks: FrameTracks, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Tracks as JSON values, as `stream_records` tells."""
    return [
        {
            "track_id": track,
            "x": round(x, 3),
            "y": round(y, 3),
            "vx": round(vx, 3),
            "vy": round(vy, 3),
            "score": round(score, 5),
            "label": label,
            "class_name": class_names[label],
            "age": round(age, 3),
            **({"missed": missed} if missed else {}),
        }
        for track, (x, y), (vx, vy), score, label, age, missed in zip(
            tracks.ids.tolist(),
            tracks.positions.tolist(),
            tracks.velocities.tolist(),
            tracks.scores.tolist(),
            tracks.labels.tolist(),
            tracks.ages.tolist(),
            tracks.missed.tolist(),
            strict=True,
        )
    ]
