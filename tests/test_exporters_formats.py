"""What stands in the exported files, by hand."""

import csv
import json
from xml.etree import ElementTree

import numpy as np
import pytest

from cpr.data.exporters import FORMATS
from cpr.data.exporters.export_points import export_points
from cpr.data.exporters.label_studio import labelling_interface
from cpr_deploy.files import InputError
from foreign_files import write_files
from tool_runner import run_tool


def dataset():
    """Two clicks (one of them refined, with a box), a region, an object with a box only."""
    return {
        "info": {"year": 2026},
        "images": [
            {"id": 7, "file_name": "a.png", "width": 40, "height": 30},
            {"id": 3, "file_name": "sub/b é.png", "width": 20, "height": 10},
        ],
        "categories": [{"id": 5, "name": "<seal> & \"co\""}, {"id": 2, "name": "bird"}],
        "annotations": [
            {"id": 10, "image_id": 3, "category_id": 5, "point": [5, 2.5], "note": "kept"},
            {"id": 11, "image_id": 7, "category_id": 2, "point": [0.5, 29.5],
             "bbox": [0, 20, 4, 10], "refine_score": 0.5},
            {"id": 12, "image_id": 7, "category_id": 2, "bbox": [8, 6, 12, 15], "iscrowd": 1},
            {"id": 13, "image_id": 7, "category_id": 5, "bbox": [1, 2, 3, 4]},
        ],
    }  # fmt: skip


SEAL = '<seal> & "co"'


@pytest.fixture
def exported(tmp_path):
    write_files(tmp_path, {"points.json": dataset()})

    def export(file_format, **settings):
        path = tmp_path / "out" / "file"
        export_points(tmp_path / "points.json", path, file_format=file_format, **settings)
        return path.read_text(encoding="utf-8")

    return export


def test_csv(exported):
    table = list(csv.reader(exported("csv", skip_bad=True).splitlines()))
    assert table == [
        ["file_name", "x", "y", "class", "annotation_id", "image_id"],
        ["sub/b é.png", "5", "2.5", SEAL, "10", "3"],
        ["a.png", "0.5", "29.5", "bird", "11", "7"],
    ]


def test_cvat(exported):
    root = ElementTree.fromstring(exported("cvat"))
    assert root.tag == "annotations" and root.findtext("version") == "1.1"
    labels = root.findall("meta/task/labels/label")
    assert [label.findtext("name") for label in labels] == [SEAL, "bird"]
    spec = labels[0].findall("attributes/attribute")
    assert [a.findtext("name") for a in spec] == ["annotation_id", "ignore"]
    assert {a.findtext("input_type") for a in spec} == {"text"}
    first, second = root.findall("image")
    assert first.attrib == {"id": "7", "name": "a.png", "width": "40", "height": "30"}
    assert second.attrib["name"] == "sub/b é.png"
    click = second.find("points")
    assert (click.attrib["label"], click.attrib["points"]) == (SEAL, "5.0,2.5")
    assert [(a.attrib["name"], a.text) for a in click] == [("annotation_id", "10")]
    # An object with a click is a point, whether or not it has a box.
    assert [shape.tag for shape in first] == ["points", "box", "box"]
    region = first.findall("box")[0]
    sides = [float(region.attrib[key]) for key in ("xtl", "ytl", "xbr", "ybr")]
    assert sides == [8, 6, 20, 21]
    assert {a.attrib["name"]: a.text for a in region} == {"annotation_id": "12", "ignore": "true"}


def test_label_studio(exported):
    tasks = json.loads(exported("label-studio", prefix="/data/local-files/?d=set/"))
    assert [task["data"] for task in tasks] == [
        {"image": "/data/local-files/?d=set/a.png", "image_id": 7, "width": 40, "height": 30},
        {
            "image": "/data/local-files/?d=set/sub/b%20%C3%A9.png",
            "image_id": 3,
            "width": 20,
            "height": 10,
        },
    ]
    (click,) = tasks[1]["annotations"][0]["result"]
    assert click == {
        "id": "annotation-10",
        "from_name": "point",
        "to_name": "image",
        "type": "keypointlabels",
        "original_width": 20,
        "original_height": 10,
        "image_rotation": 0,
        "value": {"x": 25, "y": 25, "width": 0.5, "keypointlabels": [SEAL]},
    }
    region = tasks[0]["annotations"][0]["result"][1]
    assert region["type"] == "rectanglelabels" and region["from_name"] == "box"
    assert region["value"] == {
        "x": 20, "y": 20, "width": 30, "height": 50, "rotation": 0, "rectanglelabels": ["bird"],
    }  # fmt: skip
    assert region["meta"] == {"text": ["ignore"]}


def test_images_that_nobody_has_looked_at_yet(tmp_path):
    """Label Studio counts a task with an annotation, be it without regions, as done."""
    images = {**dataset(), "annotations": []}
    write_files(tmp_path, {"images.json": images})
    export_points(tmp_path / "images.json", tmp_path / "tasks.json", file_format="label-studio")
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert [task["annotations"] for task in tasks] == [[]] * len(images["images"])


def test_the_labelling_interface_names_what_the_tasks_use():
    view = ElementTree.fromstring(labelling_interface([SEAL, "bird"]))
    assert {child.attrib["name"]: child.tag for child in view} == {
        "image": "Image",
        "point": "KeyPointLabels",
        "box": "RectangleLabels",
    }
    labels = [label.attrib for label in view.find("KeyPointLabels")]
    assert [label["value"] for label in labels] == [SEAL, "bird"]
    assert [label["model_index"] for label in labels] == ["0", "1"]


def test_coco_keypoints(exported):
    content = json.loads(exported("coco"))
    first, second, region, box = content["annotations"]
    assert first == {
        "id": 10, "image_id": 3, "category_id": 5, "note": "kept", "num_keypoints": 1,
        "keypoints": [4.5, 2.0, 2], "bbox": [5, 2.5, 0, 0], "area": 0, "iscrowd": 0,
    }  # fmt: skip
    assert second["keypoints"] == [0, 29, 2] and second["refine_score"] == 0.5
    assert region["keypoints"] == [0, 0, 0] and region["num_keypoints"] == 0
    assert region["iscrowd"] == 1 and box["bbox"] == [1, 2, 3, 4] and box["area"] == 12
    assert content["categories"][0] == {
        "id": 5, "name": SEAL, "keypoints": ["point"], "skeleton": [],
    }  # fmt: skip
    assert content["info"] == {"year": 2026} and content["images"] == dataset()["images"]


def test_supervision(exported):
    content = json.loads(exported("supervision"))
    # class_id counts the classes from 0, in the order of their ids.
    assert content["classes"] == ["bird", SEAL]
    first, second = content["images"]
    assert np.shape(first["key_points"]["xy"]) == (1, 1, 2)
    assert first["key_points"]["class_id"] == [0]
    assert first["detections"]["xyxy"] == [[0, 20, 4, 30], [8, 6, 20, 21], [1, 2, 4, 6]]
    assert first["detections"]["class_id"] == [0, 0, 1]
    assert first["detections"]["data"] == {
        "class_name": ["bird", "bird", SEAL],
        "annotation_id": [11, 12, 13],
        "ignore": [False, True, False],
    }
    assert second["key_points"]["xy"] == [[[5, 2.5]]] and second["detections"]["xyxy"] == []


def test_fiftyone(exported):
    content = json.loads(exported("fiftyone", prefix="/data/"))
    first, second = content["samples"]
    assert second["filepath"] == "/data/sub/b é.png"
    assert second["points"]["keypoints"] == [
        {"_cls": "Keypoint", "label": SEAL, "annotation_id": 10, "ignore": False,
         "points": [[0.25, 0.25]]},
    ]  # fmt: skip
    assert first["boxes"]["detections"][1]["bounding_box"] == [0.2, 0.2, 0.3, 0.5]
    assert first["boxes"]["detections"][1]["ignore"] is True
    assert first["metadata"] == {"_cls": "ImageMetadata", "width": 40, "height": 30}


# --- what cannot be exported ---


def test_a_table_holds_clicks_only(tmp_path):
    write_files(tmp_path, {"points.json": dataset()})
    source, path = tmp_path / "points.json", tmp_path / "c.csv"
    with pytest.raises(InputError, match="annotation id 13: has no point, and csv holds no boxes"):
        export_points(source, path, file_format="csv")
    assert not path.exists()
    result = export_points(source, path, file_format="csv", skip_bad=True)
    assert (result.images, result.annotations) == (2, 2)
    assert [p.record for p in result.left_out] == ["annotation id 12", "annotation id 13"]


@pytest.mark.parametrize(
    ("name", "file_format", "message"),
    [("seal\uffff", "cvat", "a character that XML"), (" seal", "csv", "has blanks around it")],
)
def test_names_that_a_format_loses(tmp_path, name, file_format, message):
    content = dataset()
    content["categories"][0]["name"] = name
    del content["annotations"][2:]
    write_files(tmp_path, {"points.json": content})
    with pytest.raises(InputError, match=f"points.json: the name .*{message}"):
        export_points(tmp_path / "points.json", tmp_path / "o", file_format=file_format)
    assert [path.name for path in tmp_path.iterdir()] == ["points.json"]


def test_numbers_that_json_does_not_have(tmp_path):
    content = json.dumps(dataset()).replace('"kept"', "1e999")
    write_files(tmp_path, {"points.json": content})
    with pytest.raises(InputError, match=r"points.json: annotations\[0\] \(id 10\).note is NaN or"):
        export_points(tmp_path / "points.json", tmp_path / "o", file_format="coco")
    assert [path.name for path in tmp_path.iterdir()] == ["points.json"]


def test_settings_that_make_no_sense(tmp_path):
    write_files(tmp_path, {"points.json": dataset()})
    source, path = tmp_path / "points.json", tmp_path / "o"
    with pytest.raises(InputError, match="use one of csv, cvat"):
        export_points(source, path, file_format="yolo")
    with pytest.raises(InputError, match="format cvat: names images without a prefix"):
        export_points(source, path, file_format="cvat", prefix="x/")
    with pytest.raises(InputError, match="no such file"):
        export_points(tmp_path / "nothing.json", path, file_format="cvat")


def test_the_command(tmp_path, capsys):
    write_files(tmp_path, {"points.json": dataset()})
    source = tmp_path / "points.json"
    for name in FORMATS:
        output = tmp_path / name
        words = ["export", "--format", name, "--annotations", source, "--output", output]
        assert run_tool("prepare_points", *words, "--skip-bad") == 0
        left_out = 2 if name == "csv" else 0
        printed = capsys.readouterr().out
        assert f"{4 - left_out} annotations, {left_out} left out" in printed
        assert output.stat().st_size
    assert run_tool("prepare_points", *words[:-1], source) == 2
    assert "is read by this command" in capsys.readouterr().err
    prefix = ["export", "--format", "fiftyone", "--annotations", source, "--output", output]
    assert run_tool("prepare_points", *prefix, "--image-prefix", "/x/") == 0
    assert json.loads(output.read_text())["samples"][0]["filepath"] == "/x/a.png"
