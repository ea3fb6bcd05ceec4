"""Objects that may be one, against brute force, and crowds, which are none."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpr.data.quality.same_place import SAME_BOX, double_clicks, nearest_of_group, overlap, repeats

NONE = (np.nan,) * 4
# Few places, so that many objects share one; 0.5 px apart along an axis.
COORDINATES = st.integers(0, 6).map(lambda n: n / 2)
SIDES = st.sampled_from([1.0, 1.1, 4.0])
OBJECTS = st.tuples(
    st.integers(0, 2),
    st.tuples(COORDINATES, COORDINATES),
    st.none() | st.tuples(COORDINATES, COORDINATES, SIDES, SIDES),
)


def arrays(objects):
    groups, points, boxes = zip(*objects, strict=True) if objects else ((), (), ())
    boxes = [NONE if box is None else box for box in boxes]
    return (
        np.array(groups, np.int64),
        np.array(points, float).reshape(-1, 2),
        np.array(boxes, float).reshape(-1, 4),
    )


def repeats_by_hand(groups, points, boxes, distance):
    """One object after the other, those with a box first, against all that were kept."""
    has_box = ~np.isnan(boxes[:, 0])
    first = np.arange(len(points))
    kept = []
    for i in sorted(range(len(points)), key=lambda i: (not has_box[i], i)):
        for j in kept:
            near = groups[i] == groups[j] and np.hypot(*(points[i] - points[j])) <= distance
            two = has_box[i] and has_box[j] and overlap(boxes[i], boxes[j]) < SAME_BOX
            if near and not two:
                break
        else:
            kept.append(i)
            continue
        first[i] = -1
    return first


@settings(deadline=None)
@given(
    objects=st.lists(OBJECTS, max_size=14), distance=st.sampled_from([0.0, 0.25, 0.5, 0.75, 2.0])
)
def test_repeats_are_those_of_brute_force(objects, distance):
    groups, points, boxes = arrays(objects)
    first = repeats(groups, points, boxes, distance)
    by_hand = repeats_by_hand(groups, points, boxes, distance)
    assert ((first != np.arange(len(first))) == (by_hand == -1)).all()
    for i, j in enumerate(first.tolist()):
        assert first[j] == j, "what is repeated stays"
        assert groups[i] == groups[j] and np.hypot(*(points[i] - points[j])) <= distance


@settings(deadline=None)
@given(objects=st.lists(OBJECTS, max_size=14))
def test_the_nearest_of_a_group(objects):
    groups, points, _ = arrays(objects)
    index, apart = nearest_of_group(groups, points)
    for i in range(len(points)):
        others = [j for j in range(len(points)) if j != i and groups[j] == groups[i]]
        distances = [np.hypot(*(points[i] - points[j])) for j in others]
        if not others:
            assert index[i] == i and apart[i] == np.inf
        else:
            assert index[i] in others and groups[index[i]] == groups[i]
            assert apart[i] == pytest.approx(min(distances))
            assert np.hypot(*(points[i] - points[index[i]])) == pytest.approx(apart[i])


def test_ten_thousand_objects_at_one_place_take_a_moment():
    count = 10_000
    groups, points = np.zeros(count, np.int64), np.full((count, 2), 7.25)
    boxes = np.full((count, 4), np.nan)
    assert (repeats(groups, points, boxes, 0.5) == 0).all()
    pairs, _ = double_clicks(groups, groups, points, boxes, 1.0)
    assert len(np.unique(pairs)) == count


def test_many_different_boxes_about_one_place_take_a_moment():
    """They are all two objects, so that each one is compared with all others."""
    sides = 1.3 ** np.arange(50)
    sides = np.stack(np.meshgrid(sides, sides), -1).reshape(-1, 2)
    boxes = np.concatenate([-sides / 2, sides], 1)
    start = time.monotonic()
    first = repeats(np.zeros(2500, np.int64), np.zeros((2500, 2)), boxes, 0.5)
    assert (first == np.arange(2500)).all()
    assert time.monotonic() - start < 10  # it takes half a second, a pair at a time a minute


def test_overlap_of_boxes():
    first = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 1, 1]], float)
    second = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [5, 5, 1, 1]], float)
    assert overlap(first, second) == pytest.approx([1, 50 / 150, 0])


def pairs_of(points, boxes=None, groups=None, **settings):
    points = np.asarray(points, float)
    groups = np.zeros(len(points), np.int64) if groups is None else np.asarray(groups)
    boxes = np.full((len(points), 4), np.nan) if boxes is None else np.asarray(boxes, float)
    pairs, distances = double_clicks(groups, groups * 0, points, boxes, **settings)
    assert distances == pytest.approx(np.hypot(*(points[pairs[:, 0]] - points[pairs[:, 1]]).T))
    return pairs.tolist()


def grid(step, count, corner=(0.0, 0.0)):
    return np.stack(np.meshgrid(*[np.arange(count) * step] * 2), -1).reshape(-1, 2) + corner


def test_a_double_click_among_objects_of_some_distance():
    """30 px from object to object: clicks 2 px apart are on one, clicks 4 px apart need not be."""
    points = [*grid(30, 6), (30.0, 62.0), (94.0, 90.0)]
    assert pairs_of(points) == [[13, 36]]  # (30, 60) is row 2, column 1
    assert pairs_of(points, distance=5) == [[13, 36], [21, 37]]
    assert pairs_of(points, distance=0) == []


def test_of_few_objects_the_usual_distance_is_not_known():
    assert pairs_of([(0, 0), (1, 0), (100, 0), (200, 0)]) == []


@pytest.mark.parametrize("seed", range(3))
def test_crowds_are_no_double_clicks(seed):
    """Heads with a random distance to each other, dense in one corner, as far ones are."""
    rng = np.random.default_rng(seed)
    near = grid(60, 12) + rng.uniform(-20, 20, (144, 2))
    far = grid(5, 12, (900, 0)) + rng.uniform(-1.5, 1.5, (144, 2))
    assert pairs_of(np.concatenate([near, far])) == []
    # A double click in the dense corner is nearer than its neighbours are, too.
    points = np.concatenate([near, far, far[50:51] + 0.3])
    assert pairs_of(points) == [[194, 288]]


def test_places_without_any_order_are_hardly_double_clicks():
    """Points of a Poisson process: less than one in a hundred."""
    points = np.random.default_rng(0).random((5000, 2)) * 4000
    assert len(pairs_of(points)) < 50


def test_two_boxes_around_one_object():
    boxes = [(10, 10, 20, 40), (11, 10, 20, 40), (20, 10, 20, 40), (10, 10, 40, 20)]
    centres = np.array(boxes)[:, :2] + np.array(boxes)[:, 2:] / 2
    assert pairs_of(centres, boxes) == [[0, 1]]  # 19 / 21; 1 and 2: 11 / 29
    # Wherever the clicks in them are; and not if they are of two images or classes.
    assert pairs_of(centres + [(9, 19), (-9, -19), (0, 0), (0, 0)], boxes) == [[0, 1]]
    assert pairs_of(centres, boxes, groups=[0, 1, 0, 0]) == []


def test_a_click_in_the_box_of_another():
    """Within a quarter of the shorter side of its click, and inside."""
    boxes = [(0, 0, 40, 20), NONE, NONE, NONE]
    assert pairs_of([(20, 10), (24, 10), (200, 0), (300, 0)], boxes) == [[0, 1]]
    assert pairs_of([(20, 10), (26, 10), (200, 0), (300, 0)], boxes) == []
    assert pairs_of([(39, 10), (41, 10), (200, 0), (300, 0)], boxes) == []


def test_no_objects_and_one():
    for count in (0, 1):
        assert pairs_of(np.zeros((count, 2))) == []
        assert len(repeats(*arrays([(0, (1.0, 1.0), None)] * count), 0.5)) == count
