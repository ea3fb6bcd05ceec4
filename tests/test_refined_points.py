import copy
import json
import subprocess
import sys

import numpy as np
import pytest

from cpr.data.refined_points import apply_refinement

DATASET = {
    "info": {"by": "us"},
    "images": [{"id": 1, "file_name": "a.png", "width": 50, "height": 40, "extra": 1}],
    "categories": [{"id": 3, "name": "x", "supercategory": "y"}],
    "annotations": [
        {"id": 5, "image_id": 1, "category_id": 3, "point": [4.0, 5.0], "bbox": [1, 2, 9, 9]},
        {"id": 6, "image_id": 1, "category_id": 3, "point": [8, 9], "note": "keep"},
        {"id": 7, "image_id": 1, "category_id": 3, "bbox": [0, 0, 5, 5], "ignore": 1},
    ],
}


def test_apply_refinement():
    before = copy.deepcopy(DATASET)
    results = [
        {"id": 6, "point": (8.0, 9.0), "score": 0.0, "refined": False},
        {
            "id": 5,
            "point": np.float32([4.5, 5.25]),
            "score": np.float32(0.5),
            "refined": np.bool_(True),
            "semantic_points": np.float32([[1, 2.123], [3, 4]]),
        },
    ]
    refined = apply_refinement(DATASET, results)
    assert before == DATASET, "the argument must not change"
    assert json.loads(json.dumps(refined)) == refined, "plain JSON types only"
    first, second, third = refined["annotations"]
    assert first == {
        **DATASET["annotations"][0],
        "coarse_point": [4.0, 5.0],
        "point": [4.5, 5.25],
        "refine_score": 0.5,
        "refined": True,
        "semantic_points": [[1.0, 2.12], [3.0, 4.0]],
    }
    assert second["point"] == second["coarse_point"] == [8.0, 9.0]
    assert second["refined"] is False and second["note"] == "keep"
    assert third == DATASET["annotations"][2]
    assert {k: refined[k] for k in ("info", "images", "categories")} == {
        k: DATASET[k] for k in ("info", "images", "categories")
    }


def test_what_a_refiner_may_say_besides():
    dataset = {**DATASET, "categories": [{"id": 9, "name": "y"}, *DATASET["categories"]]}
    result = {"id": 5, "point": (4, 5), "score": 0.5, "refined": True}
    more = {"bag_radius": np.float32(20.126), "own_score": 0.123456, "other_label": np.int64(1)}
    more |= {"other_score": 0.5, "semantic_points": np.zeros((1, 2))}
    one = apply_refinement(dataset, [{**result, **more}])
    first = one["annotations"][0]
    assert json.loads(json.dumps(one)) == one
    keys = ("bag_radius", "own_score", "other_class", "other_score", "semantic_points")
    # Contiguous labels follow the order of the ids: 3, 9.
    assert [first[key] for key in keys] == [20.13, 0.1235, 9, 0.5, [[0.0, 0.0]]]
    # They describe one refinement; another one that does not say them leaves none behind.
    assert not set(keys) & set(apply_refinement(one, [result])["annotations"][0])


def test_the_first_click_is_kept_in_a_second_round():
    one = apply_refinement(DATASET, [{"id": 5, "point": (6, 6), "score": 1, "refined": True}])
    two = apply_refinement(one, [{"id": 5, "point": (7, 7), "score": 1, "refined": True}])
    assert two["annotations"][0]["coarse_point"] == [4.0, 5.0]
    assert two["annotations"][0]["point"] == [7.0, 7.0]


def test_unknown_id():
    with pytest.raises(ValueError, match="99"):
        apply_refinement(DATASET, [{"id": 99, "point": (1, 1), "score": 1, "refined": True}])


def test_needs_no_torch(request):
    code = (
        "import sys; sys.modules['torch'] = sys.modules['detectron2'] = None;"
        "import cpr.data.refined_points, cpr.data.image_folder"
    )
    root = request.config.rootpath
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env={"PYTHONPATH": f"{root / 'projects/CPR'}:{root / 'deploy'}"},
    )
