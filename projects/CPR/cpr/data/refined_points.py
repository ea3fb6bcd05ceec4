"""Refined points into a point JSON (numpy only)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def apply_refinement(dataset: dict, results: Iterable[dict]) -> dict:
    """A copy of `dataset` with the refined points of CPRNet.

    Args:
        dataset: point JSON as `point_json.load_points` returns it; not changed.
        results: a dict per refined object: "id" of the annotation, "point" (x, y) in original px,
            "score", "refined" (False: the object keeps its click), and optionally
            "semantic_points" (S, 2), the points that the refined one is the mean of.

    Returns:
        the data set in which each of these annotations has `point` (refined), `coarse_point` (its
        click; the first one, if the points were refined before), `refine_score` and `refined`.
        Everything else is as it was.

    Raises:
        ValueError: a result for an annotation that the data set does not have.
    """
    by_id = {result["id"]: result for result in results}
    annotations = []
    for annotation in dataset["annotations"]:
        result = by_id.pop(annotation["id"], None)
        if result is not None:
            click = annotation.get("coarse_point", annotation["point"])
            annotation = {
                **annotation,
                "coarse_point": [float(v) for v in click],
                "point": [float(v) for v in result["point"]],
                "refine_score": float(result["score"]),
                "refined": bool(result["refined"]),
            }
            if "semantic_points" in result:
                points = np.asarray(result["semantic_points"], dtype=np.float64).reshape(-1, 2)
                annotation["semantic_points"] = points.round(2).tolist()
        annotations.append(annotation)
    if by_id:
        raise ValueError(f"results for unknown annotations, first id {next(iter(by_id))}")
    return {**dataset, "annotations": annotations}
