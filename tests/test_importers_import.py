"""What the importers of all formats share: ids, classes, the original, the command."""

import json
import logging
import re
import shutil
import time
import tracemalloc
import zipfile

import pytest

from cpr.data.exporters import FORMATS as EXPORTS
from cpr.data.importers import FORMATS
from cpr.data.importers.import_points import import_points
from cpr.data.importers.names import ImageNames
from cpr.data.importers.records import (
    Conventions,
    box_around,
    finite,
    number_in,
    turned_rectangle,
    whole_number_in,
)
from cpr_deploy.files import InputError
from foreign_files import (
    coco,
    cvat,
    label_studio,
    labelme,
    read,
    rows,
    write_files,
    write_images,
)
from test_importers_fuzz import GOOD
from tool_runner import ROOT, run_tool


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path)


def original():
    """What was exported: two objects and a region, with more than tools keep."""
    return {
        "info": {"year": 2026},
        "images": [
            {"id": 30, "file_name": "a.png", "width": 40, "height": 30, "flight": 4},
            {"id": 10, "file_name": "sub/b.png", "width": 20, "height": 10},
        ],
        "categories": [{"id": 9, "name": "seal", "colour": "grey"}, {"id": 2, "name": "bird"}],
        "annotations": [
            {"id": 5, "image_id": 30, "category_id": 9, "point": [1, 2], "coarse_point": [3, 4],
             "bbox": [0, 0, 5, 5], "refine_score": 0.5, "refined": True},
            {"id": 90, "image_id": 10, "category_id": 2, "point": [5, 5]},
            {"id": 7, "image_id": 30, "category_id": 9, "bbox": [9, 9, 9, 9], "ignore": 1},
        ],
    }  # fmt: skip


def table(lines):
    return "file_name,x,y,class,annotation_id\n" + lines


def reviewed(folder, lines, **settings):
    write_files(folder, {"original.json": original(), "clicks.csv": table(lines)})
    settings.setdefault("original", folder / "original.json")
    return read(folder / "clicks.csv", "csv", **settings)


def test_reviewed_clicks_come_back_to_their_records(folder):
    """5 was moved, 90 is another class now, 7 was deleted, one is new."""
    lines = "a.png,2,3,seal,5\nsub/b.png,5,5,seal,90\na.png,8,8,bird,\n"
    dataset = reviewed(folder, lines).dataset
    before = original()
    assert dataset["annotations"] == [
        {**before["annotations"][0], "point": [2.0, 3.0]},
        {**before["annotations"][1], "category_id": 9},
        # Not 91's neighbour 7, which is free now: an id is never given twice.
        {"id": 91, "image_id": 30, "category_id": 2, "point": [8.0, 8.0]},
    ]
    for key in ("info", "images", "categories"):
        assert dataset[key] == before[key]


def test_with_an_image_folder_the_original_keeps_its_ids(folder):
    dataset = reviewed(folder, "dot.png,0.5,0.5,seal,\n", image_root=folder / "images").dataset
    ids = {image["file_name"]: image["id"] for image in dataset["images"]}
    assert ids == {"a.png": 30, "dot.png": 31, "sub/b.png": 10}
    assert dataset["images"][0]["flight"] == 4


def test_ids_of_another_tool_do_not_count_beside_the_original(folder):
    """CVAT numbers its frames anew."""
    shape = '<points label="seal" points="1,1"/>'
    write_files(folder, {"original.json": original(), "c.xml": cvat(shape)})
    dataset = read(folder / "c.xml", "cvat", original=folder / "original.json").dataset
    assert [image["id"] for image in dataset["images"]] == [30, 10]


def test_images_that_are_not_annotated_yet(folder, caplog):
    """Half of the tasks are done: without a word the others would be background."""
    tasks = label_studio({"x": 25, "y": 10, "width": 0.5, "keypointlabels": ["seal"]})
    tasks.append({"id": 6, "data": {"image": "dot.png"}, "annotations": []})
    write_files(folder, {"t.json": tasks, "c.xml": cvat('<points label="seal" points="1,1"/>')})
    unfinished = "1 images have no finished annotation, the first one 'dot.png'"
    for name, file_format, said in (
        (
            "t.json",
            "label-studio",
            ["1 images are not in it, the first one 'sub/b.png'", unfinished],
        ),
        ("c.xml", "cvat", ["2 images are not in it, the first one 'dot.png'"]),
    ):
        caplog.clear()
        whole = read(folder / name, file_format, folder / "images").dataset
        assert len(whole["images"]) == 3
        assert [text for text in said if text in caplog.text] == said
        assert caplog.text.count("--annotated-only") == len(said)
        caplog.clear()
        part = read(folder / name, file_format, folder / "images", annotated_only=True).dataset
        assert [image["file_name"] for image in part["images"]] == ["a.png"]
        assert rows(part) == rows(whole) and not caplog.text
    # Of the original, too; a table has no line for an image without objects, so nothing is said.
    lines = "a.png,2,3,seal,5\n"
    assert len(reviewed(folder, lines).dataset["images"]) == 2 and not caplog.text
    part = reviewed(folder, lines, annotated_only=True).dataset
    assert [image["file_name"] for image in part["images"]] == ["a.png"]


@pytest.mark.parametrize("name", ["b.png", "sub/b.png"])
def test_tools_that_lose_the_folders_of_images(folder, name):
    """Uploaded by a web browser, an image is called by its last part only."""
    shapes = '<points label="seal" points="1,1"/>'
    upload = f"/data/upload/3/0a1b2c3d-{name.rpartition('/')[2]}"
    value = {"x": 5, "y": 10, "width": 0.5, "keypointlabels": ["seal"]}
    tasks = label_studio(value, image=upload, size=(20, 10))
    write_files(folder, {"c.xml": cvat(shapes, name=name, size=(20, 10)), "t.json": tasks})
    for file, file_format in (("c.xml", "cvat"), ("t.json", "label-studio")):
        dataset = read(folder / file, file_format, folder / "images").dataset
        assert rows(dataset) == [("sub/b.png", "seal", [1.0, 1.0], None)]
    # Two images that are called so: neither is meant.
    write_images(folder, {"other/b.png": (20, 10)})
    if name == "b.png":
        with pytest.raises(InputError, match="image 'b.png' is not in the image folder"):
            read(folder / "c.xml", "cvat", folder / "images")


def test_a_flag_that_was_taken_off_is_gone(folder):
    box = '<box label="seal" xtl="9" ytl="9" xbr="18" ybr="18">{}</box>'
    number = '<attribute name="annotation_id">7</attribute>'
    flag = '<attribute name="ignore">true</attribute>'
    click = '<points label="seal" points="1,1"/>'
    for inner, expected in ((number + flag, 1), (number, None)):
        shapes = box.format(inner) + click
        write_files(folder, {"original.json": original(), "c.xml": cvat(shapes)})
        dataset = read(folder / "c.xml", "cvat", original=folder / "original.json").dataset
        assert dataset["annotations"][0]["id"] == 7
        assert dataset["annotations"][0].get("ignore") == expected


BAD_REVIEWS = {
    "same id": ("a.png,1,1,seal,5\na.png,2,2,seal,5\n", "is used twice, also by line 2"),
    "other image": ("sub/b.png,1,1,seal,5\n", "is one of another image in the original"),
    "class": ("a.png,1,1,SEAL,5\n", "is not among the original's seal,bird. Did you mean 'seal'?"),
    "image": ("c.png,1,1,seal,\n", "'c.png' is not among those of the original"),
    "upwards": ("../a.png,1,1,seal,\n", "without '..'"),
    "id": ("a.png,1,1,seal,5.0\n", "annotation_id '5.0' is not a whole number"),
    "long id": (f"a.png,1,1,seal,{2**60}\n", "is not a whole number"),
}


@pytest.mark.parametrize(("lines", "text"), BAD_REVIEWS.values(), ids=BAD_REVIEWS)
def test_what_does_not_fit_the_original(folder, lines, text):
    with pytest.raises(InputError, match="clicks.csv: line ") as caught:
        reviewed(folder, lines)
    assert text in str(caught.value)


def test_an_original_that_cannot_be_one(folder):
    line = "a.png,1,1,seal,\n"
    with pytest.raises(InputError, match="the original names them"):
        reviewed(folder, line, classes=["seal"])
    with pytest.raises(InputError, match="no such file"):
        reviewed(folder, line, original=folder / "nothing.json")
    tiles = original()
    tiles["images"][1]["file_name"] = "a.png"
    write_files(folder, {"tiles.json": tiles})
    with pytest.raises(InputError, match="lists the file 'a.png' twice"):
        reviewed(folder, line, original=folder / "tiles.json")
    other = original()
    other["images"][0]["width"] = 41
    write_files(folder, {"other.json": other})
    with pytest.raises(InputError, match="a.png: the image is 40x30"):
        reviewed(folder, line, original=folder / "other.json", image_root=folder / "images")


def test_ids_of_images_in_a_table(folder):
    text = "file_name,x,y,image_id\na.png,1,1,20\nsub/b.png,1,1,second\na.png,2,2,20\n"
    write_files(folder, {"c.csv": text})
    dataset = read(folder / "c.csv", "csv", folder / "images").dataset
    ids = {image["file_name"]: image["id"] for image in dataset["images"]}
    assert ids == {"a.png": 20, "dot.png": 21, "sub/b.png": "second"}
    for other, message in (("dot.png,0,0,20", "used twice, also by 'a.png'"),
                           ("a.png,1,1,21", "is listed twice")):  # fmt: skip
        write_files(folder, {"c.csv": f"{text}{other}\n"})
        with pytest.raises(InputError, match=f"line 5: .*{message}"):
            read(folder / "c.csv", "csv", folder / "images")


def test_ids_near_the_largest_one(folder):
    content = coco({"id": 2**53, "image_id": 2**53, "point": [1, 1]})
    content["images"][0]["id"] = 2**53
    write_files(folder, {"c.json": content})
    dataset = read(folder / "c.json", "coco", folder / "images").dataset
    assert [image["id"] for image in dataset["images"]] == [2**53, 1, 2]


def test_classes_of_the_file_found_ones_and_given_ones(folder):
    shapes = '<points label="walrus" points="1,1"/><points label="auk" points="2,2"/>'
    write_files(folder, {"c.xml": cvat(shapes, labels=("seal", "auk"))})
    dataset = read(folder / "c.xml", "cvat").dataset
    # Those that the file lists in its order, then the others.
    assert [(c["id"], c["name"]) for c in dataset["categories"]] == [
        (1, "seal"),
        (2, "auk"),
        (3, "walrus"),
    ]
    given = ["walrus", "auk"]
    dataset = read(folder / "c.xml", "cvat", classes=given).dataset
    assert [c["name"] for c in dataset["categories"]] == given


def test_formats_that_need_the_images_say_so(folder):
    write_files(folder, {"in/a": ""})
    for name, entry in FORMATS.items():
        if not entry.has_sizes:
            with pytest.raises(InputError, match="--image-root"):
                import_points(folder / "in" if entry.file_per_image else folder / "in/a",
                              file_format=name)  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_a_path_that_is_not_there(folder, name):
    with pytest.raises(InputError, match=r"nowhere: no such file"):
        import_points(folder / "nowhere", folder / "images", file_format=name)


def test_a_keypoint_of_a_format_without(folder):
    write_files(folder, {"c.csv": "file_name,x,y\na.png,1,1\n"})
    with pytest.raises(InputError, match="has no keypoints to choose from"):
        read(folder / "c.csv", "csv", folder / "images", conventions=Conventions(keypoint="nose"))


# Format -> the name of a file of it.
FILES = {
    "csv": "a.csv", "cvat": "a.xml", "label-studio": "a.json", "labelme": "a.json",
    "coco": "a.json", "yolo": "a.txt", "voc": "a.xml", "dota": "a.txt", "crowd-mat": "a.mat",
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_of_ten_gigabytes_is_refused_unread(folder, name):
    write_files(folder, {"in/data.yaml": "names: [seal]\n"})
    path = folder / "in" / FILES[name]
    with open(path, "wb") as file:
        file.truncate(10 << 30)  # a hole: takes no room on the disk
    given = folder / "in" if FORMATS[name].file_per_image else path
    begin = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"bytes (is more than|are no)|seems cut"):
            import_points(given, folder / "images", file_format=name)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - begin < 2


def contents(name):
    """The bytes of a good file of a format, and where it lies."""
    files = GOOD[name]
    content = files[next(iter(files))]
    content = json.dumps(content) if isinstance(content, (dict, list)) else content
    return content if isinstance(content, bytes) else content.encode()


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "crowd-mat"])
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_file_that_was_not_copied_whole(folder, name, skip_bad):
    """Some programs make a file of full size first; what has not come yet is zero."""
    write_files(folder, {"in/data.yaml": "names: [seal]\n"})
    path = folder / "in" / FILES[name]
    path.write_bytes(contents(name))
    with open(path, "r+b") as file:
        file.truncate(3 << 30)  # less than any limit of sizes of tables and JSON
    given = folder / "in" if FORMATS[name].file_per_image else path
    with pytest.raises(InputError) as error:
        import_points(given, folder / "images", file_format=name, skip_bad=skip_bad)
    assert "seems cut" in str(error.value) or "no usable click" in str(error.value)


ARCHIVES = {
    "zip": lambda path: shutil.make_archive(str(path.with_suffix("")), "zip", path.parent / "x"),
    "gztar": lambda path: shutil.make_archive(
        str(path.with_suffix("")), "gztar", path.parent / "x"
    ),
    "tar": lambda path: shutil.make_archive(str(path.with_suffix("")), "tar", path.parent / "x"),
}


@pytest.mark.parametrize("kind", ARCHIVES)
@pytest.mark.parametrize("name", FORMATS)
def test_archives_are_not_read(folder, name, kind):
    """Whatever is in them, whatever they are called; so names in them lead nowhere."""
    (folder / "work" / "x").mkdir(parents=True)
    (folder / "work" / "x" / FILES[name]).write_bytes(contents(name))
    archive = ARCHIVES[kind](folder / "work" / "archive.bin")
    before = sorted(folder.rglob("*"))
    with pytest.raises(InputError, match=r"archive\. Unpack it"):
        import_points(archive, folder / "images", file_format=name)
    assert sorted(folder.rglob("*")) == before
    # Under the name of an annotation file, alone or in a folder of them.
    (folder / "in").mkdir()
    write_files(folder, {"in/data.yaml": "names: [seal]\n"})
    path = shutil.move(archive, folder / "in" / FILES[name])
    with pytest.raises(InputError, match=r"archive\. Unpack it"):
        import_points(path, folder / "images", file_format=name)
    if FORMATS[name].file_per_image:
        with pytest.raises(InputError, match=r"archive\. Unpack it"):
            import_points(folder / "in", folder / "images", file_format=name)


def test_a_zip_whose_names_lead_out_writes_nothing(folder):
    with zipfile.ZipFile(folder / "a.zip", "w") as file:
        file.writestr("../../evil.xml", cvat(""))
        file.writestr("/etc/evil.xml", cvat(""))
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(InputError, match="is a ZIP archive. Unpack it"):
        import_points(folder / "a.zip", file_format="cvat")
    assert sorted(folder.parent.rglob("*")) == before


@pytest.mark.parametrize("name", [n for n in FORMATS if FORMATS[n].file_per_image])
def test_links_out_of_the_folder_are_not_followed(folder, name):
    write_files(folder, {"in/data.yaml": "names: [seal]\n"})
    (folder / "secret").write_bytes(contents(name))
    (folder / "in" / FILES[name]).symlink_to(folder / "secret")
    with pytest.raises(InputError, match="link that leads out"):
        import_points(folder / "in", folder / "images", file_format=name)


@pytest.mark.parametrize("name", FORMATS)
def test_images_that_are_links_out_of_their_folder(folder, name):
    """Their sizes are read, as of all images; their clicks are refused."""
    (folder / "images" / "a.png").rename(folder / "a.png")
    (folder / "images" / "a.png").symlink_to(folder / "a.png")
    write_files(folder / "in", GOOD[name])
    given = folder / "in"
    if not FORMATS[name].file_per_image:
        given = given / next(iter(GOOD[name]))
    with pytest.raises(InputError, match="link that leads out"):
        import_points(
            given, folder / "images", file_format=name,
            conventions=Conventions("centre", keypoint="mean") if name == "coco" else None,
        )  # fmt: skip


def test_a_table_without_line_ends_is_not_held_as_a_whole(folder, monkeypatch):
    monkeypatch.setattr("cpr.data.importers.csv_points.MAX_LINE", 1000)
    write_files(folder, {"c.csv": "file_name,x,y\n" + "a.png,1,2," * 200})
    with pytest.raises(InputError, match="a line of more than 1000 characters"):
        read(folder / "c.csv", "csv", folder / "images")


def test_a_very_long_number_is_refused_at_once(folder):
    """A pattern that tries all ways to read 100,000 digits would take minutes."""
    write_files(folder, {"c.csv": f"file_name,x,y\na.png,{'1' * 100_000}x,1\n"})
    with pytest.raises(InputError, match="line 2: x '11111"):
        read(folder / "c.csv", "csv", folder / "images")


# --- small parts ---


@pytest.mark.parametrize(
    ("text", "number", "whole"),
    [
        ("12", 12, 12), ("-3", -3, -3), ("+1.5e2", 150, None), (".5", 0.5, None), ("0", 0, 0),
        ("007", 7, None), ("1_0", None, None), ("nan", None, None), ("٣", None, None),
        ("", None, None), (None, None, None), ("1e999", float("inf"), None), ("0x1", None, None),
    ],
)  # fmt: skip
def test_numbers_in_texts(text, number, whole):
    assert number_in(text) == number and whole_number_in(text) == whole


def test_numbers_of_json():
    assert [finite(v) for v in (1, 1.5, True, "1", None, float("inf"), float("nan"), 10**400)] == [
        1.0, 1.5, None, None, None, None, None, None,
    ]  # fmt: skip


def test_a_turned_rectangle_by_hand():
    corners = turned_rectangle((0, 0), (2, 4), 90, pivot=(0, 0))
    # Clockwise on the screen: x to y, y to -x.
    for corner, expected in zip(corners, [(0, 0), (0, 2), (-4, 2), (-4, 0)], strict=True):
        assert corner == pytest.approx(expected)
    assert box_around(corners) == pytest.approx((-4, 0, 4, 2))


def test_names_of_images():
    names = ImageNames({"a.png": {}, "train/a.png": {}, "b.c.png": {}, "images/d.png": {}})
    assert names.of_path("/data/train/a.png") == "train/a.png"
    assert names.of_path("/data/val/a.png") == "a.png"
    assert names.of_path("x/../../a.png") == "a.png"
    assert names.of_path("nothing/e.png") == "e.png"
    assert names.of_file("b.c.txt") == "b.c.png"
    assert names.of_file("labels/d.txt") == "images/d.png"
    assert names.of_file("x/train/a.txt") == "train/a.png"
    assert "there is no image 'e'" in names.of_file("e.txt").text
    # A relative path starts from the file in which it stands.
    assert names.of_path("a.png", beside="train/a.json") == "train/a.png"
    assert names.of_path("a.png", beside="val/a.json") == "a.png"
    assert names.of_path("..\\images\\d.png", beside="json/d.json") == "images/d.png"
    assert names.of_path("/x/a.png", beside="train/a.json") == "a.png"
    nothing = ImageNames({})
    assert nothing.of_path("a.png", beside="train/a.json") == "train/a.png"
    assert nothing.of_path("sub/a.png") == "sub/a.png"
    assert (
        nothing.of_path("sub/:.png") == "sub/:.png" and nothing.of_path("C:\\x\\a.png") == "a.png"
    )
    assert nothing.of_path("../a.png") == "a.png" and nothing.of_path("/x/a.png") == "a.png"


# --- the command ---


def test_the_command(folder, capsys):
    write_files(folder, {"json/a.json": labelme("point", [[0, 0]]), "json/b.json": "{"})
    output = folder / "points.json"
    words = ["import", "--format", "labelme", "--input", folder / "json", "--output", output]
    assert run_tool("prepare_points", *words) == 2
    assert "'b.json': not valid JSON" in capsys.readouterr().err and not output.exists()
    assert run_tool("prepare_points", *words, "--skip-bad", "--origin", "centre") == 0
    printed = capsys.readouterr().out
    assert "skipped: 'b.json': not valid JSON" in printed
    assert "1 images, 1 annotations, 1 categories, 1 skipped" in printed
    assert rows(json.loads(output.read_text())) == [("a.png", "seal", [0.5, 0.5], None)]
    assert run_tool("prepare_points", "check", "--annotations", output) == 0
    # The output again as the original, and a default that is switched off.
    mat = ["import", "--format", "crowd-mat", "--input", folder / "json", "--output", output]
    assert run_tool("prepare_points", *mat, "--original", output) == 2
    assert "is read by this command" in capsys.readouterr().err
    assert run_tool("prepare_points", *mat, "--no-one-based") == 2
    assert "Give the image folder (--image-root)" in capsys.readouterr().err


def test_what_is_said_while_importing(folder, caplog):
    shapes = '<points label="Seal" points="1,1"/><tag label="seal"/>'
    write_files(folder, {"c.xml": cvat(shapes)})
    with caplog.at_level(logging.INFO):
        read(folder / "c.xml", "cvat")
    assert "1 tags of whole images are not used" in caplog.text
    assert "differ in case only" in caplog.text


def test_the_page_is_true():
    """FORMATS.md has a row and a section for each format, and says what each can do."""
    page = (ROOT / "projects/CPR/cpr/data/FORMATS.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith("| `") and "--format" not in line
    ]
    table = {row[0].strip("`"): row for row in rows}
    assert list(table) == list(dict.fromkeys([*FORMATS, *EXPORTS]))
    for name, row in table.items():
        assert row[-2].startswith("yes") == (name in FORMATS)
        assert row[-1].startswith("yes") == (name in EXPORTS)
        assert f"\n## {name}\n" in page
        if name in FORMATS:
            assert ("folder" in row[1]) == FORMATS[name].file_per_image
    with_sizes = ", ".join(name for name, entry in FORMATS.items() if entry.has_sizes)
    said = re.search(r"may be left out where the files tell the sizes \((.*?)\)", page, re.DOTALL)[
        1
    ]
    assert sorted(said.replace("\n", " ").split(", ")) == sorted(with_sizes.split(", "))
    said = re.search(r"\*\*Tried with\*\* (.*?): files", page, re.DOTALL)[1].replace("\n", " ")
    folders = [p.name for p in (ROOT / "tests/data/tools").iterdir() if p.name[-1].isdigit()]
    for folder in folders:
        library, _, version = folder.rpartition("-")
        assert f"{library} {version}" in said
