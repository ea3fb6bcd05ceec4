"""Files written by the tools' own libraries. A library that is not installed is not tried."""

import numpy as np
import pytest

from cpr.data.importers.records import Conventions
from foreign_files import read, rows, write_images

SIZES = {"a.png": (40, 30), "dot.png": (1, 1)}
# Name -> boxes x, y, w, h and points x, y, in continuous px; the dot's only pixel is both.
OBJECTS = {"a": ([(2, 3, 8, 5.5)], [(3.5, 4.25)]), "dot": ([(0, 0, 1, 1)], [(0.5, 0.5)])}


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path, SIZES)


def boxes(dataset):
    """(image without suffix, class, box), sorted."""
    return sorted((file.split(".")[0], label, box) for file, label, _, box in rows(dataset))


EXPECTED_BOXES = [("a", "bird", [2, 3, 8, 5.5]), ("dot", "bird", [0, 0, 1, 1])]


def exported_by_datumaro(path, file_format, *, points=False, **settings):
    """A data set of OBJECTS with the classes seal and bird, written by datumaro."""
    dm = pytest.importorskip("datumaro", reason="datumaro is not installed (pip install datumaro)")
    items = []
    for name, (box_list, point_list) in OBJECTS.items():
        width, height = SIZES[f"{name}.png"]
        annotations = [dm.Bbox(*box, label=1) for box in box_list]
        if points:
            annotations = [dm.Points(point, label=1) for point in point_list]
        media = dm.Image.from_numpy(np.zeros((height, width, 3), np.uint8))
        items.append(dm.DatasetItem(name, subset="train", media=media, annotations=annotations))
    dataset = dm.Dataset.from_iterable(items, categories=["seal", "bird"])
    dataset.export(str(path), file_format, save_media=False, image_ext=".png", **settings)


@pytest.mark.parametrize("points", [True, False])
def test_cvat_by_datumaro(folder, points):
    exported_by_datumaro(folder / "out", "cvat", points=points)
    (path,) = (folder / "out").rglob("*.xml")
    dataset = read(path, "cvat", folder / "images").dataset
    assert [c["name"] for c in dataset["categories"]] == ["seal", "bird"]
    if points:
        expected = [("a.png", "bird", [3.5, 4.25], None), ("dot.png", "bird", [0.5, 0.5], None)]
        assert sorted(rows(dataset)) == expected
    else:
        assert boxes(dataset) == EXPECTED_BOXES


def test_coco_by_datumaro(folder):
    exported_by_datumaro(folder / "out", "coco_instances")
    (path,) = (folder / "out").rglob("*.json")
    dataset = read(path, "coco", folder / "images").dataset
    assert boxes(dataset) == EXPECTED_BOXES
    assert [(c["id"], c["name"]) for c in dataset["categories"]] == [(1, "seal"), (2, "bird")]


def test_voc_by_datumaro(folder):
    exported_by_datumaro(folder / "out", "voc_detection")
    dataset = read(folder / "out", "voc", folder / "images").dataset
    assert boxes(dataset) == EXPECTED_BOXES


def test_yolo_by_datumaro(folder):
    exported_by_datumaro(folder / "out", "yolo")
    dataset = read(folder / "out", "yolo", folder / "images").dataset
    found = boxes(dataset)
    assert [row[:2] for row in found] == [row[:2] for row in EXPECTED_BOXES]
    for (*_, box), (*_, expected) in zip(found, EXPECTED_BOXES, strict=True):
        assert box == pytest.approx(expected, abs=1e-4)  # six digits of a share


def test_keypoints_by_pycocotools(folder):
    """Our COCO export is read by the library that everyone uses, and means the same there."""
    import json

    from pycocotools.coco import COCO

    from cpr.data.exporters.export_points import export_points

    dataset = {
        "images": [{"id": 4, "file_name": "a.png", "width": 40, "height": 30}],
        "categories": [{"id": 6, "name": "seal"}],
        "annotations": [
            {"id": 9, "image_id": 4, "category_id": 6, "point": [3.5, 4.5], "bbox": [1, 1, 9, 9]}
        ],
    }
    (folder / "points.json").write_text(json.dumps(dataset))
    export_points(folder / "points.json", folder / "coco.json", file_format="coco")
    coco = COCO(str(folder / "coco.json"))
    (annotation,) = coco.loadAnns(coco.getAnnIds(imgIds=[4], catIds=[6]))
    # COCO's keypoint of the pixel in column 3, row 4.
    assert annotation["keypoints"] == [3, 4, 2]
    assert coco.loadCats(6)[0]["keypoints"] == ["point"]


def test_labelme_by_labelme(folder):
    pytest.importorskip(
        "labelme", reason="labelme is not installed (pip install labelme)", exc_type=ImportError
    )
    try:
        from labelme._label_file import LabelFile
    except ImportError:
        LabelFile = pytest.importorskip(
            "labelme.label_file", reason="no Qt for labelme", exc_type=ImportError
        ).LabelFile

    def shape(kind, points):
        return {
            "label": "bird",
            "points": points,
            "group_id": None,
            "description": "",
            "shape_type": kind,
            "flags": {},
            "mask": None,
        }

    (folder / "json").mkdir()
    for name, (box_list, point_list) in OBJECTS.items():
        (x, y, w, h), point = box_list[0], point_list[0]
        width, height = SIZES[f"{name}.png"]
        LabelFile().save(
            filename=str(folder / "json" / f"{name}.json"),
            shapes=[shape("point", [list(point)]), shape("rectangle", [[x, y], [x + w, y + h]])],
            imagePath=f"..\\images\\{name}.png",
            imageHeight=height,
            imageWidth=width,
        )
    dataset = read(folder / "json", "labelme", folder / "images").dataset
    assert rows(dataset) == [
        ("a.png", "bird", [3.5, 4.25], None),
        ("a.png", "bird", None, [2, 3, 8, 5.5]),
        ("dot.png", "bird", [0.5, 0.5], None),
        ("dot.png", "bird", None, [0, 0, 1, 1]),
    ]


def test_crowd_counting_by_scipy(folder):
    """As MATLAB's ginput saves it: image_info is a struct in a cell."""
    from foreign_files import shanghaitech

    (folder / "gt").mkdir()
    (folder / "gt" / "GT_dot.mat").write_bytes(shanghaitech([(1, 1)]))
    dataset = read(folder / "gt", "crowd-mat", folder / "images").dataset
    assert rows(dataset) == [("dot.png", "person", [0.5, 0.5], None)]
    indices = Conventions("centre")
    (folder / "gt" / "GT_dot.mat").write_bytes(shanghaitech([(0, 0)]))
    dataset = read(folder / "gt", "crowd-mat", folder / "images", conventions=indices).dataset
    assert rows(dataset) == [("dot.png", "person", [0.5, 0.5], None)]
