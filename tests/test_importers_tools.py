"""Files written by the tools' own libraries: those in tests/data/tools, and freshly written ones.

A library that is not installed writes nothing now; its files in tests/data/tools are always read.
"""

import importlib.util
import json
from pathlib import Path

import pytest

from cpr.data.importers.records import Conventions
from foreign_files import coco, read, rows, shanghaitech

TOOLS = Path(__file__).parent / "data" / "tools"


def load_script():
    spec = importlib.util.spec_from_file_location("tools_write", TOOLS / "write.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


write = load_script()
MODULES = {library: library.replace("-", "_") for library in write.WRITERS}
MODULES["label-studio-sdk"] = "label_studio_sdk"
# Six and five digits of a share of the image; supervision holds float32.
DIGITS = {"datumaro yolo": 1e-4, "datumaro yolo ultralytics": 1e-4, "supervision yolo": 1e-3}

POINTS = [(name, label, point, None) for name in write.SIZES for label, point in write.POINTS[name]]
BOXES = [(name, label, None, box) for name in write.SIZES for label, box in write.BOXES[name]]
OUTLINE = [("a.png", write.OUTLINE[0], None, (20, 10, 10, 18))]
# supervision's Pascal VOC numbers the pixels that a box covers: 2..10 are 3 to 10, 3..8.5 4 to 8.
WHOLE = [
    ("a.png", "bird", None, (2, 3, 8, 5)),
    ("a.png", "seal", None, (20, 10, 19, 20)),
    ("dot.png", "bird", None, (0, 0, 1, 1)),
]
ONE_BASED = Conventions("corner", one_based=True)

# Library, what is read of its folder, format, conventions, expected rows.
CASES = {
    "datumaro cvat": (
        "datumaro", "cvat/train.xml", "cvat", None, BOXES + POINTS + OUTLINE
    ),
    "datumaro coco": (
        "datumaro", "coco_instances/annotations/instances_train.json", "coco", None, BOXES
    ),
    "datumaro keypoints": (
        "datumaro",
        "coco_keypoints/annotations/person_keypoints_train.json",
        "coco",
        None,
        POINTS,
    ),
    "datumaro voc": ("datumaro", "voc", "voc", None, BOXES),
    "datumaro yolo": ("datumaro", "yolo", "yolo", None, BOXES),
    "datumaro yolo ultralytics": ("datumaro", "yolo_ultralytics", "yolo", None, BOXES),
    "label studio, converted": (
        "label-studio-sdk", "converted.json", "label-studio", None, BOXES + POINTS
    ),
    "label studio, interface": (
        "label-studio-sdk", "interface.json", "label-studio", None, BOXES + POINTS
    ),
    "labelme": ("labelme", ".", "labelme", None, BOXES + POINTS + OUTLINE),
    "pascal_voc_writer": ("pascal-voc-writer", ".", "voc", None, BOXES),
    "supervision coco": ("supervision", "coco.json", "coco", None, BOXES),
    "supervision yolo": ("supervision", "yolo", "yolo", None, BOXES),
    "supervision labelme": ("supervision", "labelme", "labelme", None, BOXES),
    "supervision voc": ("supervision", "voc", "voc", ONE_BASED, WHOLE),
}  # fmt: skip


def stored(library):
    (folder,) = TOOLS.glob(f"{library}-[0-9]*")
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder that a library writes now, once for all tests."""
    folders = {}

    def get(library):
        pytest.importorskip(MODULES[library], reason=f"pip install {library}", exc_type=ImportError)
        if library not in folders:
            folders[library] = tmp_path_factory.mktemp("tools") / library
            write.WRITERS[library](folders[library])
        return folders[library]

    return get


def check(case, folder, images):
    _, path, file_format, conventions, expected = CASES[case]
    write.write_images(images)
    dataset = read(folder / path, file_format, images, conventions=conventions).dataset
    if "yolo" in file_format or "cvat" in file_format:
        assert [c["name"] for c in dataset["categories"]] == write.CLASSES
    tolerance = DIGITS.get(case, 1e-6)

    def ordered(found):
        return sorted(found, key=lambda row: (row[0], row[3] is None, row[1], row[3] or row[2]))

    # Of a folder with parts, images keep their names: it is the stem that counts.
    found = ordered(rows(dataset))
    assert [row[:2] for row in found] == [row[:2] for row in ordered(expected)]
    for (*_, point, box), (*_, true_point, true_box) in zip(found, ordered(expected), strict=True):
        for values, truth in ((point, true_point), (box, true_box)):
            assert (values is None) == (truth is None)
            assert truth is None or values == pytest.approx(truth, abs=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_stored_files(tmp_path, case):
    check(case, stored(CASES[case][0]), tmp_path / "images")


@pytest.mark.parametrize("case", CASES)
def test_fresh_files(tmp_path, written, case):
    check(case, written(CASES[case][0]), tmp_path / "images")


def test_difficult_objects_are_regions(tmp_path):
    write.write_images(tmp_path)
    dataset = read(stored("pascal-voc-writer"), "voc", tmp_path).dataset
    assert [a.get("ignore", 0) for a in dataset["annotations"]] == [0, 1, 0]


def test_every_library_has_files_of_one_version():
    assert {case[0] for case in CASES.values()} == set(write.WRITERS)
    for library in write.WRITERS:
        assert any(path.is_file() for path in stored(library).rglob("*"))


def test_crowd_counting_by_scipy(tmp_path):
    """As MATLAB's ginput saves it: image_info is a struct in a cell."""
    write.write_images(tmp_path / "images")
    (tmp_path / "gt").mkdir()
    (tmp_path / "gt" / "GT_dot.mat").write_bytes(shanghaitech([(1, 1)]))
    dataset = read(tmp_path / "gt", "crowd-mat", tmp_path / "images").dataset
    assert rows(dataset) == [("dot.png", "person", [0.5, 0.5], None)]
    indices = Conventions("centre")
    (tmp_path / "gt" / "GT_dot.mat").write_bytes(shanghaitech([(0, 0)]))
    dataset = read(tmp_path / "gt", "crowd-mat", tmp_path / "images", conventions=indices).dataset
    assert rows(dataset) == [("dot.png", "person", [0.5, 0.5], None)]


def test_masks_by_pycocotools(tmp_path):
    """A mask of one pixel, encoded by the library, is kept, and its box is that pixel."""
    import numpy as np
    from pycocotools import mask

    write.write_images(tmp_path / "images")
    bitmap = np.zeros((30, 40), np.uint8, order="F")
    bitmap[4, 3] = 1
    encoded = mask.encode(bitmap)
    rle = {"size": encoded["size"], "counts": encoded["counts"].decode()}
    annotation = {"bbox": mask.toBbox(encoded).tolist(), "segmentation": rle, "iscrowd": 0}
    (tmp_path / "gt.json").write_text(json.dumps(coco(annotation)))
    dataset = read(tmp_path / "gt.json", "coco", tmp_path / "images").dataset
    assert rows(dataset) == [("a.png", "seal", None, [3, 4, 1, 1])]
    assert dataset["annotations"][0]["segmentation"] == rle
