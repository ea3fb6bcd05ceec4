"""Frame records: of a stream's JSON lines, also while they come, or of predictions on stills."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cpr_deploy.files import InputError, read_json


def read_records(lines: Iterable[str], name: str) -> Iterator[dict[str, Any]]:
    """Stream records of text lines, each as soon as its line is there.

    A last line that was cut, as of a run that was killed, ends the records.

    Raises:
        InputError: with the line's number: no JSON, or a frame whose points cannot be used.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if not line.endswith("\n"):
                return
            raise InputError(
                f"{name}: line {number} is not JSON ({error}). Records of deploy/video.py --points"
                " are needed, one a line."
            ) from None
        if not isinstance(record, dict):
            raise InputError(f"{name}: line {number} is no record (a JSON object).")
        if record.get("type") == "frame":
            _check(record, f"{name}: line {number}")
        yield record


def _check(record: Mapping[str, Any], where: str) -> None:
    points = record.get("points")
    if not isinstance(points, list) or "source" not in record or "frame" not in record:
        raise InputError(f"{where}: a frame record has source, frame and points.")
    size = [record[key] for key in ("width", "height") if key in record]
    if size and not (len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        raise InputError(f"{where}: width and height are needed together, px above 0.")
    for key in ("pts", "captured_at"):
        if record.get(key) is not None and not _is_number(record[key]):
            raise InputError(f"{where}: {key} {record[key]!r}: a number of seconds is needed.")
    if type(record.get("flags", 0)) is not int:
        raise InputError(f"{where}: flags {record['flags']!r}: a whole number is needed.")
    for index, point in enumerate(points):
        good = isinstance(point, dict) and all(
            _is_number(point.get(k)) for k in ("x", "y", "score")
        )
        if not good or not isinstance(point.get("class_name"), str):
            raise InputError(f"{where}: points[{index}]: x, y, score and class_name are needed.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def prediction_records(
    predictions: str | Path, annotations: str | Path | None, folder: str | Path
) -> Iterator[dict[str, Any]]:
    """Frame records of a detections JSON, one an image, in the order of their names.

    Entries have `point` or `bbox`, `score`, `category_id`, and `file_name` relative to `folder`;
    or `image_id`, by the images of the point JSON `annotations`, which also names categories.

    Raises:
        InputError: with the entry's number: what is missing.
    """
    entries = read_json(predictions)
    if not isinstance(entries, list):
        raise InputError(f"{predictions}: is no list of detections.")
    names: dict[Any, str] = {}
    classes: dict[Any, str] = {}
    if annotations is not None:
        dataset = read_json(annotations)
        try:
            names = {image["id"]: image["file_name"] for image in dataset["images"]}
            classes = {item["id"]: item["name"] for item in dataset["categories"]}
        except (KeyError, TypeError):
            raise InputError(f"{annotations}: has no images and categories.") from None
    images: dict[str, list[dict[str, Any]]] = {name: [] for name in names.values()}
    for index, entry in enumerate(entries):
        where = f"{predictions}: [{index}]"
        if not isinstance(entry, dict):
            raise InputError(f"{where}: is no detection (a JSON object).")
        name = entry.get("file_name") or names.get(entry.get("image_id"))
        if not isinstance(name, str):
            raise InputError(
                f"{where}: names no image. Give --annotations, the JSON that lists the images, or"
                " predict with --images, which writes file_name."
            )
        images.setdefault(name, []).append(_point(entry, classes, where))
    for number, name in enumerate(sorted(images)):
        yield {
            "type": "frame",
            "source": str(folder),
            "file": name,
            "frame": number,
            "pts": None,
            "points": images[name],
        }


def _point(entry: Mapping[str, Any], classes: Mapping[Any, str], where: str) -> dict[str, Any]:
    place = entry.get("point")
    if place is None and isinstance(entry.get("bbox"), list) and len(entry["bbox"]) == 4:
        x, y, width, height = entry["bbox"]
        if all(map(_is_number, entry["bbox"])):
            place = [x + width / 2, y + height / 2]
    category = entry.get("category_id")
    if not isinstance(place, list) or len(place) != 2 or not all(map(_is_number, place)):
        raise InputError(f"{where}: point [x, y] (or bbox [x, y, width, height]) is needed, px.")
    if not _is_number(entry.get("score")) or not isinstance(category, int):
        raise InputError(f"{where}: score and category_id are needed.")
    return {
        "x": place[0],
        "y": place[1],
        "score": entry["score"],
        "label": category,
        "class_name": classes.get(category, f"category {category}"),
    }
