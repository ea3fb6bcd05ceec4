"""SeaPerson and TinyPerson: every flag, tiles, the authors' clicks; and the real TinyPerson."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cpr.data.benchmarks import find_spec
from cpr.data.benchmarks.layout import Options
from cpr.data.benchmarks.seaperson import apply_flags, prepare
from cpr.data.image_folder import read_recorded
from cpr.data.point_json import find_problems, is_ignored, load_points
from cpr.data.pseudo_boxes import add_pseudo_boxes
from cpr.data.tiling.tiles import tile_dataset
from cpr.data.tiling.untile import untile_points
from cpr_deploy.files import InputError
from cpr_deploy.image_files import read_rgb
from tool_runner import run_tool

REAL = Path(__file__).parents[2] / "shared" / "data" / "tinyperson640"
SIZE = (150, 80)
CATEGORIES = [{"id": 1, "name": "sea_person"}, {"id": 2, "name": "earth_person"}]
FLAGS = ("ignore", "uncertain", "logo", "in_dense_image")


def make_split(first_id, names):
    """Images of 8 boxes: plain, of the other class, one for each flag, and one in a crowd image."""
    images, annotations = [], []
    for index, name in enumerate(names):
        image_id = first_id + index
        images.append({"id": image_id, "file_name": name, "width": SIZE[0], "height": SIZE[1]})
        dense = "dense" in name
        for place in range(6):
            flags = dict.fromkeys(FLAGS, False)
            if 2 <= place < 5:
                flags[FLAGS[place - 2]] = True
            flags["in_dense_image"] = dense
            x, y = 5.0 + 22 * place, 10.0 + 9 * place
            corners = [x, y, x + 10, y, x + 10, y + 20, x, y + 20]
            annotations.append(
                {
                    "segmentation": [corners],
                    "id": 100 * image_id + place,
                    "image_id": image_id,
                    "category_id": 1 + place % 2,
                    "bbox": [x, y, 10.0, 20.0],
                    "area": 200.0,
                    "iscrowd": 0,
                    **flags,
                }
            )
    return {
        "type": "instance",
        "images": images,
        "annotations": annotations,
        "categories": CATEGORIES,
    }


def write_source(folder):
    """A made SeaPerson: two images a split, the second of the training part too dense."""
    rng = np.random.default_rng(0)
    (folder / "anns" / "release").mkdir(parents=True)
    (folder / "imgs").mkdir()
    for first_id, (split, names) in enumerate(
        {
            "train": ("v1.png", "dense.png"),
            "valid": ("v2.png", "v3.png"),
            "test": ("v4.png",),
        }.items()
    ):
        for name in names:
            pixels = rng.integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "imgs" / name)
        path = folder / "anns" / "release" / f"rgb_{split}.json"
        path.write_text(json.dumps(make_split(10 * (first_id + 1), names)))
    return folder


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "source")


OPTIONS = Options(tile=100, overlap=20, workers=1)


def read(folder, name):
    return load_points(folder / "annotations" / f"{name}.json", require=None)


def test_flags_become_regions():
    dataset = make_split(1, ["a.png", "dense.png"])
    flagged = apply_flags(dataset)
    assert [image["file_name"] for image in flagged["images"]] == ["a.png"]
    assert [(a["id"], is_ignored(a)) for a in flagged["annotations"]] == [
        (100, False),
        (101, False),
        (102, True),  # ignore
        (103, True),  # uncertain
        (104, True),  # logo
        (105, False),
    ]
    assert flagged["categories"] == [{"id": 1, "name": "person"}]
    assert {a["category_id"] for a in flagged["annotations"]} == {1}
    assert flagged["annotations"][3]["uncertain"] is True, "the flags themselves are kept"
    assert all("segmentation" not in a for a in flagged["annotations"])
    assert dataset == make_split(1, ["a.png", "dense.png"]), "the input must not change"

    kept = apply_flags(dataset, dense="keep", one_class=False)
    assert len(kept["images"]) == 2 and kept["categories"] == CATEGORIES
    assert sum(is_ignored(a) for a in kept["annotations"]) == 6
    assert [a["category_id"] for a in kept["annotations"]][:2] == [1, 2]
    ignored = apply_flags(dataset, dense="ignore")
    assert sum(is_ignored(a) for a in ignored["annotations"]) == 3 + 6


def test_a_tile_of_a_dense_image_is_dense_too():
    """Also one that holds none of its boxes."""
    dataset = make_split(1, ["dense.png"])
    dataset["images"].append({**dataset["images"][0], "id": 2})
    dataset["images"].append({**dataset["images"][0], "id": 3, "file_name": "b.png"})
    assert [image["id"] for image in apply_flags(dataset)["images"]] == [3]


def test_flags_must_be_flags():
    dataset = make_split(1, ["a.png"])
    dataset["annotations"][4]["uncertain"] = "yes"
    with pytest.raises(InputError, match="annotation id 104: uncertain 'yes' is not 0, 1"):
        apply_flags(dataset)
    with pytest.raises(InputError, match="dense 'all': use one of drop, ignore, keep"):
        apply_flags(make_split(1, ["a.png"]), dense="all")


@pytest.mark.parametrize("cut", [False, True])
def test_the_layout(source, tmp_path, monkeypatch, cut):
    output = tmp_path / "datasets" / "seaperson"
    options = Options(tile=100, overlap=20, workers=1, cut=cut)
    prepared = prepare(source, output, options)
    names = ["full/train", "train", "train_coarse", "full/val", "val", "full/test", "test"]
    assert prepared.files == [output / "annotations" / f"{name}.json" for name in names]
    assert prepared.skipped == []
    assert (output / "images").is_symlink() is not cut

    # 150 x 80 px: two tiles, 0..100 and 50..150, which meet at 75. Dense images are gone.
    train = read(output, "train")
    assert [i.get("corner", i.get("cut_corner")) for i in train["images"]] == [
        [0, 0, 100, 80],
        [50, 0, 150, 80],
    ]
    objects = {a["id"]: a["image_id"] for a in train["annotations"] if not is_ignored(a)}
    assert objects == {1000: 1, 1001: 1, 1005: 2} and "core" not in train["images"][0]
    # The regions 49..59, 71..81 and 93..103 are in every tile that sees them.
    regions = [(a.get("full_id", a["id"]), a["image_id"]) for a in train["annotations"]]
    assert {r for r in regions if r[0] in (1002, 1003, 1004)} == {
        (region, tile) for region in (1002, 1003, 1004) for tile in (1, 2)
    }
    # In val and test every tile knows all that it sees: the object at 32 only the first.
    val = read(output, "val")
    first_frame = [a for a in val["annotations"] if a["image_id"] in (1, 2)]
    seen = [a.get("full_id", a["id"]) for a in first_frame if not is_ignored(a)]
    assert seen == [2000, 2001, 2005] and all("core" not in image for image in val["images"])
    assert [i["id"] for i in read(output, "full/train")["images"]] == [10]

    # Clicks: in the boxes of the full image, none for regions, mapped back by id.
    coarse = read(output, "train_coarse")
    full = read(output, "full/train")
    clicked = [a for a in coarse["annotations"] if "point" in a]
    assert coarse["images"][0]["core"] == [0, 0, 75, 80]
    assert sorted(a["id"] for a in clicked) == [1000, 1001, 1005]
    boxes = {a["id"]: a["bbox"] for a in full["annotations"]}
    for annotation in untile_points(full, coarse)["annotations"]:
        if "point" in annotation:
            x, y, w, h = boxes[annotation["id"]]
            px, py = annotation["point"]
            assert x <= px <= x + w and y <= py <= y + h
    for name in ("train", "train_coarse", "val", "test"):
        dataset = read(output, name)
        assert not [p for p in find_problems(dataset) if p.is_error]
        for record in dataset["images"]:
            file = record.get("full_file_name", record["file_name"])
            left = record.get("corner", record.get("cut_corner"))[0]
            pixels = read_recorded(output / "images", record)
            expected = read_rgb(source / "imgs" / file)[:, left : left + 100]
            np.testing.assert_array_equal(pixels, expected)

    # The same once more: nothing in the way, the same files.
    before = (output / "annotations" / "train_coarse.json").read_text()
    prepare(source, output, options)
    assert (output / "annotations" / "train_coarse.json").read_text() == before
    spec = find_spec("seaperson_train_coarse", tmp_path / "datasets")
    assert spec == f"points:{output / 'annotations' / 'train_coarse.json'}@{output / 'images'}"
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    assert find_spec("seaperson_train_coarse") == spec
    for name in ("seaperson_none", "seaperson", "coco_train", "else_train", "seaperson_../../x"):
        assert find_spec(name) is None


def test_official_tiles(source, tmp_path):
    options = Options(tile=100, overlap=20, official=True)
    prepare(source, tmp_path / "out", options)
    full, train = read(tmp_path / "out", "full/train"), read(tmp_path / "out", "train")
    expected = tile_dataset(full, tile=100, overlap=20, grid="official")
    assert train == expected and train["images"][1]["corner"] == [80, 0, 150, 80]


def test_published_clicks_on_tiles(source, tmp_path):
    """The authors' file: tiles with `corner`, pseudo boxes around clicks, true boxes."""
    full = apply_flags(make_split(10, ["v1.png"]))
    objects = [a for a in full["annotations"] if not is_ignored(a)]
    for annotation in objects:
        x, y, w, h = annotation["bbox"]
        annotation["point"] = [x + w / 2 + 2, y + h / 2 - 3]
    tiled = tile_dataset({**full, "annotations": objects}, tile=100, overlap=20, grid="official")
    for image in tiled["images"]:
        del image["full_image_id"]  # the published files have no such link
    published = add_pseudo_boxes(tiled)
    for annotation in published["annotations"]:
        del annotation["full_id"], annotation["point"]
    (tmp_path / "coarse.json").write_text(json.dumps(published))

    output = tmp_path / "out"
    prepare(source, output, OPTIONS, coarse=tmp_path / "coarse.json")
    coarse = read(output, "train_coarse")
    assert [i["corner"] for i in coarse["images"]] == [[0, 0, 100, 80], [80, 0, 150, 80]]
    found = {(a["image_id"], *np.round(a["point"], 6)) for a in coarse["annotations"]}
    assert found == {(a["image_id"], *np.round(a["point"], 6)) for a in tiled["annotations"]}
    # Pseudo boxes are gone, the true ones are back, and train.json has the same tiles.
    assert [a["bbox"] for a in coarse["annotations"]] == [a["bbox"] for a in tiled["annotations"]]
    train = read(output, "train")
    assert train["images"] == coarse["images"]
    assert [a["bbox"] for a in train["annotations"]] == [a["bbox"] for a in coarse["annotations"]]
    assert all("point" not in a for a in train["annotations"])
    for record in coarse["images"]:
        assert read_recorded(output / "images", record).shape[0] == 80


def test_published_clicks_on_full_images(source, tmp_path):
    clicks = make_split(10, ["v1.png"])
    for annotation in clicks["annotations"]:
        annotation["true_bbox"] = annotation["bbox"]
        annotation["bbox"] = [20.0, 20.0, 16.0, 16.0]
    (tmp_path / "coarse.json").write_text(json.dumps(clicks))
    prepare(source, tmp_path / "out", OPTIONS, coarse=tmp_path / "coarse.json")
    coarse = read(tmp_path / "out", "train_coarse")
    points = [a["point"] for a in coarse["annotations"] if not is_ignored(a)]
    assert points == [[28.0, 28.0]] * 3 and "core" in coarse["images"][0]


def test_clicks_of_other_images_are_refused(source, tmp_path):
    """For example our own file of tiles that were cut to files of their own."""
    prepare(source, tmp_path / "cut", Options(tile=100, overlap=20, workers=1, cut=True))
    coarse = tmp_path / "cut" / "annotations" / "train_coarse.json"
    with pytest.raises(InputError, match=r"train_coarse.json: .*no such image.*on images of --so"):
        prepare(source, tmp_path / "out", OPTIONS, coarse=coarse)


def test_tiny_person(tmp_path):
    """Two splits in folders of their own; val is the test part."""
    source = tmp_path / "tiny_set"
    for split, name in (("train", "a.png"), ("test", "b.png")):
        (source / split / "labeled_images").mkdir(parents=True)
        Image.new("RGB", SIZE).save(source / split / "labeled_images" / name)
        (source / "annotations").mkdir(exist_ok=True)
        dataset = make_split(1, [f"labeled_images/{name}"])
        (source / "annotations" / f"tiny_set_{split}.json").write_text(json.dumps(dataset))
    output = tmp_path / "out"
    prepare(source, output, OPTIONS)
    for split, folder in (("train", "train"), ("val", "test")):
        assert (output / "images" / split).resolve() == (source / folder).resolve()
        for record in read(output, split)["images"]:
            read_recorded(output / "images" / split, record)
    prepare(source, tmp_path / "cut", Options(tile=100, overlap=20, workers=1, cut=True))
    assert len(list((tmp_path / "cut" / "images" / "labeled_images").iterdir())) == 4
    # Two images of one name cannot be cut into one folder.
    dataset = make_split(1, ["labeled_images/a.png"])
    (source / "annotations" / "tiny_set_test.json").write_text(json.dumps(dataset))
    (source / "test" / "labeled_images" / "b.png").rename(
        source / "test" / "labeled_images" / "a.png"
    )
    with pytest.raises(InputError, match=r"a\.png: another image of this name"):
        prepare(source, tmp_path / "cut2", Options(tile=100, overlap=20, workers=1, cut=True))


def test_errors_and_bad_records(source, tmp_path, capsys):
    with pytest.raises(InputError, match="no such folder"):
        prepare(tmp_path / "none", tmp_path / "out", OPTIONS)
    with pytest.raises(InputError, match="must hold one of: SeaPerson: anns/release/rgb_train"):
        prepare(tmp_path, tmp_path / "out", OPTIONS)
    with pytest.raises(InputError, match="is read by this command"):
        prepare(source, source, OPTIONS)
    output = tmp_path / "out"
    prepare(source, output, OPTIONS)
    with pytest.raises(InputError, match="images: is a link, and tiles would be written behind"):
        prepare(source, output, Options(tile=100, overlap=20, workers=1, cut=True))

    path = source / "anns" / "release" / "rgb_train.json"
    dataset = json.loads(path.read_text())
    dataset["annotations"][0]["bbox"] = [5, 5, -1, 3]
    path.write_text(json.dumps(dataset))
    arguments = ["benchmark", "seaperson", "--source", source, "--output", tmp_path / "new"]
    assert run_tool("prepare_points", *arguments) == 2
    error = capsys.readouterr().err
    assert "rgb_train.json: annotation id 1000" in error and "not positive" in error
    arguments += ["--skip-bad", "--tile", 100, "--overlap", 20]
    assert run_tool("prepare_points", *arguments) == 0
    shown = capsys.readouterr().out
    assert "skipped: rgb_train.json: annotation id 1000" in shown and "1 skipped" in shown
    assert 1000 not in [a["id"] for a in read(tmp_path / "new", "full/train")["annotations"]]


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no {REAL}")
def test_the_real_tiny_person(tmp_path, monkeypatch):
    """161 frames of 640 x 640 px in tiles of 256: every person once, where they were."""
    output = tmp_path / "seaperson"
    prepare(REAL, output, Options(tile=256, overlap=60))
    counts = {"train": (110, 5535, 159), "val": (51, 5009, 155)}  # of its README
    for split, (images, people, regions) in counts.items():
        full, tiles = read(output, f"full/{split}"), read(output, split)
        assert len(full["images"]) == images and len(tiles["images"]) == 9 * images
        assert sum(not is_ignored(a) for a in full["annotations"]) == people
        assert sum(is_ignored(a) for a in full["annotations"]) == regions
        assert not [p for p in find_problems(tiles) if p.is_error]
        assert untile_points(full, tiles) == full
    train, full = read(output, "train"), read(output, "full/train")
    objects = [a for a in train["annotations"] if not is_ignored(a)]
    assert len(objects) > 5535 and {a.get("full_id", a["id"]) for a in objects} == {
        a["id"] for a in full["annotations"] if not is_ignored(a)
    }
    frames = {image["id"]: image for image in train["images"]}
    for record in train["images"][:3]:
        assert read_recorded(output / "images", record).shape == (256, 256, 3)
    # Boxes of tiles are the parts of the full ones that the tile sees.
    full_boxes = {a["id"]: a["bbox"] for a in full["annotations"]}
    for annotation in objects:
        left, top, right, bottom = frames[annotation["image_id"]]["corner"]
        x, y, w, h = full_boxes[annotation.get("full_id", annotation["id"])]
        x1, y1, x2, y2 = max(x, left), max(y, top), min(x + w, right), min(y + h, bottom)
        expected = [x1 - left, y1 - top, x2 - x1, y2 - y1]
        np.testing.assert_allclose(annotation["bbox"], expected, rtol=0, atol=1e-9)
    # Clicks: every person has one, in the tile that owns the place of the click.
    coarse = read(output, "train_coarse")
    clicked = [a["id"] for a in coarse["annotations"] if "point" in a]
    assert len(clicked) == len(set(clicked)) == 5535
