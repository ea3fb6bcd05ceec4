"""Annotated frames of one stream: drawn and written beside the work, so that it need not wait."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cpr_deploy.background import Background
from cpr_deploy.latency import LatencyRecorder
from cpr_deploy.overlay import draw_points
from cpr_deploy.point_localizer import PointResult
from cpr_deploy.tracking.track_overlay import draw_tracks, draw_zones
from cpr_deploy.tracking.tracker import FrameTracks
from cpr_deploy.tracking.zones import Zones

# Frames that may wait to be drawn.
ROOM = 2


class Annotator:
    """Draws the frames of a stream and hands them to `writers` in order.

    Args:
        write: called with writers, one of them, image and seconds; deals with its errors.
        latency: gets the stages draw and encode.
        thread: in a thread of its own. Some windows can only be filled by the main one.
        drop: frames that come while `ROOM` others wait are left out (a live stream); otherwise they
            wait.
    """

    def __init__(
        self,
        name: str,
        class_names: Sequence[str],
        writers: list,
        write: Callable[..., None],
        latency: LatencyRecorder,
        *,
        show_scores: bool = True,
        zones: Zones | None = None,
        thread: bool = True,
        drop: bool = False,
    ):
        self._class_names = class_names
        self._writers = writers
        self._write = write
        self._latency = latency
        self._show_scores = show_scores
        self._zones = zones
        self._thread = Background(f"drawing of {name}", room=ROOM, drop=drop) if thread else None

    @property
    def undrawn(self) -> int:
        """Frames that were left out."""
        return self._thread.dropped if self._thread is not None else 0

    def draw(
        self,
        image: np.ndarray,
        result: PointResult,
        status: str,
        seconds: float | None,
        tracks: FrameTracks | None = None,
        traces: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        """Draws onto `image` (H, W, 3) uint8 BGR, now or later: it belongs to the annotator from
        here on, and nothing given may change afterwards."""
        job = functools.partial(self._draw, image, result, status, seconds, tracks, traces)
        if self._thread is None:
            job()
        elif self._writers:
            self._thread.put(job)

    def check(self) -> None:
        """Raises an error that drawing or writing has met."""
        if self._thread is not None:
            self._thread.check()

    def close(self) -> None:
        """Waits until all is written; an error of it is raised here at the latest."""
        if self._thread is not None:
            self._thread.close()

    def _draw(
        self,
        image: np.ndarray,
        result: PointResult,
        status: str,
        seconds: float | None,
        tracks: FrameTracks | None,
        traces: Mapping[int, np.ndarray] | None,
    ) -> None:
        scores = self._show_scores and tracks is None
        with self._latency.stage("draw"):
            drawn = draw_points(image, result, self._class_names, status=status, show_scores=scores)
            if self._zones is not None:
                height, width = drawn.shape[:2]
                draw_zones(drawn, self._zones.scaled(width, height))
            if tracks is not None:
                draw_tracks(drawn, tracks, traces or {})
        with self._latency.stage("encode"):
            for writer in list(self._writers):
                self._write(self._writers, writer, drawn, seconds)
