import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cpr.data.quality.checks import check_dataset

ROOT = Path(__file__).parents[1]


def run(*arguments: object) -> subprocess.CompletedProcess:
    paths = [str(ROOT / "projects" / "CPR"), str(ROOT / "deploy")]
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "prepare_points.py"), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )


def make_dataset() -> dict:
    return {
        "images": [
            {"id": 1, "file_name": "a.png", "width": 60, "height": 50},
            {"id": 2, "file_name": "b.png", "width": 60, "height": 50},
        ],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "boat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 10], "note": "kept"},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [30, 30, 10, 10]},
            {"id": 3, "image_id": 1, "category_id": 2, "bbox": [0, 0, 10, 10], "iscrowd": 1},
        ],
    }


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        noise = np.random.default_rng(0).integers(0, 255, (50, 60, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / name)
    (tmp_path / "gt.json").write_text(json.dumps(make_dataset()))
    return tmp_path


def test_help_is_fast():
    start = time.perf_counter()
    result = run("coarse", "--help")
    assert result.returncode == 0 and "--sigma" in result.stdout
    assert time.perf_counter() - start < 2


def test_coarse(folder):
    output = folder / "new" / "coarse.json"
    result = run("coarse", "--annotations", folder / "gt.json", "--output", output, "--seed", 3)
    assert result.returncode == 0, result.stderr
    assert "2 from box" in result.stderr and "1 regions" in result.stderr
    clicked = json.loads(output.read_text())
    assert clicked["annotations"][0]["note"] == "kept"
    assert ["point" in a for a in clicked["annotations"]] == [True, True, False]
    first = output.read_text()
    run("coarse", "--annotations", folder / "gt.json", "--output", output, "--seed", 3)
    assert output.read_text() == first


def test_coarse_bad_input_leaves_nothing(folder):
    text = (folder / "gt.json").read_text()
    (folder / "gt.json").write_text(text[:-40])
    output = folder / "coarse.json"
    result = run("coarse", "--annotations", folder / "gt.json", "--output", output)
    assert result.returncode == 2 and "not valid JSON" in result.stderr
    assert "Traceback" not in result.stderr and not output.exists()
    (folder / "gt.json").write_text(text)
    result = run(
        "coarse", "--annotations", folder / "gt.json", "--output", output, "--sigma", "nan"
    )
    assert result.returncode == 2 and "sigma" in result.stderr and not output.exists()


def test_check_exit_codes(folder):
    arguments = ("check", "--annotations", folder / "gt.json", "--image-root", folder)
    result = run(*arguments)
    assert result.returncode == 0, result.stdout
    assert "0 errors" in result.stdout
    (folder / "b.png").unlink()
    result = run(*arguments)
    assert result.returncode == 1 and "image id 2" in result.stdout
    (folder / "gt.json").write_text("{")
    assert run(*arguments).returncode == 2


def errors(dataset: dict, image_root=None, **settings) -> list[str]:
    problems = check_dataset(dataset, image_root, **settings)
    return [f"{problem.record}: {problem.text}" for problem in problems if problem.is_error]


def test_check_reports_all_records():
    dataset = make_dataset()
    assert errors(dataset) == []
    dataset["annotations"][0]["point"] = [61, 5]
    dataset["annotations"][1]["id"] = 1
    dataset["annotations"][2]["bbox"] = [70, 0, 10, 10]
    found = errors(dataset)
    assert len(found) == 3
    assert "id 1 " in found[0] or "twice" in found[0]
    text = "\n".join(found)
    assert "outside its image" in text and "twice" in text and "lies outside its image" in text


@pytest.mark.parametrize(("category", "expected"), [(1, "of its class"), (2, "another class")])
def test_check_same_place(category, expected):
    dataset = make_dataset()
    copy = {"id": 9, "image_id": 1, "category_id": category, "bbox": [5.2, 5, 20, 10]}
    dataset["annotations"].append(copy)
    found = errors(dataset)
    assert len(found) == 1 and expected in found[0] and "id 9" in found[0] and "id 1" in found[0]
    assert errors(dataset, same_place=0.1) == []
    copy["image_id"] = 2
    assert errors(dataset) == []


def test_check_class_without_objects_is_a_warning():
    dataset = make_dataset()
    dataset["categories"].append({"id": 3, "name": "plane"})
    problems = check_dataset(dataset)
    assert [problem.is_error for problem in problems] == [False]
    assert "plane" in problems[0].text


def test_check_images(folder):
    dataset = make_dataset()
    assert errors(dataset, folder) == []
    # Cut in the middle; another size than the JSON; not an image; gone; outside the folder.
    data = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(data[: len(data) // 2])
    assert "truncated" in errors(dataset, folder)[0] and "image id 1" in errors(dataset, folder)[0]
    (folder / "a.png").write_bytes(data)
    dataset["images"][0]["width"] = 61
    assert "60 x 50 px, the JSON says 61 x 50" in errors(dataset, folder)[0]
    (folder / "a.png").write_text("no image")
    assert "is not an image" in errors(dataset, folder)[0]
    dataset["images"][0]["file_name"] = "c.png"
    assert "no such image" in errors(dataset, folder)[0]
    dataset["images"][0]["file_name"] = "../c.png"
    assert "leads out" in errors(dataset, folder)[0]


def test_check_turned_image_and_tile(folder):
    image = Image.new("RGB", (50, 60))
    exif = image.getexif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    image.save(folder / "a.jpg", exif=exif)
    dataset = make_dataset()
    dataset["images"][0]["file_name"] = "a.jpg"
    assert errors(dataset, folder) == []
    tile = {"id": 3, "file_name": "b.png", "width": 20, "height": 10, "corner": [40, 40, 60, 50]}
    dataset["images"].append(tile)
    assert errors(dataset, folder) == []
    tile["corner"] = [50, 40, 70, 50]
    assert "reaches out" in errors(dataset, folder)[0]
