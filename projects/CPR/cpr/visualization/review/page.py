"""The review page as one HTML file that needs no network.

Data go into the page as JSON in a script element that no browser runs; the page's own script writes
them as text, never as HTML. Its Content-Security-Policy allows that script and style by their
hashes, embedded pictures, and nothing else. Pictures follow after everything else, in blocks of
`BLOCK` objects, worst first, so that the first ones are seen while the rest is still being read.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import Any

import numpy as np

from cpr.data.point_json import check_image_root
from cpr.data.quality.label_quality import FLAGS, LabelQuality, ObjectQuality
from cpr.data.quality.review_decisions import DECISIONS, KIND, VERSION, data_set_key
from cpr_deploy.files import InputError, atomic_path

from .thumbnails import LEVELS, Thumbnails, make_thumbnails

BLOCK = 64


@dataclass(frozen=True)
class ReviewSummary:
    """What a page holds.

    Attributes:
        data_set: `data_set_key`, which decisions of the page carry.
        bytes: of the file.
        shown: how many of the objects are in it.
        problems: image id -> why it cannot be shown.
        without_room: objects whose picture was left out to keep within the size.
        levels: "256 px" -> pictures of that size at most, without those that are missing.
    """

    data_set: str
    bytes: int
    shown: int
    problems: dict[int | str, str]
    without_room: int
    levels: dict[str, int]


def write_review(
    path: str | os.PathLike,
    dataset: dict[str, Any],
    quality: LabelQuality,
    image_root: str | os.PathLike,
    *,
    title: str,
    max_bytes: float = 50e6,
    max_objects: int | None = None,
    skip_bad: bool = False,
    progress: Callable[[Iterable], Iterable] = lambda iterable: iterable,
) -> ReviewSummary:
    """Writes the review page of a refined data set, atomically.

    Args:
        path: the HTML file.
        dataset: refined point JSON.
        quality: what `label_quality` says about it.
        image_root: folder of its images.
        title: heading of the page.
        max_bytes: size of the file at most. Pictures get smaller to keep it, the least doubtful
            first; the page says so if some had to be left out.
        max_objects: only so many, the worst; the page says how many are not in it.
        skip_bad: objects of images that cannot be read are shown without picture.
        progress: wraps the iterable of images, whose items are of no use to others.

    Raises:
        InputError: an image cannot be read, or the page cannot be so small.
    """
    check_image_root(image_root)
    objects = quality.objects[:max_objects]
    key = data_set_key(dataset)
    # Everything but the pictures, with room for the figures that depend on them.
    overlays = [_overlay(one, None) for one in objects]
    fixed = len(_page(title, dataset, quality, objects, Thumbnails([]), key, "")) + 2000
    fixed += sum(map(len, overlays)) + len(objects) * 40
    room = max_bytes - fixed
    if room < 0:
        raise InputError(
            f"{path}: {len(objects)} objects take {fixed / 1e6:.1f} MB without any picture, more"
            f" than {max_bytes / 1e6:g} MB. Allow more (--max-mb) or show fewer (--max-objects)."
        )
    thumbnails = make_thumbnails(
        objects,
        dataset["images"],
        image_root,
        max_bytes=0.75 * room - 2 * len(objects),  # base64; its last group is filled up
        reach=quality.reach,
        skip_bad=skip_bad,
        progress=progress,
    )
    pictures = "".join(_blocks(objects, thumbnails))
    text = _page(title, dataset, quality, objects, thumbnails, key, pictures)
    data = text.encode("utf-8")
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    levels = {f"{level.side} px": 0 for level in LEVELS}
    for item in thumbnails.items:
        if item.data:
            levels[f"{LEVELS[item.level].side} px"] += 1
    return ReviewSummary(
        data_set=key,
        bytes=len(data),
        shown=len(objects),
        problems=thumbnails.problems,
        without_room=thumbnails.left_out,
        levels={name: number for name, number in levels.items() if number},
    )


def _page(
    title: str,
    dataset: dict[str, Any],
    quality: LabelQuality,
    objects: Sequence[ObjectQuality],
    thumbnails: Thumbnails,
    key: str,
    pictures: str,
) -> str:
    folder = resources.files(__package__)
    template, style, script = (
        folder.joinpath(name).read_text(encoding="utf-8")
        for name in ("page.html", "page.css", "page.js")
    )
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}';"
        " img-src data:; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": policy,
        "title": escape(title),
        "lead": escape(_lead(quality, objects, thumbnails)),
        "style": style,
        "data": _json(_data(dataset, quality, objects, thumbnails, key, title)),
        "script": script,
        "pictures": pictures,
    }
    # One pass: what is put in is not looked at again.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _lead(quality: LabelQuality, objects: Sequence[ObjectQuality], thumbnails: Thumbnails) -> str:
    thresholds = quality.thresholds
    radius = (
        f"{thresholds.radius:g} px"
        if thresholds.radius is not None
        else f"three quarters of its bag's reach ({quality.reach:.1f} px at most)"
    )
    text = (
        f"Flagged: moved farther than {radius}; score below {thresholds.min_score:g}; nothing kept;"
        f" looks like another class; two points within {thresholds.same_place:.1f} px."
    )
    missing = len(quality.objects) - len(objects)
    if missing:
        text += f" Only the {len(objects)} worst are here, {missing} are not."
    if quality.unrefined:
        text += f" {quality.unrefined} objects were never refined and are not here."
    if thumbnails.problems:
        text += f" {len(thumbnails.problems)} images cannot be read."
    if thumbnails.left_out:
        text += (
            f" The last {thumbnails.left_out} objects have no picture, to keep the page within its"
            " size."
        )
    return text


def _data(
    dataset: dict[str, Any],
    quality: LabelQuality,
    objects: Sequence[ObjectQuality],
    thumbnails: Thumbnails,
    key: str,
    title: str,
) -> dict[str, Any]:
    """All but the pictures, by column; classes and images by their place, flags as bits."""
    classes = {category["id"]: place for place, category in enumerate(dataset["categories"])}
    used = {one.annotation["image_id"] for one in objects}
    images = [image for image in dataset["images"] if image["id"] in used]
    places = {image["id"]: place for place, image in enumerate(images)}
    names = list(FLAGS)
    index_of = {one.annotation["id"]: index for index, one in enumerate(objects)}
    annotations = [one.annotation for one in objects]
    return {
        "kind": KIND,
        "version": VERSION,
        "key": key,
        "title": title,
        "block": BLOCK,
        "decisions": DECISIONS,
        "flags": [{"name": name, "text": text} for name, text in FLAGS.items()],
        "classes": [category["name"] for category in dataset["categories"]],
        "images": [image["file_name"] for image in images],
        "problems": {str(places[image_id]): text for image_id, text in thumbnails.problems.items()},
        "id": [a["id"] for a in annotations],
        "image": [places[a["image_id"]] for a in annotations],
        "class": [classes[a["category_id"]] for a in annotations],
        "click": [_short(a["coarse_point"]) for a in annotations],
        "point": [_short(a["point"]) for a in annotations],
        "box": [_short(a.get("bbox")) for a in annotations],
        "refined": [int(a.get("refined", True)) for a in annotations],
        "score": _short([a.get("refine_score") for a in annotations], 3),
        "distance": _short([one.distance for one in objects]),
        "reach": _short([a.get("bag_radius") for a in annotations]),
        "bits": [sum(1 << names.index(flag) for flag in one.flags) for one in objects],
        "own": _short([a.get("own_score") for a in annotations], 2),
        "other": [classes.get(a.get("other_class"), -1) for a in annotations],
        "otherScore": _short([a.get("other_score") for a in annotations], 2),
        "partners": {
            str(index): [index_of[p] for p in one.partners if p in index_of]
            for index, one in enumerate(objects)
            if one.partners
        },
        "crop": [list(item.rectangle or ()) for item in thumbnails.items],
    }


def _blocks(objects: Sequence[ObjectQuality], thumbnails: Thumbnails) -> Iterator[str]:
    """Script elements with a line for each of `BLOCK` objects: semantic points, picture.

    The points are pairs of bytes, x and y in 255ths of the crop; both are base64.
    """
    for start in range(0, len(objects), BLOCK):
        lines = []
        for index in range(start, min(start + BLOCK, len(objects))):
            item = thumbnails.items[index]
            picture = base64.b64encode(item.data or b"").decode()
            lines.append(f"{_overlay(objects[index], item.rectangle)} {picture}")
        text = "\n".join(lines)
        yield f'<script type="text/plain" id="block{start // BLOCK}">{text}</script>\n'


def _overlay(one: ObjectQuality, rectangle: Sequence[int] | None) -> str:
    """The semantic points in a crop; without one, a text of the same length."""
    points = np.array(one.annotation.get("semantic_points") or [], dtype=np.float64).reshape(-1, 2)
    if rectangle is None:
        shares = np.zeros_like(points)
    else:
        shares = (points - rectangle[:2]) / rectangle[2:]
    packed = np.rint(255 * shares.clip(0, 1)).astype(np.uint8)
    return base64.b64encode(packed.tobytes()).decode()


def _short(values: Sequence[float | None] | None, digits: int = 1) -> list | None:
    """Rounded numbers; whole ones as integers, None as it is."""
    if values is None:
        return None
    rounded = [None if value is None else round(float(value), digits) for value in values]
    return [int(v) if v is not None and v == int(v) else v for v in rounded]


def _json(value: Any) -> str:
    """JSON for a script element, which ends at the first `</script` and knows `<!--`."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _hash(text: str) -> str:
    """A source of a Content-Security-Policy: exactly this text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
