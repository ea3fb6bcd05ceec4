"""Counts written to a folder, and alarms handed on, from frame records: a record writer for a run
and for records of an earlier one alike.

In the folder: counts.json (`TrackCounter.summary`), counts.csv (the same as a table), events.jsonl
(enter, exit, crossing and alarm entries, line by line as they happen), density.csv and density.png.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cpr_deploy.files import explain, set_aside, write_json, write_text
from cpr_deploy.tracking.counter import TrackCounter
from cpr_deploy.tracking.zones import Zones

logger = logging.getLogger(__name__)

# A kill loses the counts of so many seconds at most.
SAVE_EVERY = 10.0
# What is written at the end, beside the events.
RESULTS = ("counts.json", "counts.csv", "density.csv", "density.png")
CSV_COLUMNS = ("kind", "name", "direction", "class_name", "count", "seconds")


class CountWriter:
    """Counts the records of stream `stream` (those without a number are the first's).

    folder: or None, to hand on alarms only. on_alarm: called with each `alarm` entry; must not
    block. in_place, for streams without end: what an earlier run has left is set aside, and
    counts.json is renewed every `SAVE_EVERY` seconds.
    """

    def __init__(
        self,
        folder: str | os.PathLike | None,
        zones: Zones | None = None,
        *,
        stream: int = 1,
        on_alarm: Callable[[dict[str, Any]], None] | None = None,
        in_place: bool = False,
    ):
        self.counter = TrackCounter(zones)
        self._folder = None if folder is None else Path(folder)
        self._stream = stream
        self._on_alarm = on_alarm
        self._in_place = in_place
        self._saved = time.monotonic()
        self._background: np.ndarray | None = None
        self._events = None
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / "events.jsonl"
            if in_place:
                for name in (path.name, *RESULTS):
                    set_aside(self._folder / name)
            self._events = open(path, "w", encoding="utf-8", newline="")  # noqa: SIM115

    def write(self, record: Mapping[str, Any]) -> None:
        if record.get("stream", 1) != self._stream:
            return
        for event in self.counter.update(record):
            if self._on_alarm is not None and event["type"] == "alarm":
                self._on_alarm(event)
            if self._events is not None:
                self._write_event(event)
        if self._in_place and time.monotonic() - self._saved >= SAVE_EVERY:
            self._saved = time.monotonic()
            with contextlib.suppress(OSError):  # a full disk: the next time, perhaps
                self._save()

    def _write_event(self, event: Mapping[str, Any]) -> None:
        try:
            self._events.write(json.dumps(event, allow_nan=False) + "\n")
            self._events.flush()
        except OSError as error:
            if not self._in_place:
                raise
            # A full disk must not silence the alarms.
            logger.error("%s: ends here: %s", self._events.name, explain(error) or error)
            with contextlib.suppress(OSError):
                self._events.close()
            self._events = None

    def keep_frame(self, image: np.ndarray) -> None:
        """The first frame of each size, (H, W, 3) uint8 BGR, is what density.png is drawn over."""
        if self._background is None or self._background.shape != image.shape:
            self._background = image.copy()

    def _save(self) -> dict[str, Any]:
        summary = self.counter.summary()
        if self._folder is not None:
            write_json(self._folder / "counts.json", summary, indent=1)
        return summary

    def close(self) -> None:
        """Writes the counts."""
        if self._folder is None:
            return
        if self._events is not None:
            self._events.close()
        summary = self._save()
        write_text(self._folder / "counts.csv", _table(summary))
        density = self.counter.density
        if density is None:
            return
        density.write_csv(self._folder / "density.csv")
        width, height = density.size
        frame = self._background
        if frame is None or frame.shape[:2] != (height, width):
            frame = np.zeros((height, width, 3), np.uint8)
        density.write_png(self._folder / "density.png", frame)


def _table(summary: Mapping[str, Any]) -> str:
    text = io.StringIO()
    rows = csv.DictWriter(text, CSV_COLUMNS, restval="", lineterminator="\n")
    rows.writeheader()
    for name, count in summary["classes"].items():
        rows.writerow({"kind": "all", "class_name": name, "count": count})
    for zone, counts in summary.get("zones", {}).items():
        for name, count in counts["classes"].items():
            rows.writerow({"kind": "zone", "name": zone, "class_name": name, "count": count})
        rows.writerow({"kind": "dwell", "name": zone, "seconds": counts["seconds"]})
    for line, ways in summary.get("lines", {}).items():
        for direction, classes in ways.items():
            common = {"kind": "line", "name": line, "direction": direction}
            for name, count in classes.items():
                rows.writerow({**common, "class_name": name, "count": count})
    return text.getvalue()
