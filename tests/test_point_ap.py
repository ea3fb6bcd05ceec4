import copy

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cpr.evaluation.point_ap import (
    SIZE_RANGES,
    average_precision,
    bootstrap_interval,
    bootstrap_samples,
    evaluate_points,
    evaluate_points_by_radius,
    format_table,
    match_points,
)
from cpr_deploy.files import InputError
from point_scenes import RANGES, TAUS, evaluate_plainly, make_scene


def flat(metrics: dict) -> dict:
    return {
        (size, tau): (value, metrics["max_recall"][size][tau])
        for size, values in metrics["AP"].items()
        for tau, value in values.items()
    }


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("rule", ["paper", "coco"])
def test_equals_the_plain_loops(seed, rule):
    ground_truth, detections = make_scene(seed)
    got = flat(evaluate_points(ground_truth, detections, size_ranges=RANGES, ap=rule))
    want = evaluate_plainly(ground_truth, detections, rule=rule)
    assert got.keys() == want.keys()
    for key, values in want.items():
        if values[0] is None:
            assert got[key] == (None, None)
        else:
            assert got[key] == pytest.approx(values, abs=1e-9), key


def test_a_point_near_several_boxes():
    """Two boxes side by side, two points that are nearest to the same one."""
    boxes = [[0, 0, 10, 10], [8, 0, 10, 10]]
    ground_truth = {
        "images": [{"id": 1, "width": 30, "height": 30}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "bbox": box} for i, box in enumerate(boxes)
        ],
    }
    detections = [
        {"image_id": 1, "category_id": 1, "point": [x, 5], "score": score}
        for x, score in ((5, 0.9), (6, 0.8))
    ]
    found = {
        rule: evaluate_points(ground_truth, detections, several_boxes=rule)
        for rule in ("free", "nearest")
    }
    # Distances of the second point: 0.1 and 0.7.
    assert found["free"]["max_recall"]["all"] == {"0.5": 0.5, "1.0": 1.0, "2.0": 1.0}
    assert found["nearest"]["max_recall"]["all"] == {"0.5": 0.5, "1.0": 0.5, "2.0": 0.5}
    assert found["nearest"]["settings"]["several_boxes"] == "nearest"
    with pytest.raises(InputError, match="several_boxes"):
        evaluate_points(ground_truth, detections, several_boxes="all")


@pytest.mark.parametrize(
    "settings", [{"max_dets": 3}, {"flags": ("iscrowd",)}, {"nearest_only": True}]
)
def test_settings_equal_the_plain_loops(settings):
    ground_truth, detections = make_scene(20)
    want = evaluate_plainly(ground_truth, detections, **settings)
    if "flags" in settings:
        settings = {"paper_ignore": True}
    elif "nearest_only" in settings:
        settings = {"several_boxes": "nearest"}
    got = flat(evaluate_points(ground_truth, detections, size_ranges=RANGES, **settings))
    for key, values in want.items():
        assert got[key] == pytest.approx(values, abs=1e-9), key


@pytest.mark.parametrize("seed", range(6))
def test_ties_lie_between_the_orders(seed):
    ground_truth, detections = make_scene(seed, ties=True)
    got = flat(evaluate_points(ground_truth, detections, size_ranges=RANGES))
    rng = np.random.default_rng(0)
    runs = [evaluate_plainly(ground_truth, detections, order=rng) for _ in range(12)]
    for key, (precision, recall) in got.items():
        if precision is None:
            continue
        orders = [run[key][0] for run in runs]
        slack = max(orders) - min(orders)  # a dozen orders do not reach the extremes
        assert min(orders) - slack - 1e-9 <= precision <= max(orders) + slack + 1e-9
        assert recall == pytest.approx(runs[0][key][1])


@pytest.mark.parametrize("ties", [False, True])
def test_order_of_records_does_not_matter(ties):
    ground_truth, detections = make_scene(3, ties=ties)
    expected = evaluate_points(ground_truth, detections)
    rng = np.random.default_rng(0)
    for _ in range(5):
        shuffled, records = copy.deepcopy((ground_truth, detections))
        for part in (records, *(shuffled[k] for k in ("images", "annotations", "categories"))):
            rng.shuffle(part)
        assert evaluate_points(shuffled, records) == expected


def scene_of(boxes, points, **flags) -> tuple[dict, list]:
    """One image, one class; points with scores falling from 0.9."""
    annotations = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": list(box), **flags}
        for i, box in enumerate(boxes)
    ]
    detections = [
        {"image_id": 1, "category_id": 1, "point": list(point), "score": 0.9 - 0.1 * i}
        for i, point in enumerate(points)
    ]
    images = [{"id": 1, "width": 100, "height": 100, "file_name": "1.png"}]
    categories = [{"id": 1, "name": "x"}]
    return {"images": images, "categories": categories, "annotations": annotations}, detections


BOX = (10, 20, 20, 40)  # centre (20, 40)


@pytest.mark.parametrize(
    ("boxes", "points", "expected"),
    [
        ([BOX], [(20, 40)], 1.0),
        ([BOX], [(40, 40)], 1.0),  # d = 1 exactly: inclusive
        ([BOX], [(40.01, 40)], 0.0),
        ([BOX], [(20, 40), (21, 41)], 1.0),  # the duplicate comes after full recall
        ([BOX], [(90, 90), (20, 40)], 50.0 / 101),  # precision 0.5 from recall 0.01 on
        ([BOX], [], 0.0),
        # The second point is nearest to a box that is taken; it gets the other one, within tau.
        ([BOX, (25, 20, 20, 40)], [(20, 40), (22, 40)], 1.0),
    ],
)
def test_worked_by_hand(boxes, points, expected):
    metrics = evaluate_points(*scene_of(boxes, points), taus=(1.0,))
    assert metrics["AP"]["all"]["1.0"] == pytest.approx(expected)


def test_ignored_box_excuses_many_points():
    ground_truth, detections = scene_of([BOX], [(20, 40), (21, 40), (22, 40)])
    region = {"id": 9, "image_id": 1, "category_id": 1, "bbox": [60, 60, 20, 20], "ignore": 1}
    ground_truth["annotations"].append(region)
    for x in (65, 70, 75):
        detections.insert(0, {"image_id": 1, "category_id": 1, "point": [x, 70], "score": 0.95})
    assert evaluate_points(ground_truth, detections)["AP"]["all"]["0.5"] == 1.0
    # With iscrowd alone the region is an object: one hit and two errors come first.
    official = evaluate_points(ground_truth, detections, paper_ignore=True)
    assert official["AP"]["all"]["0.5"] < 1.0
    assert official["per_class"]["x"]["objects"] == 2


def test_box_instead_of_point_and_box_centre():
    ground_truth, detections = scene_of([BOX], [(20, 40)])
    detections[0]["bbox"] = list(BOX)
    del detections[0]["point"]
    for centre in ("true", "official"):
        metrics = evaluate_points(ground_truth, detections, taus=[0.001], box_centre=centre)
        assert metrics["AP"]["all"]["0.001"] == 1.0
    shifted = scene_of([BOX], [(19.5, 39.5)])
    assert evaluate_points(*shifted, taus=[0.001])["AP"]["all"]["0.001"] == 0.0
    official = evaluate_points(*shifted, taus=[0.001], box_centre="official")
    assert official["AP"]["all"]["0.001"] == 1.0


def test_absent_classes():
    ground_truth, detections = scene_of([BOX], [(20, 40)])
    ground_truth["categories"].append({"id": 2, "name": "never"})
    assert evaluate_points(ground_truth, detections)["AP"]["all"]["1.0"] == 1.0
    assert evaluate_points(ground_truth, detections)["AP"]["large"]["1.0"] is None
    # The official code counts a class without boxes and detections 1, with detections 0.
    detections.append({**detections[0], "category_id": 2})
    metrics = evaluate_points(ground_truth, detections, absent_classes="official")
    assert metrics["AP"]["all"]["1.0"] == 0.5
    assert "-" in format_table(evaluate_points(ground_truth, detections), per_class=True)


def test_average_precision_equals_pycocotools():
    """Points as boxes of one size, so that IoU at a tiny threshold sees the same matches."""
    rng = np.random.default_rng(4)
    annotations, detections = [], []
    for index in range(60):
        x, y = 40 * (index % 10), 40 * (index // 10)
        annotations.append(
            {"id": index + 1, "image_id": 1, "category_id": 1, "bbox": [x, y, 20, 20]}
        )
        if rng.random() < 0.7:
            detections.append([x + 1, y + 1, 20, 20])
        if rng.random() < 0.7:
            detections.append([x + 1000, y + 1000, 20, 20])
    detections = [
        {"image_id": 1, "category_id": 1, "bbox": box, "score": float(rng.random())}
        for box in detections
    ]
    ground_truth = {
        "images": [{"id": 1, "width": 2000, "height": 2000, "file_name": "1.png"}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [{**a, "area": 400, "iscrowd": 0} for a in annotations],
        "info": {},
    }
    coco = COCO()
    coco.dataset = copy.deepcopy(ground_truth)
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(detections)), "bbox")
    evaluation.params.iouThrs = np.array([0.5])
    evaluation.params.maxDets = [1000, 1000, 1000]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][0, :, 0, 0, 2]
    metrics = evaluate_points(ground_truth, detections, taus=[0.5], ap="coco")
    assert metrics["AP"]["all"]["0.5"] == pytest.approx(precision.mean(), abs=1e-12)


def test_match_points_checks_the_order():
    with pytest.raises(ValueError, match="descending"):
        match_points([[0, 0], [1, 1]], [0.1, 0.9], [[0, 0]], [[1, 1]], [False], 1.0)
    matched, ignored = match_points(np.zeros((0, 2)), [], [[0, 0]], [[1, 1]], [False], 1.0)
    assert len(matched) == len(ignored) == 0
    matched, ignored = match_points([[0, 0]], [0.5], np.zeros((0, 2)), np.zeros((0, 2)), [], 1.0)
    assert matched.tolist() == [-1] and ignored.tolist() == [False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 5}, "detection 1 .*image_id 5"),
        ({"category_id": 5}, "detection 1 .*category_id 5"),
        ({"score": float("nan")}, "detection 1 .*not a finite"),
        ({"point": [float("inf"), 0]}, "detection 1 .*not a finite"),
        ({"point": None}, "detection 1 .*needs a score and a point"),
        ({"point": [1, 2, 3]}, "detection 1 .*needs a score and a point"),
    ],
)
def test_bad_detections(change, message):
    ground_truth, detections = scene_of([BOX], [(20, 40), (1, 1)])
    detections[1].update(change)
    with pytest.raises(InputError, match=message):
        evaluate_points(ground_truth, detections)


def test_bad_settings():
    scene = scene_of([BOX], [(20, 40)])
    for settings in (
        {"taus": []},
        {"taus": [0]},
        {"max_dets": 0},
        {"ap": "voc"},
        {"box_centre": "left"},
        {"size_ranges": "huge"},
        {"absent_classes": "zero"},
    ):
        with pytest.raises(InputError):
            evaluate_points(*scene, **settings)
    del scene[0]["annotations"][0]["bbox"]
    with pytest.raises(InputError, match="--radius"):
        evaluate_points(*scene)


def test_radius_by_hand():
    ground_truth, detections = scene_of([BOX] * 3, [(10, 10), (30, 10), (90, 90), (50, 53)])
    for annotation, point in zip(
        ground_truth["annotations"], [(10, 15), (30, 10), (50, 50)], strict=True
    ):
        annotation["point"] = list(point)
        del annotation["bbox"]
    # Scores 0.9, 0.8, 0.7, 0.6; distances 5, 0, far, 3.
    metrics = evaluate_points_by_radius(
        ground_truth, detections, radii=[3, 5], score_threshold=0.65
    )
    assert metrics["max_recall"]["all"] == {"3.0": pytest.approx(2 / 3), "5.0": 1.0}
    # At 0.65, radius 5: two hits, one error, three objects.
    assert metrics["F1"]["5.0"] == pytest.approx(2 * 2 / (3 + 3))
    assert metrics["precision"]["5.0"] == pytest.approx(2 / 3)
    # All four: three hits, one error.
    assert metrics["best_F1"]["5.0"] == pytest.approx(2 * 3 / (4 + 3))
    assert metrics["best_F1_score"]["5.0"] == pytest.approx(0.6)
    assert metrics["count_MAE"] == 0.0
    assert "count MAE" in format_table(metrics)


def test_radius_regions_excuse_what_is_inside():
    ground_truth, detections = scene_of([BOX, (50, 50, 40, 40)], [(20, 40), (51, 51), (89, 52)])
    ground_truth["annotations"][1]["iscrowd"] = 1
    metrics = evaluate_points_by_radius(ground_truth, detections, radii=[4])
    assert metrics["AP"]["all"]["4.0"] == 1.0 and metrics["precision"]["4.0"] == 1.0
    assert metrics["count_MAE"] == 0.0
    with pytest.raises(InputError, match="radius"):
        evaluate_points_by_radius(ground_truth, detections, radii=[0])


def test_bootstrap_equals_evaluating_the_drawn_images():
    ground_truth, detections = make_scene(5, num_images=8)
    samples = bootstrap_samples(ground_truth, detections, taus=TAUS, resamples=20, seed=1)
    draws = np.random.default_rng(1).integers(8, size=(20, 8))
    for row, drawn in zip(samples, draws, strict=True):
        images, annotations, found = [], [], []
        for new_id, place in enumerate(drawn):
            old_id = ground_truth["images"][place]["id"]
            images.append({"id": new_id, "width": 120, "height": 120, "file_name": "x"})
            for record in ground_truth["annotations"]:
                if record["image_id"] == old_id:
                    annotations.append({**record, "id": len(annotations), "image_id": new_id})
            found += [{**d, "image_id": new_id} for d in detections if d["image_id"] == old_id]
        drawn_truth = {**ground_truth, "images": images, "annotations": annotations}
        want = evaluate_points(drawn_truth, found)["AP"]["all"]
        # Copies of an image tie in score; they are one step here and spread evenly there.
        np.testing.assert_allclose(row, list(want.values()), atol=0.03)


def test_bootstrap_interval_holds_the_estimate():
    ground_truth, detections = make_scene(6, num_images=30)
    metrics = evaluate_points(ground_truth, detections)
    low, high = bootstrap_interval(ground_truth, detections, tau=1.0)
    assert 0 <= low < metrics["AP"]["all"]["1.0"] < high <= 1
    assert (low, high) == bootstrap_interval(ground_truth, detections, tau=1.0)
    nothing = {**ground_truth, "annotations": []}
    assert bootstrap_interval(nothing, []) == (None, None)


def test_weights_of_average_precision():
    hits = np.array([True, False, True, True, False])
    weights = np.array([1, 0, 1, 1, 0])
    assert average_precision(hits, 4, weights=weights) == average_precision(hits[hits], 4)
    assert average_precision(hits, 4, weights=np.ones(5)) == average_precision(hits, 4)


def test_metrics_are_plain_json():
    metrics = evaluate_points(*make_scene(1), size_ranges="tiny")
    assert list(metrics["AP"]) == list(SIZE_RANGES["tiny"])

    def check(value):
        if isinstance(value, dict):
            assert all(isinstance(key, str) for key in value)
            list(map(check, value.values()))
        elif isinstance(value, list):
            list(map(check, value))
        else:
            assert type(value) in (int, float, str, type(None)), value

    check(metrics)
