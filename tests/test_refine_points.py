"""tools/refine_points.py as a user runs it."""

import argparse
import json

import numpy as np
import pytest

from cpr import engine
from cpr.data.datasets import make_spec
from scenes import edit_json, tiny_opts, write_scenes
from tool_runner import run_tool


@pytest.fixture
def trained(tmp_path, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    scenes = write_scenes(tmp_path, images=3, num_classes=2)
    edit_json(scenes[0], lambda d: d["annotations"][0].update(ignore=1, note="keep"))
    spec = make_spec(*scenes)
    # The bar of constraint I is below what a hardly trained network gives.
    opts = tiny_opts("CPRNET") + ["MODEL.CPRNET.REFINE.DELTA1", "0.001"]
    opts += ["MODEL.CPRNET.REFINE.SCORE_THRESH", "0.001"]
    opts += ["DATASETS.TRAIN", spec, "DATASETS.TEST", spec, "OUTPUT_DIR", str(tmp_path / "out")]
    engine.run(
        argparse.Namespace(
            config_file="configs/Base-CPRNet.yaml", opts=opts, resume=False, eval_only=False
        )
    )
    return scenes, tmp_path / "out"


def arguments(trained, tmp_path, *more):
    (path, root), out = trained
    return [
        *("--config-file", out / "config.yaml", "--weights", out / "model_final.pth"),
        *("--annotations", path, "--image-root", root, "--output", tmp_path / "refined.json"),
        *more,
    ]


def test_refines_as_the_evaluation_does(trained, tmp_path, capsys):
    report = tmp_path / "report.json"
    more = ("--semantic-points", "--report", report)
    assert run_tool("refine_points", *arguments(trained, tmp_path, *more)) == 0
    shown = capsys.readouterr().out
    assert "RSV" in shown and str(tmp_path / "refined.json") in shown

    refined = json.loads((tmp_path / "refined.json").read_text())
    evaluated = json.loads((trained[1] / "inference" / "refined.json").read_text())
    clicks = json.loads(trained[0][0].read_text())
    assert refined["annotations"][0] == clicks["annotations"][0], "ignored ones stay as they are"
    moved = 0
    for annotation, other, click in zip(
        refined["annotations"][1:],
        evaluated["annotations"][1:],
        clicks["annotations"][1:],
        strict=True,
    ):
        semantic = np.array(annotation.pop("semantic_points")).reshape(-1, 2)
        assert annotation == other
        np.testing.assert_allclose(annotation["coarse_point"], click["point"], atol=1e-4)
        assert annotation["bbox"] == click["bbox"]
        if annotation["refined"]:
            moved += annotation["point"] != annotation["coarse_point"]
            # A weighted mean lies within the range of its points.
            assert (semantic.min(axis=0) - 0.01 <= annotation["point"]).all()
            assert (semantic.max(axis=0) + 0.01 >= annotation["point"]).all()
    assert moved
    figures = json.loads(report.read_text())
    assert figures["objects"] == len(refined["annotations"]) - 1
    assert figures == json.loads((trained[1] / "inference" / "refinement.json").read_text())


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d["annotations"][1].pop("point"), "annotation id 101"),
        (lambda d: d["categories"].append({"id": 99, "name": "z"}), "NUM_CLASSES"),
        (lambda d: d["images"][0].update(width=65), "65x64"),
        (lambda d: d["images"][0].update(file_name="../a.png"), "out of the image folder"),
    ],
)
def test_bad_annotations(trained, tmp_path, capsys, change, message):
    edit_json(trained[0][0], change)
    assert run_tool("refine_points", *arguments(trained, tmp_path)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "refined.json").exists()


def test_other_network_and_missing_weights(trained, tmp_path, capsys):
    (trained[1] / "model_final.pth").unlink()
    assert run_tool("refine_points", *arguments(trained, tmp_path)) == 2
    assert "model_final.pth" in capsys.readouterr().err
    args = arguments(trained, tmp_path)
    args[1] = "configs/Base-P2PNet.yaml"
    assert run_tool("refine_points", *args, "MODEL.P2PNET.NUM_CLASSES", 2) == 2
    assert "CPRNet is needed" in capsys.readouterr().err
