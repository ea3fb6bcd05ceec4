import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from cpr.visualization import draw
from cpr.visualization.annotations import annotation_layers, object_crop
from cpr_deploy.image_files import read_rgb

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tools" / "visualize_points.py"


@pytest.fixture
def data(tmp_path):
    """Two grey images, three objects, the first of which is refined."""
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/a.png"):
        cv2.imwrite(str(images / name), np.full((80, 100, 3), 100, np.uint8))
    dataset = {
        "images": [
            {"id": 1, "file_name": "a.png", "width": 100, "height": 80},
            {"id": 2, "file_name": "sub/a.png", "width": 100, "height": 80},
        ],
        "categories": [{"id": 5, "name": "tree"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 5, "bbox": [20, 20, 30, 30]}
            | {"point": [35.5, 35.5], "coarse_point": [25.5, 25.5]}
            | {"semantic_points": [[30.5, 40.5]], "refined": True, "refine_score": 0.5},
            {"id": 2, "image_id": 1, "category_id": 5, "bbox": [60, 20, 20, 20]}
            | {"point": [70.5, 30.5]},
            {"id": 3, "image_id": 1, "category_id": 5, "bbox": [0, 60, 10, 10], "ignore": 1},
        ],
    }
    path = tmp_path / "points.json"
    path.write_text(json.dumps(dataset))
    return path, images, dataset


def run(*arguments):
    packages = f"{ROOT / 'projects' / 'CPR'}:{ROOT / 'deploy'}"
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": packages, "PATH": ""},
        check=False,
    )


def test_layers_tell_clicks_from_refined_points(data):
    layers = annotation_layers(data[2]["annotations"])
    assert layers["clicks"].tolist() == [[25.5, 25.5], [70.5, 30.5]]
    assert layers["refined"].tolist() == [[35.5, 35.5]]
    assert layers["semantic"].tolist() == [[30.5, 40.5]]
    assert len(layers["boxes"]) == 2


def test_object_crop_shows_all_three_kinds_of_points(data):
    image = np.full((80, 100, 3), 100, np.uint8)
    crop = object_crop(image, data[2]["annotations"][0], output_size=200)
    assert crop.shape == (200, 200, 3)
    for colour in (draw.CLICK, draw.SEMANTIC, draw.REFINED):
        assert (crop == colour).all(axis=2).sum() >= 9


def test_data_set(data, tmp_path):
    done = run(
        *("--annotations", data[0], "--image-root", data[1], "--output", tmp_path / "out"),
        "--crops",
    )
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["00000_a.png", "00001_a.png", "crops.png"]
    picture = read_rgb(tmp_path / "out" / "00000_a.png")
    assert picture.shape == (80, 100, 3)
    assert tuple(picture[25, 25]) == draw.CLICK
    assert tuple(picture[35, 35]) == draw.REFINED
    assert tuple(picture[30, 70]) == draw.CLICK


def test_predictions_beside_annotations(data, tmp_path):
    predictions = tmp_path / "det.json"
    records = [
        {"image_id": 1, "category_id": 5, "point": [50.5, 60.5], "score": 0.9},
        {"image_id": 1, "category_id": 5, "point": [90.5, 70.5], "score": 0.1},
    ]
    predictions.write_text(json.dumps(records))
    done = run(
        *("--annotations", data[0], "--image-root", data[1], "--output", tmp_path / "out"),
        *("--predictions", predictions, "--max-images", 1, "--no-boxes"),
    )
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "out").iterdir()
    picture = read_rgb(path)
    left, top = 6 + 100 + 6, 6
    assert tuple(picture[top + 60, left + 50]) == draw.PREDICTED
    assert tuple(picture[top + 70, left + 90]) == (100, 100, 100)


def test_refined_points_from_another_file(data, tmp_path):
    clicks = json.loads(data[0].read_text())
    for annotation in clicks["annotations"]:
        annotation.pop("coarse_point", None)
    coarse = tmp_path / "coarse.json"
    coarse.write_text(json.dumps(clicks))
    arguments = ["--image-root", data[1], "--output", tmp_path / "out"]
    done = run("--annotations", coarse, "--refined", data[0], *arguments)
    assert done.returncode == 0, done.stderr
    picture = read_rgb(tmp_path / "out" / "00000_a.png")
    assert tuple(picture[35, 35]) == draw.REFINED

    done = run("--annotations", coarse, "--refined", coarse, *arguments)
    assert done.returncode == 2 and "coarse_point" in done.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"file_name": "../a.png"}, "file_name"),
        ({"file_name": "missing.png"}, "missing.png"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(data, tmp_path, change, said):
    data[2]["images"][0] |= change
    data[0].write_text(json.dumps(data[2]))
    done = run("--annotations", data[0], "--image-root", data[1], "--output", tmp_path / "out")
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_help_needs_no_heavy_import():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(SCRIPT), "--help"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{ROOT / 'projects' / 'CPR'}:{ROOT / 'deploy'}"},
        check=False,
    )
    assert done.returncode == 0
    assert "cv2" not in done.stderr and "torch" not in done.stderr
