"""Point JSON as files of other tools (`tools/prepare_points.py export --format ...`).

A format is one module of this package and one entry of `FORMATS`. The module has

    write(file, dataset, prefix) -> None

which writes a valid point JSON to an open text file; it raises `InputError` for what the format
cannot hold at all. What all formats share is in `export_points.py`. FORMATS.md, one folder up,
describes them.
"""

from typing import NamedTuple


class Format(NamedTuple):
    """A format that can be exported."""

    module: str  # of this package; imported when it is used
    help: str  # for the command line
    # Whether it holds objects and regions that have a box but no click.
    boxes: bool = True
    # Whether the files name their images with a prefix that is given (--image-prefix).
    prefix: bool = False


FORMATS = {
    "csv": Format("csv_points", "a table: file_name,x,y,class and the ids", boxes=False),
    "cvat": Format("cvat", "the XML of `CVAT for images 1.1`"),
    "label-studio": Format("label_studio", "tasks for Label Studio", prefix=True),
    "coco": Format("coco_keypoints", "COCO JSON, the click as the keypoint `point`"),
    "supervision": Format("supervision_json", "the arrays of supervision's KeyPoints"),
    "fiftyone": Format("fiftyone_json", "samples for FiftyOne", prefix=True),
}
