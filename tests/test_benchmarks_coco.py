"""COCO 2017: clicks in polygons and run-length masks, crowds as regions; and real COCO images."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from cpr.data.benchmarks import find_spec
from cpr.data.benchmarks.coco import prepare
from cpr.data.benchmarks.layout import Options
from cpr.data.point_json import is_ignored, load_points
from cpr_deploy.files import InputError
from tool_runner import run_tool

REAL = Path(__file__).parents[2] / "shared" / "data" / "coco_mini"
SIZE = (60, 50)
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}]


def ring():
    """A mask with a hole in its middle, as run lengths."""
    ys, xs = np.mgrid[: SIZE[1], : SIZE[0]] + 0.5
    distance = np.hypot(xs - 40, ys - 25)
    mask = ((distance > 6) & (distance < 10)).astype(np.uint8)
    return mask, coco_mask.encode(np.asfortranarray(mask))


def make_split(image_id, name):
    mask, encoded = ring()
    runs = np.diff(np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=2, append=2)))
    crowd = {"size": [SIZE[1], SIZE[0]], "counts": runs.tolist()}
    packed = {"size": [SIZE[1], SIZE[0]], "counts": encoded["counts"].decode()}
    triangles = [[5, 5, 15, 5, 5, 15], [20, 20, 25, 20, 20, 25]]
    records = [
        {"bbox": [5, 5, 20, 20], "segmentation": triangles, "category_id": 1},
        {"bbox": [30, 15, 20, 20], "segmentation": packed, "category_id": 90},
        {"bbox": [30, 15, 20, 20], "segmentation": crowd, "category_id": 1, "iscrowd": 1},
        {"bbox": [9, 9, 0, 4], "segmentation": [[9, 9, 9, 13, 9, 11]], "category_id": 1},
    ]
    return {
        "info": {"year": 2017},
        "images": [
            {"id": image_id, "file_name": name, "width": SIZE[0], "height": SIZE[1], "license": 3}
        ],
        "annotations": [
            {"id": 10 * image_id + i, "image_id": image_id, "area": 100.0, "iscrowd": 0, **record}
            for i, record in enumerate(records)
        ],
        "categories": CATEGORIES,
    }


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "coco2017"
    (folder / "annotations").mkdir(parents=True)
    for image_id, split in enumerate(("train", "val"), start=1):
        (folder / f"{split}2017").mkdir()
        Image.new("RGB", SIZE).save(folder / f"{split}2017" / f"{image_id:012}.jpg")
        path = folder / "annotations" / f"instances_{split}2017.json"
        path.write_text(json.dumps(make_split(image_id, f"{image_id:012}.jpg")))
    return folder


def read(folder, name):
    return load_points(folder / "annotations" / f"{name}.json", require=None)


def test_one_command(source, tmp_path, capsys):
    output = tmp_path / "datasets" / "coco"
    arguments = ["benchmark", "coco", "--source", source, "--output", output]
    assert run_tool("prepare_points", *arguments) == 0
    assert "annotations/val.json" in capsys.readouterr().out
    for split in ("train", "val"):
        original = json.loads((source / "annotations" / f"instances_{split}2017.json").read_text())
        # The flat box is left out, everything else as it is.
        original["annotations"] = original["annotations"][:3]
        assert read(output, split) == original
        assert (output / "images" / split).resolve() == source / f"{split}2017"
        spec = find_spec(f"coco_{split}", tmp_path / "datasets")
        assert spec == f"points:{output / 'annotations' / split}.json@{output / 'images' / split}"
    spec = find_spec("coco_train_coarse", tmp_path / "datasets")
    assert spec is not None and spec.endswith("train_coarse.json@" + str(output / "images/train"))
    # Once more: the links are there already.
    assert run_tool("prepare_points", *arguments) == 0


def test_clicks_fall_on_the_masks(source, tmp_path):
    mask, _ = ring()
    seen = set()
    for seed in range(40):
        prepare(source, tmp_path / "out", Options(seed=seed))
        polygon, packed, crowd = read(tmp_path / "out", "train_coarse")["annotations"]
        x, y = polygon["point"]
        # In one of the two triangles, up to the pixels on their long sides.
        assert (min(x, y) >= 5 and x + y <= 21) or (min(x, y) >= 20 and x + y <= 46)
        x, y = packed["point"]
        assert mask[int(y), int(x)] == 1
        assert crowd["iscrowd"] == 1 and "point" not in crowd and "segmentation" in crowd
        assert "segmentation" not in polygon and polygon["bbox"] == [5, 5, 20, 20]
        seen.add(tuple(polygon["point"]))
    assert len(seen) == 40


def test_errors(source, tmp_path, capsys):
    with pytest.raises(InputError, match="COCO 2017: annotations/instances_train2017.json"):
        prepare(tmp_path, tmp_path / "out", Options())
    (tmp_path / "out" / "images" / "train").mkdir(parents=True)
    with pytest.raises(InputError, match="train: is there already and no link to"):
        prepare(source, tmp_path / "out", Options())
    path = source / "annotations" / "instances_train2017.json"
    dataset = json.loads(path.read_text())
    dataset["annotations"][0]["category_id"] = 4
    path.write_text(json.dumps(dataset))
    arguments = ["benchmark", "coco", "--source", source, "--output", tmp_path / "new"]
    assert run_tool("prepare_points", *arguments) == 2
    assert "instances_train2017.json: annotation id 10" in capsys.readouterr().err
    assert run_tool("prepare_points", *arguments, "--skip-bad") == 0
    # That one and the flat one.
    shown = capsys.readouterr().out
    assert "category_id 4" in shown and "annotation id 13" in shown and "3 skipped" in shown
    assert [a["id"] for a in read(tmp_path / "new", "train")["annotations"]] == [11, 12]
    (source / "val2017" / "000000000002.jpg").unlink()
    (source / "val2017").rmdir()
    with pytest.raises(InputError, match="val2017: no such image folder"):
        prepare(source, tmp_path / "other", Options())


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no {REAL}")
def test_real_coco_images(tmp_path):
    """270 images, 2,209 objects with polygons, 20 crowds with run-length masks."""
    prepare(REAL, tmp_path, Options())
    boxes, clicks = read(tmp_path, "train"), read(tmp_path, "train_coarse")
    assert len(boxes["images"]) == 270 and (tmp_path / "images").is_symlink()
    objects = [a for a in clicks["annotations"] if not is_ignored(a)]
    crowds = [a for a in clicks["annotations"] if is_ignored(a)]
    assert (len(objects), len(crowds)) == (2209, 20)
    assert all("point" not in a and isinstance(a["segmentation"], dict) for a in crowds)
    assert clicks["coarse_points"]["counts"]["mask"] > 2150
    # By another way: the pixel under the click, or one beside it, is on the object's mask.
    sizes = {image["id"]: (image["height"], image["width"]) for image in boxes["images"]}
    by_id = {a["id"]: a for a in boxes["annotations"]}
    on_mask = 0
    for annotation in objects[:300]:
        rows, columns = sizes[annotation["image_id"]]
        polygons = by_id[annotation["id"]]["segmentation"]
        mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, rows, columns)))
        x, y = (int(value) for value in annotation["point"])
        on_mask += bool(mask[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].any())
    assert on_mask >= 297
