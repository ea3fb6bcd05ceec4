"""Annotations for CVAT ("CVAT for images 1.1"), to review clicks where people annotate.

An object with a click becomes a `points` shape of one point; one without, a `box`. The attributes
`annotation_id` and `ignore` let the importer find the annotation again; CVAT keeps them if the
task's labels have text attributes of these names, and drops them otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TextIO
from xml.sax.saxutils import escape, quoteattr

from cpr_deploy.files import InputError

from ..importers.cvat import ID_ATTRIBUTE, IGNORE_ATTRIBUTE
from ..point_json import is_ignored

# What XML 1.0 cannot hold in any form, of what a valid point JSON can.
_NOT_XML = re.compile("[\ufffe\uffff]")
_ATTRIBUTE = (
    "<attribute><name>{}</name><mutable>False</mutable><input_type>text</input_type>"
    "<default_value></default_value><values></values></attribute>"
)


def write(file: TextIO, dataset: dict[str, Any], prefix: str) -> None:
    """One `image` an image, in px; see the module.

    Raises:
        InputError: a name with a character that XML cannot hold.
    """
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    for name in (*names.values(), *(image["file_name"] for image in dataset["images"])):
        if _NOT_XML.search(name):
            raise InputError(f"the name {name!r} has a character that XML cannot hold. Rename it.")
    by_image: dict[Any, list[dict]] = {image["id"]: [] for image in dataset["images"]}
    for annotation in dataset["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n')
    file.write(f"<meta><task><size>{len(dataset['images'])}</size><labels>\n")
    attributes = "".join(_ATTRIBUTE.format(name) for name in (ID_ATTRIBUTE, IGNORE_ATTRIBUTE))
    for name in names.values():
        label = f"<name>{escape(name)}</name><attributes>{attributes}</attributes>"
        file.write(f"<label>{label}</label>\n")
    file.write("</labels></task></meta>\n")
    for number, image in zip(_frames(dataset["images"]), dataset["images"], strict=True):
        file.write(
            f'<image id="{number}" name={quoteattr(image["file_name"])}'
            f' width="{int(image["width"])}" height="{int(image["height"])}">\n'
        )
        for annotation in by_image[image["id"]]:
            file.write(_shape(annotation, names[annotation["category_id"]]))
        file.write("</image>\n")
    file.write("</annotations>\n")


def _frames(images: list[dict[str, Any]]) -> Iterator[int]:
    """The images' ids, or where those are no numbers of frames, their places."""
    ids = [image["id"] for image in images]
    if all(isinstance(number, int) and number >= 0 for number in ids):
        return iter(ids)
    return iter(range(len(ids)))


def _shape(annotation: dict[str, Any], label: str) -> str:
    point = annotation.get("point")
    common = f'label={quoteattr(label)} source="file" occluded="0"'
    if point is not None:
        tag = "points"
        place = f'points="{_text(point[0])},{_text(point[1])}"'
    else:
        tag = "box"
        x, y, w, h = annotation["bbox"]
        sides = {"xtl": x, "ytl": y, "xbr": x + w, "ybr": y + h}
        place = " ".join(f'{key}="{_text(value)}"' for key, value in sides.items())
    attributes = {ID_ATTRIBUTE: annotation["id"]}
    if is_ignored(annotation):
        attributes[IGNORE_ATTRIBUTE] = "true"
    inner = "".join(
        f'<attribute name="{name}">{value}</attribute>' for name, value in attributes.items()
    )
    return f'<{tag} {common} {place} z_order="0">{inner}</{tag}>\n'


def _text(value: float) -> str:
    """A coordinate with all its digits."""
    return repr(float(value))
