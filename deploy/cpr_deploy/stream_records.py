"""Stream records: one JSON object a line, in the order of the stream.

`type` tells what a line is:
- "frame": source, file (of a folder of images, else left out), frame (index from 0), pts (seconds
  from the container, null if it has none), captured_at (seconds since 1970 when the frame was
  read), latency_ms (stage -> ms), flags (see `PointResult`), points [{x, y, score, label,
  class_name}] in px of the frame.
- "drop": source, frame (the next one kept), count: frames that were read but not processed because
  the program could not keep up with a live source.
- "gap": source, frame, seconds: a live source gave no frame for this long.
- "error": source, frame (frames read so far), message: the source failed here.
- "end": source, frames, errors.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from cpr_deploy.files import atomic_path
from cpr_deploy.point_localizer import PointResult


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
    result: PointResult,
    class_names: Sequence[str],
    file: str = "",
) -> dict[str, Any]:
    return {
        "type": "frame",
        "source": source,
        **({"file": file} if file else {}),
        "frame": frame,
        "pts": pts if pts is None else round(pts, 6),
        "captured_at": round(captured_at, 6),
        "latency_ms": dict(latency_ms),
        "flags": result.flags,
        "points": point_records(result, class_names),
    }


def drop_record(source: str, frame: int, count: int) -> dict[str, Any]:
    return {"type": "drop", "source": source, "frame": frame, "count": count}


def gap_record(source: str, frame: int, seconds: float) -> dict[str, Any]:
    return {"type": "gap", "source": source, "frame": frame, "seconds": round(seconds, 3)}


def error_record(source: str, frame: int, message: str) -> dict[str, Any]:
    return {"type": "error", "source": source, "frame": frame, "message": message}


def end_record(source: str, frames: int, errors: int) -> dict[str, Any]:
    return {"type": "end", "source": source, "frames": frames, "errors": errors}


class RecordWriter:
    """Writes records to an open text file, one a line."""

    def __init__(self, file: IO[str]):
        self._file = file

    def write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record, allow_nan=False) + "\n")


@contextlib.contextmanager
def open_records(path: str) -> Iterator[RecordWriter]:
    """A writer to `path`, which appears when the block ends well; "-" is standard output."""
    if path == "-":
        yield RecordWriter(sys.stdout)
        sys.stdout.flush()
        return
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        yield RecordWriter(file)
