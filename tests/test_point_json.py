import copy
import json
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpr.data.point_json import (
    category_index,
    find_problems,
    image_path,
    is_ignored,
    load_detections,
    load_points,
    save_points,
)
from cpr_deploy.files import InputError


def make_dataset() -> dict:
    return {
        "info": {"kept": True},
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30, "extra": 5}],
        "categories": [{"id": 7, "name": "car"}, {"id": 3, "name": "boat"}],
        "annotations": [
            {
                "id": 11,
                "image_id": 1,
                "category_id": 7,
                "point": [4.0, 5.5],
                "bbox": [2, 3, 6, 8],
                "extra": "kept",
            },
            {"id": 12, "image_id": 1, "category_id": 3, "point": [40, 30], "ignore": 0},
            {"id": 13, "image_id": 1, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        ],
    }


def write(tmp_path, value) -> str:
    path = tmp_path / "points.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(path)


def test_round_trip_keeps_everything(tmp_path):
    dataset = make_dataset()
    path = write(tmp_path, dataset)
    loaded = load_points(path)
    assert loaded == dataset
    save_points(tmp_path / "again.json", loaded)
    assert load_points(tmp_path / "again.json") == dataset


def test_helpers(tmp_path):
    dataset = make_dataset()
    assert category_index(dataset) == {3: 0, 7: 1}
    assert [is_ignored(a) for a in dataset["annotations"]] == [False, False, True]
    with pytest.raises(InputError, match="image id 1"):
        image_path(tmp_path, dataset["images"][0])
    (tmp_path / "a.png").touch()
    assert image_path(tmp_path, dataset["images"][0]) == tmp_path / "a.png"
    with pytest.raises(InputError, match="relative|leads out"):
        image_path(tmp_path, {"id": 1, "file_name": "../a.png"})


# What is broken -> what the error must name. `a` is the first annotation, `i` the image.
BROKEN = {
    "nan point": (lambda d, a, i: a.update(point=[float("nan"), 1]), "NaN"),
    "infinite point": (lambda d, a, i: a.update(point=[float("inf"), 1]), "Infinity"),
    "huge point": (lambda d, a, i: a.update(point=[1e300, 1]), "id 11.*point"),
    "long whole number": (lambda d, a, i: a.update(point=[10**400, 1]), "id 11.*point"),
    "negative point": (lambda d, a, i: a.update(point=[-0.1, 1]), "id 11.*outside"),
    "outside right": (lambda d, a, i: a.update(point=[40.1, 1]), "id 11.*outside.*40 x 30"),
    "outside bottom": (lambda d, a, i: a.update(point=[1, 30.1]), "id 11.*outside"),
    "text point": (lambda d, a, i: a.update(point="4, 5"), "id 11.*point"),
    "bool in point": (lambda d, a, i: a.update(point=[True, 5]), "id 11.*point"),
    "three numbers": (lambda d, a, i: a.update(point=[1, 2, 3]), "id 11.*point"),
    "box without width": (lambda d, a, i: a.update(bbox=[1, 2, 0, 3]), "id 11.*not positive"),
    "negative side": (lambda d, a, i: a.update(bbox=[1, 2, 4, -3]), "id 11.*not positive"),
    "short box": (lambda d, a, i: a.update(bbox=[1, 2, 4]), "id 11.*bbox"),
    "coarse point": (lambda d, a, i: a.update(coarse_point=[1]), "id 11.*coarse_point"),
    "score": (lambda d, a, i: a.update(refine_score="good"), "id 11.*refine_score"),
    "flag": (lambda d, a, i: a.update(iscrowd=2), "id 11.*iscrowd"),
    "flag text": (lambda d, a, i: a.update(ignore="no"), "id 11.*ignore"),
    "unknown image": (lambda d, a, i: a.update(image_id=9), "id 11.*image_id 9"),
    "unknown class": (lambda d, a, i: a.update(category_id=9), "id 11.*category_id 9"),
    "list as image id": (lambda d, a, i: a.update(image_id=[1]), "id 11.*image_id"),
    "duplicate annotation": (lambda d, a, i: a.update(id=12), "id 12.*twice"),
    "bool id": (lambda d, a, i: a.update(id=True), "annotation 0.*id True"),
    "text id": (lambda d, a, i: a.update(id="x"), "annotation 0.*id 'x'"),
    "no id": (lambda d, a, i: a.pop("id"), "annotation 0.*id None"),
    "neither": (lambda d, a, i: (a.pop("point"), a.pop("bbox")), "id 11.*neither point nor"),
    "duplicate image": (lambda d, a, i: d["images"].append(dict(i)), "image id 1.*twice"),
    "duplicate class": (
        lambda d, a, i: d["categories"].append({"id": 7, "name": "x"}),
        "category id 7.*twice",
    ),
    "same class name": (
        lambda d, a, i: d["categories"].append({"id": 8, "name": "car"}),
        "'car' is used twice",
    ),
    "unnamed class": (lambda d, a, i: d["categories"][0].pop("name"), "category id 7.*name"),
    "no width": (lambda d, a, i: i.pop("width"), "image id 1.*width"),
    "zero height": (lambda d, a, i: i.update(height=0), "image id 1.*height"),
    "half a pixel": (lambda d, a, i: i.update(width=40.5), "image id 1.*width"),
    "no file name": (lambda d, a, i: i.pop("file_name"), "image id 1.*file_name"),
    "path traversal": (lambda d, a, i: i.update(file_name="b/../../a"), "image id 1.*leads out"),
    "absolute path": (lambda d, a, i: i.update(file_name="/etc/passwd"), "image id 1.*leads out"),
    "no images": (lambda d, a, i: d.update(images=[], annotations=[]), "empty"),
    "no annotations": (lambda d, a, i: d.update(annotations=[]), "empty"),
    "only regions": (lambda d, a, i: [x.update(ignore=1) for x in d["annotations"]], "empty"),
    "no classes": (lambda d, a, i: d.update(categories=[], annotations=[]), "categories.*empty"),
    "annotations missing": (lambda d, a, i: d.pop("annotations"), "no list 'annotations'"),
    "number as record": (lambda d, a, i: d["annotations"].append(5), "not an object"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_bad_record_is_named(name, tmp_path):
    breaks, message = BROKEN[name]
    dataset = make_dataset()
    breaks(dataset, dataset["annotations"][0], dataset["images"][0])
    path = write(tmp_path, dataset)
    with pytest.raises(InputError, match=message) as caught:
        load_points(path)
    assert path in str(caught.value)


def test_number_too_large_for_json(tmp_path):
    text = json.dumps(make_dataset()).replace("[4.0, 5.5]", "[1e999, 5.5]")
    with pytest.raises(InputError, match="id 11.*finite"):
        load_points(write(tmp_path, text))


def test_cut_file_and_wrong_top_level(tmp_path):
    text = json.dumps(make_dataset())
    with pytest.raises(InputError, match="not valid JSON"):
        load_points(write(tmp_path, text[: len(text) // 2]))
    with pytest.raises(InputError, match="detections"):
        load_points(write(tmp_path, []))
    with pytest.raises(InputError, match="no such file"):
        load_points(tmp_path / "missing.json")


def test_require(tmp_path):
    path = write(tmp_path, make_dataset())
    load_points(path, require="point")
    with pytest.raises(InputError, match="id 12.*no bbox"):
        load_points(path, require="box")
    dataset = make_dataset()
    del dataset["annotations"][0]["point"]
    with pytest.raises(InputError, match="id 11.*no point"):
        load_points(write(tmp_path, dataset), require="point")
    dataset["annotations"] = []
    assert load_points(write(tmp_path, dataset), require=None)["annotations"] == []
    with pytest.raises(ValueError, match="require"):
        list(find_problems(dataset, require="points"))


def test_flat_boxes_are_left_out_and_the_first_is_named(tmp_path, caplog):
    dataset = make_dataset()
    dataset["annotations"][1]["bbox"] = [3, 3, 0, 5]
    path = write(tmp_path, dataset)
    with pytest.raises(InputError, match="annotation id 12 .annotation 1 from 0.*not positive"):
        load_points(path)
    with caplog.at_level(logging.WARNING):
        kept = load_points(path, drop_flat=True)["annotations"]
    assert [annotation["id"] for annotation in kept] == [11, 13]
    assert "left out 1 objects" in caplog.text
    assert "the first one annotation id 12 (annotation 1 from 0)" in caplog.text


def test_class_without_objects_is_a_warning(tmp_path, caplog):
    dataset = make_dataset()
    dataset["categories"].append({"id": 9, "name": "plane"})
    with caplog.at_level(logging.WARNING):
        load_points(write(tmp_path, dataset))
    assert "'plane' has no objects" in caplog.text


def test_save_refuses_nan_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "points.json"
    save_points(path, make_dataset())
    before = path.read_bytes()
    dataset = make_dataset()
    dataset["annotations"][0]["point"] = [float("nan"), 1.0]
    with pytest.raises(InputError, match=r"points\.json"):
        save_points(path, dataset)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["points.json"]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
PATHS = [("images", 0, k) for k in ("id", "file_name", "width", "height")]
PATHS += [("categories", 0, k) for k in ("id", "name")]
PATHS += [
    ("annotations", 0, k)
    for k in ("id", "image_id", "category_id", "point", "bbox", "ignore", "iscrowd", "true_bbox")
]
PATHS += [(k,) for k in ("images", "categories", "annotations")]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PATHS), JSON_VALUES)
def test_any_value_anywhere_is_reported_not_raised(path, value):
    dataset = copy.deepcopy(make_dataset())
    parent = dataset
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    for problem in find_problems(dataset):
        assert problem.record and problem.text


def test_authors_coarse_file_is_converted(tmp_path, caplog):
    dataset = make_dataset()
    dataset["annotations"] = [
        # As published: pseudo boxes around (20, 15), and around (3, 28) clipped on two sides.
        {"id": 1, "image_id": 1, "category_id": 7, "bbox": [12, 7, 16, 16]},
        {"id": 2, "image_id": 1, "category_id": 7, "bbox": [0, 20, 11, 10]},
        # A point that is given wins, also half a pixel outside.
        {"id": 3, "image_id": 1, "category_id": 3, "bbox": [0, 0, 8, 8], "point": [-0.4, 0.2]},
    ]
    for annotation in dataset["annotations"]:
        annotation["true_bbox"] = [1, 2, 20, 10]
    with caplog.at_level(logging.INFO):
        loaded = load_points(write(tmp_path, dataset), require="point")
    assert [a["point"] for a in loaded["annotations"]] == [[20, 15], [3, 28], [0, 0.2]]
    assert all(a["bbox"] == [1, 2, 20, 10] for a in loaded["annotations"])
    assert not any("true_bbox" in a for a in loaded["annotations"])
    assert "2 pseudo boxes" in caplog.text


def test_load_detections(tmp_path):
    dataset = make_dataset()
    good = {"image_id": 1, "category_id": 7, "point": [1, 2], "score": 0.5}
    path = write(tmp_path, [good, {**good, "bbox": [1, 2, 3, 4]}])
    assert len(load_detections(path, dataset)) == 2
    for change, message in (
        ({"image_id": 4}, "detection 1 .*image_id 4"),
        ({"category_id": [7]}, "detection 1 .*category_id"),
        ({"score": None}, "detection 1 .*score"),
        ({"point": [1]}, "detection 1 .*point"),
    ):
        with pytest.raises(InputError, match=message):
            load_detections(write(tmp_path, [good, {**good, **change}]), dataset)
    with pytest.raises(InputError, match="neither a point"):
        load_detections(write(tmp_path, [{"image_id": 1, "category_id": 7, "score": 1}]), dataset)
    with pytest.raises(InputError, match="swapped"):
        load_detections(write(tmp_path, dataset), dataset)
