"""From a dataset dict to the input of the networks: image read, augmented, points moved along."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
from collections.abc import Iterator

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import Instances

from cpr_deploy.files import InputError
from cpr_deploy.image_files import unreadable

from .image_folder import check_size
from .tiling.records import crop_tile

logger = logging.getLogger(__name__)

# Points are moved in float64; a point on the border may end up this far (px) beyond it.
BORDER_TOLERANCE = 1e-4
FLIPS = {
    "none": (),
    "horizontal": ("horizontal",),
    "vertical": ("vertical",),
    "both": ("horizontal", "vertical"),
}


def read_image(record: dict, image_format: str) -> np.ndarray:
    """Reads the image of a dataset dict and checks its size.

    Args:
        record: dict with file_name, image_id, height, width, and corner if it is a tile.
        image_format: "RGB" or "BGR".

    Returns:
        (H, W, 3) uint8, turned upright if its EXIF tag says so.

    Raises:
        InputError: the file is missing, cut off or no image, or its size is not the record's.
    """
    name = f"{record['file_name']} (image {record['image_id']})"
    try:
        image = detection_utils.read_image(record["file_name"], format=image_format)
    except FileNotFoundError:
        raise InputError(
            f"{name}: no such image file. Copy it there or remove the record."
        ) from None
    except Exception as error:  # Pillow raises many types for damaged files
        raise InputError(
            f"{name}: {unreadable(error)} Copy it again or remove the record."
        ) from None
    if "corner" in record:
        image = crop_tile(name, image, record["corner"])
    check_size(name, image.shape, record)
    # A copy, because Pillow's array is read-only.
    return np.array(image)


@contextlib.contextmanager
def plain_worker_errors() -> Iterator[None]:
    """Inside, an InputError of a loader's worker process is raised as it was there.

    torch passes it on with the worker's whole traceback as its text.
    """
    try:
        yield
    except InputError as error:
        raise InputError(without_worker(str(error))) from None


def without_worker(text: str) -> str:
    """The text of an InputError without the traceback of the worker process that raised it."""
    _, wrapped, plain = text.partition(f"{InputError.__module__}.InputError: ")
    return plain.strip() if wrapped else text


class ResizeByFactor(T.Augmentation):
    """Resizes every image by the same factor, to whole px of at least 1."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        # Rounded as `PointLocalizer.network_size` does.
        new = (max(1, int(side * self.factor + 0.5)) for side in (height, width))
        return T.ResizeTransform(height, width, *new)


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Detectron2's crop, flips and resize as the config's INPUT asks for them.

    Unlike in Detectron2, INPUT.RANDOM_FLIP may also be "both" (each way with probability 0.5).
    """
    sizes = (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    if is_train:
        sizes = (*cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN)
    if min(sizes) < 0:  # 0: no resize
        which = "TRAIN" if is_train else "TEST"
        raise InputError(
            f"INPUT.MIN_SIZE_{which}, MAX_SIZE_{which} {sizes}: give 0 px (as it is) or more."
        )
    if not 0 <= cfg.INPUT.SCALE < math.inf:
        raise InputError(f"INPUT.SCALE is {cfg.INPUT.SCALE}: give a factor, or 0 for MIN_SIZE.")
    if cfg.INPUT.SCALE:
        resize: T.Augmentation = ResizeByFactor(cfg.INPUT.SCALE)
    elif is_train:
        resize = T.ResizeShortestEdge(
            cfg.INPUT.MIN_SIZE_TRAIN,
            cfg.INPUT.MAX_SIZE_TRAIN,
            cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING,
        )
    else:
        resize = T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice")
    if not is_train:
        return [resize]
    if cfg.INPUT.RANDOM_FLIP not in FLIPS:
        raise InputError(
            f"INPUT.RANDOM_FLIP is {cfg.INPUT.RANDOM_FLIP!r}: use one of {', '.join(FLIPS)}."
        )
    augmentations: list[T.Augmentation] = []
    if cfg.INPUT.CROP.ENABLED:
        augmentations.append(T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
    # Before the resize, which leaves a read-only array that torch warns of when it flips it.
    for direction in FLIPS[cfg.INPUT.RANDOM_FLIP]:
        augmentations.append(
            T.RandomFlip(horizontal=direction == "horizontal", vertical=direction == "vertical")
        )
    return [*augmentations, resize]


class PointDatasetMapper:
    """Callable: a dict of `datasets.to_dataset_dicts` -> an input dict of CPRNet and P2PNet.

    The output has file_name, image_id, height, width (original px) and
        image: uint8 tensor (3, h, w) in INPUT.FORMAT order,
        instances: Instances((h, w)) with gt_points (N, 2) float32, gt_classes (N,) and gt_ids (N,)
            int64, for the objects that have a point and lie inside the augmented image,
        ignore_regions: (G, 4) float32, x1 y1 x2 y2, clipped to the augmented image.
    Points and regions are in px of the augmented image, continuous, origin at its top-left corner.
    Annotations are kept for inference too, because CPRNet refines them.
    """

    @configurable
    def __init__(
        self, *, is_train: bool, augmentations: list[T.Augmentation], image_format: str
    ) -> None:
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        mode = "training" if is_train else "inference"
        logger.info("Augmentations in %s: %s", mode, augmentations)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
            raise InputError(f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}: use RGB or BGR.")
        return {
            "is_train": is_train,
            "augmentations": build_augmentations(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
        }

    def __call__(self, dataset_dict: dict) -> dict:
        """Raises InputError if the image cannot be read or differs from its record."""
        result = copy.copy(dataset_dict)
        annotations = result.pop("annotations", [])
        regions = np.asarray(result.pop("ignore_regions", ()), dtype=np.float64).reshape(-1, 4)

        augmented = T.AugInput(read_image(result, self.image_format))
        transforms = self.augmentations(augmented)
        height, width = size = augmented.image.shape[:2]
        result["instances"] = self.targets(annotations, transforms, size)
        # A copy in channel order C x H x W; flips leave a view with negative strides.
        result["image"] = torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))

        if len(regions):
            regions = transforms.apply_box(regions).clip(min=0)
            regions = np.minimum(regions, [width, height, width, height])
            regions = regions[(regions[:, 2] > regions[:, 0]) & (regions[:, 3] > regions[:, 1])]
        result["ignore_regions"] = torch.from_numpy(regions.astype(np.float32))
        return result

    def targets(
        self, annotations: list[dict], transforms: T.TransformList, size: tuple[int, int]
    ) -> Instances:
        """What the network is to find in an image that was augmented to `size` (height, width)."""
        annotations = [a for a in annotations if "point" in a]
        points = np.array([a["point"] for a in annotations], dtype=np.float64).reshape(-1, 2)
        # In continuous coordinates a flip is x' = w - x and a resize x' = x * w' / w, which is what
        # Detectron2's apply_coords does: no half pixel is to be added.
        points = transforms.apply_coords(points)
        return make_instances(annotations, points, is_inside(points, size), size)


def is_inside(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(N,) bool: which (N, 2) points lie in an image of `size` (height, width) or on its border."""
    limits = np.array([size[1], size[0]])
    return ((points >= -BORDER_TOLERANCE) & (points <= limits + BORDER_TOLERANCE)).all(axis=1)


def make_instances(
    annotations: list[dict], points: np.ndarray, keep: np.ndarray, size: tuple[int, int]
) -> Instances:
    """Instances with gt_points, gt_classes and gt_ids of those `annotations` that `keep` marks."""
    instances = Instances(size)
    instances.gt_points = torch.from_numpy(points[keep].astype(np.float32))
    for field, key in (("gt_classes", "category_id"), ("gt_ids", "id")):
        values = np.array([a[key] for a in annotations], dtype=np.int64)
        instances.set(field, torch.from_numpy(values[keep]))
    return instances
