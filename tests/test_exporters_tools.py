"""Exported files in the tools' own libraries. A library that is not installed is not tried."""

import json

import numpy as np
import pytest

from cpr.data.exporters.export_points import export_points
from cpr.data.exporters.label_studio import labelling_interface
from foreign_files import write_images

DATASET = {
    "images": [
        {"id": 4, "file_name": "a.png", "width": 40, "height": 30},
        {"id": 5, "file_name": "dot.png", "width": 1, "height": 1},
    ],
    "categories": [{"id": 6, "name": "seal"}, {"id": 3, "name": "bird"}],
    "annotations": [
        {"id": 9, "image_id": 4, "category_id": 6, "point": [3.25, 4.5]},
        {"id": 10, "image_id": 5, "category_id": 3, "point": [0.5, 0.5]},
        {"id": 11, "image_id": 4, "category_id": 3, "bbox": [8, 6, 12, 15]},
    ],
}


@pytest.fixture
def exported(tmp_path):
    def export(file_format, name="file", **settings):
        source, path = tmp_path / "points.json", tmp_path / name
        source.write_text(json.dumps(DATASET))
        export_points(source, path, file_format=file_format, **settings)
        return path

    return export


def test_cvat_in_datumaro(tmp_path, exported):
    dm = pytest.importorskip("datumaro", reason="datumaro is not installed (pip install datumaro)")
    write_images(tmp_path, {"a.png": (40, 30), "dot.png": (1, 1)})
    exported("cvat", "default.xml")
    dataset = dm.Dataset.import_from(str(tmp_path), "cvat")
    names = [label.name for label in dataset.categories()[dm.AnnotationType.label].items]
    assert names == ["seal", "bird"]
    found = {}
    for item in dataset:
        for annotation in item.annotations:
            found.setdefault(item.id, []).append(
                (annotation.type.name, names[annotation.label], list(annotation.points))
            )
    assert found["dot"] == [("points", "bird", [0.5, 0.5])]
    assert sorted(found["a"]) == [
        ("bbox", "bird", [8, 6, 20, 21]),
        ("points", "seal", [3.25, 4.5]),
    ]


def test_tasks_in_label_studio(exported):
    module = pytest.importorskip(
        "label_studio_sdk.label_interface",
        reason="label-studio-sdk is not installed (pip install label-studio-sdk)",
    )
    interface = module.LabelInterface(labelling_interface(["seal", "bird"]))
    interface.validate()
    for task in json.loads(exported("label-studio").read_text()):
        assert interface.validate_task({"data": task["data"]})
        for annotation in task["annotations"]:
            assert interface.validate_annotation(annotation)


def test_boxes_of_tasks_in_the_converter_of_label_studio(tmp_path, exported):
    converter = pytest.importorskip(
        "label_studio_sdk.converter",
        reason="label-studio-sdk is not installed (pip install label-studio-sdk)",
    )
    path = exported("label-studio", "tasks.json")
    made = converter.Converter(
        labelling_interface(["seal", "bird"]), str(tmp_path), download_resources=False
    )
    made.convert_to_coco(str(path), str(tmp_path / "coco"), is_dir=False)
    content = json.loads((tmp_path / "coco" / "result.json").read_text())
    boxes = [a["bbox"] for a in content["annotations"] if not a.get("keypoints")]
    assert [pytest.approx(box) for box in boxes] == [[8, 6, 12, 15]]


def test_arrays_in_supervision(exported):
    sv = pytest.importorskip(
        "supervision", reason="supervision is not installed (pip install supervision)"
    )
    image = json.loads(exported("supervision").read_text())["images"][0]
    clicks, boxes = image["key_points"], image["detections"]
    key_points = sv.KeyPoints(
        xy=np.array(clicks["xy"], np.float32).reshape(-1, 1, 2),
        class_id=np.array(clicks["class_id"]),
        data={key: np.array(values) for key, values in clicks["data"].items()},
    )
    assert key_points.xy.tolist() == [[[3.25, 4.5]]]
    assert list(key_points.data["class_name"]) == ["seal"] and key_points.class_id.tolist() == [1]
    detections = sv.Detections(
        xyxy=np.array(boxes["xyxy"], np.float32).reshape(-1, 4),
        class_id=np.array(boxes["class_id"]),
        data={key: np.array(values) for key, values in boxes["data"].items()},
    )
    assert detections.xyxy.tolist() == [[8, 6, 20, 21]]
    assert list(detections.data["annotation_id"]) == [11]


def test_samples_in_fiftyone(exported):
    fo = pytest.importorskip("fiftyone", reason="fiftyone is not installed (pip install fiftyone)")
    content = json.loads(exported("fiftyone", prefix="/data/").read_text())
    sample = fo.Sample.from_dict(content["samples"][0])
    (keypoint,) = sample["points"].keypoints
    assert keypoint.label == "seal" and keypoint.points[0] == pytest.approx([3.25 / 40, 4.5 / 30])
    (detection,) = sample["boxes"].detections
    assert detection.bounding_box == pytest.approx([0.2, 0.2, 0.3, 0.5])
    assert detection["annotation_id"] == 11
