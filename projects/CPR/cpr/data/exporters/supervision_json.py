"""Clicks and boxes as the arrays of the library supervision, image by image.

    {"classes": ["seal", ...], "images": [{"file_name": "a.png", "image_id": 1, "width": 40,
      "height": 30, "key_points": {"xy": [[[x, y]], ...], "class_id": [0, ...], "data": {...}},
      "detections": {"xyxy": [[x1, y1, x2, y2], ...], "class_id": [0, ...], "data": {...}}}]}

`xy` and `xyxy` are continuous px, `class_id` counts the classes from 0, `data` holds class_name,
annotation_id and ignore. FORMATS.md has the lines that make sv.KeyPoints and sv.Detections of it.
"""

from __future__ import annotations

import json
from typing import Any, TextIO

from ..point_json import category_index, is_ignored


def write(file: TextIO, dataset: dict[str, Any], prefix: str) -> None:
    """One JSON object; see the module."""
    labels = category_index(dataset)
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    by_image: dict[Any, list[dict]] = {image["id"]: [] for image in dataset["images"]}
    for annotation in dataset["annotations"]:
        by_image[annotation["image_id"]].append(annotation)

    def described(annotations: list[dict]) -> dict[str, Any]:
        return {
            "class_id": [labels[a["category_id"]] for a in annotations],
            "data": {
                "class_name": [names[a["category_id"]] for a in annotations],
                "annotation_id": [a["id"] for a in annotations],
                "ignore": [is_ignored(a) for a in annotations],
            },
        }

    images = []
    for image in dataset["images"]:
        clicks = [a for a in by_image[image["id"]] if a.get("point") is not None]
        boxes = [a for a in by_image[image["id"]] if a.get("bbox") is not None]
        corners = [(x, y, x + w, y + h) for x, y, w, h in (a["bbox"] for a in boxes)]
        images.append(
            {
                "file_name": image["file_name"],
                "image_id": image["id"],
                "width": image["width"],
                "height": image["height"],
                "key_points": {"xy": [[a["point"]] for a in clicks], **described(clicks)},
                "detections": {"xyxy": corners, **described(boxes)},
            }
        )
    classes = [names[number] for number in sorted(labels, key=labels.get)]
    content = {"classes": classes, "images": images}
    file.write(f"{json.dumps(content, allow_nan=False)}\n")
