"""Points for the library `supervision`, and back: its zones, line counters, traces and annotators
work on them.

Its detections are boxes. A point becomes a box of no size about it, of which every anchor is the
point itself, so that `PolygonZone` and `LineZone` see the point whatever anchors they are set to.
To draw boxes, give a size. Coordinates stay as they are, continuous px; its zones round them to
whole ones, so that at the border theirs and ours may differ by half a pixel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cpr_deploy.files import InputError

# As theirs: of a point that belongs to no confirmed track.
NO_TRACK = -1


def to_supervision(points: Sequence[Mapping[str, Any]], *, size: float = 0.0):
    """`supervision.Detections` of points or tracks of a frame record.

    Args:
        points: dicts with x, y (px), score, label and, where there are, class_name and track_id.
        size: px of the side of the boxes.

    `tracker_id` is there if any point has a track_id, -1 for those without, which its line counter
    leaves out; `data["class_name"]` if all have names. Order is kept.
    """
    sv = _supervision()
    if not points:
        return sv.Detections.empty()
    centres = _array(points, "x", "y")
    tracked = any("track_id" in point for point in points)
    named = all("class_name" in point for point in points)
    return sv.Detections(
        xyxy=np.concatenate([centres - size / 2, centres + size / 2], axis=1).astype(np.float32),
        confidence=np.array([point["score"] for point in points], np.float32),
        class_id=np.array([point["label"] for point in points], int),
        tracker_id=_track_ids(points) if tracked else None,
        data={"class_name": np.array([p["class_name"] for p in points])} if named else {},
    )


def to_supervision_key_points(points: Sequence[Mapping[str, Any]]):
    """`supervision.KeyPoints` with one key point an object, for its vertex annotators. They have no
    track ids, and no zone takes them."""
    sv = _supervision()
    if not points:
        return sv.KeyPoints.empty()
    return sv.KeyPoints(
        xy=_array(points, "x", "y")[:, None].astype(np.float32),
        class_id=np.array([point["label"] for point in points], int),
        keypoint_confidence=np.array([[point["score"]] for point in points], np.float32),
    )


def from_supervision(detections, class_names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Points of a frame record from `Detections` (centres of the boxes) or `KeyPoints` (the mean of
    an object's points).

    Names come from `data["class_name"]`, else from `class_names` by label. Without confidence the
    score is 1, without classes the label 0.
    """
    if hasattr(detections, "xyxy"):
        centres = (detections.xyxy[:, :2] + detections.xyxy[:, 2:]) / 2
        scores, tracks = detections.confidence, detections.tracker_id
    else:
        centres = detections.xy.mean(axis=1) if len(detections) else np.zeros((0, 2))
        scores, tracks = detections.keypoint_confidence, None
        scores = None if scores is None else scores.mean(axis=1)
    count = len(centres)
    scores = np.ones(count) if scores is None else scores
    labels = np.zeros(count, int) if detections.class_id is None else detections.class_id
    names = detections.data.get("class_name")
    points = []
    for index, (x, y) in enumerate(np.asarray(centres, float).tolist()):
        label = int(labels[index])
        if names is None and class_names and not 0 <= label < len(class_names):
            raise InputError(
                f"detections: class {label} has no name among {len(class_names)} class_names."
            )
        point = {"x": x, "y": y, "score": float(scores[index]), "label": label}
        if names is not None:
            point["class_name"] = str(names[index])
        elif class_names:
            point["class_name"] = class_names[label]
        if tracks is not None and tracks[index] != NO_TRACK:
            point["track_id"] = int(tracks[index])
        points.append(point)
    return points


def _array(points: Sequence[Mapping[str, Any]], *keys: str) -> np.ndarray:
    return np.array([[point[key] for key in keys] for point in points], np.float64)


def _track_ids(points: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return np.array([point.get("track_id", NO_TRACK) for point in points], int)


def _supervision():
    try:
        import supervision
    except ModuleNotFoundError:
        raise InputError(
            "this needs supervision. Install it: pip install 'cpr-point-localization[track]'."
        ) from None
    return supervision
