"""Label Studio: percent of the image, turned rectangles, several results and annotations."""

import logging
import math

import pytest

from cpr_deploy.files import InputError
from foreign_files import label_studio, read, rows, write_files, write_images

POINT = {"x": 25, "y": 10, "width": 0.5, "keypointlabels": ["seal"]}
RECTANGLE = {"x": 50, "y": 20, "width": 25, "height": 10, "rotation": 0}
CLICK = ("a.png", "seal", [10.0, 3.0], None)


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path)


def imported(folder, tasks, **settings):
    write_files(folder, {"tasks.json": tasks})
    return read(folder / "tasks.json", "label-studio", folder / "images", **settings)


def with_results(*results, **annotation):
    """A task with these results."""
    task = label_studio(POINT)[0]
    task["annotations"] = [{"id": 1, "result": list(results), **annotation}]
    return task


def result(value, kind="keypointlabels", **more):
    return {**label_studio(value, kind)[0]["annotations"][0]["result"][0], **more}


def test_percent_of_width_and_height(folder):
    task = with_results(
        result(POINT),
        result(RECTANGLE | {"rectanglelabels": ["bird"]}, "rectanglelabels", id="x2"),
        result(
            {"points": [[0, 0], [50, 0], [0, 100]], "polygonlabels": ["seal"]},
            "polygonlabels",
            id="x3",
        ),
    )
    dataset = imported(folder, [task]).dataset
    assert rows(dataset) == [
        CLICK,
        ("a.png", "bird", None, [20.0, 6.0, 10.0, 3.0]),
        ("a.png", "seal", None, [0.0, 0.0, 20.0, 30.0]),
    ]
    assert dataset["annotations"][2]["segmentation"] == [[0, 0, 20, 0, 0, 30]]


def test_a_turned_rectangle_turns_in_pixels_about_its_corner(folder):
    """10 x 3 px at (20, 6) of an image of 40 x 30 px, turned by a quarter and by 30 degrees."""
    value = RECTANGLE | {"rotation": 90, "rectanglelabels": ["seal"]}
    annotation = imported(folder, label_studio(value, "rectanglelabels")).dataset["annotations"][0]
    # The side of 10 px goes down, the one of 3 px to the left.
    assert annotation["bbox"] == pytest.approx([17, 6, 3, 10])
    value["rotation"] = 30
    annotation = imported(folder, label_studio(value, "rectanglelabels")).dataset["annotations"][0]
    sine, cosine = 0.5, math.sqrt(3) / 2
    corners = [20, 6, 20 + 10 * cosine, 6 + 10 * sine]
    assert annotation["segmentation"][0][:4] == pytest.approx(corners)
    expected = [20 - 3 * sine, 6, 10 * cosine + 3 * sine, 10 * sine + 3 * cosine]
    assert annotation["bbox"] == pytest.approx(expected)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_an_image_that_was_turned_on_the_screen_changes_nothing(folder, degrees):
    assert rows(imported(folder, label_studio(POINT, image_rotation=degrees)).dataset) == [CLICK]


def test_place_and_class_of_a_region_in_two_results(folder):
    """The tags KeyPoint and Labels side by side, and answers about the region."""
    place = {"x": 25, "y": 10, "width": 0.5}
    task = with_results(
        result(place, "keypoint"),
        result(place | {"labels": ["seal"]}, "labels"),
        {"id": "x1", "type": "choices", "value": {"choices": ["sure"]}},
        {"type": "relation", "from_id": "x1", "to_id": "x1"},
    )
    assert rows(imported(folder, [task]).dataset) == [CLICK]


def test_without_labels_there_is_one_class(folder):
    tasks = label_studio({"x": 25, "y": 10, "width": 1}, "keypoint")
    assert rows(imported(folder, tasks).dataset) == [("a.png", "object", [10.0, 3.0], None)]


def test_of_several_annotations_one_counts(folder, caplog):
    task = with_results(result(POINT))
    other = {"id": 2, "result": [result(POINT | {"x": 75})]}
    # Cancelled ones and predictions do not count.
    task["annotations"].append(other | {"was_cancelled": True})
    task["predictions"] = [other]
    assert rows(imported(folder, [task]).dataset) == [CLICK]
    task["annotations"][1] = other | {"ground_truth": True}
    assert rows(imported(folder, [task]).dataset) == [("a.png", "seal", [30.0, 3.0], None)]
    task["annotations"][1] = other
    with pytest.raises(InputError, match="task id 5: has 2 annotations.*Mark one as ground truth"):
        imported(folder, [task])
    # Of a task that was only skipped, the image counts as empty, and that is said.
    skipped = with_results(result(POINT), was_cancelled=True)
    skipped["data"]["image"] = "dot.png"
    with caplog.at_level(logging.WARNING):
        dataset = imported(folder, [*label_studio(POINT), skipped]).dataset
    assert rows(dataset) == [CLICK] and "1 images have no finished annotation" in caplog.text


def test_our_own_notes(folder):
    noted = result(POINT, id="annotation-17", meta={"text": ["ignore"]})
    region, click = imported(folder, [with_results(noted, result(POINT))]).dataset["annotations"]
    assert region["id"] == 17 and region["ignore"] == 1
    assert click["id"] == 18 and "ignore" not in click
    with pytest.raises(InputError, match="all of its objects are to be ignored"):
        imported(folder, [with_results(noted)])
    other = label_studio(POINT, id="17")
    assert imported(folder, other).dataset["annotations"][0]["id"] == 1


ADDRESSES = {
    "plain": ("sub/b.png", "sub/b.png"),
    "upload": ("/data/upload/3/1a2b3c4d-a.png", "a.png"),
    "upload without": ("/data/upload/3/a.png", "a.png"),
    "local": ("/data/local-files/?d=sub/b.png", "sub/b.png"),
    "local below": ("/data/local-files/?d=project%2Fimages%2Fsub%2Fb.png", "sub/b.png"),
    "bucket": ("s3://bucket/images/a.png", "a.png"),
    "host": ("https://host/x/sub/b.png?token=1", "sub/b.png"),
    "windows": ("C:\\data\\sub\\b.png", "sub/b.png"),
    "quoted": ("sub/b%2Epng", "sub/b.png"),
}


@pytest.mark.parametrize(("address", "name"), ADDRESSES.values(), ids=ADDRESSES)
def test_the_image_of_an_address(folder, address, name):
    size = (40, 30) if name == "a.png" else (20, 10)
    tasks = label_studio({"x": 50, "y": 50, "width": 1}, "keypoint", address, size)
    dataset = imported(folder, tasks).dataset
    assert rows(dataset) == [(name, "object", [size[0] / 2, size[1] / 2], None)]


def test_the_image_under_another_key(folder):
    tasks = label_studio(POINT)
    tasks[0]["data"] = {"photo": "a.png", "text": "hello", "number": 3}
    assert rows(imported(folder, tasks).dataset) == [CLICK]
    tasks[0]["data"] = {"left": "a.png", "right": "dot.png"}
    with pytest.raises(InputError, match="2 entries of its data name an image"):
        imported(folder, tasks)


def changed(**more):
    return label_studio(POINT, **more)


BAD = {
    "brush": (changed(kind="brushlabels"), "draw a keypoint, rectangle or polygon"),
    "ellipse": (
        label_studio({"x": 1, "y": 1, "radiusX": 1, "radiusY": 2}, "ellipselabels"),
        "draw a keypoint, rectangle or polygon",
    ),
    "two labels": (label_studio(POINT | {"keypointlabels": ["a", "b"]}), "Give each region one"),
    "labels": (label_studio(POINT | {"keypointlabels": [3]}), "Give each region one label"),
    "no place": (label_studio({"keypointlabels": ["seal"]}), "are not numbers in percent"),
    "text": (label_studio(POINT | {"x": "left"}), "are not numbers in percent"),
    "no value": (label_studio(None), "has no value"),
    "no size": (changed(original_width=None), "has no original_width"),
    "zero size": (changed(original_width=0), "is not one of an image"),
    "other size": (label_studio(POINT, size=(80, 60)), "80 x 60 px, but it has 40 x 30"),
    "outside": (label_studio(POINT | {"x": 101}), "lies outside a.png"),
    "second image": (changed(item_index=1), "Use one image a task"),
    "flat": (label_studio(RECTANGLE | {"width": 0}, "rectangle"), "is none"),
    "rotation": (label_studio(RECTANGLE | {"rotation": "x"}, "rectangle"), "is not a number"),
    "polygon": (label_studio({"points": [[0, 0], [1]]}, "polygon"), "three or more [x, y]"),
    "unknown image": (label_studio(POINT, image="c.png"), "is not in the image folder"),
    "no task": ([3], "has no data"),
    "json-min": ([{"image": "a.png", "label": []}], "not JSON-MIN"),
    "no list": ([{"data": {"image": "a.png"}, "annotations": {}}], "are not a list of results"),
}


@pytest.mark.parametrize(("tasks", "text"), BAD.values(), ids=BAD)
def test_a_bad_record_is_named_with_rule_and_fix(folder, tasks, text):
    with pytest.raises(InputError, match="tasks.json: task ") as caught:
        imported(folder, tasks)
    assert text in str(caught.value)
    good = label_studio({"x": 50, "y": 50, "width": 1}, "keypoint", "dot.png", (1, 1))
    skipped = imported(folder, tasks + good, skip_bad=True)
    assert rows(skipped.dataset) == [("dot.png", "object", [0.5, 0.5], None)]
    assert any(text in problem.text for problem in skipped.skipped)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{}", "is not a list of tasks"), ("[", "not valid JSON"), ("[]", "no usable click or box")],
)
def test_what_is_no_such_file_is_refused(folder, content, message):
    with pytest.raises(InputError, match=message):
        imported(folder, content)


def test_shares_of_the_image_have_no_origin(folder):
    from cpr.data.importers.records import Conventions

    with pytest.raises(InputError, match="has shares of the image, not pixels"):
        imported(folder, label_studio(POINT), conventions=Conventions("centre"))
