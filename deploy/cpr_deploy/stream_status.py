"""How a stream is doing: for the web page, the counters of Prometheus and the final summary."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from cpr_deploy.feed import StreamFeed
from cpr_deploy.point_localizer import PointResult
from cpr_deploy.sources import Frame

# Upper bounds of the age histogram, seconds.
AGE_BUCKETS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
# Seconds of history that the web page shows, a value each.
HISTORY = 600


class StreamStatus:
    """Written by the thread that runs the network; others may call `snapshot`."""

    def __init__(self, number: int, feed: StreamFeed, class_names: Sequence[str]):
        self.number = number
        self.feed = feed
        self._class_names = tuple(class_names)
        self._found = np.zeros(len(self._class_names), np.int64)
        self._size = (0, 0)
        self._age_ms: float | None = None
        self._age_sum = 0.0
        self._age_counts = [0] * (len(AGE_BUCKETS) + 1)
        self._recent: deque[float] = deque(maxlen=60)
        # [unix second, points of the richest frame in it]
        self.history: deque[tuple[int, int]] = deque(maxlen=HISTORY)

    def add(self, frame: Frame, result: PointResult, age_ms: float | None, *, stale: bool) -> None:
        counts = self.feed.counts
        counts.points += len(result)
        counts.flagged += result.flags != 0
        counts.late += stale
        self._found = np.bincount(result.labels, minlength=len(self._class_names))
        self._size = (frame.image.shape[1], frame.image.shape[0])
        self._recent.append(time.monotonic())
        self._age_ms = age_ms
        if age_ms is not None:
            bucket = int(np.searchsorted(AGE_BUCKETS, 1e-3 * age_ms))
            self._age_counts[bucket] += 1
            self._age_sum += 1e-3 * age_ms
        second, points = int(time.time()), len(result)
        if self.history and self.history[-1][0] == second:
            points = max(points, self.history.pop()[1])
        self.history.append((second, points))

    def snapshot(self) -> dict[str, Any]:
        """All of it as JSON values."""
        feed, recent = self.feed, list(self._recent)
        rate = 0.0
        if len(recent) > 1 and recent[-1] > recent[0]:
            rate = (len(recent) - 1) / (recent[-1] - recent[0])
        return {
            "stream": self.number,
            "source": feed.name,
            "state": feed.state,
            "live": feed.live,
            **dataclasses.asdict(feed.counts),
            "in_flight": feed.in_flight(),
            "blind_seconds": round(feed.blind_seconds(), 3),
            "width": self._size[0],
            "height": self._size[1],
            "frames_per_second": round(rate, 2),
            "seconds_since_frame": round(time.monotonic() - recent[-1], 3) if recent else None,
            "age_ms": None if self._age_ms is None else round(self._age_ms, 3),
            "found": {
                name: int(count)
                for name, count in zip(self._class_names, self._found, strict=True)
                if count
            },
        }

    def age_histogram(self) -> tuple[list[int], float]:
        """Counts per bucket of AGE_BUCKETS and above them, and the sum of all ages, seconds."""
        return list(self._age_counts), self._age_sum
