"""Writing large data sets, and leaving out bad records."""

import json
import math
import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpr.data.dataset_files import drop_bad_records
from cpr.data.point_json import find_problems, save_points
from cpr_deploy import files
from cpr_deploy.files import InputError

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text(string.ascii_letters, max_size=4), values, max_size=4),
    st.integers(1, 3),
)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_json(tmp_path, dataset, chunk):
    files._CHUNK, before = chunk, files._CHUNK
    try:
        save_points(tmp_path / "a.json", dataset)
    finally:
        files._CHUNK = before
    assert json.loads((tmp_path / "a.json").read_text()) == dataset


def test_nothing_is_written_of_bad_numbers(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("before")
    for value in (math.nan, math.inf):
        dataset = {"annotations": [{"id": 3, "point": [1.0, value]}]}
        with pytest.raises(InputError, match=r"annotations\[0\] \(id 3\)\.point\[1\] is NaN"):
            save_points(path, dataset)
    assert path.read_text() == "before" and len(list(tmp_path.iterdir())) == 1


def make_dataset():
    return {
        "images": [
            {"id": 1, "file_name": "a.png", "width": 60, "height": 50},
            {"id": 2, "file_name": "../b.png", "width": 60, "height": 50},
            {"id": 2, "file_name": "c.png", "width": 60, "height": 50},
        ],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "point": [5, 5]},
            {"id": 1, "image_id": 1, "category_id": 1, "point": [6, 5]},
            {"id": 2, "image_id": 2, "category_id": 1, "point": [5, 5]},
            {"id": 3, "image_id": 1, "category_id": 9, "point": [5, 5]},
            {"image_id": 1, "category_id": 1, "point": [5, 5]},
            {"id": "annotation 0 (from 0)", "image_id": 1, "category_id": 1, "point": [5, 5]},
        ],
    }


def test_bad_records_are_left_out_and_named():
    dataset, dropped = drop_bad_records(make_dataset())
    assert [image["id"] for image in dataset["images"]] == [1]
    assert dataset["annotations"] == make_dataset()["annotations"][:1]
    text = "\n".join(f"{p.record}: {p.text}" for p in dropped)
    for part in (
        "image id 2 (image 1 from 0): file_name '../b.png' leads out",
        "image id 2 (image 2 from 0): the id is used twice",
        "annotation id 1 (annotation 1 from 0): the id is used twice",
        "annotation id 3 (annotation 3 from 0): category_id 9",
        "annotation 4 (from 0): id None",
        "annotation 5 (from 0): id 'annotation 0 (from 0)'",
        # Its image is gone.
        "annotation id 2 (annotation 1 from 0): image_id 2",
    ):
        assert part in text, part
    assert not [p for p in find_problems(dataset) if p.is_error]
    assert drop_bad_records(dataset) == (dataset, [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": []}, "categories: is empty"),
        ({"images": 5}, "no list 'images'"),
        ({"annotations": [5]}, "annotations: holds something"),
        ({"annotations": []}, "holds no object"),
        ({"images": []}, "images: is empty"),
        ({"categories": [{"id": 1}]}, "category id 1.*is not a text"),
    ],
)
def test_what_cannot_be_left_out(changes, message):
    with pytest.raises(InputError, match=message):
        drop_bad_records({**make_dataset(), **changes})
    with pytest.raises(InputError, match="a list is a detections file|COCO-like"):
        drop_bad_records([])


def test_a_data_set_may_end_up_empty():
    dataset = {**make_dataset(), "annotations": [{"id": "x"}]}
    kept, dropped = drop_bad_records(dataset, may_be_empty=True)
    assert kept["annotations"] == [] and len(dropped) > 2
