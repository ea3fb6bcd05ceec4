"""A table of clicks, as `prepare_points.py import --format csv` reads it, with their ids."""

from __future__ import annotations

import csv
from typing import Any, TextIO

from cpr_deploy.files import InputError

COLUMNS = ("file_name", "x", "y", "class", "annotation_id", "image_id")


def write(file: TextIO, dataset: dict[str, Any], prefix: str) -> None:
    """One line an object: x, y in continuous px.

    Raises:
        InputError: a name with blanks around it, which tables do not keep.
    """
    images = {image["id"]: image for image in dataset["images"]}
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    for name in (*names.values(), *(image["file_name"] for image in images.values())):
        if name != name.strip():
            raise InputError(
                f"the name {name!r} has blanks around it, which a table loses. Rename."
            )
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for annotation in dataset["annotations"]:
        image = images[annotation["image_id"]]
        x, y = annotation["point"]
        writer.writerow(
            [
                image["file_name"],
                x,
                y,
                names[annotation["category_id"]],
                annotation["id"],
                image["id"],
            ]
        )
