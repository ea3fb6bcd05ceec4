"""What became of every detection: hit, error or excused, per size range and threshold.

The scores of `point_ap` are read off this one result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cpr_deploy.files import InputError

from ..data.point_json import category_index
from .point_matching import assign, closeness_threshold, find_pairs

# Ranges [min, max) of sqrt(w h) in px, as in the official configurations.
SIZE_RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "coco": {"all": (0, 1e5), "small": (0, 32), "medium": (32, 96), "large": (96, 1e5)},
    "tiny": {
        "all": (1, 1e5),
        "tiny": (1, 20),
        "tiny1": (1, 8),
        "tiny2": (8, 12),
        "tiny3": (12, 20),
        "small": (20, 32),
        "reasonable": (32, 1e5),
    },
}
SizeRanges = str | Mapping[str, Sequence[float]]

# What a detection is.
ERROR, HIT, EXCUSED = 0, 1, 2


@dataclass(frozen=True)
class DatasetMatches:
    """What became of each detection, and what was there to be found.

    D detections sorted by class, image, score; B boxes; R size ranges; T thresholds.
    """

    class_names: list[str]
    category_ids: list[int]
    num_images: int
    ranges: dict[str, tuple[float, float]]
    thresholds: list[str]
    det_class: np.ndarray  # (D,)
    det_image: np.ndarray  # (D,) place of the image in the data set
    scores: np.ndarray  # (D,)
    box_class: np.ndarray  # (B,)
    box_image: np.ndarray  # (B,)
    regular: np.ndarray  # (R, B) bool: an object that has to be found
    status: np.ndarray  # (R, T, D) int8: ERROR, HIT, EXCUSED

    def ranked(self, label: int, r: int, t: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Status, score and image of the class's detections that count, best score first.

        Detections of equal score have no order of their own. Their hits and errors are spread
        evenly, so that the result does not depend on the order of files or images. It is one
        of the results that the official code gives for some order of its input.
        """
        low, high = np.searchsorted(self.det_class, [label, label + 1])
        status, scores = self.status[r, t, low:high], self.scores[low:high]
        order = np.argsort(-scores, kind="stable")
        order = order[status[order] != EXCUSED]
        status, scores = status[order], scores[order]
        changes = scores[1:] != scores[:-1]
        if not changes.all():
            group = np.append(0, changes.cumsum())
            place = np.empty(len(scores))
            for value in (ERROR, HIT):
                members = np.flatnonzero(status == value)
                of_group = group[members]
                start = np.searchsorted(of_group, of_group, side="left")
                count = np.searchsorted(of_group, of_group, side="right") - start
                place[members] = (np.arange(len(members)) - start + 0.5) / count
            # At the same place the hit goes first, as for two copies of one detection.
            spread = np.lexsort((-status, place, group))
            order, status, scores = order[spread], status[spread], scores[spread]
        return status, scores, self.det_image[low:high][order]


def match_boxes(
    ground_truth: dict[str, Any],
    detections: list[dict[str, Any]],
    *,
    taus: Sequence[float],
    size_ranges: SizeRanges,
    max_dets: int,
    ignore_keys: Sequence[str],
    box_centre: str,
    several_boxes: str,
) -> DatasetMatches:
    """Detections against boxes by the point-box distance (Eq. 12).

    Args:
        ignore_keys: the flags that mark an ignored annotation.
        The others: see `point_ap.evaluate_points`.

    Raises:
        InputError: see `point_ap.evaluate_points`.
    """
    check_choice("box_centre", box_centre, ("true", "official"))
    check_choice("several_boxes", several_boxes, ("free", "nearest"))
    if not taus or not all(np.isfinite(tau) and tau > 0 for tau in taus):
        raise InputError(f"tau {list(taus)!r}: give numbers above 0.")
    shift = 0.5 if box_centre == "official" else 0.0
    annotations = []
    for annotation in ground_truth["annotations"]:
        if annotation.get("bbox") is not None:
            annotations.append(annotation)
        elif not any(annotation.get(key) for key in ignore_keys):
            raise InputError(
                f"annotation id {annotation.get('id')!r}: has no bbox. Without boxes use"
                " --radius PX (evaluate_points_by_radius)."
            )
    boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
    ignored = np.array([any(a.get(key) for key in ignore_keys) for a in annotations], dtype=bool)
    size = np.sqrt(boxes[:, 2] * boxes[:, 3])
    ranges = resolve_ranges(size_ranges)
    regular = np.array(
        [~ignored & (low <= size) & (size < high) for low, high in ranges.values()]
    ).reshape(len(ranges), -1)
    return _match(
        ground_truth,
        detections,
        annotations,
        # In float32 step by step, as the official code.
        centres=boxes[:, :2].astype(np.float32)
        + (boxes[:, 2:].astype(np.float32) - np.float32(2 * shift)) / np.float32(2),
        sizes=boxes[:, 2:],
        whole_box=None,
        regular=regular,
        ranges=ranges,
        thresholds=taus,
        max_dets=max_dets,
        shift=shift,
        nearest_only=several_boxes == "nearest",
    )


def match_radii(
    ground_truth: dict[str, Any],
    detections: list[dict[str, Any]],
    radii: Sequence[float],
    max_dets: int,
) -> DatasetMatches:
    """Detections against points by the distance in px; see `point_ap.evaluate_points_by_radius`.

    Points are taken for boxes of one pixel: then the point-box distance is that in pixels.
    """
    annotations = ground_truth["annotations"]
    ignored = np.array([bool(a.get("ignore") or a.get("iscrowd")) for a in annotations], dtype=bool)
    whole_box = ignored & np.array([a.get("bbox") is not None for a in annotations], dtype=bool)
    centres, sizes = np.zeros((len(annotations), 2)), np.ones((len(annotations), 2))
    for index, annotation in enumerate(annotations):
        box, point = annotation.get("bbox"), annotation.get("point")
        if box is None and point is None:
            raise InputError(f"annotation id {annotation.get('id')!r}: has neither point nor bbox.")
        if whole_box[index] or point is None:
            centres[index] = box[0] + box[2] / 2, box[1] + box[3] / 2
        else:
            centres[index] = point
        if whole_box[index]:
            sizes[index] = box[2:]
    return _match(
        ground_truth,
        detections,
        annotations,
        centres=centres,
        sizes=sizes,
        whole_box=whole_box,
        regular=~ignored[None],
        ranges={"all": (0.0, np.inf)},
        thresholds=radii,
        max_dets=max_dets,
        shift=0.0,
        nearest_only=False,
    )


def _match(
    ground_truth: dict[str, Any],
    detections: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
    *,
    centres: np.ndarray,
    sizes: np.ndarray,
    whole_box: np.ndarray | None,
    regular: np.ndarray,
    ranges: dict[str, tuple[float, float]],
    thresholds: Sequence[float],
    max_dets: int,
    shift: float,
    nearest_only: bool,
) -> DatasetMatches:
    """Both of the above.

    Args:
        centres, sizes: (B, 2) of the `annotations`, px.
        whole_box: see `point_matching.find_pairs`.
        regular: (R, B) bool, the objects of each size range.
        shift: what the centre of a detection's box is moved left and up by, px.
        nearest_only: a detection may take none but its nearest regular box.
    """
    if max_dets < 1:
        raise InputError(f"max_dets {max_dets}: give a number above 0.")
    labels = category_index(ground_truth)
    images = {image["id"]: place for place, image in enumerate(ground_truth["images"])}
    box_class = _look_up(annotations, "category_id", labels, "annotation")
    box_image = _look_up(annotations, "image_id", images, "annotation")
    box_ids = np.array([a.get("id", i) for i, a in enumerate(annotations)])
    if not (np.isfinite(centres).all() and (sizes > 0).all()):
        raise InputError("annotations: a box has a side that is not positive, or is not finite.")

    det_class = _look_up(detections, "category_id", labels, "detection")
    det_image = _look_up(detections, "image_id", images, "detection")
    points, scores = _positions(detections, shift)

    # Groups are (class, image) numbers; sorting by id and by position makes the result independent
    # of the order of the files.
    num_images = max(len(images), 1)
    box_order = np.lexsort((box_ids, box_class * num_images + box_image))
    box_class, box_image = box_class[box_order], box_image[box_order]
    centres, sizes, regular = centres[box_order], sizes[box_order], regular[:, box_order]
    whole_box = None if whole_box is None else whole_box[box_order]
    det_group = det_class * num_images + det_image
    det_order = np.lexsort((points[:, 1], points[:, 0], -scores, det_group))
    sorted_group = det_group[det_order]
    rank = np.arange(len(det_order)) - np.searchsorted(sorted_group, sorted_group, side="left")
    det_order = det_order[rank < max_dets]
    det_class, det_image, det_group, points, scores = (
        values[det_order] for values in (det_class, det_image, det_group, points, scores)
    )

    pairs = find_pairs(
        points,
        scores,
        det_group,
        centres,
        sizes,
        box_class * num_images + box_image,
        max_tau=max(thresholds),
        whole_box=whole_box,
    )
    limits = [closeness_threshold(threshold) for threshold in thresholds]
    status = np.zeros((len(regular), len(limits), len(points)), dtype=np.int8)
    for r, is_regular in enumerate(regular):
        of_regular = is_regular[pairs.box]
        candidates = np.flatnonzero(of_regular)
        if nearest_only:
            # The pairs of a detection follow one another, the nearest first.
            candidates = candidates[np.unique(pairs.detection[candidates], return_index=True)[1]]
        detection, box, near, priority = (
            values[candidates]
            for values in (pairs.detection, pairs.box, pairs.closeness, pairs.priority)
        )
        nearest_ignored = np.zeros(len(points), dtype=np.float32)
        others = np.flatnonzero(~of_regular)
        # Written from the last pair to the first: the nearest one of a detection stays.
        nearest_ignored[pairs.detection[others[::-1]]] = pairs.closeness[others[::-1]]
        for t, limit in enumerate(limits):
            close = near >= limit
            matched = assign(
                detection[close], box[close], priority[close], len(points), len(centres)
            )
            status[r, t, nearest_ignored >= limit] = EXCUSED
            status[r, t, matched >= 0] = HIT
    names = {c["id"]: str(c.get("name", c["id"])) for c in ground_truth["categories"]}
    category_ids = list(labels)
    unique = len(set(names.values())) == len(names)
    return DatasetMatches(
        class_names=[names[i] if unique else f"{names[i]} ({i})" for i in category_ids],
        category_ids=category_ids,
        num_images=num_images,
        ranges=ranges,
        thresholds=[str(float(threshold)) for threshold in thresholds],
        det_class=det_class,
        det_image=det_image,
        scores=scores,
        box_class=box_class,
        box_image=box_image,
        regular=regular,
        status=status,
    )


def _look_up(records: list[dict], key: str, known: Mapping, kind: str) -> np.ndarray:
    try:
        return np.array([known[record[key]] for record in records], dtype=np.int64)
    except (KeyError, TypeError):
        index = next(i for i, record in enumerate(records) if record.get(key) not in known)
        record = records[index]
        raise InputError(
            f"{kind} {index} (from 0): {key} {record.get(key)!r} is not in the ground truth. Use"
            " the annotation file that the predictions were made for."
        ) from None


def _positions(detections: list[dict], shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Points (D, 2) and scores (D,) of the detections."""
    points = np.zeros((len(detections), 2))
    scores = np.zeros(len(detections))
    index = -1
    try:
        for index, detection in enumerate(detections):
            point = detection.get("point")
            if point is None:
                x, y, w, h = detection["bbox"]
                point = x + w / 2 - shift, y + h / 2 - shift
            points[index] = point
            scores[index] = detection["score"]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(
            f"detection {index} (from 0): needs a score and a point [x, y] or bbox [x, y, w, h]."
        ) from None
    broken = np.flatnonzero(~(np.isfinite(points).all(axis=1) & np.isfinite(scores)))
    if broken.size:
        raise InputError(f"detection {broken[0]} (from 0): point or score is not a finite number.")
    return points, scores


def resolve_ranges(size_ranges: SizeRanges) -> dict[str, tuple[float, float]]:
    """label -> [min, max) px, from a key of SIZE_RANGES or from such a mapping."""
    if isinstance(size_ranges, str):
        check_choice("size_ranges", size_ranges, tuple(SIZE_RANGES))
        return dict(SIZE_RANGES[size_ranges])
    return {label: (float(low), float(high)) for label, (low, high) in size_ranges.items()}


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """InputError unless `value` is one of `choices`."""
    if value not in choices:
        raise InputError(f"{name} {value!r}: choose one of {', '.join(choices)}.")
