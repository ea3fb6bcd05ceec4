import copy
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpr.data.quality.label_quality import (
    FLAGS,
    Thresholds,
    bag_reaches,
    doubt,
    label_quality,
    looks_like_another,
    moved_far,
    refined_objects,
    same_place,
    scored_low,
    worst_first,
)
from cpr_deploy.files import InputError


def one(number, click, point, **more):
    return {
        "id": number,
        "image_id": 1,
        "category_id": 1,
        "coarse_point": click,
        "point": point,
        "refined": True,
        "refine_score": 0.5,
        "bag_radius": 20.0,
        **more,
    }


def dataset_of(*annotations):
    return {
        "images": [
            {"id": number, "file_name": f"{number}.png", "width": 200, "height": 200}
            for number in (1, 2)
        ],
        "categories": [{"id": 1, "name": "cow"}, {"id": 2, "name": "bull"}],
        "annotations": list(annotations),
    }


def flags_of(dataset, **thresholds):
    return {
        q.annotation["id"]: q.flags
        for q in label_quality(dataset, Thresholds(**thresholds)).objects
    }


# --- each flag by itself ---


def test_moved_far():
    distances, reaches = np.array([0, 14.9, 15, 15.1, 9]), np.array([20, 20, 20, 20, 10])
    assert moved_far(distances, reaches, None).tolist() == [False, False, False, True, True]
    assert moved_far(distances, reaches, 10).tolist() == [False, True, True, True, False]
    assert moved_far(distances, reaches, 0).tolist() == [False, True, True, True, True]


def test_scored_low():
    scores = np.array([0.1, 0.2, 0.3, 0.1, math.nan])
    refined = np.array([True, True, True, False, True])
    assert scored_low(scores, refined, 0.2).tolist() == [True, False, False, False, False]


def test_looks_like_another():
    own = np.array([0.3, 0.3, 0.3, 0.01, math.nan, 0.0])
    other = np.array([0.2, 0.3, 0.4, 0.04, 0.5, 0.05])
    assert looks_like_another(own, other).tolist() == [False, False, True, False, False, True]


def test_same_place_by_hand():
    points = np.array([[0, 0], [3, 4], [0, 0], [0, 5], [100, 100]], dtype=float)
    images = [1, 1, 2, 1, 1]
    assert same_place(points, images, 5) == [(0, 1), (0, 3), (1, 3)]
    assert same_place(points, images, 4) == [(1, 3)]
    assert same_place(points, images, 0) == []
    assert same_place(points[[0, 0]], ["a", "a"], 0) == [(0, 1)]


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 2)), max_size=12),
    st.integers(0, 6),
)
def test_same_place_is_what_loops_find(rows, distance):
    points = np.array([row[:2] for row in rows], dtype=float).reshape(-1, 2)
    expected = [
        (i, j)
        for i in range(len(rows))
        for j in range(i + 1, len(rows))
        if rows[i][2] == rows[j][2] and math.dist(rows[i][:2], rows[j][:2]) <= distance
    ]
    assert same_place(points, [row[2] for row in rows], distance) == expected


def test_reach_of_a_bag():
    said = one(1, [10, 10], [12, 10])
    silent = one(2, [50, 50], [53, 54], bag_radius=None, semantic_points=[[50, 56], [62, 50]])
    assert bag_reaches([said]).tolist() == [20]
    # 12 px to its farthest semantic point, 5 to its refined one.
    assert bag_reaches([said, silent]).tolist() == [20, 12]
    silent.pop("semantic_points")
    assert bag_reaches([silent]).tolist() == [5]


# --- all of them on a data set ---


def test_flags_of_a_data_set():
    dataset = dataset_of(
        one(1, [10, 10], [12, 10]),
        one(2, [50, 50], [66, 50]),
        one(3, [80, 80], [82, 80], refine_score=0.12),
        one(4, [120, 120], [120, 120], refined=False, refine_score=0.02),
        one(5, [150, 20], [150, 25], own_score=0.1, other_class=2, other_score=0.3),
        one(6, [20, 150], [24, 150]),
        one(7, [32, 150], [28, 150], category_id=2),
        one(8, [24, 150], [24, 150], image_id=2),
        {"id": 9, "image_id": 1, "category_id": 1, "point": [24, 150]},
        {"id": 10, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "ignore": 1},
        one(11, [24, 150], [24, 150], iscrowd=1),
    )
    before = copy.deepcopy(dataset)
    quality = label_quality(dataset)
    assert dataset == before
    assert {q.annotation["id"]: q.flags for q in quality.objects} == {
        1: (),
        2: ("moved",),
        3: ("low-score",),
        4: ("not-refined",),
        5: ("class",),
        6: ("same-place",),
        7: ("same-place",),
        8: (),
    }
    assert quality.counts() == {
        "class": 1,
        "same-place": 2,
        "not-refined": 1,
        "moved": 1,
        "low-score": 1,
    }
    assert quality.unrefined == 1 and quality.reach == 20
    assert quality.thresholds == Thresholds(None, 0.15, 5.0)
    partners = {q.annotation["id"]: q.partners for q in quality.objects if q.partners}
    assert partners == {6: (7,), 7: (6,)}
    # As many flags each: class, same-place (the farther moved, then the id), not-refined, moved...
    assert [q.annotation["id"] for q in quality.objects] == [5, 6, 7, 4, 2, 3, 1, 8]
    assert [q.annotation["id"] for q in quality.objects if q.distance == 16] == [2]


def test_thresholds_count():
    dataset = dataset_of(one(1, [10, 10], [16, 18]), one(2, [10, 30], [10, 30]))
    assert flags_of(dataset) == {1: (), 2: ()}
    assert flags_of(dataset, radius=9.9)[1] == ("moved",)
    assert flags_of(dataset, radius=10)[1] == ()
    assert flags_of(dataset, min_score=0.6) == {1: ("low-score",), 2: ("low-score",)}
    assert flags_of(dataset, same_place=14)[2] == ("same-place",)
    assert flags_of(dataset, same_place=0)[2] == ()


def test_doubt():
    values = doubt(np.array([1, 0, math.nan, 0.5, 2]), np.array([0, 8, 4, 0, 16]), np.full(5, 8))
    assert values.tolist() == [0, 1, 0.25, 0.25, 0.5]
    assert doubt(np.array([1.0, 1]), np.array([0.0, 3]), np.zeros(2)).tolist() == [0, 0.5]


@given(st.lists(st.tuples(st.integers(0, 31), st.sampled_from([0.0, 0.25, 0.5])), max_size=20))
def test_worst_first_is_a_sort_by_what_it_says(rows):
    raised = np.array([[(bits >> i) & 1 for i in range(5)] for bits, _ in rows], dtype=bool)
    order = worst_first(raised.reshape(-1, 5), np.array([d for _, d in rows]), np.arange(len(rows)))

    def key(index):
        columns = raised[index].tolist()
        return (-sum(columns), [not column for column in columns], -rows[index][1], index)

    assert order.tolist() == sorted(range(len(rows)), key=key)


def test_old_files_have_no_scores_and_no_bags():
    dataset = dataset_of(
        {"id": 1, "image_id": 1, "category_id": 1, "coarse_point": [1, 1], "point": [1, 1]},
        {"id": 2, "image_id": 1, "category_id": 1, "coarse_point": [9, 9], "point": [9, 19]},
    )
    quality = label_quality(dataset)
    assert [(q.annotation["id"], q.flags) for q in quality.objects] == [(2, ("moved",)), (1, ())]
    assert quality.reach == 10


def test_refined_objects():
    dataset = dataset_of(
        one(1, [1, 1], [1, 1]),
        one(2, [1, 1], [1, 1], ignore=1),
        one(3, None, [1, 1]),
        one(4, [1, 1], None),
    )
    assert [a["id"] for a in refined_objects(dataset)] == [1]


def test_flags_have_names_for_people():
    assert all(text and json.dumps(text) for text in FLAGS.values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"own_score": -0.1}, "own_score -0.1 is not a number from 0 to 1"),
        ({"other_score": "high"}, "other_score 'high'"),
        ({"bag_radius": True}, "bag_radius True"),
        ({"other_class": 3}, "other_class 3 is not among"),
        ({"other_class": [1]}, "other_class"),
        ({"semantic_points": [[1, 2, 3]]}, "semantic_points is not a list"),
        ({"semantic_points": {"x": 1}}, "semantic_points is not a list"),
        ({"semantic_points": [[1, 1e300]]}, "semantic_points is not a list"),
    ],
)
def test_unusable_keys(change, words):
    dataset = dataset_of(one(1, [1, 1], [1, 1]), one(17, [5, 5], [6, 6], **change))
    with pytest.raises(InputError, match="annotation id 17") as caught:
        label_quality(dataset)
    assert words in str(caught.value)


def test_nothing_refined():
    with pytest.raises(InputError, match="nothing was refined.*refine_points"):
        label_quality(dataset_of(one(1, None, [1, 1])))


@pytest.mark.parametrize(
    "values", [{"radius": -1}, {"radius": math.nan}, {"same_place": math.inf}, {"min_score": 2}]
)
def test_thresholds_are_checked(values):
    with pytest.raises(InputError, match=next(iter(values))):
        Thresholds(**values)
