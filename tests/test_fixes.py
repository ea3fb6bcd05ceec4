"""What `check --fix` does: errors of its kinds are gone, nothing valid is lost, twice is once."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpr.data.dataset_files import record_place
from cpr.data.quality.checks import RULES, check_dataset
from cpr.data.quality.fixes import FIXED_RULES, fix_dataset
from cpr_deploy.files import InputError

WIDTH, HEIGHT = 60, 50


def dataset(*annotations, images=2):
    """Images of 60 x 50 px, the classes 1 and 2; annotations without image and class get 1."""
    return {
        "info": {"year": 2026},
        "images": [
            {"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT}
            for n in range(1, images + 1)
        ],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "boat"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 1, **a} for n, a in enumerate(annotations, 1)
        ],
    }


def fixed(content, **more):
    """The annotations afterwards, and (record, rule, action) of each change."""
    before = copy.deepcopy(content)
    result = fix_dataset(content, **more)
    assert content == before, "the data set that is given stays as it is"
    changes = [(c.record.split(" (")[0], c.rule, c.action) for c in result.changes]
    return result.dataset["annotations"], changes, result.left


GOOD = {"point": [30, 30], "note": "kept"}


def test_nothing_to_do():
    content = dataset(GOOD, {"bbox": [1, 1, 5, 5]}, {"bbox": [0, 0, 9, 9], "ignore": 1})
    result = fix_dataset(content)
    assert result.dataset is content and not result.changes and not result.left


# What is wrong -> what becomes of it: entries, None if it is removed; rule.
CASES = {
    "a little outside": ({"point": [60.75, 5]}, {"point": [60, 5]}, "out-of-image"),
    "both axes": ({"point": [-0.5, 51]}, {"point": [0, 50]}, "out-of-image"),
    "far outside": ({"point": [70, 5]}, None, "out-of-image"),
    "far outside, with a box": (
        {"point": [70, 5], "bbox": [50, 0, 9, 9]}, {"bbox": [50, 0, 9, 9]}, "out-of-image"
    ),
    "a box outside": ({"bbox": [60, 5, 3, 3]}, None, "box-outside"),
    "a box outside beside a point": (
        {"point": [5, 5], "bbox": [60, 5, 3, 3]}, {"point": [5, 5]}, "box-outside"
    ),
    "a region outside": ({"bbox": [0, -9, 5, 5], "ignore": 1}, None, "box-outside"),
    "no box": ({"bbox": [1, 2, 0, 4]}, None, "box"),
    "no box beside a point": ({"point": [5, 5], "bbox": "x"}, {"point": [5, 5]}, "box"),
    "no point beside a box": (
        {"point": [5], "bbox": [1, 1, 3, 3]}, {"bbox": [1, 1, 3, 3]}, "point"
    ),
    "neither is one": ({"point": [5], "bbox": [1]}, None, "point"),
    "no place at all": ({}, None, "no-position"),
    "no image": ({"point": [5, 5], "image_id": 9}, None, "image-id"),
    "no old click": ({"point": [5, 5], "coarse_point": 3}, {"point": [5, 5]}, "coarse-point"),
    "no score": ({"point": [5, 5], "refine_score": "good"}, {"point": [5, 5]}, "refine-score"),
    "the same place": ({"point": [30.4, 30]}, None, "same-place"),
}  # fmt: skip


@pytest.mark.parametrize(("wrong", "right", "rule"), CASES.values(), ids=CASES)
def test_each_rule(wrong, right, rule):
    content = dataset(GOOD, wrong, {"point": [10, 40]})
    annotations, changes, left = fixed(content)
    assert changes == [("annotation id 2", rule, "removed" if right is None else "changed")]
    assert not left
    expected = copy.deepcopy(content["annotations"])
    if right is None:
        del expected[1]
    else:
        expected[1] = {key: expected[1][key] for key in ("id", "image_id", "category_id")} | right
    assert annotations == expected


# What has more than one answer.
LEFT = {
    "an unknown class": {"point": [5, 5], "category_id": 7},
    "a flag": {"point": [5, 5], "ignore": "yes"},
    "another class at its place": {"point": [30, 30], "category_id": 2},
    "a box over the border": {"bbox": [50, 40, 30, 30]},
    "a likely double click": {"bbox": [1, 1, 20, 20]},
}


@pytest.mark.parametrize("wrong", LEFT.values(), ids=LEFT)
def test_what_has_no_one_answer_is_left(wrong):
    content = dataset(GOOD, wrong, {"bbox": [3, 1, 20, 20]})
    annotations, changes, left = fixed(content)
    assert annotations == content["annotations"] and not changes and not left


def test_of_objects_at_one_place_the_one_with_a_box_stays():
    content = dataset({"point": [5, 5]}, {"point": [5, 5], "bbox": [1, 1, 8, 8]})
    annotations, changes, _ = fixed(content)
    assert [a["id"] for a in annotations] == [2]
    # Two objects whose boxes differ are two, wherever their centres are.
    content = dataset({"bbox": [4, 4, 2, 2]}, {"bbox": [1, 1, 8, 8]})
    assert fixed(content)[1] == []


def test_ids():
    """A record that is there twice goes; another one with its id gets one that was never used."""
    content = dataset(GOOD, GOOD, {"point": [1, 1]}, {"point": [2, 2]}, {"point": [9, 9]})
    rows = content["annotations"]
    rows[1]["id"] = 1
    rows[2]["id"] = 1
    rows[3]["id"] = "x"
    del rows[4]["id"]
    content["images"].append(dict(content["images"][0]))
    content["images"].append({**content["images"][1], "file_name": "other.png"})
    content["categories"].append(dict(content["categories"][1]))
    result = fix_dataset(content)
    assert [(a["id"], a["point"]) for a in result.dataset["annotations"]] == [
        (1, [30, 30]), (2, [1, 1]), (3, [2, 2]), (4, [9, 9]),
    ]  # fmt: skip
    # Which of two different images an object is on, nobody knows.
    assert [i["id"] for i in result.dataset["images"]] == [1, 2, 2]
    assert len(result.dataset["categories"]) == 2
    assert [c.rule for c in result.changes] == ["id"] * 6
    assert result.changes[2].before == {"id": 1} and result.changes[2].after == {"id": 2}


def test_images_that_cannot_be_read_go_with_their_objects():
    content = dataset(GOOD, {**GOOD, "image_id": 2}, images=3)
    annotations, changes, left = fixed(content, unreadable={"2.png"})
    assert changes == [
        ("image id 2", "unreadable-image", "removed"),
        ("annotation id 2", "unreadable-image", "removed"),
    ]
    assert [a["id"] for a in annotations] == [1] and not left


def test_too_many_of_one_kind_are_no_slips():
    """The wrong folder, another size, ids as text: nothing is thrown away for that."""
    content = dataset(GOOD, images=4)
    _, changes, left = fixed(content, unreadable={"1.png", "2.png", "3.png"})
    assert not changes and "unreadable-image: 3 of 4 images are too many" in left[0]
    outside = [{"point": [100, n]} for n in range(3)]
    _, changes, left = fixed(dataset(GOOD, *outside))
    assert not changes and "out-of-image: 3 of 4 objects of image id 1" in left[0]
    assert len(fixed(dataset(*[{"point": [n, n]} for n in range(3)], *outside))[1]) == 3
    orphans = [{"point": [n, n], "image_id": "1"} for n in range(3)]
    _, changes, left = fixed(dataset(GOOD, *orphans))
    assert not changes and "image-id: 3 of 4 annotations" in left[0]


def test_an_image_without_a_size_tells_nothing_about_its_points():
    content = dataset({"point": [5, 5]})
    content["images"][0]["width"] = -1
    _, changes, left = fixed(content)
    assert not changes and "out-of-image: the size of image id 1 is not known" in left[0]


def test_clicks_are_not_lost_to_a_wrong_size():
    """A file of another size than the JSON says: who knows which clicks are outside of it."""
    content = dataset(GOOD, GOOD | {"point": [20, 20]}, {"point": [70, 5]})
    assert [a["id"] for a in fixed(content)[0]] == [1, 2]
    annotations, changes, left = fixed(content, other_size={"1.png"})
    assert [a["id"] for a in annotations] == [1, 2, 3] and not changes
    assert left == ["out-of-image: 1 objects of image id 1, whose file has another size."]
    content["annotations"][2] = {
        **content["annotations"][2],
        "point": [5, 5],
        "bbox": [70, 0, 5, 5],
    }
    _, changes, left = fixed(content, other_size={"1.png"})
    assert not changes and left[0].startswith("box-outside: 1 objects of image id 1")


def test_what_is_no_data_set():
    with pytest.raises(InputError, match="has no list 'categories'"):
        fix_dataset({"images": [], "annotations": []})


# --- any data set ---

NUMBERS = st.sampled_from([-30, -1, -0.25, 0, 5, 5.25, 20, 49.5, 50.5, 60, 60.5, 61, 400])
JUNK = st.sampled_from([None, "x", [], {}, True, [1], ["a", "b"], [1e9, 1], -1, 10**30])
POINTS = st.none() | st.tuples(NUMBERS, NUMBERS).map(list) | JUNK
SIDES = st.sampled_from([0, 1e-9, 3, 10, 11, 70])
BOXES = st.none() | st.tuples(NUMBERS, NUMBERS, SIDES, SIDES).map(list) | JUNK
VALID = st.sampled_from([[5, 5], [5.25, 5], [20, 20], [49.5, 5], [0, 0], [60, 50]])


@st.composite
def annotations(draw):
    record = {
        "id": draw(st.integers(1, 8) | JUNK),
        "image_id": draw(st.integers(1, 3) | st.sampled_from(["b", 9]) | JUNK),
        "category_id": draw(st.integers(1, 2) | st.sampled_from([9]) | JUNK),
    }
    if draw(st.booleans()):  # mostly right
        record |= {"image_id": draw(st.integers(1, 2)), "category_id": 1, "point": draw(VALID)}
    else:
        record |= {"point": draw(POINTS), "bbox": draw(BOXES)}
    for key in ("coarse_point", "refine_score", "ignore", "iscrowd"):
        if draw(st.integers(0, 5)) == 0:
            record[key] = draw(JUNK | st.sampled_from([0, 1]))
    if draw(st.integers(0, 9)) == 0:
        del record[draw(st.sampled_from(list(record)))]
    return record


@st.composite
def datasets(draw):
    content = dataset(images=3)
    content["annotations"] = draw(st.lists(annotations(), max_size=8))
    if draw(st.booleans()):
        content["images"].append(draw(st.sampled_from([
            dict(content["images"][0]),
            {**content["images"][1], "width": 8},
            {"id": "b", "file_name": "b.png", "width": 9, "height": None},
            {"file_name": 3},
        ])))  # fmt: skip
    unreadable = draw(st.sets(st.sampled_from(["1.png", "2.png", "3.png", "b.png"]), max_size=2))
    return content, unreadable


@settings(deadline=None, max_examples=250)
@given(case=datasets(), require=st.sampled_from(["any", "point", "box"]))
def test_any_data_set(case, require):
    content, unreadable = case
    before = copy.deepcopy(content)
    result = fix_dataset(content, require=require, unreadable=unreadable)
    assert content == before
    found = check_dataset(content, require=require)
    left = check_dataset(result.dataset, require=require)
    assert {p.rule for p in found + left} | {c.rule for c in result.changes} <= set(RULES)

    # Errors of the kinds that are mended are gone, but for those that are said to be left.
    said = {text.split(":")[0] for text in result.left}
    assert {p.rule for p in left if p.is_error} & FIXED_RULES <= said

    # Once more changes nothing.
    again = fix_dataset(result.dataset, require=require, unreadable=unreadable)
    assert again.dataset == result.dataset and not again.changes and again.left == result.left

    # What was right is there as it was, unless another object of its class is at its place or its
    # image cannot be read.
    wrong = {record_place(p) for p in found if p.rule not in ("same-place", "other-class")}
    gone = [c.before for c in result.changes if c.action == "removed"
            and c.rule in ("same-place", "unreadable-image")]  # fmt: skip
    after = [repr(a) for a in result.dataset["annotations"]] + [repr(a) for a in gone]
    outside = {p.record for p in found if p.rule == "box-outside"}
    for n, annotation in enumerate(content["annotations"]):
        record = f"annotation id {annotation.get('id')!r}"
        if ("annotation", n) not in wrong and record not in outside:
            assert repr(annotation) in after

    # The log tells of every record that is not there any more or is another one.
    removed = [c for c in result.changes if c.action == "removed"]
    for kind in ("images", "annotations", "categories"):
        count = sum(c.record.startswith(_singular(kind)) for c in removed)
        assert len(content[kind]) - len(result.dataset[kind]) == count
    same = sum(repr(a) in {repr(b) for b in content["annotations"]}
               for a in result.dataset["annotations"])  # fmt: skip
    changed = {c.record for c in result.changes if c.action == "changed"}
    assert len(result.dataset["annotations"]) - same <= len(changed)
    for change in result.changes:
        assert (change.after is None) == (change.action == "removed")


def _singular(kind):
    return {"images": "image ", "annotations": "annotation ", "categories": "category "}[kind]
