import json
import math

import numpy as np
import pytest
import torch
from detectron2.evaluation import print_csv_format
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm

from cpr.data.datasets import make_spec, register_points
from cpr.data.point_json import load_points
from cpr.engine import build_cfg
from cpr.evaluation.box_ap import evaluate_boxes
from cpr.evaluation.evaluators import (
    PointEvaluator,
    RefinementEvaluator,
    detections_of,
    format_refinement,
    refinement_metrics,
    refinements_of,
)
from cpr.evaluation.point_ap import evaluate_points
from cpr.evaluation.semantic_variance import rsv
from scenes import CATEGORY_IDS, edit_json, write_scenes


@pytest.fixture
def scenes(tmp_path):
    path, root = write_scenes(tmp_path, num_classes=2, images=5)
    spec = make_spec(path, root)
    register_points(spec)
    return spec, path


def centres(dataset, image_id):
    return [
        ([x + w / 2, y + h / 2], CATEGORY_IDS.index(a["category_id"]), a["id"])
        for a in dataset["annotations"]
        if a["image_id"] == image_id
        for x, y, w, h in [a["bbox"]]
    ]


def predictions(points, labels, scores):
    result = Instances((64, 64))
    result.pred_points = torch.tensor(points, dtype=torch.float32).reshape(-1, 2)
    result.pred_classes = torch.tensor(labels, dtype=torch.int64)
    result.scores = torch.tensor(scores, dtype=torch.float32)
    return {"instances": result}


def run(evaluator, pairs):
    evaluator.reset()
    for inputs, outputs in pairs:
        evaluator.process([inputs], [outputs])
    return evaluator.evaluate()


def perfect(dataset, shift=0.0):
    for image in dataset["images"]:
        found = centres(dataset, image["id"])
        points = [[x + shift, y] for (x, y), _, _ in found]
        yield (
            {"image_id": image["id"]},
            predictions(points, [label for _, label, _ in found], [0.9] * len(found)),
        )


def test_points(scenes, tmp_path):
    spec, path = scenes
    dataset = load_points(path)
    evaluator = PointEvaluator(build_cfg(), spec, output_dir=tmp_path / "out")
    results = run(evaluator, perfect(dataset))
    assert results["points"]["AP@0.5"] == results["points"]["AP@2.0"] == pytest.approx(100)
    assert results["points"]["AP@1.0-class0"] == pytest.approx(100)
    assert math.isnan(results["points"]["AP@1.0/large"])
    assert all(type(value) is float for value in results["points"].values())
    print_csv_format(results)

    detections = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert set(detections[0]) == {"image_id", "category_id", "point", "score"}
    assert {d["category_id"] for d in detections} <= {3, 7}
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    expected = evaluate_points(dataset, detections)
    assert metrics["AP"] == expected["AP"]
    # 9 px off, about a box: worse, and reset forgets the run before.
    worse = run(evaluator, perfect(dataset, shift=9))
    assert worse["points"]["AP@0.5"] < 50


def box_predictions(boxes, labels, scores):
    """As a box detector's output; boxes xywh."""
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    result = Instances((64, 64))
    result.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
    result.pred_classes = torch.tensor(labels, dtype=torch.int64)
    result.scores = torch.tensor(scores, dtype=torch.float32)
    return result


def test_the_point_of_a_box_is_its_centre():
    found = detections_of(
        8, box_predictions([[4, 6, 10, 20], [0.5, 1, 3, 2]], [1, 0], [0.75, 0.5]), [3, 7]
    )
    one = {"image_id": 8, "category_id": 7, "point": [9, 16], "bbox": [4, 6, 10, 20], "score": 0.75}
    two = {"image_id": 8, "category_id": 3, "point": [2, 2], "bbox": [0.5, 1, 3, 2], "score": 0.5}
    assert found == [one, two]
    assert detections_of(8, box_predictions([], [], []), [3, 7]) == []


def test_box_ap(scenes, tmp_path):
    """On demand, next to the points; wrong sizes change the boxes' figure only."""
    spec, path = scenes
    dataset = load_points(path)

    def outputs(factor):
        for image in dataset["images"]:
            own = [a for a in dataset["annotations"] if a["image_id"] == image["id"]]
            boxes = [
                [x + (1 - factor) * w / 2, y + (1 - factor) * h / 2, factor * w, factor * h]
                for x, y, w, h in (a["bbox"] for a in own)
            ]
            labels = [CATEGORY_IDS.index(a["category_id"]) for a in own]
            result = box_predictions(boxes, labels, [0.9] * len(own))
            yield {"image_id": image["id"]}, {"instances": result}

    cfg = build_cfg("", ["MODEL.META_ARCHITECTURE", "RetinaNet", "TEST.BOX_AP", "True"])
    evaluator = PointEvaluator(cfg, spec, output_dir=tmp_path / "out")
    perfect_boxes, halved = run(evaluator, outputs(1.0)), run(evaluator, outputs(0.5))
    assert perfect_boxes["bbox"]["AP"] == pytest.approx(100)
    assert halved["bbox"]["AP50"] < 20
    assert halved["points"] == pytest.approx(perfect_boxes["points"], nan_ok=True)
    assert all(type(value) is float for value in halved["bbox"].values())
    print_csv_format(halved)
    stored = json.loads((tmp_path / "out" / "box_metrics.json").read_text())
    assert stored["AP50"] == halved["bbox"]["AP50"] and "AP-class0" in stored
    detections = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert halved["bbox"] == pytest.approx(evaluate_boxes(dataset, detections), nan_ok=True)
    assert "bbox" not in run(PointEvaluator(build_cfg(), spec), outputs(1.0))
    cfg.TEST.DETECTIONS_PER_IMAGE = 1
    assert run(PointEvaluator(cfg, spec), outputs(1.0))["bbox"]["AP"] < 100


def test_no_detections_and_no_boxes(scenes, tmp_path):
    spec, path = scenes
    dataset = load_points(path)
    evaluator = PointEvaluator(build_cfg(), spec)
    nothing = [({"image_id": i["id"]}, predictions([], [], [])) for i in dataset["images"]]
    assert run(evaluator, nothing)["points"]["AP@1.0"] == 0
    edit_json(path, lambda dataset: [a.pop("bbox") for a in dataset["annotations"]])
    assert run(evaluator, nothing) == {"points": {"detections": 0.0}}


def refinement(dataset, image_id, move):
    """As CPRNet's output: clicks moved the share `move` of the way to the centre."""
    annotations = [a for a in dataset["annotations"] if a["image_id"] == image_id]
    clicks = np.array([a["point"] for a in annotations]).reshape(-1, 2)
    middles = np.array([c for c, _, _ in centres(dataset, image_id)]).reshape(-1, 2)
    count = len(annotations)
    result = Instances((64, 64))
    result.gt_ids = torch.tensor([a["id"] for a in annotations])
    result.gt_classes = torch.zeros(count, dtype=torch.int64)
    result.coarse_points = torch.tensor(clicks)
    result.refined_points = torch.tensor(clicks + move * (middles - clicks))
    result.refine_scores = torch.full((count,), 0.5)
    result.refined = torch.arange(count) % 2 == 0
    result.moved = torch.tensor([a["category_id"] / 10 for a in annotations])
    result.bag_points = torch.zeros(count, 10, 2)
    result.kept = torch.arange(10).expand(count, 10) < 3
    result.kept_by = torch.tensor([[8, 4, 6, 7]]).expand(count, 4)
    return {"instances": result}


def test_refinement(scenes, tmp_path):
    spec, path = scenes
    dataset = load_points(path)
    evaluator = RefinementEvaluator(build_cfg(), spec, output_dir=tmp_path / "out")
    pairs = [
        ({"image_id": image["id"]}, refinement(dataset, image["id"], 0.75))
        for image in dataset["images"]
    ]
    results = run(evaluator, pairs)["refinement"]
    print_csv_format({"refinement": results})
    assert all(type(value) is float for value in results.values())
    points = np.array([a["point"] for a in dataset["annotations"]])
    boxes = np.array([a["bbox"] for a in dataset["annotations"]])
    before = rsv(points, boxes)
    assert results["rsv_coarse"] == pytest.approx(before["rsv"])
    # All offsets shrink to a quarter, so both variances to 1/16.
    assert results["rsv_refined"] == pytest.approx(before["rsv"] / 16)
    assert results["distance_refined"] == pytest.approx(before["mean_distance"] / 4)
    assert results["inside_refined"] == 100
    assert results["objects"] == len(points)
    assert (results["kept_I"], results["kept_II"], results["kept_III"]) == (50, 75, 87.5)
    assert results["kept"] == 37.5
    # By class: every other object of an image is refined, and moved as the fake output says.
    for name, category_id in (("class0", 3), ("class1", 7)):
        flags = [
            a["category_id"] == category_id and i % 2 == 0
            for image in dataset["images"]
            for i, a in enumerate(x for x in dataset["annotations"] if x["image_id"] == image["id"])
        ]
        total = sum(a["category_id"] == category_id for a in dataset["annotations"])
        assert results[f"refined-{name}"] == pytest.approx(100 * sum(flags) / total)
        assert results[f"moved-{name}"] == pytest.approx(category_id / 10)
    assert 0.3 < results["moved"] < 0.7
    assert "RSV" in format_refinement(results)

    refined = load_points(tmp_path / "out" / "refined.json")
    for annotation, click, box in zip(refined["annotations"], points, boxes, strict=True):
        assert annotation["coarse_point"] == pytest.approx(click.tolist())
        middle = box[:2] + box[2:] / 2
        np.testing.assert_allclose(annotation["point"], click + 0.75 * (middle - click))
    assert json.loads((tmp_path / "out" / "refinement.json").read_text()) == results


def test_records_of_a_refinement(scenes):
    dataset = load_points(scenes[1])
    instances = refinement(dataset, dataset["images"][0]["id"], 0.5)["instances"]
    count = len(instances)
    plain = refinements_of(instances)
    assert "own_score" not in plain[0] and "semantic_points" not in plain[0]
    clicks = instances.coarse_points.numpy()
    # Its bags lie at the origin.
    assert [r["bag_radius"] for r in plain] == pytest.approx(np.hypot(*clicks.T).tolist())
    instances.own_scores = torch.full((count,), 0.25)
    instances.other_labels = torch.ones(count, dtype=torch.int64)
    instances.other_scores = torch.full((count,), 0.5)
    first = refinements_of(instances, semantic_points=True)[0]
    assert (first["own_score"], first["other_label"], first["other_score"]) == (0.25, 1, 0.5)
    assert first["semantic_points"].shape == (3, 2)
    assert refinements_of(instances[torch.zeros(count, dtype=torch.bool)]) == []


def test_refinement_without_boxes_or_objects(scenes):
    _, path = scenes
    dataset = load_points(path)
    record = {"id": 100, "coarse_point": (1, 2), "point": (1, 2), "score": 0.2, "refined": True}
    record |= {"kept_by": [4, 2, 2, 2], "kept": 1}
    for annotation in dataset["annotations"]:
        del annotation["bbox"]
    metrics = refinement_metrics(dataset, [record])
    assert math.isnan(metrics["rsv_coarse"]) and metrics["refined"] == 100
    assert math.isnan(metrics["moved"])
    assert "no boxes" in format_refinement(metrics)
    assert math.isnan(refinement_metrics(dataset, [])["refined"])


def test_ranks_are_gathered(scenes, monkeypatch):
    """Two halves gathered on the main process equal one process with all images."""
    spec, path = scenes
    pairs = list(perfect(load_points(path), shift=3))
    whole = run(PointEvaluator(build_cfg(), spec), pairs)
    halves = []
    for half in (pairs[:3], pairs[3:]):
        evaluator = PointEvaluator(build_cfg(), spec)
        monkeypatch.setattr(comm, "gather", lambda records: halves.append(records) or [])
        monkeypatch.setattr(comm, "is_main_process", lambda: False)
        assert run(evaluator, half) is None
    monkeypatch.setattr(comm, "gather", lambda records: halves)
    monkeypatch.setattr(comm, "is_main_process", lambda: True)
    together = PointEvaluator(build_cfg(), spec).evaluate()["points"]
    for key, value in whole["points"].items():
        assert together[key] == pytest.approx(value, nan_ok=True)
