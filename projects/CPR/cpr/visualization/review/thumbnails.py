"""Crops of objects as JPEG files that together keep within a number of bytes."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

from cpr.data.image_folder import read_recorded
from cpr.data.quality.label_quality import ObjectQuality
from cpr.visualization.annotations import CROP_CONTEXT
from cpr.visualization.draw import Crop, crop_around, encode_image
from cpr_deploy.cpus import available_cpus
from cpr_deploy.files import InputError

# No crop is smaller, px of the image: less shows no object.
MIN_CROP = 32.0
# The circle that the bag reaches is in the crop, with so much around it.
BAG_CONTEXT = 1.08


class Level(NamedTuple):
    """Longest side in px and JPEG quality of a thumbnail."""

    side: int
    quality: int

    @property
    def expected_bytes(self) -> float:
        """Of an aerial photograph; only where to begin is chosen by it."""
        return self.side**2 * (0.09 + 0.0025 * max(0, self.quality - 40))


# From the best to the least that still shows anything.
LEVELS = tuple(
    Level(*level)
    for level in ((256, 82), (224, 76), (192, 70), (160, 65), (128, 60), (96, 50), (64, 40))
)


@dataclass
class Thumbnail:
    """One object's picture.

    Attributes:
        rectangle: x, y, width, height of what it shows, px of the image; None: nothing.
        data: JPEG; None: the image cannot be read, or there was no room.
        level: index in `LEVELS`.
    """

    rectangle: tuple[int, int, int, int] | None = None
    data: bytes | None = None
    level: int = 0


@dataclass
class Thumbnails:
    """The pictures of all objects, in their order.

    Attributes:
        items: one for each object.
        problems: image id -> why it cannot be read.
        left_out: objects at the end of the order for whose picture there was no room.
    """

    items: list[Thumbnail]
    problems: dict[int | str, str] = field(default_factory=dict)
    left_out: int = 0


def make_thumbnails(
    objects: Sequence[ObjectQuality],
    images: Sequence[dict],
    image_root: str | os.PathLike,
    *,
    max_bytes: float,
    reach: float,
    skip_bad: bool = False,
    progress: Callable[[Iterable], Iterable] = lambda iterable: iterable,
) -> Thumbnails:
    """A crop around each object; each image is read once, on all cores.

    Args:
        objects: the most important ones first: they keep the best pictures.
        images: image records of the data set.
        max_bytes: of all JPEG files together, see `fit`.
        reach: how far bags reach, px, for objects that do not say so.
        skip_bad: go on after images that cannot be read.
        progress: wraps the iterable of images.

    Raises:
        InputError: an image is missing, damaged or of another size, unless `skip_bad`.
    """
    by_image = defaultdict(list)
    for index, one in enumerate(objects):
        by_image[one.annotation["image_id"]].append(index)
    records = [image for image in images if image["id"] in by_image]
    start = next(
        (
            number
            for number, level in enumerate(LEVELS)
            if len(objects) * level.expected_bytes <= 1.5 * max_bytes
        ),
        len(LEVELS) - 1,
    )
    result = Thumbnails([Thumbnail(level=start) for _ in objects])

    def cut_all(record: dict) -> tuple[dict, str | None]:
        try:
            image = read_recorded(image_root, record)
        except InputError as error:
            if not skip_bad:
                raise
            return record, str(error)
        for index in by_image[record["id"]]:
            item = result.items[index]
            crop = cut(image, objects[index], reach=reach, side=LEVELS[start].side)
            item.rectangle = _rectangle(crop)
            item.data = encode_image(crop.image, ".jpg", LEVELS[start].quality)
        return record, None

    with ThreadPoolExecutor(available_cpus()) as pool:
        try:
            for record, problem in progress(pool.map(cut_all, records)):
                if problem:
                    result.problems[record["id"]] = problem
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    result.left_out = fit(result.items, max_bytes)
    return result


def cut(image: np.ndarray, one: ObjectQuality, *, reach: float, side: int) -> Crop:
    """The square around click, points, box and bag of an object; never enlarged, at most `side` px.

    reach: how far its bag reaches, px, if the object does not say so.
    """
    annotation = one.annotation
    points = [annotation["point"], annotation["coarse_point"]]
    points += annotation.get("semantic_points") or []
    if annotation.get("bbox") is not None:
        x, y, width, height = annotation["bbox"]
        points += [(x, y), (x + width, y + height)]
    # A box may be wrong by far; what is off the image shows nothing.
    limit = np.array([image.shape[1], image.shape[0]])
    points = np.array(points, dtype=np.float64).clip(0, limit)
    low, high = points.min(axis=0), points.max(axis=0)
    centre, half = (low + high) / 2, CROP_CONTEXT * (high - low).max() / 2
    click = np.array(annotation["coarse_point"], dtype=np.float64)
    bag = BAG_CONTEXT * (one.reach or reach)
    low = np.minimum(centre - half, click - bag).clip(0, limit)
    high = np.maximum(centre + half, click + bag).clip(0, limit)
    size = max(float((high - low).max()), MIN_CROP)
    return crop_around(image, (low + high) / 2, size, output_size=min(side, round(size)))


def fit(items: Sequence[Thumbnail], max_bytes: float) -> int:
    """Makes pictures smaller, in place, until all together have at most `max_bytes`.

    From the last to the first, a level at a time, so that the first ones are the best. If even the
    last level is too much, the last pictures are left out.

    Returns:
        how many were left out.
    """
    total = sum(len(item.data) for item in items if item.data)
    for number, level in enumerate(LEVELS):
        for item in reversed(items):
            if total <= max_bytes:
                return 0
            if item.data and item.level < number:
                smaller = _recompress(item.data, level)
                item.level = number
                if len(smaller) < len(item.data):
                    total += len(smaller) - len(item.data)
                    item.data = smaller
    left_out = 0
    for item in reversed(items):
        if total <= max_bytes:
            break
        if item.data:
            total -= len(item.data)
            item.data = None
            left_out += 1
    return left_out


def _recompress(data: bytes, level: Level) -> bytes:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    factor = level.side / max(image.shape[:2])
    if factor < 1:
        shape = [max(1, round(side * factor)) for side in image.shape[1::-1]]
        image = cv2.resize(np.ascontiguousarray(image), shape, interpolation=cv2.INTER_AREA)
    return encode_image(image, ".jpg", level.quality)


def _rectangle(crop: Crop) -> tuple[int, int, int, int]:
    height, width = crop.image.shape[:2]
    return (*crop.origin, round(width / crop.scale[0]), round(height / crop.scale[1]))
