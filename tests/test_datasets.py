import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from cpr.data.datasets import ensure_registered, make_spec, parse_spec, register_points
from cpr.data.tiling.tiles import tile_dataset
from cpr.engine import build_cfg
from cpr_deploy.files import InputError
from scenes import CATEGORY_IDS, edit_json, write_scenes

pytestmark = pytest.mark.usefixtures("at_root")


def cfg_for(architecture="P2PNet", *, train=(), test=(), num_classes=2):
    return build_cfg(
        f"configs/Base-{architecture}.yaml",
        [f"MODEL.{architecture.upper()}.NUM_CLASSES", str(num_classes)]
        + ["DATASETS.TRAIN", tuple(train), "DATASETS.TEST", tuple(test)],
    )


@pytest.fixture
def scenes(tmp_path):
    return write_scenes(tmp_path, num_classes=2)


@pytest.mark.parametrize(
    "spec, expected",
    [
        ("points:a.json@images", ("a.json", "images")),
        ("points:/data/a.json@/data/images", ("/data/a.json", "/data/images")),
        ("points:a.json@folder@2x", ("a.json", "folder@2x")),
        ("points:user@host/a.json@images", ("user@host/a.json", "images")),
        ("points:annotations@images", ("annotations", "images")),
        ("boxes:a.json@images", ("a.json", "images")),
    ],
)
def test_parse_spec(spec, expected):
    assert parse_spec(spec) == expected


@pytest.mark.parametrize(
    "spec", ["points:a.json", "points:@images", "points:a.json@", "boxes:a.json", "coco_2017"]
)
def test_bad_spec(spec):
    with pytest.raises(InputError, match="points:annotations.json@image_folder"):
        parse_spec(spec)


def test_dataset_dicts(scenes):
    path, root = scenes
    dataset = json.loads(path.read_text())
    spec = make_spec(path, root)
    register_points(spec)
    dicts = DatasetCatalog.get(spec)

    assert [d["image_id"] for d in dicts] == [image["id"] for image in dataset["images"]]
    assert all(set(d) == set(dicts[0]) for d in dicts)
    found = {a["id"]: a for d in dicts for a in d["annotations"]}
    assert found.keys() == {a["id"] for a in dataset["annotations"]}
    for annotation in dataset["annotations"]:
        record = found[annotation["id"]]
        assert record["category_id"] == CATEGORY_IDS.index(annotation["category_id"])
        np.testing.assert_array_equal(record["point"], annotation["point"])
        assert set(record) == {"id", "category_id", "point"}, "a box must never be passed on"
    metadata = MetadataCatalog.get(spec)
    assert metadata.category_ids == [3, 7]
    assert metadata.thing_classes == ["class0", "class1"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}


def test_dataset_dicts_of_boxes(scenes):
    """Boxes in place of points, as corners."""
    path, root = scenes
    spec = f"boxes:{path}@{root}"
    ensure_registered(cfg_for("RetinaNet", train=[spec]))
    found = {a["id"]: a for d in DatasetCatalog.get(spec) for a in d["annotations"]}
    for annotation in json.loads(path.read_text())["annotations"]:
        x, y, w, h = annotation["bbox"]
        record = found[annotation["id"]]
        assert set(record) == {"id", "category_id", "bbox"}
        np.testing.assert_array_equal(record["bbox"], [x, y, x + w, y + h])
    assert MetadataCatalog.get(spec).category_ids == [3, 7]


def test_boxes_are_for_box_detectors(scenes):
    path, root = scenes
    spec = f"boxes:{path}@{root}"
    with pytest.raises(InputError, match="P2PNet learns points, not boxes. Write points:"):
        ensure_registered(cfg_for(train=[spec]))
    edit_json(path, lambda dataset: dataset["annotations"][1].pop("bbox"))
    with pytest.raises(InputError, match="annotation id 101.*no bbox"):
        ensure_registered(cfg_for("RetinaNet", train=[spec]))
    # Not of a data set of points.
    ensure_registered(cfg_for("RetinaNet", train=[make_spec(path, root)]))
    edit_json(path, lambda dataset: dataset["annotations"][1].pop("point"))
    with pytest.raises(InputError, match="annotation id 101"):
        ensure_registered(cfg_for("RetinaNet", train=[make_spec(path, root)]))


@pytest.mark.parametrize("flag", ["ignore", "iscrowd"])
def test_ignored_annotations_become_regions(scenes, flag):
    path, root = scenes

    def change(dataset):
        first = dataset["annotations"][0]
        first.update({flag: 1, "bbox": [3.0, 4.0, 10.0, 6.0], "image_id": 10})
        del first["point"]

    edit_json(path, change)
    spec = make_spec(path, root)
    ensure_registered(cfg_for(train=[spec]))
    first = DatasetCatalog.get(spec)[0]
    np.testing.assert_array_equal(first["ignore_regions"], [[3, 4, 13, 10]])
    assert 100 not in [a["id"] for a in first["annotations"]]


def test_a_changed_file_is_read_again(scenes):
    path, root = scenes
    spec = make_spec(path, root)
    register_points(spec)
    before = len(DatasetCatalog.get(spec))
    edit_json(path, lambda dataset: dataset["images"].append({**dataset["images"][0], "id": 99}))
    register_points(spec)
    assert len(DatasetCatalog.get(spec)) == before + 1


def test_num_classes_must_agree(scenes):
    with pytest.raises(InputError, match=r"MODEL\.P2PNET\.NUM_CLASSES is 5.*has 2.*NUM_CLASSES 2"):
        ensure_registered(cfg_for(train=[make_spec(*scenes)], num_classes=5))


def test_classes_of_train_and_test_must_agree(tmp_path, scenes):
    other = write_scenes(tmp_path, name="other")
    edit_json(other[0], lambda dataset: dataset["categories"][0].update(name="else"))
    cfg = cfg_for(train=[make_spec(*scenes)], test=[make_spec(*other)])
    with pytest.raises(InputError, match="other.json.*categories differ"):
        ensure_registered(cfg)


def test_training_needs_clicks_and_evaluation_does_not(tmp_path):
    path, root = write_scenes(tmp_path, clicks=False)
    spec = make_spec(path, root)
    ensure_registered(cfg_for(test=[spec]), train=False)
    with pytest.raises(InputError, match="annotation id 100.*no point"):
        ensure_registered(cfg_for(train=[spec]))
    with pytest.raises(InputError, match="no point"):
        ensure_registered(cfg_for("CPRNet", test=[spec]), train=False)


def test_evaluation_needs_all_boxes_or_none(scenes):
    path, root = scenes
    cfg = cfg_for(test=[make_spec(path, root)])
    edit_json(path, lambda dataset: dataset["annotations"][1].pop("bbox"))
    with pytest.raises(InputError, match="annotation id 101.*no bbox"):
        ensure_registered(cfg, train=False)
    ensure_registered(cfg, train=False, evaluate=False)
    edit_json(path, lambda dataset: [a.pop("bbox", None) for a in dataset["annotations"]])
    ensure_registered(cfg, train=False)


def test_missing_files(scenes, tmp_path):
    path, root = scenes
    with pytest.raises(InputError, match=r"none\.json"):
        register_points(make_spec(tmp_path / "none.json", root))
    with pytest.raises(InputError, match="no such image folder"):
        register_points(make_spec(path, tmp_path / "nowhere"))
    (root / "scenes0.png").unlink()
    register_points(make_spec(path, root))
    with pytest.raises(InputError, match=r"scenes0\.png.*no such image"):
        DatasetCatalog.get(make_spec(path, root))


def test_empty_train_and_unknown_names():
    with pytest.raises(InputError, match="DATASETS.TRAIN is empty"):
        ensure_registered(cfg_for())
    with pytest.raises(InputError, match="'coco_of_nobody' is not a data set"):
        ensure_registered(cfg_for(train=["coco_of_nobody"]))


def make_tiles(path, **settings):
    """Tiles of 40 px of the data set in `path`, 64 px wide, beside it."""
    tiles = tile_dataset(json.loads(path.read_text()), tile=40, overlap=10, **settings)
    output = path.with_name("tiles.json")
    output.write_text(json.dumps(tiles))
    return output, tiles


def test_tiles_are_cropped_and_know_their_core(scenes):
    path, root = scenes
    output, tiles = make_tiles(path)
    spec = make_spec(output, root)
    ensure_registered(cfg_for(train=[spec]))
    dicts = DatasetCatalog.get(spec)
    # 64 px: tiles 0..40 and 24..64, which meet at 32.
    assert [d["corner"] for d in dicts[:2]] == [(0, 0, 40, 40), (0, 24, 40, 64)]
    np.testing.assert_array_equal(dicts[0]["ignore_regions"], [[32, 0, 40, 40], [0, 32, 32, 40]])
    np.testing.assert_array_equal(dicts[1]["ignore_regions"], [[32, 0, 40, 40], [0, 0, 32, 8]])
    points = {a["id"]: a["point"].tolist() for d in dicts for a in d["annotations"]}
    assert points == {a["id"]: a["point"] for a in tiles["annotations"]}
    edit_json(output, lambda dataset: dataset["images"][0].update(corner=[0, 0, 41, 40]))
    register_points(spec)
    with pytest.raises(InputError, match="image id 1: corner .* is not"):
        DatasetCatalog.get(spec)


def test_tiles_with_a_core_are_for_networks_that_heed_it(scenes):
    path, root = scenes
    output, _ = make_tiles(path)
    spec = make_spec(output, root)
    with pytest.raises(InputError, match="RetinaNet would learn the others as background. Tile"):
        ensure_registered(cfg_for("RetinaNet", train=[spec]))
    cfg = cfg_for(train=[spec])
    cfg.MODEL.P2PNET.IGNORE_AS_BACKGROUND = True
    with pytest.raises(InputError, match="P2PNet would learn the others as background"):
        ensure_registered(cfg)
    make_tiles(path, copies=True)
    ensure_registered(cfg)
    ensure_registered(cfg_for("RetinaNet", train=[spec]))


def test_names_of_benchmark_sets(scenes, tmp_path, monkeypatch):
    path, root = scenes
    folder = tmp_path / "datasets" / "seaperson"
    (folder / "annotations").mkdir(parents=True)
    (folder / "annotations" / "train_coarse.json").write_text(path.read_text())
    root.rename(folder / "images")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    ensure_registered(cfg_for(train=["seaperson_train_coarse"]))
    assert len(DatasetCatalog.get("seaperson_train_coarse")) == 4
    assert MetadataCatalog.get("seaperson_train_coarse").thing_classes == ["class0", "class1"]
    with pytest.raises(InputError, match="'seaperson_val' is not a data set"):
        ensure_registered(cfg_for(train=["seaperson_val"]))
