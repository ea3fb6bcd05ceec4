"""Detectron2's box detectors as localizers: trained on points by way of pseudo boxes."""

import argparse
import json
import math
import random
from pathlib import Path

import pytest
import torch

import training_runs
from cpr import engine
from cpr.checkpoint import PointCheckpointer
from cpr_deploy.files import InputError
from scenes import edit_json, tiny_opts, write_scenes
from tiny_detectors import DETECTORS, detector_opts
from tool_runner import run_tool
from training_runs import assert_same

WEIGHTS = (
    Path(__file__).parents[1].parent / "shared" / "weights" / "resnet18_imagenet_c4_bnfolded.pth"
)

pytestmark = pytest.mark.usefixtures("at_root", "one_thread")


@pytest.fixture
def scenes(tmp_path):
    return write_scenes(tmp_path, images=4, num_classes=2)


def arguments(name, scenes, output, **settings):
    return argparse.Namespace(
        config_file=f"configs/Base-{name}.yaml",
        opts=detector_opts(name, scenes, output, **settings),
        resume=False,
        eval_only=False,
    )


def train(args):
    """As `training_runs.train`, but nothing is evaluated."""
    args.opts += ["DATASETS.TEST", "()"]
    return training_runs.train(args)


def read(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", DETECTORS)
def test_trains_and_is_scored_by_points_and_boxes(name, scenes, tmp_path):
    changes = {"TEST.BOX_AP": True, "SOLVER.MAX_ITER": 40, "SOLVER.BASE_LR": 0.003}
    results = engine.run(arguments(name, scenes, tmp_path / "out", **changes))
    assert {"points", "bbox"} <= results.keys()
    # The scene is learnt by heart: a network that knows nothing reaches a few per cent.
    assert results["points"]["AP@1.0"] > 20
    assert 0 <= results["bbox"]["AP"] <= results["bbox"]["AP50"] <= 100
    folder = tmp_path / "out" / "inference"
    assert read(folder / "box_metrics.json")["AP50"] == results["bbox"]["AP50"]
    assert read(folder / "metrics.json")["AP"]["all"]["1.0"] > 0.2
    detections = read(folder / "detections.json")
    for detection in detections:
        x, y, w, h = detection["bbox"]
        assert detection["point"] == pytest.approx([x + w / 2, y + h / 2], abs=1e-4)
        assert x >= -1e-3 and x + w <= 64.001
    checkpoint = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)
    assert checkpoint["metadata"]["category_ids"] == [3, 7]


@pytest.mark.parametrize("name", DETECTORS)
def test_true_boxes_never_reach_a_training_on_points(name, scenes, tmp_path):
    before = train(arguments(name, scenes, tmp_path / "a"))
    true = train(arguments(name, scenes, tmp_path / "b", boxes=True))

    def scramble(dataset):
        for annotation in dataset["annotations"]:
            annotation["bbox"] = [random.uniform(0, 60) for _ in range(2)] + [1.5, 99.0]

    edit_json(scenes[0], scramble)
    assert_same(before, train(arguments(name, scenes, tmp_path / "c")))
    edit_json(scenes[0], lambda d: [a.pop("bbox") for a in d["annotations"]])
    assert_same(before, train(arguments(name, scenes, tmp_path / "d")))
    # "boxes:..." does learn them, and the size of the pseudo boxes counts.
    assert true[0] != before[0]
    changes = {"MODEL.PSEUDO_BOX.SIZE": 24.0}
    assert train(arguments(name, scenes, tmp_path / "e", **changes))[0] != before[0]


@pytest.mark.parametrize("name", DETECTORS)
def test_points_do_not_reach_a_training_on_true_boxes(name, scenes, tmp_path):
    before = train(arguments(name, scenes, tmp_path / "a", boxes=True))
    edit_json(scenes[0], lambda d: [a.update(point=[1.0, 1.0]) for a in d["annotations"]])
    assert_same(before, train(arguments(name, scenes, tmp_path / "b", boxes=True)))


@pytest.mark.parametrize("name", DETECTORS)
def test_amp_on_a_cpu(name, scenes, tmp_path):
    whole, _ = train(arguments(name, scenes, tmp_path / "whole"))
    mixed, _ = train(arguments(name, scenes, tmp_path / "mixed", **{"SOLVER.AMP.ENABLED": True}))
    # Which proposals Faster R-CNN samples depends on the last digit.
    tolerance = 0.1 if name == "FasterRCNN" else 0.02
    assert mixed != whole and mixed[0] == pytest.approx(whole[0], rel=tolerance)
    assert all(math.isfinite(loss) for loss in mixed)


@pytest.mark.parametrize("name", DETECTORS)
def test_an_image_without_objects_is_no_obstacle(name, scenes, tmp_path):
    def empty_one(dataset):
        first = dataset["images"][0]["id"]
        dataset["annotations"] = [a for a in dataset["annotations"] if a["image_id"] != first]

    edit_json(scenes[0], empty_one)
    changes = {"DATALOADER.FILTER_EMPTY_ANNOTATIONS": False, "SOLVER.IMS_PER_BATCH": 1}
    losses, _ = train(
        arguments(name, scenes, tmp_path / "out", **changes, **{"SOLVER.MAX_ITER": 4})
    )
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.skipif(not WEIGHTS.exists(), reason="the shared weights are not on this machine")
@pytest.mark.parametrize("name", DETECTORS)
def test_imagenet_weights_reach_the_backbone(name):
    cfg = engine.build_cfg(f"configs/SmallSets/Base-{name}-R18C4.yaml", ["MODEL.DEVICE", "cpu"])
    model = engine.build_network(cfg)
    head = {k: v.clone() for k, v in model.state_dict().items() if "bottom_up" not in k}
    PointCheckpointer(model).load(str(WEIGHTS))
    theirs = torch.load(WEIGHTS, weights_only=True)
    own = model.backbone.bottom_up
    assert torch.equal(own.stem.conv1.weight, theirs["conv1.weight"])
    assert torch.equal(own.res4[1].conv2.weight, theirs["layer3.1.conv2.weight"])
    for key, value in head.items():
        assert torch.equal(model.state_dict()[key], value), key
    with pytest.raises(InputError, match="holds a backbone only"):
        PointCheckpointer(model, require_all=True).load(str(WEIGHTS))


def test_predict_points(scenes, tmp_path, capsys):
    """The tool gives what the evaluation gave, with the boxes."""
    out = tmp_path / "out"
    changes = {"SOLVER.MAX_ITER": 40, "SOLVER.BASE_LR": 0.003}
    engine.run(arguments("RetinaNet", scenes, out, **changes))
    model = ["--config-file", out / "config.yaml", "--weights", out / "model_final.pth"]
    where = ["--annotations", scenes[0], "--image-root", scenes[1]]
    assert run_tool("predict_points", *model, *where, "--output", tmp_path / "d.json") == 0
    detections = read(tmp_path / "d.json")
    assert detections == read(out / "inference" / "detections.json")
    assert len(detections) > 5 and set(detections[0]) == {
        *("image_id", "category_id", "point", "bbox", "score")
    }
    args = ["--images", scenes[1], "--output", tmp_path / "folder.json"]
    assert run_tool("predict_points", *model, *args) == 0
    assert len(read(tmp_path / "folder.json")) == len(detections)
    # Scored as any other predictions, by their points.
    scored = ["--annotations", scenes[0], "--predictions", tmp_path / "d.json"]
    assert run_tool("evaluate_points", *scored, "--output", tmp_path / "m.json") == 0
    expected = read(out / "inference" / "metrics.json")
    assert read(tmp_path / "m.json")["AP"] == expected["AP"]


def test_predict_points_needs_a_localizer(scenes, tmp_path, capsys):
    args = ["--config-file", "configs/Base-CPRNet.yaml", "--weights", tmp_path / "w.pth"]
    args += ["--images", scenes[1], "--output", tmp_path / "d.json"]
    assert run_tool("predict_points", *args) == 2
    error = capsys.readouterr().err
    assert "MODEL.META_ARCHITECTURE is CPRNet" in error and "RetinaNet" in error


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("RetinaNet", {"num_classes": 5}, r"MODEL\.RETINANET\.NUM_CLASSES is 5.*has 2"),
        ("FasterRCNN", {"num_classes": 5}, r"MODEL\.ROI_HEADS\.NUM_CLASSES is 5.*has 2"),
        ("RepPoints", {"num_classes": 5}, r"MODEL\.REPPOINTS\.NUM_CLASSES is 5.*has 2"),
        ("RetinaNet", {"MODEL.PSEUDO_BOX.SIZE": 0.0}, r"MODEL\.PSEUDO_BOX\.SIZE"),
        ("RetinaNet", {"MODEL.FPN.EXTRA_LEVELS": 0}, r"MODEL\.RETINANET\.IN_FEATURES"),
        ("FasterRCNN", {"MODEL.ANCHOR_GENERATOR.SIZES": "[[8],[16],[32]]"}, "length 3 in anchor"),
    ],
)
def test_bad_settings_stop_before_training(name, settings, message, scenes, tmp_path):
    with pytest.raises(InputError, match=message):
        engine.run(arguments(name, scenes, tmp_path / "out", **settings))
    assert not list(tmp_path.glob("out/*.pth"))


def test_box_ap_needs_boxes(scenes, tmp_path):
    args = arguments("RetinaNet", scenes, tmp_path / "out", **{"TEST.BOX_AP": True})
    point_args = argparse.Namespace(**vars(args))
    point_args.config_file = "configs/Base-P2PNet.yaml"
    point_args.opts = [*tiny_opts("P2PNET"), "TEST.BOX_AP", "True"]
    with pytest.raises(InputError, match=r"TEST\.BOX_AP is True, but P2PNet predicts points"):
        engine.setup(point_args)
    edit_json(scenes[0], lambda d: [a.pop("bbox") for a in d["annotations"]])
    with pytest.raises(InputError, match="annotation id 100.*no bbox"):
        engine.setup(args)
