"""COCO JSON whose objects have one keypoint, `point`: their click.

Keypoints are pixel indices, as COCO's are: half a pixel less than our continuous px. Ids, boxes and
everything else are kept. Readers of COCO want `bbox`, `area` and `iscrowd` of every object, so a
click without a box gets one without an area, which our importer leaves out again.
"""

from __future__ import annotations

import json
from typing import Any, TextIO

KEYPOINT = "point"
_LABELLED_AND_VISIBLE = 2


def write(file: TextIO, dataset: dict[str, Any], prefix: str) -> None:
    """The data set with `keypoints` instead of `point`."""
    categories = [
        {**category, "keypoints": [KEYPOINT], "skeleton": []} for category in dataset["categories"]
    ]
    annotations = [_with_keypoint(annotation) for annotation in dataset["annotations"]]
    content = {**dataset, "categories": categories, "annotations": annotations}
    file.write(f"{json.dumps(content, allow_nan=False)}\n")


def _with_keypoint(annotation: dict[str, Any]) -> dict[str, Any]:
    annotation = dict(annotation)
    point = annotation.pop("point", None)
    annotation["num_keypoints"] = int(point is not None)
    if point is None:
        annotation["keypoints"] = [0, 0, 0]
    else:
        annotation["keypoints"] = [point[0] - 0.5, point[1] - 0.5, _LABELLED_AND_VISIBLE]
        if annotation.get("bbox") is None:
            annotation["bbox"] = [*point, 0, 0]
    annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
    annotation.setdefault("iscrowd", 0)
    return annotation
