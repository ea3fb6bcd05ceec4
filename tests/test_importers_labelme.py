"""LabelMe: a JSON file an image, in a folder or alone."""

import pytest

from cpr.data.importers.records import Conventions
from cpr_deploy.files import InputError
from foreign_files import labelme, read, rows, write_files, write_images


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path)


def imported(folder, files, **settings):
    write_files(folder / "json", files)
    return read(folder / "json", "labelme", folder / "images", **settings)


def test_shapes_of_several_files(folder):
    shapes = [
        {"label": "seal", "points": [[3.5, 4.25]], "shape_type": "point", "group_id": None},
        {"label": "bird", "points": [[12, 9], [2, 4]], "shape_type": "rectangle"},
        {"label": "seal", "points": [[10, 10], [13, 14]], "shape_type": "circle"},
        {"label": "seal", "points": [[0, 0], [4, 0], [0, 6]], "shape_type": "polygon"},
        # Four corners, as X-AnyLabeling writes its rectangles; one that nobody is sure of.
        {
            "label": "seal",
            "points": [[1, 1], [5, 1], [5, 4], [1, 4]],
            "shape_type": "rectangle",
            "difficult": True,
        },
    ]
    files = {
        "a.json": labelme("point", []) | {"shapes": shapes},
        "more/b.json": labelme("point", [[1, 2]], "sub/b.png", (20, 10)),
    }
    dataset = imported(folder, files).dataset
    assert rows(dataset) == [
        ("a.png", "seal", [3.5, 4.25], None),
        ("a.png", "bird", None, [2, 4, 10, 5]),
        ("a.png", "seal", None, [5, 5, 10, 10]),
        ("a.png", "seal", None, [0, 0, 4, 6]),
        ("a.png", "seal", None, [1, 1, 4, 3]),
        ("sub/b.png", "seal", [1, 2], None),
    ]
    assert dataset["annotations"][3]["segmentation"] == [[0, 0, 4, 0, 0, 6]]
    assert [a.get("ignore", 0) for a in dataset["annotations"]] == [0, 0, 0, 0, 1, 0]
    assert [i["file_name"] for i in dataset["images"]] == ["a.png", "dot.png", "sub/b.png"]


def test_one_file_and_no_images(folder):
    write_files(folder, {"a.json": labelme("point", [[1, 2]])})
    dataset = read(folder / "a.json", "labelme").dataset
    assert dataset["images"] == [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}]
    assert rows(dataset) == [("a.png", "seal", [1, 2], None)]


@pytest.mark.parametrize(
    "path", ["sub/b.png", "..\\images\\sub\\b.png", "C:\\x\\sub\\b.png", "/x/y/sub/b.png"]
)
def test_paths_of_other_machines(folder, path):
    """The longest tail of the path that is an image of the folder; never a file outside of it."""
    dataset = imported(folder, {"b.json": labelme("point", [[1, 2]], path, (20, 10))}).dataset
    assert rows(dataset) == [("sub/b.png", "seal", [1, 2], None)]


def test_images_of_one_name_in_several_folders(folder):
    """LabelMe writes its files beside the images, with paths that start there."""
    write_images(folder, {"b.png": (20, 10)})
    for name in ("b.json", "sub/b.json"):
        write_files(folder / "images", {name: labelme("point", [[1, 2]], "b.png", (20, 10))})
    dataset = read(folder / "images", "labelme", folder / "images").dataset
    assert [row[0] for row in rows(dataset)] == ["b.png", "sub/b.png"]
    dataset = read(folder / "images", "labelme").dataset
    assert [row[0] for row in rows(dataset)] == ["b.png", "sub/b.png"]


def test_pixel_indices(folder):
    files = {"a.json": labelme("point", [[0, 29]])}
    dataset = imported(folder, files, conventions=Conventions("centre")).dataset
    assert rows(dataset) == [("a.png", "seal", [0.5, 29.5], None)]


BAD = {
    "line": (labelme("line", [[1, 1], [2, 2]]), "its first vertex is not taken"),
    "linestrip": (labelme("linestrip", [[1, 1], [2, 2]]), "its first vertex is not taken"),
    "mask": (labelme("mask", [[1, 1], [2, 2]]), "Draw a point, rectangle, circle or polygon"),
    "two points": (labelme("point", [[1, 1], [2, 2]]), "not those of a point"),
    "no points": (labelme("polygon", [[1, 1], [2, 2]]), "not those of a polygon"),
    "text": (labelme("point", [["1", 2]]), "not those of a point"),
    "true": (labelme("point", [[True, 2]]), "not those of a point"),
    "huge": ('{"imagePath": "a.png", "shapes": [{"label": "s", "points": [[1e999, 1]],'
             ' "shape_type": "point"}]}', "not those of a point"),
    "no label": (labelme("point", [[1, 1]], label=None), "has no label"),
    "empty label": (labelme("point", [[1, 1]], label=""), "names no class"),
    "control": (labelme("point", [[1, 1]], label="a\nb"), "characters that nothing can show"),
    "outside": (labelme("point", [[1, 31]]), "lies outside a.png of 40 x 30 px"),
    "no radius": (labelme("circle", [[1, 1], [1, 1]]), "is none"),
    "image": (labelme("point", [[1, 1]], "c.png"), "is not in the image folder"),
    "no image": (labelme("point", [[1, 1]], None), "names no image"),
    "size": (labelme("point", [[1, 1]], size=(30, 40)), "It is turned by its EXIF tag"),
    "no labelme": ({"a": 1}, "is no file of LabelMe"),
    "list": ([1], "is no file of LabelMe"),
    "cut": ("{", "not valid JSON"),
    "latin-1": ('{"é": 1}'.encode("latin-1"), "is not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "text"), BAD.values(), ids=BAD)
def test_a_bad_record_is_named_with_rule_and_fix(folder, content, text):
    with pytest.raises(InputError, match="json: 'a.json'") as caught:
        imported(folder, {"a.json": content})
    assert text in str(caught.value)
    files = {"b.json": labelme("point", [[1, 2]], "sub/b.png", (20, 10))}
    result = imported(folder, files, skip_bad=True)
    assert rows(result.dataset) == [("sub/b.png", "seal", [1, 2], None)]
    assert all(problem.record.startswith("'a.json'") for problem in result.skipped)
    assert text in result.skipped[0].text


def test_two_files_of_one_image(folder):
    files = {name: labelme("point", [[1, 2]]) for name in ("a.json", "b.json")}
    with pytest.raises(InputError, match="'b.json': the image 'a.png' is listed twice"):
        imported(folder, files)


def test_links_out_of_the_folder_are_not_followed(folder):
    write_files(folder, {"outside.json": labelme("point", [[1, 2]])})
    (folder / "json").mkdir()
    (folder / "json" / "a.json").symlink_to(folder / "outside.json")
    with pytest.raises(InputError, match="is a link that leads out"):
        imported(folder, {})


def test_what_is_no_folder_of_files_is_refused(folder):
    with pytest.raises(InputError, match="no annotation file in it"):
        read(folder / "images", "labelme", folder / "images")
    with pytest.raises(InputError, match="no such file or folder"):
        read(folder / "nowhere", "labelme", folder / "images")
