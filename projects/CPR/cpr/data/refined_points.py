"""Refined points into a point JSON (numpy only)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .point_json import category_index

# What a refiner may say besides: key of the annotation -> digits after the point.
_DETAILS = {"bag_radius": 2, "own_score": 4, "other_score": 4}
# Of an earlier round they would describe other points.
_REPLACED = {*_DETAILS, "other_class", "semantic_points"}


def apply_refinement(dataset: dict, results: Iterable[dict]) -> dict:
    """A copy of `dataset` with the refined points of CPRNet.

    Args:
        dataset: point JSON as `point_json.load_points` returns it; not changed.
        results: a dict per refined object: "id" of the annotation, "point" (x, y) in original px,
            "score", "refined" (False: the object keeps its click), and optionally
            "semantic_points" (S, 2), the points that the refined one is the mean of, "bag_radius"
            (px), how far from the click it looked, "own_score", "other_label" (contiguous) and
            "other_score", what the surroundings of the click look like (`class_evidence` of
            cpr.modeling.refinement).

    Returns:
        the data set in which each of these annotations has `point` (refined), `coarse_point` (its
        click; the first one, if the points were refined before), `refine_score`, `refined` and,
        where the refiner said so, `semantic_points`, `bag_radius`, `own_score`, `other_class` (a
        category id) and `other_score`. Everything else is as it was.

    Raises:
        ValueError: a result for an annotation that the data set does not have.
    """
    by_id = {result["id"]: result for result in results}
    category_ids = list(category_index(dataset))
    annotations = []
    for annotation in dataset["annotations"]:
        result = by_id.pop(annotation["id"], None)
        if result is not None:
            click = annotation.get("coarse_point", annotation["point"])
            annotation = {
                **{key: value for key, value in annotation.items() if key not in _REPLACED},
                "coarse_point": [float(v) for v in click],
                "point": [float(v) for v in result["point"]],
                "refine_score": float(result["score"]),
                "refined": bool(result["refined"]),
            }
            if "semantic_points" in result:
                points = np.asarray(result["semantic_points"], dtype=np.float64).reshape(-1, 2)
                annotation["semantic_points"] = points.round(2).tolist()
            for key, digits in _DETAILS.items():
                if key in result:
                    annotation[key] = round(float(result[key]), digits)
            if "other_label" in result:
                annotation["other_class"] = category_ids[int(result["other_label"])]
        annotations.append(annotation)
    if by_id:
        raise ValueError(f"results for unknown annotations, first id {next(iter(by_id))}")
    return {**dataset, "annotations": annotations}
