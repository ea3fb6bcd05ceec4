"""Box AP against pycocotools on files, as its users run it, and by hand."""

import contextlib
import io
import json
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cpr.evaluation.box_ap import evaluate_boxes, format_box_table
from cpr_deploy.files import InputError
from point_scenes import make_scene


def scene(seed, crowds=False):
    """Objects and detections near them, with boxes, in a data set that pycocotools reads."""
    ground_truth, detections = make_scene(seed, num_images=8)
    rng = np.random.default_rng(seed)
    for annotation in ground_truth["annotations"]:
        w, h = annotation["bbox"][2:]
        annotation.update(area=w * h * rng.uniform(0.5, 20))
        annotation.update(ignore=0, iscrowd=annotation["iscrowd"] if crowds else 0)
    for annotation in ground_truth["annotations"]:
        box = np.array(annotation["bbox"])
        shift = rng.normal(0, 0.1, 4) * box[[2, 3, 2, 3]]
        detections.append(
            {
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "bbox": (box + shift).clip(0.5).tolist(),
                "score": float(rng.random()),
            }
        )
    for detection in detections:
        x, y = detection.get("point", [0, 0])
        detection.setdefault("bbox", [x - 5, y - 5, 10.0, 10.0])
    return ground_truth, detections


def official(ground_truth, detections, folder, max_dets):
    """The twelve figures of pycocotools' summary, from files."""
    (folder / "gt.json").write_text(json.dumps(ground_truth))
    (folder / "det.json").write_text(json.dumps(detections))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "gt.json"))
        run = COCOeval(truth, truth.loadRes(str(folder / "det.json")), "bbox")
        run.params.maxDets = [1, 10, max_dets]
        run.evaluate()
        run.accumulate()
        if max_dets == 100:
            run.summarize()
    return run


@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools(tmp_path, seed, crowds):
    ground_truth, detections = scene(seed, crowds)
    stats = official(ground_truth, detections, tmp_path, 100).stats
    metrics = evaluate_boxes(ground_truth, detections)
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    assert 5 < metrics["AP"] < 95
    for name, value in zip(names, stats, strict=False):
        if value == -1:
            assert math.isnan(metrics[name])
        else:
            assert metrics[name] == pytest.approx(100 * value, abs=1e-9), name
    assert metrics["AP"] == pytest.approx(
        np.mean([metrics[f"AP-{c['name']}"] for c in ground_truth["categories"]]), abs=1e-9
    )
    assert "AP50" in format_box_table(metrics) and "class" not in format_box_table(metrics)


def test_detections_per_image_are_limited(tmp_path):
    ground_truth, detections = scene(5)
    run = official(ground_truth, detections, tmp_path, 3)
    precision = run.eval["precision"][:, :, :, 0, run.params.maxDets.index(3)]
    metrics = evaluate_boxes(ground_truth, detections, max_dets=3)
    assert metrics["AP"] == pytest.approx(100 * precision[precision > -1].mean(), abs=1e-9)
    assert metrics["AP"] < evaluate_boxes(ground_truth, detections)["AP"]


def one_object(**changes):
    return {
        "images": [{"id": "a.png", "width": 100, "height": 100}],
        "categories": [{"id": 3, "name": "car"}, {"id": 9, "name": "boat"}],
        "annotations": [
            {"id": 0, "image_id": "a.png", "category_id": 3, "bbox": [10, 10, 20, 20], **changes}
        ],
    }


def found(box, score=0.5):
    return {"image_id": "a.png", "category_id": 3, "bbox": box, "score": score}


def test_by_hand():
    """IoU 2 / 3 passes 0.5, 0.55, 0.6, 0.65 of the ten thresholds. The ids are 0 and text."""
    metrics = evaluate_boxes(one_object(), [found([10, 10, 20, 30])])
    assert metrics["AP"] == pytest.approx(40)
    assert metrics["AP50"] == pytest.approx(100) and metrics["AP75"] == 0
    # 400 px^2 are small.
    assert metrics["APs"] == metrics["AP"] == metrics["AP-car"]
    assert math.isnan(metrics["APm"]) and math.isnan(metrics["AP-boat"])
    assert evaluate_boxes(one_object(area=2000.0), [found([10, 10, 20, 30])])["APm"] == 40


def test_nothing_found_and_nothing_to_find():
    assert evaluate_boxes(one_object(), [])["AP"] == 0
    assert math.isnan(evaluate_boxes(one_object(ignore=1), [found([10, 10, 20, 20])])["AP"])


def test_a_region_excuses_detections():
    ground_truth = one_object()
    region = {"id": 7, "image_id": "a.png", "category_id": 3, "bbox": [50, 50, 40, 40]}
    detections = [found([60, 60, 10, 10], 0.9), found([10, 10, 20, 20], 0.5)]
    assert evaluate_boxes(ground_truth, detections)["AP"] == pytest.approx(50)
    ground_truth["annotations"].append({**region, "ignore": 1})
    assert evaluate_boxes(ground_truth, detections)["AP"] == pytest.approx(100)
    # One without a box is nowhere.
    ground_truth["annotations"][-1]["bbox"] = None
    assert evaluate_boxes(ground_truth, detections)["AP"] == pytest.approx(50)


def test_missing_boxes():
    with pytest.raises(InputError, match="annotation id 0: has no bbox"):
        evaluate_boxes(one_object(bbox=None), [])
    point = {"image_id": "a.png", "category_id": 3, "point": [1, 2], "score": 0.5}
    with pytest.raises(InputError, match="image 'a.png' has no bbox"):
        evaluate_boxes(one_object(), [point])
