"""DOTA: labelTxt to upright boxes, clicks inside the quadrilaterals, tiles cut to files."""

import json
import logging

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cpr.data.benchmarks.dota import CLASSES, prepare, read_labels
from cpr.data.benchmarks.layout import Options, Prepared
from cpr.data.image_folder import read_recorded
from cpr.data.point_json import find_problems, is_ignored, load_points
from cpr_deploy.files import InputError
from tool_runner import run_tool

SIZE = (300, 200)
HEADER = "imagesource:GoogleEarth\ngsd:0.15\n"
# A diamond whose box is 100..140 x 20..60, a difficult one that leaves the image, an upright one.
DIAMOND = "120 20 140 40 120 60 100 40 plane 0"
DIFFICULT = "280 180 320 180 320 220 280 220 Small_Vehicle 1"
UPRIGHT = "10.5 90 30.5 90 30.5 110 10.5 110 ship 0"


def write_source(folder, labels="labelTxt"):
    texts = {
        "train": {"P0001": HEADER + DIAMOND + "\n" + DIFFICULT, "P0002": ""},
        "val": {"P0003": UPRIGHT + "\n" + DIAMOND},
    }
    for split, files in texts.items():
        (folder / split / "images").mkdir(parents=True)
        (folder / split / labels).mkdir(parents=True)
        for stem, text in files.items():
            image = Image.new("RGB", SIZE, (0, 0, int(stem[-1])))
            ImageDraw.Draw(image).polygon([(120, 20), (140, 40), (120, 60), (100, 40)], "white")
            image.save(folder / split / "images" / f"{stem}.png")
            (folder / split / labels / f"{stem}.txt").write_text(text)
    return folder


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "DOTA")


def labels(source, split="train", **settings):
    prepared = Prepared()
    dataset = read_labels(
        source / split / "images",
        source / split / "labelTxt",
        CLASSES["1.0"],
        prepared,
        **settings,
    )
    return dataset, prepared.skipped


def test_fifteen_classes():
    assert {version: len(names) for version, names in CLASSES.items()} == {
        "1.0": 15,
        "1.5": 16,
        "2.0": 18,
    }
    assert all(len(set(names)) == len(names) for names in CLASSES.values())


def test_quadrilaterals_become_boxes(source):
    dataset, skipped = labels(source)
    assert skipped == [] and not [p for p in find_problems(dataset) if p.is_error]
    assert [i["file_name"] for i in dataset["images"]] == ["P0001.png", "P0002.png"]
    assert [c["name"] for c in dataset["categories"]] == list(CLASSES["1.0"])
    plane, vehicle = dataset["annotations"]
    assert plane == {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": [100, 20, 40, 40],
        "segmentation": [[120, 20, 140, 40, 120, 60, 100, 40]],
        "area": 800,
        "iscrowd": 0,
        "ignore": 0,
    }
    # Difficult: a region. Clipped to the image; the class by name, whatever its case.
    assert is_ignored(vehicle) and vehicle["bbox"] == [280, 180, 20, 20]
    names = {c["id"]: c["name"] for c in dataset["categories"]}
    assert names[vehicle["category_id"]] == "small-vehicle"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 2 3 2 3 4 1 4 car 0", "line 2: the class 'car' is none of plane, ship"),
        ("1 2 3 2 3 4 1 4", "line 2: .*x1 y1"),
        ("400 2 410 2 410 9 400 9 ship 0", "line 2: the object lies outside its image of 300 x"),
    ],
)
def test_bad_lines(source, line, message):
    path = source / "train" / "labelTxt" / "P0001.txt"
    path.write_text(DIAMOND + "\n" + line + "\n")
    with pytest.raises(InputError, match=message):
        labels(source)
    dataset, skipped = labels(source, skip_bad=True)
    assert len(dataset["annotations"]) == 1 and len(skipped) == 1
    assert skipped[0].record == f"{path}: line 2"


def test_flat_quadrilaterals_are_left_out(source, caplog):
    path = source / "train" / "labelTxt" / "P0001.txt"
    path.write_text(DIAMOND + "\n5 5 9 5 9 5 5 5 ship 0\n")
    with caplog.at_level(logging.WARNING):
        dataset, _ = labels(source)
    assert len(dataset["annotations"]) == 1
    assert "left out 1 objects without any area" in caplog.text and "line 2" in caplog.text


def test_missing_labels_and_damaged_images(source):
    (source / "train" / "labelTxt" / "P0001.txt").unlink()
    with pytest.raises(InputError, match=r"P0001\.txt: no such file.*needs an empty file"):
        labels(source)
    (source / "train" / "images" / "P0002.png").write_bytes(b"x")
    dataset, skipped = labels(source, skip_bad=True)
    assert dataset["images"] == [] and [p.record for p in skipped] == [
        str(source / "train" / "images" / "P0002.png"),
        "P0001.png",
    ]


@pytest.mark.parametrize("folder", ["labelTxt", "labelTxt-v1.0/labelTxt", "labelTxt-v1.0"])
def test_one_command(tmp_path, capsys, folder):
    source, output = write_source(tmp_path / "DOTA", folder), tmp_path / "dota"
    arguments = ["benchmark", "dota", "--source", source, "--output", output]
    arguments += ["--tile", 160, "--overlap", 40, "--workers", 1]
    assert run_tool("prepare_points", *arguments) == 0
    assert "annotations/train_coarse.json" in capsys.readouterr().out
    read = {
        name: load_points(output / "annotations" / f"{name}.json", require=None)
        for name in ("train", "train_coarse", "val", "full/train", "full/val")
    }
    # 300 px: three tiles at 0, 70, 140; 200 px: two at 0 and 40. Cut to PNG files in one folder.
    assert [i["cut_corner"][:2] for i in read["train"]["images"]][:6] == [
        [x, y] for x in (0, 70, 140) for y in (0, 40)
    ]
    assert len(list((output / "images").iterdir())) == 6 * 3
    for name in ("train", "train_coarse", "val"):
        assert not [p for p in find_problems(read[name]) if p.is_error]
        for record in read[name]["images"]:
            read_recorded(output / "images", record)
    # The plane, (120, 40), is seen by the tiles of 0..160 and 70..230, the second its own.
    first, plane = [a for a in read["train"]["annotations"] if not is_ignored(a)][::-1]
    assert first["full_id"] == 1 and first["image_id"] == 1 and first["bbox"] == [100, 20, 40, 40]
    assert plane["id"] == 1 and plane["image_id"] == 3 and plane["bbox"] == [30, 20, 40, 40]
    assert plane["segmentation"] == [[50, 20, 70, 40, 50, 60, 30, 40]]
    # Clicked once, inside the quadrilateral, not only inside the box.
    (click,) = [a for a in read["train_coarse"]["annotations"] if not is_ignored(a)]
    x, y = np.array(click["point"]) - [50, 40]
    assert abs(x) + abs(y) <= 21 and "segmentation" not in click
    pixels = read_recorded(output / "images", read["train_coarse"]["images"][2])
    assert pixels[int(click["point"][1]), int(click["point"][0])].tolist() == [255] * 3
    # Each tile of val knows all that it sees: the ship, (20.5, 100), lies in two rows.
    seen = [a for a in read["val"]["annotations"] if a.get("full_id", a["id"]) == 1]
    assert len(seen) == 2 and len(read["full/val"]["annotations"]) == 2


def test_clicks_fall_inside_the_quadrilateral(tmp_path):
    """1,000 thin diagonal objects, whose boxes are nearly all background."""
    source = write_source(tmp_path / "DOTA")
    line = "10 10 14 10 190 186 186 190 bridge 0"
    (source / "train" / "labelTxt" / "P0001.txt").write_text("\n".join([line] * 1000))
    prepare(source, tmp_path / "out", Options(tile=160, overlap=40, workers=1, cut=True))
    full = json.loads((tmp_path / "out" / "annotations" / "full" / "train.json").read_text())
    assert len(full["annotations"]) == 1000
    coarse = json.loads((tmp_path / "out" / "annotations" / "train_coarse.json").read_text())
    corners = {image["id"]: image["cut_corner"] for image in coarse["images"]}
    points = np.array(
        [np.add(a["point"], corners[a["image_id"]][:2]) for a in coarse["annotations"]]
    )
    # The strip lies within 4 / sqrt(2) px of the diagonal; pixels add half of theirs.
    assert np.abs(points[:, 0] - points[:, 1]).max() <= 4 + 1.5
    assert len(np.unique(points, axis=0)) == 1000


def test_tiles_may_stay_uncut(source, tmp_path):
    output = tmp_path / "out"
    prepare(source, output, Options(tile=160, overlap=40))
    for split in ("train", "val"):
        assert (output / "images" / split).resolve() == (source / split / "images").resolve()
        dataset = load_points(output / "annotations" / f"{split}.json", require=None)
        assert len({i["file_name"] for i in dataset["images"]}) < len(dataset["images"])
        for record in dataset["images"]:
            assert read_recorded(output / "images" / split, record).shape == (160, 160, 3)


def test_versions(source, tmp_path):
    (source / "train" / "labelTxt" / "P0001.txt").write_text("1 2 30 2 30 40 1 40 helipad 0")
    options = Options(tile=160, overlap=40)
    with pytest.raises(InputError, match="'helipad' is none of"):
        prepare(source, tmp_path / "out", options)
    prepare(source, tmp_path / "out", options, version="2.0")
    with pytest.raises(InputError, match="version '3': use one of 1.0, 1.5, 2.0"):
        prepare(source, tmp_path / "out", options, version="3")
