import numpy as np
import pytest

from cpr_deploy.point_nms import point_nms
from cpr_deploy.tiling import inference_tiles, merge_tiles, training_corners, training_tiles

IMAGE = {"id": 4, "file_name": "a.jpg", "width": 100, "height": 60, "license": 1}


def test_training_corners_are_cut_not_shifted():
    # x starts at 0, 40, 80; y at 0, 40; columns first.
    assert training_corners(100, 60, tile=50, overlap=10) == [
        (0, 0, 50, 50),
        (0, 40, 50, 60),
        (40, 0, 90, 50),
        (40, 40, 90, 60),
        (80, 0, 100, 50),
        (80, 40, 100, 60),
    ]


@pytest.mark.parametrize("overlap", [-1, 50])
def test_overlap_must_be_smaller_than_the_tile(overlap):
    with pytest.raises(ValueError, match="overlap"):
        training_corners(100, 60, tile=50, overlap=overlap)


def test_point_mode_margins_and_copies():
    annotations = [
        {"id": 10, "image_id": 4, "point": [45.0, 20.0], "bbox": [30, 10, 30, 20], "note": "x"},
        {"id": 11, "image_id": 4, "point": [1.9, 20.0]},  # closer than 2 px to the left side
        {"id": 12, "image_id": 4, "point": [48.0, 20.0]},  # 2 px before a right side: not inside
    ]
    tiles, kept = training_tiles(IMAGE, annotations, tile=50, overlap=10, mode="point")
    assert [tile["corner"] for tile in tiles][:2] == [[0, 0, 50, 50], [0, 40, 50, 60]]
    assert tiles[1] == {**IMAGE, "id": 1, "corner": [0, 40, 50, 60], "width": 50, "height": 20}
    # The first object lies in tiles 0 and 2, the last one only in tile 2.
    assert [(a["id"], a["image_id"], a["point"]) for a in kept] == [
        (0, 0, [45.0, 20.0]),
        (1, 2, [5.0, 20.0]),
        (2, 2, [8.0, 20.0]),
    ]
    assert kept[0]["bbox"] == [30, 10, 20, 20] and kept[1]["bbox"] == [0, 10, 20, 20]
    assert kept[0]["note"] == "x"
    assert annotations[0]["point"] == [45.0, 20.0], "the input must not change"


def test_regions_have_no_point_and_stay_by_their_box():
    region = {"id": 1, "image_id": 4, "bbox": [45, 5, 21, 10], "ignore": 1, "point": None}
    _, kept = training_tiles(IMAGE, [region], tile=50, overlap=10, mode="point")
    assert [(a["image_id"], a["bbox"]) for a in kept] == [(0, [45, 5, 5, 10]), (2, [5, 5, 21, 10])]


def test_box_mode_keeps_by_share_of_area():
    def boxes(*box, **extra):
        annotations = [{"id": 1, "image_id": 4, "bbox": list(box), **extra}]
        _, kept = training_tiles(IMAGE, annotations, tile=50, overlap=10, mode="bbox")
        return [(a["image_id"], a["bbox"]) for a in kept]

    # 21 px wide, last pixel at 61: tile 0 sees pixels 41..49, 8 of 20 px between its pixels = 0.4.
    assert boxes(41, 5, 21, 10) == [(0, [41, 5, 9, 10]), (2, [1, 5, 21, 10])]
    # From 45: 4 of 20 = 0.2 is too little, but enough for an ignored object.
    assert boxes(45, 5, 21, 10) == [(2, [5, 5, 21, 10])]
    assert boxes(45, 5, 21, 10, ignore=1) == [(0, [45, 5, 5, 10]), (2, [5, 5, 21, 10])]
    # Sides of 2 px or less are dropped.
    assert boxes(5, 5, 2, 10) == []


def test_polygons_and_clicks_move_along():
    annotation = {
        "id": 1,
        "image_id": 4,
        "point": [60.0, 20.0],
        "coarse_point": [61.0, 22.0],
        "segmentation": [[55, 10, 95, 10, 60, 30]],
    }
    _, kept = training_tiles(IMAGE, [annotation], tile=50, overlap=10, mode="point")
    assert len(kept) == 1 and kept[0]["coarse_point"] == [21.0, 22.0]
    assert kept[0]["segmentation"] == [[15, 10, 49, 10, 20, 30]]


@pytest.mark.parametrize("size", [(640, 480), (37, 1000), (1920, 1080)])
def test_inference_tiles_cover_the_image_with_full_tiles(size):
    width, height = size
    offsets, sizes = inference_tiles(width, height, tile=300, overlap=50)
    covered = np.zeros((height, width), dtype=int)
    for (x, y), (w, h) in zip(offsets, sizes, strict=True):
        assert (w, h) == (min(300, width), min(300, height))
        covered[y : y + h, x : x + w] += 1
    assert covered.min() >= 1


def test_merged_tiles_count_a_point_on_a_seam_once():
    offsets = np.array([[0, 0], [40, 0]])
    points = [np.array([[45.0, 10.0], [5.0, 5.0]]), np.array([[5.5, 10.0], [30.0, 5.0]])]
    scores = [np.array([0.9, 0.5]), np.array([0.8, 0.7])]
    labels = [np.array([0, 0]), np.array([0, 0])]
    merged = merge_tiles(offsets, points, scores, labels, max_dets=2, rule="radius", radius=3.0)
    np.testing.assert_allclose(merged[0], [[45, 10], [70, 5]])
    np.testing.assert_allclose(merged[1], [0.9, 0.7])
    assert len(point_nms(merged[0], merged[1], merged[2], rule="radius", radius=3.0)) == 2
    empty = merge_tiles(np.zeros((0, 2)), [], [], [], max_dets=5, rule="radius", radius=3.0)
    assert [len(part) for part in empty] == [0, 0, 0]
