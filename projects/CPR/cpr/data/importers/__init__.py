"""Annotations of other tools as point JSON (`tools/prepare_points.py import --format ...`).

A format is one module of this package and one entry of `FORMATS`. The module has

    read(path, images, conventions) -> iterator of `Click`, `Image`, `Category` or `Problem`

in the order of the file: a `Click` for each object, a `Problem` for each record that cannot be
used, an `Image` or a `Category` where the file lists those; it raises `InputError` for a file that
is not of the format at all. What all formats share (image sizes, safe names, ids, classes, points
inside their image) is checked in `import_points.py`. FORMATS.md, one folder up, describes them.
"""

from typing import NamedTuple

from .records import Origin


class Format(NamedTuple):
    """A format that can be imported."""

    module: str  # of this package; imported when it is used
    help: str  # for the command line
    # How it counts pixels unless the user says otherwise; None: it has shares of the image.
    origin: Origin | None = "corner"
    one_based: bool = False
    # A file for each image: what is given is a folder, or one such file.
    file_per_image: bool = False
    # The file tells the sizes of its images, so the image folder may be missing.
    has_sizes: bool = False


FORMATS = {
    "csv": Format(
        "csv_points", "a table (also TSV) whose first line names its columns: file_name,x,y,class"
    ),
    "cvat": Format(
        "cvat", "the XML of `CVAT for images 1.1`: points, boxes, polygons", has_sizes=True
    ),
    "label-studio": Format(
        "label_studio",
        "the JSON of Label Studio: keypoints, rectangles, polygons",
        origin=None,
        has_sizes=True,
    ),
    "labelme": Format(
        "labelme",
        "a folder of LabelMe's JSON files: points, rectangles, circles, polygons",
        file_per_image=True,
        has_sizes=True,
    ),
    "coco": Format(
        "coco",
        "COCO JSON: keypoints (pixel indices, see --keypoint), boxes, masks",
        origin="centre",
        has_sizes=True,
    ),
    "yolo": Format(
        "yolo",
        "a folder of YOLO's label files with its data.yaml: boxes",
        origin=None,
        file_per_image=True,
    ),
    "voc": Format(
        "pascal_voc",
        "a folder of Pascal VOC XML: boxes, continuous unless --one-based",
        file_per_image=True,
        has_sizes=True,
    ),
    "dota": Format(
        "dota", "a folder of DOTA's labelTxt files: quadrilaterals", file_per_image=True
    ),
    "crowd-mat": Format(
        "crowd_mat",
        "a folder of MATLAB files as of ShanghaiTech: heads, counted from 1",
        origin="centre",
        one_based=True,
        file_per_image=True,
    ),
}
