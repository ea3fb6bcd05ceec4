import cv2
import numpy as np
import pytest

from cpr_deploy.files import InputError
from cpr_deploy.picking.workspace import Workspace

L_SHAPE = [[0, 0], [3, 0], [3, 1], [1, 1], [1, 3], [0, 3]]


def test_polygon_against_opencv():
    rng = np.random.default_rng(0)
    xy = rng.uniform(-1, 4, (500, 2))
    inside = Workspace(polygon=L_SHAPE).contains(np.column_stack([xy, rng.normal(size=500)]))
    contour = np.array(L_SHAPE, np.float32)
    for place, found in zip(xy.tolist(), inside, strict=True):
        assert found == (cv2.pointPolygonTest(contour, place, False) > 0), place
    reverse = Workspace(polygon=L_SHAPE[::-1]).contains(np.column_stack([xy, np.zeros(500)]))
    np.testing.assert_array_equal(reverse, inside)


def test_box_and_polygon_must_both_hold():
    space = Workspace(box=([0, 0, 0], [2, 2, 1]), polygon=L_SHAPE)
    xyz = np.array([[0.5, 0.5, 0.5], [0.5, 2.5, 0.5], [1.5, 1.5, 0.5], [0.5, 0.5, 1.5]])
    assert space.contains(xyz).tolist() == [True, False, False, False]
    assert Workspace().contains(xyz).all()
    # A place that is not known is nowhere.
    assert not space.contains(np.full((1, 3), np.nan)).any()


@pytest.mark.parametrize(
    "corners",
    [
        [[0, 0], [2, 2], [2, 0], [0, 2]],  # a bow tie
        [[0, 0], [4, 0], [4, 4], [2, -1], [0, 4]],
        [[0, 0], [4, 0], [2, 0], [2, 3]],  # turns back on itself
        [[0, 0], [4, 0], [4, 4], [2, 0], [0, 4]],  # a corner on another side
        [[0, 0], [1, 1], [2, 2]],  # no area
        [[0, 0], [1, 0], [1, 0], [0, 1]],  # a corner twice
        [[0, 0], [2, 0], [1, 1], [2, 2], [0, 2], [1, 1]],  # touches itself in a corner
    ],
)
def test_polygons_that_cross_or_touch_themselves(corners):
    with pytest.raises(InputError, match="workspace polygon: .*(crosses itself|are the same)"):
        Workspace(polygon=corners)


def test_random_star_polygons_are_simple_and_shuffled_ones_mostly_not():
    rng = np.random.default_rng(1)
    crossing = 0
    for _ in range(50):
        angle = np.sort(rng.uniform(0, 2 * np.pi, 8))
        if np.diff(angle, append=angle[0] + 2 * np.pi).max() > 3:
            continue
        corners = rng.uniform(1, 3, (8, 1)) * np.column_stack([np.cos(angle), np.sin(angle)])
        Workspace(polygon=corners)
        try:
            Workspace(polygon=rng.permutation(corners))
        except InputError:
            crossing += 1
    assert crossing > 30


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"polygon": [[0, 0], [1, 1]]}, "2 corners"),
        ({"polygon": [[0, 0], [1, np.nan], [2, 0]]}, "finite numbers"),
        ({"polygon": 7}, "finite numbers"),
        ({"box": [[0, 0, 0], [1, 1, 0]]}, "is empty"),
        ({"box": [[0, 0], [1, 1]]}, "finite numbers"),
        ({"boxes": []}, "is needed"),
        ([], "is needed"),
    ],
)
def test_bad_workspaces(value, message):
    with pytest.raises(InputError, match=message):
        Workspace.from_dict(value)
