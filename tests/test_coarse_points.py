import copy
import logging
import time

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from scipy import stats

from cpr.data.coarse_points import (
    add_coarse_points,
    mask_probabilities,
    sample_in_box,
    sample_in_mask,
    truncated_normal,
    uniforms,
)
from cpr_deploy.files import InputError


def make_dataset(count: int = 50) -> dict:
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.uniform(0, 60, (count, 2)), rng.uniform(1, 30, (count, 2))], 1)
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [
            {"id": 100 + i, "image_id": 1, "category_id": 1, "bbox": box}
            for i, box in enumerate(boxes.tolist())
        ],
    }


def points_by_id(dataset: dict) -> dict:
    return {a["id"]: a["point"] for a in dataset["annotations"]}


def test_uniforms_are_uniform_and_independent():
    draws = uniforms(np.arange(100_000), 3, 3)
    assert ((draws > 0) & (draws < 1)).all()
    for column in draws.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    correlation = np.corrcoef(np.concatenate([draws.T, uniforms(np.arange(100_000), 4, 3).T]))
    assert np.abs(correlation - np.eye(6)).max() < 0.015
    neighbours = np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]
    assert abs(neighbours) < 0.015


def test_uniforms_are_pinned():
    # A change of the generator would silently change every published click file.
    assert uniforms([7, 1_000_000_007], 0, 2).round(12).tolist() == [
        [0.354473548169, 0.438018121171],
        [0.101470899886, 0.802706391793],
    ]


def test_truncated_normal_against_scipy():
    levels = np.linspace(0.01, 0.99, 99)
    reference = stats.truncnorm(-2, 2, scale=0.25)
    np.testing.assert_allclose(truncated_normal(levels, 0.25), reference.ppf(levels), atol=1e-9)
    assert truncated_normal(np.array([1 - 2**-53]), 100.0)[0] < 0.5
    assert not truncated_normal(levels, 0.0).any()
    with pytest.raises(ValueError, match="sigma"):
        truncated_normal(levels, float("nan"))


def test_click_depends_on_seed_and_id_only():
    dataset = make_dataset()
    clicks = points_by_id(add_coarse_points(dataset, seed=5))
    shuffled = copy.deepcopy(dataset)
    np.random.default_rng(1).shuffle(shuffled["annotations"])
    shuffled["annotations"] = shuffled["annotations"][:20]
    for annotation_id, point in points_by_id(add_coarse_points(shuffled, seed=5)).items():
        assert clicks[annotation_id] == point
    other = points_by_id(add_coarse_points(dataset, seed=6))
    assert all(other[i] != clicks[i] for i in clicks)
    assert "point" not in dataset["annotations"][0]  # the input is left alone


def test_clicks_lie_in_their_boxes_and_regions_get_none(caplog):
    dataset = make_dataset()
    dataset["annotations"][0]["ignore"] = 1
    dataset["annotations"][1]["iscrowd"] = 1
    dataset["annotations"][2]["bbox"] = [90, 90, 40, 40]  # reaches out of the image
    with caplog.at_level(logging.INFO):
        clicked = add_coarse_points(dataset)["annotations"]
    assert [a["id"] for a in clicked if "point" not in a] == [100, 101]
    for annotation in clicked[2:]:
        x, y, w, h = annotation["bbox"]
        assert x <= annotation["point"][0] <= x + w and y <= annotation["point"][1] <= y + h
        assert min(annotation["point"]) >= 0 and max(annotation["point"]) <= 100
    assert "48 from box" in caplog.text and "2 regions" in caplog.text


def test_center():
    clicked = add_coarse_points(make_dataset(), source="center")["annotations"]
    for annotation in clicked:
        x, y, w, h = annotation["bbox"]
        assert annotation["point"] == [x + w / 2, y + h / 2]


def test_mask_probabilities_by_hand():
    # A side of one pixel is its own centre; the other runs over -0.5, 0, 0.5 = -2, 0, 2 sigma.
    expected = np.exp([-2.0, 0.0, -2.0])
    np.testing.assert_allclose(
        mask_probabilities(np.ones((1, 3)), 0.25), [expected / expected.sum()]
    )
    np.testing.assert_array_equal(mask_probabilities(np.ones((1, 1)), 0.25), [[1.0]])
    np.testing.assert_allclose(mask_probabilities(np.array([[1, 0, 1]])), [[0.5, 0, 0.5]])


def test_sample_in_mask():
    mask = np.zeros((4, 6), dtype=bool)
    mask[2, 1] = True
    points = sample_in_mask(mask, np.arange(1000))
    assert (np.floor(points) == [1, 2]).all()
    np.testing.assert_allclose(points.mean(axis=0), [1.5, 2.5], atol=0.05)
    assert sample_in_mask(np.zeros((4, 6)), [1]) is None


def ring() -> np.ndarray:
    """A mask of 60 x 50 px whose box centre is not part of it."""
    y, x = np.mgrid[:50, :60] + 0.5
    distance = np.hypot(x - 30, y - 20)
    return (distance < 15) & (distance > 8)


def test_clicks_lie_in_their_masks(caplog):
    mask = ring()
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    encoded["counts"] = encoded["counts"].decode()
    rows = mask.T.ravel()
    runs = np.diff(np.flatnonzero(np.r_[True, rows[1:] != rows[:-1], True])).tolist()
    uncompressed = {"size": [50, 60], "counts": runs if not rows[0] else [0, *runs]}
    box = coco_mask.toBbox(encoded).tolist()
    triangle = [[10.0, 10.0, 40.0, 10.0, 10.0, 40.0]]
    annotations = [
        {"segmentation": encoded, "bbox": box},
        {"segmentation": encoded},
        {"segmentation": uncompressed, "bbox": box},
        {"segmentation": triangle, "bbox": [10, 10, 30, 30]},
        {"segmentation": [], "bbox": [10, 10, 30, 30]},
    ]
    dataset = {
        "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 50}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [
            {**annotations[i % 5], "id": i, "image_id": 1, "category_id": 1} for i in range(500)
        ],
    }
    with caplog.at_level(logging.INFO):
        clicked = add_coarse_points(dataset, source="mask")["annotations"]
    assert "100 from box, 400 from mask" in caplog.text
    for index, annotation in enumerate(clicked):
        x, y = annotation["point"]
        if index % 5 < 3:
            assert mask[int(y), int(x)]
        elif index % 5 == 3:
            assert x + y <= 50 + 1.5  # inside the triangle, to the pixel
    only_boxes = add_coarse_points(dataset, source="box")
    assert only_boxes["coarse_points"]["counts"] == {"box": 500}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": None}, "id 100.*neither bbox nor a mask"),
        ({"segmentation": [[1, 2, 3]]}, "id 100.*segmentation"),
        ({"segmentation": {"counts": "", "size": [5, 5]}}, "id 100.*segmentation"),
        ({"segmentation": "mask.png"}, "id 100.*segmentation"),
        ({"segmentation": {"counts": [-1, 5], "size": [100, 100]}}, "id 100.*segmentation"),
        ({"segmentation": {"counts": [10**9], "size": [100, 100]}}, "id 100.*segmentation"),
        ({"segmentation": [[0, 0, 1e9, 0, 5, 5]]}, "id 100.*outline is longer"),
        ({"segmentation": [[0, 0, 9, 0, 5, 5]], "bbox": [0, 0, 1e6, 1e6]}, "id 100.*too large"),
    ],
)
def test_bad_records(change, message):
    dataset = make_dataset(3)
    dataset["annotations"][0].update(change)
    with pytest.raises(InputError, match=message):
        add_coarse_points(dataset)


def test_bad_settings():
    for settings in ({"sigma": 0}, {"sigma": float("nan")}, {"source": "masks"}):
        with pytest.raises(InputError):
            add_coarse_points(make_dataset(2), **settings)
    with pytest.raises(InputError, match="no object"):
        add_coarse_points({**make_dataset(1), "annotations": []})
    with pytest.raises(ValueError, match="2 boxes but 3 ids"):
        sample_in_box(np.ones((2, 4)), np.arange(3))


def test_speed():
    boxes = np.tile([1.0, 2.0, 30.0, 40.0], (100_000, 1))
    start = time.perf_counter()
    sample_in_box(boxes, np.arange(100_000))
    assert time.perf_counter() - start < 1.0
