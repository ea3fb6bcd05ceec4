"""Records of an earlier run, read from a file and, where they have no tracks, tracked."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cpr_deploy.files import InputError
from cpr_deploy.point_localizer import PointResult
from cpr_deploy.tracking.counter import is_seen, record_seconds
from cpr_deploy.tracking.settings import TrackSettings
from cpr_deploy.tracking.stream_tracks import RESET_EVENTS, StreamTracks, add_tracks

_POINT = {"x": (int, float), "y": (int, float), "score": (int, float), "label": (int,)}
# A track of a record: what counting needs of it.
_TRACK = {"track_id": (int,), "x": (int, float), "y": (int, float), "class_name": (str,)}
_FRAME = {"frame": (int,), "captured_at": (int, float)}
_MAX_LABEL = 1 << 16


def read_records(path: str | os.PathLike, *, stream: int = 1) -> Iterator[dict[str, Any]]:
    """Stream records of a JSONL file, one by one; those of other streams are left out.

    Raises:
        InputError: names the line that is no record. A last line that was cut off is left out.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file. Make one with deploy/video.py --points.")
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}: line {number}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                if not line.endswith("\n"):
                    return
                raise InputError(f"{where} is not JSON. Give the file of --points.") from None
            if not isinstance(record, dict) or not isinstance(record.get("type"), str):
                raise InputError(f"{where} is no stream record. Give the file of --points.")
            if record["type"] == "frame":
                _check_frame(record, where)
            if record.get("stream", 1) == stream:
                yield record


def _check_frame(record: Mapping[str, Any], where: str) -> None:
    _check_fields(record, _FRAME, where)
    times = [record[key] for key in ("pts", "age_ms") if record.get(key) is not None]
    if not all(_is_number(value) for value in times):
        raise InputError(f"{where}: a time is no number.")
    if type(record.get("flags", 0)) is not int:
        raise InputError(f"{where}: flags is no whole number.")
    for key, fields in (("points", _POINT), ("tracks", _TRACK)):
        entries = record.get(key, [])
        if not isinstance(entries, list):
            raise InputError(f"{where}: {key} is no list.")
        for index, entry in enumerate(entries):
            _check_fields(entry, fields, f"{where}: {key}[{index}]")
    if not all(0 <= point["label"] < _MAX_LABEL for point in record.get("points", [])):
        raise InputError(f"{where}: a label is not from 0 to {_MAX_LABEL - 1}.")
    if not record.keys().isdisjoint(("tracks", "width", "height")):
        _check_fields(record, {"width": (int,), "height": (int,)}, where)
        if not (0 < record["width"] <= 1 << 16 and 0 < record["height"] <= 1 << 16):
            raise InputError(f"{where}: width or height is no size of a frame.")


def _check_fields(entry: Any, fields: Mapping[str, tuple], where: str) -> None:
    for key, kinds in fields.items():
        value = entry.get(key) if isinstance(entry, dict) else None
        good = _is_number(value) if float in kinds else type(value) in kinds
        if not good:
            raise InputError(f"{where}: {key} is {value!r}; {kinds[-1].__name__} is needed.")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def class_names_of(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names by label, as points give them."""
    names: dict[int, str] = {}
    for record in records:
        for point in record.get("points", []):
            names.setdefault(point["label"], str(point.get("class_name", point["label"])))
    return [names.get(label, str(label)) for label in range(max(names, default=0) + 1)]


def track_again(
    records: Iterable[dict[str, Any]],
    settings: TrackSettings,
    class_names: list[str],
    size: tuple[int, int] | None = None,
    images: Iterable[tuple[int, np.ndarray]] = (),
) -> Iterator[dict[str, Any]]:
    """The records with tracks, as a run with these settings would have written them.

    size: (width, height) px of frames that do not tell theirs, as in records of older versions.
    images: (frame index, (H, W, 3) uint8 BGR) in order, to see the motion of the camera; without
    them it is taken to stand.

    Raises:
        InputError: a frame does not tell its size, and `size` and `images` do not either.
    """
    stream = StreamTracks(settings, len(class_names))
    images = iter(images)
    for record in records:
        if record["type"] in RESET_EVENTS:
            stream.reset()
        if record["type"] == "resolution":
            size = record["width"], record["height"]
        if record["type"] == "frame" and is_seen(record):
            image = _image_at(images, record["frame"])
            if image is not None:
                record["height"], record["width"] = image.shape[:2]
            elif "width" not in record:
                if size is None:
                    raise InputError(
                        "the size of the frames is not known: give --source FILE or --zones."
                    )
                record["width"], record["height"] = size
            points = record["points"]
            result = PointResult(
                np.array([[point["x"], point["y"]] for point in points]).reshape(-1, 2),
                np.array([point["score"] for point in points], np.float64),
                np.array([point["label"] for point in points], np.int64),
                flags=record.get("flags", 0),
            )
            for point in points:
                point.pop("track_id", None)
            tracks = stream.update(result, record_seconds(record), image)
            add_tracks(record, tracks, class_names)
        yield record


def _image_at(images: Iterator[tuple[int, np.ndarray]], frame: int) -> np.ndarray | None:
    for index, image in images:
        if index >= frame:
            return image if index == frame else None
    return None
