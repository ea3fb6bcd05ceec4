"""Average precision of detected points against boxes (mAP at tau) or against clicked points.

`evaluate_points` scores by the point-box distance of Eq. 12, as the paper's tables do;
`evaluate_points_by_radius` scores by the distance in pixels, for data without boxes.
`bootstrap_samples` and `bootstrap_interval` say how far a figure would vary over other images.

Coordinates are continuous px; fractions are 0-1. Source: the paper's evaluation, and the official
evaluator for what the paper leaves open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from cpr_deploy.files import InputError

from .dataset_matching import (
    EXCUSED,
    HIT,
    SIZE_RANGES,
    DatasetMatches,
    SizeRanges,
    check_choice,
    match_boxes,
    match_radii,
    resolve_ranges,
)
from .point_matching import match_points
from .tables import format_table, official_report

__all__ = [
    "SIZE_RANGES",
    "average_precision",
    "bootstrap_interval",
    "bootstrap_samples",
    "evaluate_points",
    "evaluate_points_by_radius",
    "format_table",
    "match_points",
    "official_report",
]

APRule = Literal["paper", "coco"]


def evaluate_points(
    ground_truth: dict[str, Any],
    detections: list[dict[str, Any]],
    *,
    taus: Sequence[float] = (0.5, 1.0, 2.0),
    size_ranges: SizeRanges = "coco",
    max_dets: int = 1000,
    ap: APRule = "paper",
    paper_ignore: bool = False,
    ignore_keys: Sequence[str] | None = None,
    box_centre: Literal["true", "official"] = "true",
    several_boxes: Literal["free", "nearest"] = "free",
    absent_classes: Literal["skip", "official"] = "skip",
) -> dict[str, Any]:
    """mAP of detected points at several tau and object sizes (Eq. 12).

    Args:
        ground_truth: COCO-like dict; objects need `bbox` xywh.
        detections: records {image_id, category_id, score, point [x, y]}; a `bbox` in place of
            `point` means its centre. Coordinates as in `ground_truth`.
        taus: distance thresholds, inclusive.
        size_ranges: a key of SIZE_RANGES, or label -> [min, max) of sqrt(w h) in px. Objects
            outside a range are ignored there; detections are never filtered by size.
        max_dets: detections scored per image and class, best first.
        ap: "paper": mean over 101 recalls of the precision where that recall is first reached (no
            envelope, recall in float32), as the published tables; "coco": with the envelope.
        paper_ignore: True ignores `iscrowd` only, as the official code; False `ignore` or
            `iscrowd`.
        ignore_keys: the flags that mark an ignored annotation; overrides `paper_ignore`.
        box_centre: "true": x + w/2; "official": x + (w - 1)/2.
        several_boxes: what a detection near several boxes may take. "free": the nearest that is
            still free (official code); "nearest": the nearest or none (paper).
        absent_classes: "skip": a class without objects in a size range is left out of that mean;
            "official": it counts 0 or 1 by the rules of the official code.

    Returns:
        metrics.json form: {"AP": {range: {tau: fraction or None}}, "max_recall": likewise,
        "per_class": {name: {"AP", "max_recall", "objects"}}, "settings": {...}}. None: no class has
        an object in that range.

    Raises:
        InputError: a record without box, point or score, with numbers that are not finite, or of
            an unknown image or class.
    """
    check_choice("ap", ap, ("paper", "coco"))
    check_choice("absent_classes", absent_classes, ("skip", "official"))
    matches = match_boxes(
        ground_truth,
        detections,
        taus=taus,
        size_ranges=size_ranges,
        max_dets=max_dets,
        ignore_keys=_ignore_keys(paper_ignore, ignore_keys),
        box_centre=box_centre,
        several_boxes=several_boxes,
    )
    metrics = _summarize(matches, ap, absent_classes)
    metrics["settings"] = {
        "taus": [float(tau) for tau in taus],
        "size_ranges": {label: list(limits) for label, limits in matches.ranges.items()},
        "max_dets": max_dets,
        "ap": ap,
        "ignore": list(_ignore_keys(paper_ignore, ignore_keys)),
        "box_centre": box_centre,
        "several_boxes": several_boxes,
        "absent_classes": absent_classes,
        "images": len(ground_truth["images"]),
        "detections": len(detections),
    }
    return metrics


def evaluate_points_by_radius(
    ground_truth: dict[str, Any],
    detections: list[dict[str, Any]],
    *,
    radii: Sequence[float],
    score_threshold: float = 0.5,
    max_dets: int = 1000,
    ap: APRule = "paper",
) -> dict[str, Any]:
    """AP, F1 and counting error by the distance in px, for data without boxes.

    Args:
        ground_truth: COCO-like dict; objects need `point`, or `bbox` whose centre is taken. An
            ignored annotation with a box excuses all detections inside the box, one with a point
            those within the radius.
        detections: as in `evaluate_points`.
        radii: px, inclusive.
        score_threshold: detections with at least this score enter `F1`, `precision`, `recall` and
            the counts.
        max_dets, ap: as in `evaluate_points`; classes without objects are left out of the means.

    Returns:
        As `evaluate_points` with the range "all" and radii in place of tau, and per radius
        "F1", "precision", "recall" at `score_threshold`, "best_F1" with "best_F1_score" (the
        threshold, chosen on these data), means over the classes; and "count_MAE", "count_RMSE":
        the error of the number of detections per image and class.
    """
    check_choice("ap", ap, ("paper", "coco"))
    if not radii or not all(np.isfinite(radius) and radius > 0 for radius in radii):
        raise InputError(f"radius {list(radii)!r}: give numbers of px above 0.")
    matches = match_radii(ground_truth, detections, radii, max_dets)
    metrics = _summarize(matches, ap, "skip")
    metrics.update(_f1(matches, score_threshold))
    metrics.update(_count_error(matches, score_threshold))
    metrics["settings"] = {
        "radii": [float(radius) for radius in radii],
        "score_threshold": score_threshold,
        "max_dets": max_dets,
        "ap": ap,
        "images": len(ground_truth["images"]),
        "detections": len(detections),
    }
    return metrics


def bootstrap_samples(
    ground_truth: dict[str, Any],
    detections: list[dict[str, Any]],
    *,
    taus: Sequence[float] = (0.5, 1.0, 2.0),
    size_range: str = "all",
    size_ranges: SizeRanges = "coco",
    resamples: int = 200,
    seed: int = 0,
    max_dets: int = 1000,
    ap: APRule = "paper",
    paper_ignore: bool = False,
    box_centre: Literal["true", "official"] = "true",
    several_boxes: Literal["free", "nearest"] = "free",
) -> np.ndarray:
    """mAP on data sets whose images are drawn with replacement from this one.

    Matching is done once; a resample only weights the images. Two models scored with the same
    `ground_truth`, `resamples` and `seed` see the same resamples, so their difference may be taken
    sample by sample.

    Returns:
        (resamples, len(taus)) float64; NaN where a resample holds no object. The standard
        deviation over the resamples is the standard error of the mAP.
    """
    ranges = resolve_ranges(size_ranges)
    check_choice("size_range", size_range, tuple(ranges))
    check_choice("ap", ap, ("paper", "coco"))
    matches = match_boxes(
        ground_truth,
        detections,
        taus=taus,
        size_ranges={size_range: ranges[size_range]},
        max_dets=max_dets,
        ignore_keys=_ignore_keys(paper_ignore, None),
        box_centre=box_centre,
        several_boxes=several_boxes,
    )
    num_images = matches.num_images
    random = np.random.default_rng(seed)
    draws = random.integers(num_images, size=(resamples, num_images))
    weights = np.stack([np.bincount(draw, minlength=num_images) for draw in draws])
    precision = np.full((len(matches.class_names), resamples, len(taus)), np.nan)
    for label, values in enumerate(precision):
        objects = matches.box_image[matches.regular[0] & (matches.box_class == label)]
        object_counts = weights @ np.bincount(objects, minlength=num_images)
        for t in range(len(taus)):
            status, _, image = matches.ranked(label, 0, t)
            for sample in np.flatnonzero(object_counts):
                values[sample, t] = average_precision(
                    status == HIT,
                    object_counts[sample],
                    rule=ap,
                    weights=weights[sample, image],
                )
    return _mean_over_classes(precision)


def bootstrap_interval(
    ground_truth: dict[str, Any],
    detections: list[dict[str, Any]],
    *,
    tau: float = 1.0,
    confidence: float = 0.95,
    **settings: Any,
) -> tuple[float | None, float | None]:
    """Percentile interval (low, high) of the mAP over images; settings as `bootstrap_samples`.

    (None, None) if there is no object.
    """
    samples = bootstrap_samples(ground_truth, detections, taus=(tau,), **settings)
    samples = samples[np.isfinite(samples)]
    if samples.size == 0:
        return None, None
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return float(low), float(high)


def average_precision(
    hits: np.ndarray,
    num_objects: float,
    *,
    rule: APRule = "paper",
    weights: np.ndarray | None = None,
) -> float:
    """Area under the precision-recall points at 101 recalls.

    Args:
        hits: (n,) bool, best score first: hit or error; ignored detections left out.
        num_objects: number of objects, above 0.
        rule: see `evaluate_points`. "coco" computes as pycocotools does.
        weights: (n,) how often each detection counts, default once.
    """
    hits = np.asarray(hits, dtype=bool)
    if weights is None:
        places = np.flatnonzero(hits)
        true = np.arange(1, len(places) + 1, dtype=np.float64)
        precision = true / (places + 1)
        first_is_hit = bool(len(hits)) and bool(hits[0])
    else:
        counted = np.asarray(weights) > 0
        hits, weights = hits[counted], np.asarray(weights, dtype=np.float64)[counted]
        places = np.flatnonzero(hits)
        true = weights[places].cumsum()
        precision = true / weights.cumsum()[places]
        first_is_hit = bool(len(hits)) and bool(hits[0])
    if len(places) == 0:
        return 0.0
    if rule == "coco":
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        recall, thresholds = true / num_objects, np.linspace(0.0, 1.0, 101)
    else:
        # The published figures were computed with recalls in float32 (NumPy 1).
        recall = true.astype(np.float32) / np.float32(num_objects)
        thresholds = np.arange(101) * 0.01
    reached = np.searchsorted(recall.astype(np.float64), thresholds)
    values = np.append(precision, 0.0)[reached]
    if rule == "paper" and not first_is_hit:
        # Recall 0 is first reached by the leading error, whose precision is 0.
        values[0] = 0.0
    return float(values.mean())


def _summarize(matches: DatasetMatches, ap: APRule, absent_classes: str) -> dict[str, Any]:
    shape = (len(matches.class_names), len(matches.ranges), len(matches.thresholds))
    precision, recall = np.full(shape, np.nan), np.full(shape, np.nan)
    objects = np.zeros(shape[0], dtype=int)
    for label in range(shape[0]):
        of_class = matches.box_class == label
        num_boxes = int(of_class.sum())
        num_dets = int((matches.det_class == label).sum())
        objects[label] = (matches.regular[0] & of_class).sum()
        for r in range(shape[1]):
            num_objects = int((matches.regular[r] & of_class).sum())
            if num_objects == 0 and absent_classes == "skip":
                continue
            for t in range(shape[2]):
                status, _, _ = matches.ranked(label, r, t)
                hits = status == HIT
                if num_objects:
                    precision[label, r, t] = average_precision(hits, num_objects, rule=ap)
                    recall[label, r, t] = hits.sum() / num_objects
                else:
                    values = _official_absent(num_boxes, num_dets, len(status))
                    precision[label, r, t], recall[label, r, t] = values

    def table(values: np.ndarray) -> dict[str, dict[str, float | None]]:
        return {
            name: {t: _number(values[i, j]) for j, t in enumerate(matches.thresholds)}
            for i, name in enumerate(matches.ranges)
        }

    return {
        "AP": table(_mean_over_classes(precision)),
        "max_recall": table(_mean_over_classes(recall)),
        "per_class": {
            name: {
                "category_id": matches.category_ids[label],
                "objects": int(objects[label]),
                "AP": table(precision[label]),
                "max_recall": table(recall[label]),
            }
            for label, name in enumerate(matches.class_names)
        },
    }


def _official_absent(num_boxes: int, num_dets: int, num_counting: int) -> tuple[float, float]:
    """AP and maximum recall of a class without a regular object, as the official code has them."""
    if num_dets == 0:
        return (0.0, 0.0) if num_boxes else (1.0, 1.0)
    if num_boxes == 0:
        return 0.0, 1.0
    return (0.0, 0.0) if num_counting else (1.0, 1.0)


def _mean_over_classes(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    sums = np.where(known, values, 0.0).sum(axis=0)
    counts = known.sum(axis=0)
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _f1(matches: DatasetMatches, score_threshold: float) -> dict[str, dict[str, float | None]]:
    names = ("F1", "precision", "recall", "best_F1", "best_F1_score")
    shape = (len(names), len(matches.class_names), len(matches.thresholds))
    values = np.full(shape, np.nan)
    for label in range(shape[1]):
        num_objects = int((matches.regular[0] & (matches.box_class == label)).sum())
        if num_objects == 0:
            continue
        for t in range(shape[2]):
            status, scores, _ = matches.ranked(label, 0, t)
            true = np.append(0, (status == HIT).cumsum())
            taken = np.arange(len(true))
            f1 = 2 * true / (taken + num_objects)
            # A threshold takes all detections of equal score or none.
            usable = np.append(True, np.append(scores[1:] != scores[:-1], True)[: len(scores)])
            best = int(np.where(usable, f1, -1).argmax())
            at = int((scores >= score_threshold).sum())
            values[:, label, t] = (
                f1[at],
                true[at] / at if at else 0.0,
                true[at] / num_objects,
                f1[best],
                scores[best - 1] if best else np.nan,
            )
    means = [_mean_over_classes(value) for value in values]
    return {
        name: {threshold: _number(mean[t]) for t, threshold in enumerate(matches.thresholds)}
        for name, mean in zip(names, means, strict=True)
    }


def _count_error(matches: DatasetMatches, score_threshold: float) -> dict[str, float]:
    """Error of the count per image and class, at the first radius for what is excused."""
    num_classes, num_images = len(matches.class_names), matches.num_images
    counted = (matches.status[0, 0] != EXCUSED) & (matches.scores >= score_threshold)
    cells = num_classes * num_images
    found = np.bincount(
        (matches.det_class * num_images + matches.det_image)[counted], minlength=cells
    )
    boxes = matches.box_class * num_images + matches.box_image
    error = found - np.bincount(boxes[matches.regular[0]], minlength=cells)
    return {
        "count_MAE": float(np.abs(error).mean()),
        "count_RMSE": float(np.sqrt((error.astype(np.float64) ** 2).mean())),
    }


def _ignore_keys(paper_ignore: bool, ignore_keys: Sequence[str] | None) -> tuple[str, ...]:
    if ignore_keys is not None:
        return tuple(ignore_keys)
    return ("iscrowd",) if paper_ignore else ("ignore", "iscrowd")


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
