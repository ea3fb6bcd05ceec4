import json

import pytest

from cpr.experiments.data import choose_classes, find_data, has_masks, select
from cpr_deploy.files import InputError


def make_set(folder, images="images"):
    for part in ("train", "val"):
        path = folder / "annotations" / f"{part}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    (folder / images).mkdir(parents=True)
    return folder


def dataset():
    labels = [5, 5, 5, 7, 7, 9, 5]
    return {
        "images": [{"id": i} for i in (30, 10, 20, 40)],
        "categories": [{"id": 9, "name": "c"}, {"id": 5, "name": "a"}, {"id": 7, "name": "b"}],
        "annotations": [
            {"id": i, "image_id": 10 * (1 + i % 4), "category_id": label}
            for i, label in enumerate(labels)
        ],
    }


def test_a_folder_by_path_or_by_name(tmp_path, monkeypatch):
    folder = make_set(tmp_path / "root" / "seals")
    by_path = find_data(str(folder))
    assert by_path.name == "seals"
    assert by_path.train == folder / "annotations" / "train.json"
    assert by_path.train_images == by_path.val_images == folder / "images"
    assert find_data("seals", tmp_path / "root") == by_path
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "root"))
    assert find_data("seals") == by_path


def test_image_folders_of_their_own(tmp_path):
    folder = make_set(tmp_path / "cells", images="images/train")
    (folder / "images" / "val").mkdir()
    data = find_data(str(folder))
    assert data.train_images == folder / "images" / "train"
    assert data.val_images == folder / "images" / "val"


def test_a_set_that_detectron2_knows():
    data = find_data("coco_2017")
    assert data.train.name == "instances_train2017.json"
    assert data.val_images.name == "val2017"


def test_an_unknown_set_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"'moon': no such data set.*DETECTRON2_DATASETS"):
        find_data("moon", tmp_path)


def test_classes_by_name_and_by_number_of_objects():
    data = dataset()
    assert choose_classes(data) == ["a", "b", "c"]
    assert choose_classes(data, ["c", "a"]) == ["a", "c"]
    assert choose_classes(data, top=2) == ["a", "b"]
    assert choose_classes(data, ["b", "c"], top=1) == ["b"]
    with pytest.raises(InputError, match=r"--classes d: the data set has c, a, b"):
        choose_classes(data, ["d"])


def test_select_keeps_what_belongs_together():
    data = dataset()
    before = json.dumps(data)
    part = select(data, classes=["a", "c"], images=2)
    assert json.dumps(data) == before
    assert [image["id"] for image in part["images"]] == [10, 30]
    assert {c["name"] for c in part["categories"]} == {"a", "c"}
    expected = [
        a for a in data["annotations"] if a["image_id"] in (10, 30) and a["category_id"] in (5, 9)
    ]
    assert part["annotations"] == expected and len(expected) == 3
    assert len(select(data, images=100)["images"]) == 4


def test_masks_are_found():
    data = dataset()
    assert not has_masks(data)
    data["annotations"][0]["segmentation"] = []
    assert not has_masks(data)
    data["annotations"][1]["segmentation"] = [[0, 0, 4, 0, 4, 4]]
    assert has_masks(data)
