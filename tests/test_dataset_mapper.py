import numpy as np
import pytest
import torch
from PIL import Image

from cpr.data.dataset_mapper import PointDatasetMapper, build_augmentations
from cpr.engine import build_cfg
from cpr_deploy.files import InputError

# Centres of drawn dots, px, in an image of 120 x 80.
DOTS = np.array([[20.5, 10.5], [90.5, 30.5], [55.5, 65.5], [110.5, 70.5]])
SIZE = (120, 80)


def dots_image():
    """A black image with a soft dot at each of DOTS, brighter for later ones."""
    ys, xs = np.mgrid[: SIZE[1], : SIZE[0]] + 0.5
    image = np.zeros((SIZE[1], SIZE[0]))
    for index, (x, y) in enumerate(DOTS):
        bump = np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * 2.0**2))
        image = np.maximum(image, (100 + 50 * index) * bump)
    return np.repeat(image[..., None], 3, axis=2).astype(np.uint8)


def record(path, **changes):
    Image.fromarray(dots_image()).save(path)
    return {
        "file_name": str(path),
        "image_id": 5,
        "width": SIZE[0],
        "height": SIZE[1],
        "annotations": [
            {"id": 40 + i, "category_id": i % 2, "point": point} for i, point in enumerate(DOTS)
        ],
        "ignore_regions": np.array([[10.0, 20.0, 40.0, 60.0]]),
        **changes,
    }


def mapper(is_train=True, **opts):
    opts = {
        "INPUT.FORMAT": "RGB",
        "INPUT.MIN_SIZE_TRAIN": (0,),
        "INPUT.MIN_SIZE_TEST": 0,
        "INPUT.RANDOM_FLIP": "none",
        **{f"INPUT.{key}": value for key, value in opts.items()},
    }
    cfg = build_cfg("", [item for pair in opts.items() for item in pair])
    return PointDatasetMapper(cfg, is_train)


def dot_near(image, point, reach=7):
    """Centre of brightness around `point`, px; nan where it is dark."""
    image = image[0].double().numpy()
    height, width = image.shape
    ys, xs = np.mgrid[:height, :width] + 0.5
    weight = image * (np.hypot(xs - point[0], ys - point[1]) < reach)
    if weight.sum() < 200:
        return np.full(2, np.nan)
    return np.array([(xs * weight).sum(), (ys * weight).sum()]) / weight.sum()


@pytest.mark.parametrize(
    "opts",
    [
        pytest.param({}, id="as it is"),
        pytest.param({"MIN_SIZE_TRAIN": (160,), "MAX_SIZE_TRAIN": 999}, id="enlarged 2x"),
        pytest.param({"MIN_SIZE_TRAIN": (60,), "MAX_SIZE_TRAIN": 999}, id="reduced 0.75x"),
        pytest.param({"MIN_SIZE_TRAIN": (110,), "MAX_SIZE_TRAIN": 133}, id="by the longer side"),
        pytest.param({"RANDOM_FLIP": "horizontal"}, id="horizontal"),
        pytest.param({"RANDOM_FLIP": "vertical"}, id="vertical"),
        pytest.param({"RANDOM_FLIP": "both", "MIN_SIZE_TRAIN": (100,)}, id="both"),
        pytest.param(
            {
                "RANDOM_FLIP": "both",
                "CROP.ENABLED": True,
                "CROP.TYPE": "absolute",
                "CROP.SIZE": [50, 70],
            },
            id="crop",
        ),
    ],
)
def test_points_move_as_the_image_does(tmp_path, opts):
    path = tmp_path / "dots.png"
    np.random.seed(3)
    map_it, counts = mapper(**opts), set()
    for _ in range(8):
        output = map_it(record(path))
        instances = output["instances"]
        assert tuple(output["image"].shape[1:]) == instances.image_size
        assert output["image"].dtype == torch.uint8
        assert instances.gt_points.dtype == torch.float32
        for point, label, ann_id in zip(
            instances.gt_points.numpy(), instances.gt_classes, instances.gt_ids, strict=True
        ):
            assert label == (ann_id - 40) % 2
            on_border = (point < 8).any() or (
                point > np.array(instances.image_size)[::-1] - 8
            ).any()
            np.testing.assert_allclose(
                dot_near(output["image"], point), point, atol=4 if on_border else 0.2
            )
        counts.add(len(instances))
    if "CROP.ENABLED" in opts:
        assert min(counts) < len(DOTS), "no crop left a point out"
    else:
        assert counts == {len(DOTS)}


@pytest.mark.parametrize("is_train", [True, False])
def test_scale_replaces_the_sizes(tmp_path, is_train):
    # 120 x 80 at 1.3125: 157.5 x 105, rounded up.
    map_it = mapper(is_train, SCALE=1.3125, MIN_SIZE_TRAIN=(400,), MIN_SIZE_TEST=400)
    output = map_it(record(tmp_path / "dots.png"))
    assert output["image"].shape == (3, 105, 158)
    np.testing.assert_allclose(
        output["instances"].gt_points.numpy(), DOTS * [158 / 120, 105 / 80], rtol=1e-6
    )
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"INPUT\.SCALE"):
            mapper(SCALE=bad)


def test_flips_really_happen(tmp_path):
    np.random.seed(0)
    map_it = mapper(RANDOM_FLIP="both")
    seen = {
        tuple(map_it(record(tmp_path / "dots.png"))["instances"].gt_points[0].tolist())
        for _ in range(40)
    }
    x, y = DOTS[0]
    assert seen == {(x, y), (120 - x, y), (x, 80 - y), (120 - x, 80 - y)}


def test_border_points_survive(tmp_path):
    corners = [(0.0, 0.0), (120.0, 80.0), (120.0, 0.0)]
    annotations = [{"id": i, "category_id": 0, "point": p} for i, p in enumerate(corners)]
    for size in (37, 53, 111):
        output = mapper(MIN_SIZE_TRAIN=(size,), RANDOM_FLIP="both")(
            record(tmp_path / "dots.png", annotations=annotations)
        )
        assert len(output["instances"]) == 3


def test_regions_move_and_are_clipped(tmp_path):
    regions = np.array([[10.0, 20.0, 40.0, 60.0], [100, 70, 140, 90], [130, 10, 150, 20]])
    output = mapper(MIN_SIZE_TRAIN=(160,), MAX_SIZE_TRAIN=999)(
        record(tmp_path / "dots.png", ignore_regions=regions)
    )
    torch.testing.assert_close(
        output["ignore_regions"], torch.tensor([[20.0, 40, 80, 120], [200, 140, 240, 160]])
    )


def test_image_without_objects(tmp_path):
    output = mapper()(record(tmp_path / "a.png", annotations=[], ignore_regions=np.zeros((0, 4))))
    assert output["instances"].gt_points.shape == (0, 2)
    assert output["instances"].gt_ids.dtype == torch.int64
    assert output["ignore_regions"].shape == (0, 4)


def test_inference_keeps_clicks_and_original_size(tmp_path):
    original = record(tmp_path / "dots.png")
    output = mapper(False, MIN_SIZE_TEST=40, MAX_SIZE_TEST=999)(original)
    assert (output["height"], output["width"]) == (80, 120)
    assert tuple(output["image"].shape) == (3, 40, 60)
    np.testing.assert_allclose(output["instances"].gt_points.numpy(), DOTS / 2, atol=1e-5)
    assert "annotations" in original, "the dataset dict must not change"


@pytest.mark.parametrize("image_format, channel", [("RGB", 0), ("BGR", 2)])
def test_channel_order(tmp_path, image_format, channel):
    path = tmp_path / "red.png"
    one = record(path)
    Image.new("RGB", SIZE, (255, 0, 0)).save(path)
    image = mapper(FORMAT=image_format)(one)["image"]
    assert [bool((image[c] == 255).all()) for c in range(3)] == [c == channel for c in range(3)]


def test_missing_image(tmp_path):
    one = record(tmp_path / "dots.png")
    (tmp_path / "dots.png").unlink()
    with pytest.raises(InputError, match=r"dots\.png \(image 5\): no such image file"):
        mapper()(one)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_image(tmp_path, suffix):
    path = tmp_path / f"dots.{suffix}"
    one = record(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"image 5.*cannot be read"):
        mapper()(one)


def test_not_an_image(tmp_path):
    one = record(tmp_path / "dots.png")
    (tmp_path / "dots.png").write_text("hello")
    with pytest.raises(InputError, match="image 5.*is not an image"):
        mapper()(one)


def test_size_differs_from_the_record(tmp_path):
    with pytest.raises(InputError, match="120x80.*annotation file says 121x80"):
        mapper()(record(tmp_path / "dots.png", width=121))


def test_unknown_flip():
    with pytest.raises(InputError, match="INPUT.RANDOM_FLIP"):
        build_augmentations(build_cfg("", ["INPUT.RANDOM_FLIP", "diagonal"]), True)


def test_a_tile_is_cropped_from_its_image(tmp_path):
    """Pixels, points and regions of a tile are those of its part of the image."""
    full = mapper()(record(tmp_path / "a.png"))
    corner = (50, 20, 120, 80)
    shift = np.array(corner[:2])
    annotations = [{"id": 1, "category_id": 0, "point": DOTS[2] - shift}]
    tile = record(tmp_path / "a.png", width=70, height=60, annotations=annotations, corner=corner)
    result = mapper()(tile)
    assert torch.equal(result["image"], full["image"][:, 20:80, 50:120])
    point = result["instances"].gt_points[0].numpy()
    np.testing.assert_allclose(point, DOTS[2] - shift)
    np.testing.assert_allclose(dot_near(result["image"], point), point, atol=0.2)
    with pytest.raises(InputError, match=r"a\.png \(image 5\).*reaches out"):
        mapper()({**tile, "corner": (51, 20, 121, 80)})
    with pytest.raises(InputError, match="70x60"):
        mapper()({**tile, "width": 71})
