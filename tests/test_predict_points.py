"""tools/predict_points.py as a user runs it: eager model and exported file."""

import argparse
import json

import numpy as np
import pytest

from cpr import engine
from cpr.data.datasets import make_spec
from scenes import edit_json, tiny_opts, write_scenes
from tool_runner import ROOT, run_tool


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network that finds ellipses; (JSON, images), its folder. Images are enlarged for it."""
    folder = tmp_path_factory.mktemp("predict")
    scenes = write_scenes(folder, images=4, size=(48, 40), num_classes=2)
    opts = tiny_opts("P2PNET", **{"SOLVER.BASE_LR": 0.003, "SOLVER.MAX_ITER": 60})
    opts += ["SOLVER.CLIP_GRADIENTS.ENABLED", "False", "MODEL.P2PNET.NMS_SIZE", "8.0"]
    spec = make_spec(*scenes)
    opts += ["DATASETS.TRAIN", spec, "DATASETS.TEST", spec, "OUTPUT_DIR", str(folder / "out")]
    config = str(ROOT / "configs" / "Base-P2PNet.yaml")
    engine.run(argparse.Namespace(config_file=config, opts=opts, resume=False, eval_only=False))
    return scenes, folder / "out"


@pytest.fixture(scope="module")
def onnx_file(trained):
    pytest.importorskip("onnxruntime")
    export = pytest.importorskip("cpr.export")
    out = trained[1]
    model, cfg, classes = export.load_localizer(out / "config.yaml", str(out / "model_final.pth"))
    path = out / "model.onnx"
    export.export_point_localizer(model, cfg, path, **classes)
    return path


def eager(out):
    return ["--config-file", out / "config.yaml", "--weights", out / "model_final.pth"]


def by_image(detections):
    """Image id -> (n, 4) category, x, y, score, in a fixed order."""
    result = {}
    for d in detections:
        result.setdefault(d["image_id"], []).append([d["category_id"], *d["point"], d["score"]])
    return {key: np.array(sorted(value)) for key, value in result.items()}


def read(path):
    return json.loads(path.read_text())


def test_equals_the_evaluation_after_training(trained, tmp_path, capsys):
    (annotations, images), out = trained
    where = ["--annotations", annotations, "--image-root", images]
    assert run_tool("predict_points", *eager(out), *where, "--output", tmp_path / "d.json") == 0
    detections = read(tmp_path / "d.json")
    assert detections == read(out / "inference" / "detections.json")
    assert f"wrote {len(detections)} points" in capsys.readouterr().out
    assert len(detections) > 5, "the network has learnt nothing, so this test shows nothing"
    assert {d["category_id"] for d in detections} <= {3, 7}


def test_classes_are_matched_by_name(trained, tmp_path):
    """Ids in another order than those trained on: each class keeps its name."""
    (annotations, images), out = trained
    other = tmp_path / "other.json"
    other.write_text(annotations.read_text())

    def renumber(dataset):
        new = {3: 8, 7: 2}
        for category in dataset["categories"]:
            category["id"] = new[category["id"]]
        for annotation in dataset["annotations"]:
            annotation["category_id"] = new[annotation["category_id"]]

    edit_json(other, renumber)
    where = ["--annotations", other, "--image-root", images, "--output", tmp_path / "d.json"]
    assert run_tool("predict_points", *eager(out), *where) == 0
    expected = read(out / "inference" / "detections.json")
    new = {3: 8, 7: 2}
    assert read(tmp_path / "d.json") == [
        {**d, "category_id": new[d["category_id"]]} for d in expected
    ]


def test_a_folder_is_numbered_by_name(trained, tmp_path):
    (_, images), out = trained
    args = [*eager(out), "--images", images, "--output", tmp_path / "d.json"]
    assert run_tool("predict_points", *args) == 0
    detections = read(tmp_path / "d.json")
    expected = by_image(read(out / "inference" / "detections.json"))
    found = by_image(detections)
    # The ids of the annotation file start at 10; the categories come from the checkpoint.
    assert found.keys() == {key - 9 for key in expected}
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key - 9], value)
    assert all(d["file_name"] == f"scenes{d['image_id'] - 1}.png" for d in detections)


@pytest.mark.onnx
@pytest.mark.parametrize("source", ["annotations", "folder"])
def test_exported_model_gives_the_same_points(trained, onnx_file, tmp_path, source):
    (annotations, images), out = trained
    where = ["--images", images]
    if source == "annotations":
        where = ["--annotations", annotations, "--image-root", images]
    results = []
    for model in (eager(out), ["--model", onnx_file]):
        output = tmp_path / "d.json"
        assert run_tool("predict_points", *model, *where, "--output", output) == 0
        results.append(by_image(read(output)))
    assert results[0].keys() == results[1].keys()
    for key, expected in results[0].items():
        np.testing.assert_allclose(results[1][key], expected, rtol=1e-3, atol=1e-2)


@pytest.mark.onnx
def test_exported_model_and_other_classes(trained, onnx_file, tmp_path, capsys):
    (annotations, images), _ = trained
    other = annotations.parent / "other.json"
    other.write_text(annotations.read_text())
    edit_json(other, lambda d: d["categories"][0].update(name="else"))
    args = ["--model", onnx_file, "--annotations", other, "--image-root", images]
    assert run_tool("predict_points", *args, "--output", tmp_path / "d.json") == 2
    error = capsys.readouterr().err
    assert "other.json" in error and "'class0'" in error
    assert not (tmp_path / "d.json").exists()


def test_images_without_annotations_are_predicted_on(trained, tmp_path):
    (annotations, images), out = trained
    empty = annotations.parent / "empty.json"
    empty.write_text(annotations.read_text())
    edit_json(empty, lambda d: d.update(annotations=[]))
    args = ["--annotations", empty, "--image-root", images, "--output", tmp_path / "d.json"]
    assert run_tool("predict_points", *eager(out), *args) == 0
    assert read(tmp_path / "d.json") == read(out / "inference" / "detections.json")


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--model", "m.onnx"],
        ["--model", "m.onnx", "--images", "d", "--annotations", "a", "--image-root", "d"],
        ["--config-file", "c.yaml", "--images", "d"],
        ["--model", "m.onnx", "--images", "d", "INPUT.FORMAT", "BGR"],
    ],
)
def test_arguments_that_make_no_sense(args):
    with pytest.raises(SystemExit) as stop:
        run_tool("predict_points", "--output", "d.json", *args)
    assert stop.value.code == 2


def test_damaged_image(trained, tmp_path, capsys):
    _, out = trained
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.png").write_bytes(b"\x89PNG")
    args = ["--images", tmp_path / "images", "--output", tmp_path / "d.json"]
    assert run_tool("predict_points", *eager(out), *args) == 2
    assert "x.png" in capsys.readouterr().err
