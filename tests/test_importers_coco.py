"""COCO: keypoints, boxes, ids, and what is carried through."""

import pytest

from cpr.data.importers.records import Conventions
from cpr_deploy.files import InputError
from foreign_files import coco, read, rows, write_files, write_images

BODY = ("nose", "tail", "flipper")


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path)


def imported(folder, content, **settings):
    write_files(folder, {"c.json": content})
    return read(folder / "c.json", "coco", folder / "images", **settings)


def test_ids_and_everything_else_are_kept(folder):
    content = coco(
        {
            "bbox": [1, 2, 3, 4],
            "area": 12,
            "iscrowd": 0,
            "segmentation": [[1, 2, 4, 2, 4, 6]],
            "point": [2, 3],
            "coarse_point": [1, 3],
            "refine_score": 0.5,
            "note": {"by": "me"},
        }
    )
    content["images"][0]["license"] = 3
    content["categories"][0]["supercategory"] = "animal"
    dataset = imported(folder, content).dataset
    assert dataset["annotations"] == [content["annotations"][0]]
    assert dataset["categories"] == [{"id": 3, "name": "seal", "supercategory": "animal"}]
    assert dataset["images"][0] == content["images"][0]
    # The other images of the folder get ids of their own.
    assert [i["id"] for i in dataset["images"]] == [7, 8, 9]
    assert dataset["images"] == [
        {**image, "id": number} for number, image in zip((7, 8, 9), dataset["images"], strict=True)
    ]


def test_a_keypoint_is_a_pixel_index_a_box_is_not(folder):
    annotation = {"keypoints": [3, 4, 2], "num_keypoints": 1, "bbox": [1, 2, 5, 6]}
    dataset = imported(folder, coco(annotation)).dataset
    assert rows(dataset) == [("a.png", "seal", [3.5, 4.5], [1, 2, 5, 6])]
    assert "keypoints" not in dataset["annotations"][0]


def test_which_of_several_keypoints(folder):
    values = [3, 4, 2, 0, 0, 0, 9, 6, 1]
    content = coco({"keypoints": values, "bbox": [1, 2, 9, 9]}, keypoints=BODY)
    with pytest.raises(InputError, match="annotation id 11.*has 2 labelled keypoints .nose, tail"):
        imported(folder, content)

    def point(keypoint):
        conventions = Conventions("centre", keypoint=keypoint)
        return (
            imported(folder, content, conventions=conventions)
            .dataset["annotations"][0]
            .get("point")
        )

    assert point("nose") == [3.5, 4.5] and point("flipper") == [9.5, 6.5]
    assert point("mean") == [6.5, 5.5]
    assert point("tail") is None  # not labelled: a box without a click
    with pytest.raises(InputError, match="has no keypoint 'beak'"):
        point("beak")


def test_one_labelled_keypoint_of_several_needs_no_choice(folder):
    content = coco({"keypoints": [3, 4, 0, 5, 6, 1]}, keypoints=BODY[:2])
    assert rows(imported(folder, content).dataset) == [("a.png", "seal", [5.5, 6.5], None)]


def test_a_box_without_an_area_beside_a_click_is_left_out(folder):
    content = coco({"keypoints": [3, 4, 2], "bbox": [3, 4, 0, 0]})
    assert rows(imported(folder, content).dataset) == [("a.png", "seal", [3.5, 4.5], None)]


def test_images_of_the_file_that_nobody_has(folder, caplog):
    content = coco({"point": [1, 1]})
    content["images"].append({"id": 8, "file_name": "gone.png", "width": 9, "height": 9})
    dataset = imported(folder, content).dataset
    assert "gone.png" not in [i["file_name"] for i in dataset["images"]]
    assert "left out 1 images that it lists, the first one 'gone.png'" in caplog.text
    # Without a folder the file's own images count.
    assert [i["id"] for i in read(folder / "c.json", "coco").dataset["images"]] == [7, 8]


def changed(**more):
    """A good file with entries replaced."""
    return coco({"point": [1, 1]}) | more


BAD = {
    "image_id": (coco({"image_id": 9, "point": [1, 1]}), "image_id 9 is not among the images"),
    "list id": (coco({"image_id": [7], "point": [1, 1]}), "is not among the images"),
    "category_id": (coco({"category_id": 4, "point": [1, 1]}), "is not among the classes"),
    "nothing": (coco({}), "has neither a point nor a box"),
    "point": (coco({"point": [1]}), "is not [x, y]"),
    "inf": ('{"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "s"}],'
            ' "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "point": [1e999, 1]}]}',
            "is not [x, y]"),
    "outside": (coco({"point": [1, 31]}), "lies outside a.png"),
    "box": (coco({"bbox": [1, 2, 3]}), "is not [x, y, w, h]"),
    "flat": (coco({"bbox": [1, 2, 3, 0]}), "is none"),
    "negative": (coco({"bbox": [1, 2, -3, 4]}), "is none"),
    "keypoints": (coco({"keypoints": [1, 2]}), "are not x, y, visibility"),
    "keypoint": (coco({"keypoints": [1, "2", 2]}), "are not all numbers"),
    "ignore": (coco({"point": [1, 1], "ignore": "yes"}), "is not 0, 1, true or false"),
    "score": (coco({"point": [1, 1], "refine_score": "x"}), "is not a finite number"),
    "coarse": (coco({"point": [1, 1], "coarse_point": 3}), "coarse_point 3 is not"),
    "no id": (coco({"id": None, "point": [1, 1]}), "annotation 0 (from 0): has no id"),
    "text id": (coco({"id": "x", "point": [1, 1]}), "the annotation id 'x' is not a whole number"),
    "long id": (coco({"id": 2**60, "point": [1, 1]}), "is not a whole number"),
    "same ids": (changed(annotations=[{"id": 1, "image_id": 7, "category_id": 3, "point": [1, 1]}]
                         * 2), "the id is used twice"),
    "record": (changed(annotations=[3]), "annotation 0 (from 0): has no id"),
    "class name": (changed(categories=[{"id": 3, "name": 5}]), "is not a text"),
    "classes": (changed(categories=[{"id": 3, "name": "s"}, {"id": 4, "name": "s"}]),
                "Merge or rename them"),
    "file_name": (changed(images=[{"id": 7, "file_name": None}]), "is not a text"),
    "file": (changed(images=[{"id": 7, "file_name": "../a.png"}]), "without '..'"),
    "windows": (changed(images=[{"id": 7, "file_name": "sub\\b.png"}]), "leads out"),
    "twice": (changed(images=[{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "a.png"}]),
              "is listed twice"),
    "size": (coco({"point": [1, 1]}, size=(39, 30)), "39 x 30 px, but it has 40 x 30"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "text"), BAD.values(), ids=BAD)
def test_a_bad_record_is_named_with_rule_and_fix(folder, content, text):
    with pytest.raises(InputError, match="c.json: (annotation|image|category) ") as caught:
        imported(folder, content)
    assert text in str(caught.value)


def test_skipped_records_are_listed(folder):
    content = coco({"point": [1, 1]})
    content["annotations"] += [
        {"id": 12, "image_id": 9, "category_id": 3, "point": [1, 1]},
        {"id": 13, "image_id": 7, "category_id": 3},
        {"id": 11, "image_id": 7, "category_id": 3, "point": [2, 2]},
    ]
    result = imported(folder, content, skip_bad=True)
    assert [a["id"] for a in result.dataset["annotations"]] == [11]
    assert [p.record.split(" (")[0] for p in result.skipped] == [
        "annotation id 12",
        "annotation id 13",
        "annotation id 11",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is not a COCO file"),
        ({"images": [], "annotations": []}, "has no list 'categories'"),
        ("", "not valid JSON.*seems cut"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": NaN}', "is NaN"),
        (b"\xff\xfe{\x00", "is not UTF-8"),
    ],
)
def test_what_is_no_such_file_is_refused(folder, content, message):
    with pytest.raises(InputError, match=message):
        imported(folder, content)


def test_a_byte_order_mark(folder):
    write_files(folder, {"c.json": coco({"point": [1, 1]})})
    (folder / "c.json").write_bytes(b"\xef\xbb\xbf" + (folder / "c.json").read_bytes())
    assert len(read(folder / "c.json", "coco").dataset["annotations"]) == 1
