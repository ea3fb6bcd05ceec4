"""The only pixel of an image in every format: its centre is (0.5, 0.5), its box [0, 0, 1, 1]."""

import pytest

from cpr.data.importers import FORMATS
from cpr.data.importers.import_points import default_conventions
from cpr.data.importers.records import Conventions
from foreign_files import (
    coco,
    cvat,
    label_studio,
    labelme,
    read,
    rows,
    shanghaitech,
    voc,
    write_files,
    write_images,
)

CENTRE, BOX = [0.5, 0.5], [0.0, 0.0, 1.0, 1.0]
DOT = {"image": "dot.png", "size": (1, 1)}
NAMES = {"data.yaml": "names: [seal]\n"}
ONE_BASED = Conventions("corner", one_based=True)

# Format, files, what is given, conventions, point, box. Numbers as the tools write them.
CASES = {
    "csv": ("csv", {"c.csv": "image,x,y,class\ndot.png,0.5,0.5,seal\n"}, None, CENTRE, None),
    "cvat points": (
        "cvat",
        {"c.xml": cvat('<points label="seal" points="0.50,0.50"/>', "dot.png", (1, 1))},
        None,
        CENTRE,
        None,
    ),
    "cvat box": (
        "cvat",
        {
            "c.xml": cvat(
                '<box label="seal" xtl="0.00" ytl="0.00" xbr="1.00" ybr="1.00"/>', "dot.png", (1, 1)
            )
        },
        None,
        None,
        BOX,
    ),
    "label studio keypoint": (
        "label-studio",
        {"c.json": label_studio({"x": 50, "y": 50, "width": 1, "keypointlabels": ["seal"]}, **DOT)},
        None,
        CENTRE,
        None,
    ),
    "label studio rectangle": (
        "label-studio",
        {
            "c.json": label_studio(
                {"x": 0, "y": 0, "width": 100, "height": 100, "rectanglelabels": ["seal"]},
                "rectanglelabels",
                **DOT,
            )
        },
        None,
        None,
        BOX,
    ),
    "labelme point": ("labelme", {"c.json": labelme("point", [[0.5, 0.5]], **DOT)}, None, CENTRE)
    + (None,),
    "labelme rectangle": (
        "labelme",
        {"c.json": labelme("rectangle", [[1, 1], [0, 0]], **DOT)},
        None,
        None,
        BOX,
    ),
    # COCO's keypoints are pixel indices, its boxes are continuous.
    "coco keypoint": (
        "coco",
        {"c.json": coco({"keypoints": [0, 0, 2], "bbox": [0, 0, 1, 1]}, **DOT)},
        None,
        CENTRE,
        BOX,
    ),
    "coco continuous keypoint": (
        "coco",
        {"c.json": coco({"keypoints": [0.5, 0.5, 1]}, **DOT)},
        Conventions("corner"),
        CENTRE,
        None,
    ),
    "yolo": ("yolo", NAMES | {"labels/dot.txt": "0 0.5 0.5 1 1\n"}, None, None, BOX),
    "voc": ("voc", {"dot.xml": voc((0, 0, 1, 1), **DOT)}, None, None, BOX),
    # PASCAL's own files: the box holds pixel 1 and no other.
    "voc one-based": ("voc", {"dot.xml": voc((1, 1, 1, 1), **DOT)}, ONE_BASED, None, BOX),
    "dota": ("dota", {"labelTxt/dot.txt": "0 0 1 0 1 1 0 1 seal 0\n"}, None, None, BOX),
    # MATLAB: the centre of the first pixel is (1, 1).
    "crowd-mat": ("crowd-mat", {"GT_dot.mat": shanghaitech([(1, 1)])}, None, CENTRE, None),
}


@pytest.mark.parametrize(
    ("file_format", "files", "conventions", "point", "box"), CASES.values(), ids=CASES
)
def test_the_only_pixel(tmp_path, file_format, files, conventions, point, box):
    write_images(tmp_path)
    write_files(tmp_path / "in", files)
    path = tmp_path / "in"
    if not FORMATS[file_format].file_per_image:
        path = path / next(iter(files))
    result = read(path, file_format, tmp_path / "images", conventions=conventions)
    label = "person" if file_format == "crowd-mat" else "seal"
    assert rows(result.dataset) == [("dot.png", label, point, box)]


def test_every_format_is_tried_and_says_how_it_counts():
    assert {case[0] for case in CASES.values()} == set(FORMATS)
    counted = {name: default_conventions(name) for name in FORMATS}
    assert counted["coco"] == Conventions("centre")
    assert counted["crowd-mat"] == Conventions("centre", one_based=True)
    others = set(FORMATS) - {"coco", "crowd-mat"}
    assert all(counted[name] == Conventions() for name in others)
