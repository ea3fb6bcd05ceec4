"""COCO's box AP (pycocotools), for detectors that predict boxes (numpy only).

The paper scores points; box AP tells whether a detector as such is any good: trained on true boxes
it has to reach what is known of it.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cpr_deploy.files import InputError

from ..data.point_json import is_ignored


def evaluate_boxes(
    ground_truth: dict[str, Any], detections: list[dict[str, Any]], *, max_dets: int = 100
) -> dict[str, float]:
    """Box AP over the IoU thresholds 0.5, 0.55, ..., 0.95.

    Args:
        ground_truth: COCO-like dict; objects need `bbox` xywh. `ignore` counts as `iscrowd`.
        detections: records {image_id, category_id, score, bbox [x, y, w, h]}, px.
        max_dets: detections scored per image and class.

    Returns:
        AP, AP50, AP75, APs, APm, APl (objects by area) and AP-<class> in %; NaN: no such object.

    Raises:
        InputError: an object or a detection without a box.
    """
    # Numbers of our own: ids may be text, and pycocotools takes the id 0 for "no match".
    images = {image["id"]: index for index, image in enumerate(ground_truth["images"], start=1)}
    objects = []
    for annotation in ground_truth["annotations"]:
        if annotation.get("bbox") is None:
            if is_ignored(annotation):
                continue
            raise InputError(f"annotation id {annotation['id']!r}: has no bbox, so no box AP.")
        width, height = annotation["bbox"][2:]
        area = annotation.get("area")
        objects.append(
            {
                "image_id": images[annotation["image_id"]],
                "category_id": annotation["category_id"],
                "bbox": annotation["bbox"],
                "area": width * height if area is None else area,
                "iscrowd": int(is_ignored(annotation)),
            }
        )
    found = []
    for detection in detections:
        if detection.get("bbox") is None:
            raise InputError(
                f"a detection of image {detection['image_id']!r} has no bbox, so there is no box"
                " AP: TEST.BOX_AP is for box detectors."
            )
        width, height = detection["bbox"][2:]
        found.append(
            {
                "image_id": images[detection["image_id"]],
                "category_id": detection["category_id"],
                "bbox": detection["bbox"],
                "area": width * height,
                "iscrowd": 0,
                "score": detection["score"],
            }
        )
    # pycocotools prints as it goes.
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(
            _coco(ground_truth, images, objects), _coco(ground_truth, images, found), "bbox"
        )
        run.params.maxDets = [max_dets]
        run.evaluate()
        run.accumulate()
    # Thresholds, recalls, classes, areas (all, small, medium, large), maxDets.
    precision = run.eval["precision"][..., 0]
    classes = {c["id"]: c["name"] for c in ground_truth["categories"]}
    return {
        "AP": _mean(precision[..., 0]),
        "AP50": _mean(precision[0, ..., 0]),
        "AP75": _mean(precision[5, ..., 0]),
        "APs": _mean(precision[..., 1]),
        "APm": _mean(precision[..., 2]),
        "APl": _mean(precision[..., 3]),
        **{
            f"AP-{classes[category_id]}": _mean(precision[:, :, index, 0])
            for index, category_id in enumerate(run.params.catIds)
        },
    }


def format_box_table(metrics: dict[str, float]) -> str:
    """The whole data set's figures of `evaluate_boxes` for people."""
    figures = {name: value for name, value in metrics.items() if not name.startswith("AP-")}
    return "  ".join(f"{name} {value:.2f} %" for name, value in figures.items())


def _coco(ground_truth: dict, images: dict, records: list[dict]) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [{"id": index} for index in images.values()],
        "categories": ground_truth["categories"],
        "annotations": [{**record, "id": index} for index, record in enumerate(records, start=1)],
    }
    coco.createIndex()
    return coco


def _mean(precision: np.ndarray) -> float:
    """In %, over what pycocotools has not marked as without objects (-1)."""
    values = precision[precision > -1]
    return 100 * float(values.mean()) if values.size else float("nan")
