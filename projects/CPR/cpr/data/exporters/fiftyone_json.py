"""Clicks and boxes as samples of FiftyOne, in the form of its own Sample.to_dict().

    {"classes": ["seal", ...], "samples": [{"filepath": "a.png", "image_id": 1, "metadata": ...,
      "points": {"_cls": "Keypoints", "keypoints": [{"_cls": "Keypoint", "label": "seal",
      "points": [[x, y]], "annotation_id": 17, "ignore": false}]}, "boxes": {...}}]}

Coordinates are shares of the image's width and height from 0 to 1, as FiftyOne has them. FORMATS.md
has the lines that make a fiftyone.Dataset of it.
"""

from __future__ import annotations

import json
from typing import Any, TextIO

from ..point_json import is_ignored


def write(file: TextIO, dataset: dict[str, Any], prefix: str) -> None:
    """One JSON object; see the module.

    Args:
        prefix: put before each file name: FiftyOne wants absolute paths.
    """
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    by_image: dict[Any, list[dict]] = {image["id"]: [] for image in dataset["images"]}
    for annotation in dataset["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    samples = []
    for image in dataset["images"]:
        width, height = image["width"], image["height"]
        keypoints, detections = [], []
        for annotation in by_image[image["id"]]:
            common = {
                "label": names[annotation["category_id"]],
                "annotation_id": annotation["id"],
                "ignore": is_ignored(annotation),
            }
            if annotation.get("point") is not None:
                x, y = annotation["point"]
                place = {"points": [[x / width, y / height]]}
                keypoints.append({"_cls": "Keypoint", **common, **place})
            if annotation.get("bbox") is not None:
                x, y, w, h = annotation["bbox"]
                place = {"bounding_box": [x / width, y / height, w / width, h / height]}
                detections.append({"_cls": "Detection", **common, **place})
        samples.append(
            {
                "filepath": prefix + image["file_name"],
                "image_id": image["id"],
                "metadata": {"_cls": "ImageMetadata", "width": width, "height": height},
                "points": {"_cls": "Keypoints", "keypoints": keypoints},
                "boxes": {"_cls": "Detections", "detections": detections},
            }
        )
    content = {"classes": list(names.values()), "samples": samples}
    file.write(f"{json.dumps(content, allow_nan=False)}\n")
