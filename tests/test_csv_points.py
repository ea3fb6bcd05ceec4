"""Clicks from tables: what is read, what is refused, and where the message points."""

import json
import logging
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cpr.data.importers import FORMATS
from cpr.data.importers.import_points import Conventions, import_points
from cpr.data.point_json import find_problems
from cpr_deploy.files import InputError
from tool_runner import run_tool


@pytest.fixture
def folder(tmp_path):
    """Images a.png of 40 x 30 px, sub/b.png and c.png of 20 x 10 px."""
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name, size in (("a.png", (40, 30)), ("sub/b.png", (20, 10)), ("c.png", (20, 10))):
        Image.new("RGB", size).save(tmp_path / "images" / name)
    return tmp_path


def imported(folder, text, **settings_):
    path = folder / "clicks.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    settings_.setdefault("file_format", "csv")
    return import_points(path, folder / "images", **settings_)


def rows(dataset):
    """(file name, class, point) of each annotation, by ids."""
    images = {image["id"]: image["file_name"] for image in dataset["images"]}
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    return [
        (images[a["image_id"]], names[a["category_id"]], a["point"]) for a in dataset["annotations"]
    ]


def test_a_table_becomes_a_point_json(folder):
    text = "file_name,x,y,class\na.png,3.5,4,seal\nsub/b.png,20,0,bird\na.png,0,30,seal\n"
    result = imported(folder, text)
    assert result.skipped == []
    assert rows(result.dataset) == [
        ("a.png", "seal", [3.5, 4.0]),
        ("sub/b.png", "bird", [20.0, 0.0]),
        ("a.png", "seal", [0.0, 30.0]),
    ]
    # All images are there, those without clicks too, with the sizes of the files.
    assert result.dataset["images"] == [
        {"id": 1, "file_name": "a.png", "width": 40, "height": 30},
        {"id": 2, "file_name": "c.png", "width": 20, "height": 10},
        {"id": 3, "file_name": "sub/b.png", "width": 20, "height": 10},
    ]
    assert [c["name"] for c in result.dataset["categories"]] == ["bird", "seal"]
    assert list(find_problems(result.dataset, require="point")) == []


@pytest.mark.parametrize(
    "text",
    [
        "image,x,y,label\na.png,1,2,seal\n",
        "\ufefffile_name,x,y,class\na.png,1,2,seal\n",
        "file_name\tx\ty\tclass\na.png\t1\t2\tseal\n",
        "file_name;x;y;class\na.png;1;2;seal\n",
        "Class,Y,X,File_Name\r\nseal,2,1,a.png\r\n",
        'file_name,x,y,class\n"a.png"," 1 ", +2.0 ,seal\n',
        "\nfile_name,x,y,class\n\n  \na.png,1e0,.2e1,seal",
        "file_name,x,y,class,annotator\na.png,1,2,seal,me\n",
    ],
    ids=["synonyms", "bom", "tsv", "semicolon", "order", "quotes", "blank", "more"],
)
def test_one_click_in_many_spellings(folder, text):
    assert rows(imported(folder, text).dataset) == [("a.png", "seal", [1.0, 2.0])]


def test_names_in_other_scripts_and_with_separators(folder):
    Image.new("RGB", (20, 10)).save(folder / "images" / "plage, été.png")
    dataset = imported(folder, 'image,x,y,class\n"plage, été.png",1,2,phoque\n').dataset
    assert rows(dataset) == [("plage, été.png", "phoque", [1.0, 2.0])]


@pytest.mark.parametrize(
    ("origin", "one_based", "written"),
    [("corner", False, 0.5), ("corner", True, 1.5), ("centre", False, 0), ("centre", True, 1)],
)
def test_the_centre_of_the_first_pixel_in_each_convention(folder, origin, one_based, written):
    """Four tables that mean the same place: the centre of the first pixel, 0.5 in ours."""
    text = f"file_name,x,y\na.png,{written},{written}\n"
    dataset = imported(folder, text, conventions=Conventions(origin, one_based)).dataset
    assert rows(dataset) == [("a.png", "object", [0.5, 0.5])]


def test_the_only_pixel_of_an_image(folder):
    Image.new("RGB", (1, 1)).save(folder / "images" / "dot.png")
    one_based = Conventions("centre", one_based=True)
    dataset = imported(folder, "image,x,y\ndot.png,1,1\n", conventions=one_based).dataset
    assert rows(dataset) == [("dot.png", "object", [0.5, 0.5])]
    with pytest.raises(InputError, match=r"\(1.5, 1.5\) lies outside dot.png of 1 x 1 px"):
        imported(folder, "image,x,y\ndot.png,1,1\n", conventions=Conventions("centre"))


def test_classes_in_the_given_order_also_without_objects(folder):
    text = "file_name,x,y,class\na.png,1,2,seal\n"
    dataset = imported(folder, text, classes=["walrus", "seal", "bird"]).dataset
    assert dataset["categories"] == [
        {"id": 1, "name": "walrus"},
        {"id": 2, "name": "seal"},
        {"id": 3, "name": "bird"},
    ]
    assert dataset["annotations"][0]["category_id"] == 2


def test_classes_that_differ_in_case_are_pointed_out(folder, caplog):
    with caplog.at_level(logging.WARNING):
        imported(folder, "image,x,y,class\na.png,1,2,Seal\na.png,9,9,seal\n")
    assert "differ in case" in caplog.text


def test_size_is_that_of_the_upright_image(folder):
    image = Image.new("RGB", (40, 30))
    exif = image.getexif()
    exif[0x0112] = 6  # shown turned by 90 degrees: 30 x 40
    image.save(folder / "images" / "turned.jpg", exif=exif)
    dataset = imported(folder, "image,x,y\nturned.jpg,1,39\n").dataset
    assert (dataset["images"][3]["width"], dataset["images"][3]["height"]) == (30, 40)


HEADER = "file_name,x,y,class\na.png,1,2,seal\n"
BAD_LINES = {
    "unknown image": ("d.png,1,2,seal", "image 'd.png' is not in the image folder"),
    "other folder": ("B.png,1,2,seal", "Did you mean 'sub/b.png'?"),
    "other case": ("A.PNG,1,2,seal", "Did you mean 'a.png'?"),
    "no number": ("a.png,left,2,seal", "x 'left' is not a number"),
    "no coordinate": ("a.png,1,,seal", "y '' is not a number"),
    "nan": ("a.png,nan,2,seal", "x 'nan' is not a number"),
    "infinite": ("a.png,1e999,2,seal", "is no pixel"),
    "decimal comma": ("a.png,1,5,2,5,seal", "has 6 cells, the first line names 4 columns"),
    "cut": ("a.png,1", "has 2 cells"),
    "right of it": ("a.png,40.5,2,seal", "lies outside a.png of 40 x 30 px"),
    "above it": ("a.png,4,-1,seal", "lies outside a.png"),
    "no class": ("a.png,4,1,", "names no class"),
    "upwards": ("../secret.png,1,2,seal", "without '..'"),
    "absolute": ("/etc/passwd,1,2,seal", "leads out of the image folder"),
    "windows": ("C:\\images\\a.png,1,2,seal", "leads out of the image folder"),
    "link": ("link.png,1,2,seal", "is a link that leads out"),
}


@pytest.mark.parametrize(("line", "text"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_named_with_rule_and_fix(folder, line, text):
    Image.new("RGB", (9, 9)).save(folder / "outside.png")
    (folder / "images" / "link.png").symlink_to(folder / "outside.png")
    with pytest.raises(InputError) as caught:
        imported(folder, f"{HEADER}{line}\n")
    assert str(caught.value).startswith(f"{folder / 'clicks.csv'}: line 3: ")
    assert text in str(caught.value)
    # With skip_bad the rest is read, and the line is listed.
    result = imported(folder, f"{HEADER}{line}\nc.png,3,3,bird\n", skip_bad=True)
    assert [image for image, _, _ in rows(result.dataset)] == ["a.png", "c.png"]
    assert [problem.record for problem in result.skipped] == ["line 3"]
    assert text in result.skipped[0].text


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a.png,1,2,seal\n", "The first line must name the columns"),
        ("file_name,x\na.png,1\n", "no column y"),
        ("file_name,image,x,y\na.png,a.png,1,2\n", "name the same column"),
        ("file_name,x,y\n", "no usable click"),
        ("file_name,x,y\n".encode("utf-16"), "is not UTF-8"),
        (b"file_name,x,y\n\xff.png,1,2\n", "is not UTF-8"),
        ('file_name,x,y\n"' + "a" * 200_000 + '",1,2\n', "is not a table"),
    ],
)
def test_what_is_no_table_of_clicks_is_refused(folder, text, message, skip_bad):
    with pytest.raises(InputError, match=message):
        imported(folder, text, skip_bad=skip_bad)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"file_format": "xml"}, "use one of csv"),
        ({"classes": ["seal", "seal"]}, "name each class once"),
        ({"classes": ["seal", ""]}, "names no class"),
        ({"classes": ["bird"]}, "the class 'seal' is not among --classes bird"),
    ],
)
def test_settings_that_make_no_sense(folder, settings_, message):
    with pytest.raises(InputError, match=message):
        imported(folder, HEADER, **settings_)
    with pytest.raises(InputError, match="use one of corner, centre"):
        Conventions("middle")


def test_lines_are_counted_as_an_editor_does(folder):
    """A cell in quotes over two lines, blank lines: the message names the line where it starts."""
    text = 'image,x,y,note\na.png,1,2,"one\ntwo"\n\na.png,1,x,"three\nfour"\n'
    with pytest.raises(InputError, match="line 5: y 'x'"):
        imported(folder, text)


def test_a_damaged_image_stops_the_import_or_is_listed(folder):
    (folder / "images" / "bad.jpg").write_text("no image")
    with pytest.raises(InputError, match="bad.jpg: is not an image"):
        imported(folder, HEADER)
    result = imported(folder, HEADER, skip_bad=True)
    assert [image["id"] for image in result.dataset["images"]] == [1, 2, 3]
    assert result.skipped[0].record.endswith("bad.jpg")


CELLS = st.text(max_size=12) | st.sampled_from(
    ["a.png", "sub/b.png", "1", "2.5", "-1", "seal", "", '"', "file_name", "x", "y"]
)
TABLES = st.lists(st.lists(CELLS, max_size=5).map(",".join), max_size=5).map("\n".join)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.binary(max_size=60) | TABLES.map(lambda text: text.encode("utf-8", "replace")))
def test_no_table_crashes_the_reader(folder, text):
    """Whatever stands in a file, it is read or refused; what is read is a valid point JSON."""
    for content in (text, b"file_name,x,y,class\n" + text):
        try:
            dataset = imported(folder, content, skip_bad=True).dataset
        except InputError:
            continue
        assert not [p for p in find_problems(dataset, require="point") if p.is_error]


def test_many_clicks_take_a_moment(folder):
    """100,000 lines; a real table must not be read in hours (here: 30 s would be a defect)."""
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 10, (100_000, 2)).round(2)
    lines = [f"sub/b.png,{x},{y},c{i % 7}" for i, (x, y) in enumerate(points.tolist())]
    dataset = imported(folder, "file_name,x,y,class\n" + "\n".join(lines)).dataset
    assert np.array_equal([a["point"] for a in dataset["annotations"]], points)
    assert len(dataset["categories"]) == 7


def test_the_command(folder, capsys):
    table, output = folder / "clicks.tsv", folder / "clicks.json"
    table.write_text("image\tx\ty\tlabel\na.png\t1\t2\tseal\na.png\t99\t2\tseal\n")
    arguments = ["import", "--format", "csv", "--input", table, "--output", output]
    arguments += ["--image-root", folder / "images", "--origin", "centre", "--one-based"]
    arguments += ["--classes", "bird, seal"]
    assert run_tool("prepare_points", *arguments) == 2
    assert "line 3" in capsys.readouterr().err and not output.exists()
    assert run_tool("prepare_points", *arguments, "--skip-bad") == 0
    printed = capsys.readouterr().out
    assert "skipped: line 3: " in printed
    assert "3 images, 1 annotations, 2 categories, 1 skipped" in printed
    assert rows(json.loads(output.read_text())) == [("a.png", "seal", [0.5, 1.5])]
    assert run_tool("prepare_points", "check", "--annotations", output) == 0
    arguments[arguments.index(output)] = table
    assert run_tool("prepare_points", *arguments) == 2
    assert "would be overwritten" in capsys.readouterr().err


def test_formats_are_modules_that_need_no_torch():
    code = "import sys; sys.modules.update(torch=None, torchvision=None, detectron2=None)\n"
    code += "import cpr.data.split\n"
    for entry in FORMATS.values():
        code += f"from cpr.data.importers.{entry.module} import read\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
