"""Tasks for Label Studio, to review clicks where people annotate.

An object with a click becomes a keypoint; one without, a rectangle. A region's id
`annotation-<id>` and a note `ignore` let the importer find the annotation again. The labelling
interface needs an Image named `image`, KeyPointLabels `point` and RectangleLabels `box`; see
`labelling_interface`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TextIO
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from ..importers.label_studio import ID_PREFIX, IGNORE_NOTE
from ..point_json import is_ignored

# Of a keypoint on the screen, percent of the image's width.
_KEYPOINT_SIZE = 0.5


def labelling_interface(class_names: Sequence[str]) -> str:
    """The XML to paste into Label Studio's project settings before the tasks are imported."""
    labels = "".join(f"<Label value={quoteattr(name)}/>" for name in class_names)
    # Label Studio's own exports of keypoints (COCO, YOLO) fail without model_index.
    points = "".join(
        f'<Label value={quoteattr(name)} model_index="{index}"/>'
        for index, name in enumerate(class_names)
    )
    return (
        '<View><Image name="image" value="$image" zoom="true" zoomControl="true"/>'
        f'<KeyPointLabels name="point" toName="image">{points}</KeyPointLabels>'
        f'<RectangleLabels name="box" toName="image">{labels}</RectangleLabels></View>'
    )


def write(file: TextIO, dataset: dict[str, Any], prefix: str) -> None:
    """A JSON list of tasks, one an image, in percent of its width and height.

    Args:
        prefix: put before each file name, which is quoted as in addresses; for local files
            "/data/local-files/?d=" and the folder below Label Studio's document root.
    """
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    results: dict[Any, list[dict]] = {image["id"]: [] for image in dataset["images"]}
    images = {image["id"]: image for image in dataset["images"]}
    for annotation in dataset["annotations"]:
        image = images[annotation["image_id"]]
        result = _result(annotation, image, names[annotation["category_id"]])
        results[annotation["image_id"]].append(result)
    separator = "["
    for number, image in enumerate(dataset["images"], start=1):
        task = {
            # Label Studio gives tasks numbers of its own; its converter needs one to read them.
            "id": number,
            "data": {
                "image": prefix + quote(image["file_name"]),
                "image_id": image["id"],
                "width": image["width"],
                "height": image["height"],
            },
            # Nobody has looked at the images of a data set without any annotation.
            "annotations": [{"result": results[image["id"]]}] if dataset["annotations"] else [],
        }
        file.write(f"{separator}\n{json.dumps(task, allow_nan=False)}")
        separator = ","
    file.write("\n]\n")


def _result(annotation: dict[str, Any], image: dict[str, Any], label: str) -> dict[str, Any]:
    width, height = image["width"], image["height"]
    point = annotation.get("point")
    if point is not None:
        name, kind = "point", "keypointlabels"
        value = {"width": _KEYPOINT_SIZE}
        corner = point
    else:
        name, kind = "box", "rectanglelabels"
        *corner, w, h = annotation["bbox"]
        value = {"width": 100 * w / width, "height": 100 * h / height, "rotation": 0}
    value |= {"x": 100 * corner[0] / width, "y": 100 * corner[1] / height, kind: [label]}
    result = {
        "id": f"{ID_PREFIX}{annotation['id']}",
        "from_name": name,
        "to_name": "image",
        "type": kind,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": value,
    }
    if is_ignored(annotation):
        result["meta"] = {"text": [IGNORE_NOTE]}
    return result
