"""Settings for a data set of one's own, proposed from its clicks.

R, the radius of the sampling region, is what CPR is most sensitive to (the paper's own limitation).
It follows from the size of the objects, and that from a few boxes or, without any, from how far
apart the clicks lie.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from cpr_deploy.files import InputError

from ..data.point_json import is_ignored

# Objects are brought to about this size, px of the network input: big enough for stride 4, small
# enough for two CPU cores.
WORKING_SIZE = 24.0
# Images are not enlarged by more than this, nor shrunk below it.
SCALES = (0.125, 3.0)
# R times the stride, in object sizes.
REACH = 0.65
# Larger network inputs are trained on as crops of this side, px.
CROP = 256
# Object size = this * the median distance of a click from its nearest neighbour in the image. Over
# the sets of RESULTS.md the ratio is 0.6 to 1.3.
SPACING_TO_SIZE = 0.85
# Without boxes a click far from all others says nothing: no object is taken to be larger than this
# share of the image's shorter side.
LARGEST_SHARE = 0.25
# Images of a batch, as configs/SmallSets have it.
BATCH = 4
# CPRNet tells the classes apart after it has seen so many clicks of the rarest one: 1,000 (white
# blood cells) to 5,000 (cow seals among pups) were needed. At most so many iterations.
CLASS_CLICKS = 4000
MAX_CPRNET_ITERATIONS = 2400


@dataclass(frozen=True)
class Settings:
    """What a data set asks for. Original px unless said otherwise.

    Attributes:
        object_size: sqrt(w h) of a typical object.
        object_size_from: where that is known from, for people.
        scale: network px per original px.
        level: FPN level of both networks.
        radius: R, in cells of that level.
        crop: side of the square crops in training, 0: whole images.
        nms_size: side of the squares of the point NMS (IoU above 0.2 suppresses).
        pseudo_box: side of the pseudo boxes of the box detectors.
        max_dets: points kept per image.
        num_classes: K.
        cprnet_iterations, localizer_iterations: of 4 images.
    """

    object_size: float
    object_size_from: str
    scale: float
    level: str
    radius: int
    crop: int
    nms_size: float
    pseudo_box: float
    max_dets: int
    num_classes: int
    cprnet_iterations: int
    localizer_iterations: int

    def with_schedule(self, factor: float) -> Settings:
        """The same with trainings `factor` times as long."""
        return dataclasses.replace(
            self,
            cprnet_iterations=max(1, round(self.cprnet_iterations * factor)),
            localizer_iterations=max(1, round(self.localizer_iterations * factor)),
        )


def suggest_settings(
    dataset: dict,
    *,
    object_size: float | None = None,
    boxes: int = 20,
    working_size: float = WORKING_SIZE,
    seed: int = 0,
) -> Settings:
    """Settings for a data set from its clicks alone, or with the help of a few boxes.

    Args:
        dataset: point JSON; every object that is not ignored has a `point` or a `bbox`.
        object_size: sqrt(w h) of a typical object if it is known, original px.
        boxes: this many boxes, drawn at random, are looked at, if there are any; 0: none.
        working_size: size of a typical object in the network input, px.
        seed: of that draw.

    Raises:
        InputError: no objects; one click an image and no boxes, so that nothing tells their size.
    """
    objects = [a for a in dataset["annotations"] if not is_ignored(a)]
    if not objects:
        raise InputError("there are no objects, so no settings can be proposed. Add clicks.")
    for name, value in (("--object-size", object_size), ("--working-size", working_size)):
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{name} {value}: give a size above 0 px.")
    images = dataset["images"]
    size, source = (object_size, "given") if object_size else _object_size(dataset, boxes, seed)

    scale = float(np.clip(working_size / size, *SCALES))
    if 0.8 < scale < 1.25:
        scale = 1.0
    scale = round(scale, 3)
    level, stride = _level(size * scale)
    shorter = np.median([min(image["width"], image["height"]) for image in images])
    # An image slightly above the crop's size is trained on whole.
    crop = 0 if shorter * scale <= 1.5 * CROP else round(CROP / scale)
    per_image = np.bincount(np.unique([a["image_id"] for a in objects], return_inverse=True)[1])
    classes = len(dataset["categories"])
    areas = [image["width"] * image["height"] for image in images]
    seen = min(1.0, crop**2 / np.median(areas)) if crop else 1.0
    return Settings(
        object_size=round(float(size), 1),
        object_size_from=source,
        scale=scale,
        level=level,
        radius=radius_for(size * scale, stride),
        crop=crop,
        nms_size=round(0.7 * float(size), 1),
        pseudo_box=round(float(size), 1),
        max_dets=int(np.clip(100 * np.ceil(2 * per_image.max() / 100), 100, 1000)),
        num_classes=classes,
        cprnet_iterations=_cprnet_iterations(objects, classes, len(per_image), seen),
        localizer_iterations=min(400 + 100 * (classes - 1), 1200),
    )


def _cprnet_iterations(objects: list[dict], classes: int, images: int, seen: float) -> int:
    """Enough to find objects and to tell the classes apart; `seen`: the crop's share of an image.

    Images without objects are not trained on.
    """
    iterations = 600 + 200 * (classes - 1)
    if classes > 1:
        rarest = np.unique([a["category_id"] for a in objects], return_counts=True)[1].min()
        per_iteration = BATCH * seen * rarest / images
        iterations = max(iterations, 100 * round(CLASS_CLICKS / per_iteration / 100))
    return min(iterations, MAX_CPRNET_ITERATIONS)


def radius_for(network_size: float, stride: int) -> int:
    """R in cells for objects of so many network px."""
    return max(2, round(REACH * network_size / stride))


def _level(network_size: float) -> tuple[str, int]:
    """The level on which an object covers 3 to 12 cells or so, and its stride."""
    for level, stride in (("p2", 4), ("p3", 8)):
        if network_size <= 10 * stride:
            return level, stride
    return "p4", 16


def _object_size(dataset: dict, boxes: int, seed: int) -> tuple[float, str]:
    sides = [
        (a["bbox"][2] * a["bbox"][3]) ** 0.5
        for a in dataset["annotations"]
        if a.get("bbox") is not None and not is_ignored(a)
    ]
    if boxes and sides:
        chosen = np.random.default_rng(seed).permutation(len(sides))[:boxes]
        return float(np.median(np.array(sides)[chosen])), f"the median of {len(chosen)} boxes"
    spacing = click_spacing(dataset)
    if spacing is None:
        raise InputError(
            "no image has two clicks and there are no boxes, so nothing tells how large the objects"
            " are. Give --object-size PX."
        )
    shorter = np.median([min(i["width"], i["height"]) for i in dataset["images"]])
    size = min(SPACING_TO_SIZE * spacing, LARGEST_SHARE * shorter)
    return float(size), "the distances between clicks; --object-size PX tells it better"


def click_spacing(dataset: dict) -> float | None:
    """Median distance of a click from its nearest neighbour in the image, original px.

    Objects without a click count with their box's centre, and two clicks at one place as one. None
    if no image holds two.
    """
    by_image: dict = {}
    for a in dataset["annotations"]:
        if not is_ignored(a):
            by_image.setdefault(a["image_id"], []).append(_position(a))
    places = [np.unique(points, axis=0) for points in by_image.values()]
    distances = [
        cKDTree(points).query(points, k=2)[0][:, 1] for points in places if len(points) > 1
    ]
    return float(np.median(np.concatenate(distances))) if distances else None


def _position(annotation: dict) -> tuple[float, float]:
    if annotation.get("point") is not None:
        return tuple(annotation["point"])
    x, y, width, height = annotation["bbox"]
    return x + width / 2, y + height / 2
