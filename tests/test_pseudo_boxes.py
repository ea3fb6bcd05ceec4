import numpy as np
import pytest

from cpr.data.pseudo_boxes import (
    add_pseudo_boxes,
    from_pseudo_boxes,
    has_pseudo_boxes,
    pseudo_boxes,
)


def test_worked_by_hand():
    points = [[20, 10], [3, 10], [39, 29], [-7, 10]]
    boxes, kept = pseudo_boxes(np.array(points), (40, 30))
    # The last box would be 1 px wide.
    np.testing.assert_array_equal(kept, [True, True, True, False])
    np.testing.assert_allclose(boxes[:3], [[12, 2, 16, 16], [0, 2, 11, 16], [31, 21, 9, 9]])


def test_empty():
    boxes, kept = pseudo_boxes(np.zeros((0, 2)), (40, 30))
    assert boxes.shape == (0, 4) and kept.shape == (0,)


@pytest.mark.parametrize("size", [16, 9])
def test_points_survive_the_round_trip(size):
    rng = np.random.default_rng(0)
    points = rng.uniform([3, 3], [197, 147], (200, 2))
    dataset = {
        "images": [{"id": 1, "width": 200, "height": 150}],
        "annotations": [
            {"id": i, "image_id": 1, "point": point, "bbox": [1, 2, 30, 40]}
            for i, point in enumerate(points.tolist())
        ]
        + [{"id": 999, "image_id": 1, "iscrowd": 1, "bbox": [0, 0, 5, 5]}],
    }
    carried = add_pseudo_boxes(dataset, size=size)
    assert has_pseudo_boxes(carried) and not has_pseudo_boxes(dataset)
    assert dataset["annotations"][0]["bbox"] == [1, 2, 30, 40]  # the input is left alone
    for annotation in carried["annotations"]:
        annotation.pop("point", None)
    back, count = from_pseudo_boxes(carried)
    assert count == 200
    np.testing.assert_allclose([a["point"] for a in back["annotations"][:200]], points, atol=1e-9)
    assert back["annotations"][0]["bbox"] == [1, 2, 30, 40]
    assert back["annotations"][200] == dataset["annotations"][200]
