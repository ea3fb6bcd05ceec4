"""Stream records: one JSON object a line, in the order of the stream. STREAMS.md lists them all.

`type` tells what a line is; each has source and, but for "end", frame (the index of the frame it
belongs to or, of events between frames, of the next one).
- "frame": file (of a folder of images, else left out), pts (seconds from the container, null if it
  has none), captured_at (seconds since 1970 when the frame was read), latency_ms (stage -> ms), of
  live sources age_ms (from capture to these points), dropped, stale and frozen (each left out if 0
  or false), width and height (px of the frame), flags (see `PointResult`), points [{x, y, score,
  label, class_name}], px of the frame. With tracking also track_id of the points that have one, and
  tracks [{track_id, x, y, vx, vy, score, label, class_name, age, missed}]: smoothed px and px a
  second, label by vote, seconds since the first point, frames since the newest one (left out if 0).
- "drop": count: frames that were read but not processed because a newer one had come.
- "gap", "stale", "frozen": seconds. "lost": message, retry_in. "reconnected": seconds, attempts.
  "damaged": count. "resolution": width, height, old_width, old_height.
- "error": message: the source failed here, for good.
- "end": frames, errors.
All but "frame" and "end" have `at`, seconds since 1970. With several sources each record has
`stream`, the source's number from 1.
"""

from __future__ import annotations

import contextlib
import csv
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from cpr_deploy.files import atomic_path, set_aside
from cpr_deploy.point_localizer import PointResult

CSV_COLUMNS = (
    *("stream", "source", "frame", "pts", "captured_at", "stale"),
    *("x", "y", "score", "label", "class_name", "track_id"),
    *("frozen", "flags"),
)


def point_records(result: PointResult, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Points as JSON values; coordinates to 1/1000 px."""
    return [
        {
            "x": round(float(x), 3),
            "y": round(float(y), 3),
            "score": round(float(score), 5),
            "label": int(label),
            "class_name": class_names[label],
        }
        for (x, y), score, label in zip(result.points, result.scores, result.labels, strict=True)
    ]


def frame_record(
    *,
    source: str,
    frame: int,
    pts: float | None,
    captured_at: float,
    latency_ms: Mapping[str, float],
    shape: Sequence[int],
    result: PointResult,
    class_names: Sequence[str],
    file: str = "",
    age_ms: float | None = None,
    dropped: int = 0,
    stale: bool = False,
    frozen: bool = False,
) -> dict[str, Any]:
    """A record of a processed frame. shape: (height, width, ..) of the frame."""
    return {
        "type": "frame",
        "source": source,
        **({"file": file} if file else {}),
        "frame": frame,
        "pts": pts if pts is None else round(pts, 6),
        "captured_at": round(captured_at, 6),
        "latency_ms": dict(latency_ms),
        **({} if age_ms is None else {"age_ms": round(age_ms, 3)}),
        **({"dropped": dropped} if dropped else {}),
        **({"stale": True} if stale else {}),
        **({"frozen": True} if frozen else {}),
        "width": int(shape[1]),
        "height": int(shape[0]),
        "flags": result.flags,
        "points": point_records(result, class_names),
    }


def event_record(type: str, source: str, frame: int, **fields: Any) -> dict[str, Any]:
    """A record of one of the types between frames."""
    return {"type": type, "source": source, "frame": frame, "at": round(time.time(), 3), **fields}


def end_record(source: str, frames: int, errors: int) -> dict[str, Any]:
    return {"type": "end", "source": source, "frames": frames, "errors": errors}


@contextlib.contextmanager
def _given_up_if_broken(file: IO[str]) -> Iterator[None]:
    """What could not be written still waits in the buffer; it must not fail again at the end."""
    try:
        yield
    except OSError:
        if file is not sys.stdout:
            with contextlib.suppress(OSError):
                file.close()
        raise


class RecordWriter:
    """Writes records to an open text file, one a line, each at once."""

    def __init__(self, file: IO[str]):
        self._file = file

    def write(self, record: Mapping[str, Any]) -> None:
        with _given_up_if_broken(self._file):
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()


class CsvWriter:
    """Writes the points of frame records to an open text file, one a row; events are left out."""

    def __init__(self, file: IO[str]):
        self._file = file
        self._rows = csv.DictWriter(file, CSV_COLUMNS, extrasaction="ignore", restval="")
        self._rows.writeheader()

    def write(self, record: Mapping[str, Any]) -> None:
        if record["type"] != "frame":
            return
        marks = {name: int(record.get(name, False)) for name in ("stale", "frozen")}
        common = {"stream": 1, **record, **marks}
        with _given_up_if_broken(self._file):
            self._rows.writerows({**common, **point} for point in record["points"])
            self._file.flush()


@contextlib.contextmanager
def _open_text(path: str, in_place: bool) -> Iterator[IO[str]]:
    if path == "-":
        yield sys.stdout
        sys.stdout.flush()
    elif in_place:
        set_aside(path)
        with open(path, "w", encoding="utf-8", newline="") as file:
            yield file
    else:
        with atomic_path(path) as temporary:
            with open(temporary, "w", encoding="utf-8", newline="") as file:
                yield file


@contextlib.contextmanager
def open_records(path: str, *, in_place: bool = False) -> Iterator[RecordWriter]:
    """A writer to `path`, which appears when the block ends well; "-" is standard output.

    `in_place`, for streams without end: the file is there from the start, line by line, and stays
    whatever happens. What an earlier run has left there is set aside.
    """
    with _open_text(path, in_place) as file:
        yield RecordWriter(file)


@contextlib.contextmanager
def open_csv(path: str, *, in_place: bool = False) -> Iterator[CsvWriter]:
    """As `open_records`, for points as CSV."""
    with _open_text(path, in_place) as file:
        yield CsvWriter(file)
