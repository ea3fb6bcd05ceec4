"""Boxes for box detectors: pseudo boxes by hand, true boxes against Detectron2's own mapper."""

import numpy as np
import pytest
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from cpr.data.box_mapper import BoxDatasetMapper, build_mapper
from cpr.data.dataset_mapper import PointDatasetMapper
from cpr.engine import build_cfg
from cpr_deploy.files import InputError

WIDTH, HEIGHT = 120, 80
POINTS = np.array([[20.5, 10.25], [90.0, 30.5], [119.0, 79.5]])


def record(path, **changes):
    """An image whose red tells the column of a pixel and whose green tells its row."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(WIDTH), np.arange(HEIGHT)[:, None]
    Image.fromarray(pixels).save(path)
    return {
        "file_name": str(path),
        "image_id": 5,
        "width": WIDTH,
        "height": HEIGHT,
        "annotations": [
            {"id": 40 + i, "category_id": i % 2, "point": point} for i, point in enumerate(POINTS)
        ],
        "ignore_regions": np.zeros((0, 4)),
        **changes,
    }


def cfg_of(architecture="RetinaNet", **opts):
    opts = {
        "MODEL.META_ARCHITECTURE": architecture,
        "INPUT.FORMAT": "RGB",
        "INPUT.MIN_SIZE_TRAIN": (0,),
        "INPUT.RANDOM_FLIP": "none",
        **opts,
    }
    return build_cfg("", [item for pair in opts.items() for item in pair])


def mapper(**opts):
    return BoxDatasetMapper(cfg_of(**opts), True)


def square(x, y, width, height=None):
    height = width if height is None else height
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def assert_boxes(instances, expected):
    torch.testing.assert_close(
        instances.gt_boxes.tensor, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=1e-4
    )
    torch.testing.assert_close(instances.gt_boxes.get_centers(), instances.gt_points)


def test_pseudo_boxes_have_the_configured_size_around_their_points(tmp_path):
    instances = mapper()(record(tmp_path / "a.png"))["instances"]
    # They reach out of the image: the point stays the centre.
    assert_boxes(
        instances, [[4.5, -5.75, 36.5, 26.25], [74, 14.5, 106, 46.5], [103, 63.5, 135, 95.5]]
    )
    assert instances.gt_classes.tolist() == [0, 1, 0]
    assert instances.gt_ids.tolist() == [40, 41, 42]
    assert_boxes(
        mapper(**{"MODEL.PSEUDO_BOX.SIZE": 5.0})(record(tmp_path / "a.png"))["instances"],
        [square(x, y, 5) for x, y in POINTS],
    )


@pytest.mark.parametrize("size, width", [(160, 240), (40, 60), (37, 56)])
def test_the_size_is_of_the_original_image(tmp_path, size, width):
    """At 37 px the width 55.5 becomes 56, so that the axes are scaled by different factors."""
    changed = {"INPUT.MIN_SIZE_TRAIN": (size,), "INPUT.MAX_SIZE_TRAIN": 999}
    output = mapper(**changed)(record(tmp_path / "a.png"))
    assert tuple(output["image"].shape) == (3, size, width)
    sx, sy = width / WIDTH, size / HEIGHT
    assert_boxes(output["instances"], [square(x * sx, y * sy, 32 * sx, 32 * sy) for x, y in POINTS])


def test_flips(tmp_path):
    np.random.seed(0)
    flip, seen = mapper(**{"INPUT.RANDOM_FLIP": "both"}), set()
    for _ in range(30):
        output = flip(record(tmp_path / "a.png"))
        mirrored_x, mirrored_y = (int(v) > 0 for v in output["image"][:2, 0, 0])
        seen.add((mirrored_x, mirrored_y))
        assert_boxes(
            output["instances"],
            [
                square(WIDTH - x if mirrored_x else x, HEIGHT - y if mirrored_y else y, 32)
                for x, y in POINTS
            ],
        )
    assert len(seen) == 4


def test_a_crop_keeps_whole_boxes_of_the_points_in_it(tmp_path):
    np.random.seed(1)
    changed = {"INPUT.CROP.ENABLED": True, "INPUT.CROP.TYPE": "absolute"}
    changed |= {"INPUT.CROP.SIZE": [40, 60], "INPUT.MIN_SIZE_TRAIN": (80,)}
    crop, counts = mapper(**changed), set()
    for _ in range(30):
        output = crop(record(tmp_path / "a.png"))
        left, top = (int(v) for v in output["image"][:2, 0, 0])
        inside = [(x, y) for x, y in POINTS if left <= x <= left + 60 and top <= y <= top + 40]
        assert_boxes(
            output["instances"],
            np.reshape([square(2 * (x - left), 2 * (y - top), 64) for x, y in inside], (-1, 4)),
        )
        counts.add(len(inside))
    assert {0, 1} <= counts


@pytest.mark.parametrize("seed", range(6))
def test_true_boxes_are_those_of_detectron2(tmp_path, seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-10, [WIDTH, HEIGHT], (30, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1, 40, (30, 2))], axis=1)
    annotations = [{"id": i, "category_id": i % 3, "bbox": box} for i, box in enumerate(boxes)]
    one = record(tmp_path / "a.png", annotations=annotations)
    own = mapper(
        **{
            "INPUT.RANDOM_FLIP": "both",
            "INPUT.CROP.ENABLED": True,
            "INPUT.CROP.TYPE": "absolute",
            "INPUT.CROP.SIZE": [50, 70],
            "INPUT.MIN_SIZE_TRAIN": (90,),
        }
    )
    np.random.seed(seed)
    found = own(one)["instances"]

    np.random.seed(seed)
    augmented = T.AugInput(np.array(Image.open(one["file_name"])))
    transforms = own.augmentations(augmented)
    size = augmented.image.shape[:2]
    theirs = detection_utils.annotations_to_instances(
        [
            detection_utils.transform_instance_annotations(
                {**a, "bbox_mode": BoxMode.XYXY_ABS}, transforms, size
            )
            for a in annotations
        ],
        size,
    )
    expected, keep = detection_utils.filter_empty_instances(theirs, return_mask=True)
    torch.testing.assert_close(found.gt_boxes.tensor, expected.gt_boxes.tensor)
    assert torch.equal(found.gt_classes, expected.gt_classes)
    assert found.gt_ids.tolist() == np.flatnonzero(keep).tolist()
    assert 0 < len(found) < 30
    torch.testing.assert_close(found.gt_points, found.gt_boxes.get_centers())


def test_nothing_to_find(tmp_path):
    for annotations in ([], [{"id": 1, "category_id": 0}]):
        instances = mapper()(record(tmp_path / "a.png", annotations=annotations))["instances"]
        assert instances.gt_boxes.tensor.shape == (0, 4)
        assert instances.gt_classes.dtype == torch.int64 and not len(instances)


@pytest.mark.parametrize("size", [0.0, -3.0, float("nan"), float("inf")])
def test_pseudo_boxes_without_a_size_are_refused(size):
    with pytest.raises(InputError, match=r"MODEL\.PSEUDO_BOX\.SIZE"):
        mapper(**{"MODEL.PSEUDO_BOX.SIZE": size})


@pytest.mark.parametrize(
    "architecture, kind",
    [
        ("CPRNet", PointDatasetMapper),
        ("P2PNet", PointDatasetMapper),
        ("RetinaNet", BoxDatasetMapper),
        ("GeneralizedRCNN", BoxDatasetMapper),
        ("RepPoints", BoxDatasetMapper),
        ("FCOS", BoxDatasetMapper),
    ],
)
def test_the_network_decides_on_the_mapper(architecture, kind):
    assert type(build_mapper(cfg_of(architecture), False)) is kind
