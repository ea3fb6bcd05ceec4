"""YOLO, Pascal VOC and DOTA: a file an image, found by its name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpr.data.coarse_points import add_coarse_points
from cpr.data.importers.records import Conventions
from cpr.data.importers.yaml_names import read_names
from cpr_deploy.files import InputError
from foreign_files import read, rows, voc, write_files, write_images

ONE_BASED = Conventions("corner", one_based=True)


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path)


def imported(folder, files, file_format, **settings):
    write_files(folder / "in", files)
    return read(folder / "in", file_format, folder / "images", **settings)


# --- YOLO ---


YAML = "path: ../data # root\ntrain: images/train\nnc: 2\nnames:\n  0: seal\n  1: bird\n"


def test_yolo_boxes(folder):
    files = {
        "data.yaml": YAML,
        "labels/a.txt": "1 0.5 0.5 0.25 0.2\n0 0.1 0.1 0.1 0.1\n",
        "labels/sub/b.txt": "0 0.5 0.5 1.0 1.0 0.93\n",  # a prediction with its score
        "labels/dot.txt": "",  # an image without objects
        "train.txt": "images/a.png\n",  # no label file
    }
    dataset = imported(folder, files, "yolo").dataset
    assert rows(dataset) == [
        ("a.png", "bird", None, [15, 12, 10, 6]),
        ("a.png", "seal", None, pytest.approx([2, 1.5, 4, 3])),
        ("sub/b.png", "seal", None, [0, 0, 20, 10]),
    ]
    assert dataset["categories"] == [{"id": 1, "name": "seal"}, {"id": 2, "name": "bird"}]
    assert len(dataset["images"]) == 3
    # The yaml may be given itself.
    again = read(folder / "in" / "data.yaml", "yolo", folder / "images").dataset
    assert again == dataset


@pytest.mark.parametrize("layout", ["beside", "roboflow", "deep root", "flat"])
def test_where_yolo_keeps_its_labels(tmp_path, layout):
    """labels/train/x.txt for images/train/x.png, or train/labels/x.txt for train/images/x.png."""
    image, label, root = {
        "beside": ("images/train/x.png", "labels/train/x.txt", "images"),
        "roboflow": ("train/images/x.png", "train/labels/x.txt", "."),
        "deep root": ("train/images/x.png", "train/labels/x.txt", "train/images"),
        "flat": ("x.png", "x.txt", "."),
    }[layout]
    write_images(tmp_path, {f"../{image}": (20, 10)})
    write_files(tmp_path, {"data.yaml": "names: [seal]\n", label: "0 .5 .5 .5 .5\n"})
    dataset = read(tmp_path, "yolo", tmp_path / root).dataset
    assert [box for _, _, _, box in rows(dataset)] == [[5, 2.5, 10, 5]]


def test_yolo_names_in_other_files(folder):
    label = {"a.txt": "1 0.5 0.5 0.5 0.5\n"}
    for names in ({"classes.txt": "seal\nbird\n\n"}, {"obj.names": "seal\r\nbird\r\n"}):
        write_files(folder / "in", names)
        assert rows(imported(folder, label, "yolo").dataset)[0][1] == "bird"
        (folder / "in" / next(iter(names))).unlink()
    with pytest.raises(InputError, match="neither data.yaml nor classes.txt names the classes"):
        imported(folder, label, "yolo")
    # One folder up, beside the folder of the labels.
    write_files(folder, {"data.yaml": YAML})
    assert rows(imported(folder, label, "yolo").dataset)[0][1] == "bird"
    write_files(folder, {"other.yml": YAML})
    with pytest.raises(InputError, match="data.yaml and other.yml may both name the classes"):
        imported(folder, label, "yolo")


BAD_YOLO = {
    "four": ("0 0.5 0.5 0.5", "has 4 numbers; `class x y w h` are five"),
    "polygon": ("0 " + "0.5 " * 8, "Keypoints, polygons and turned boxes of YOLO are not read"),
    "class": ("2 0.5 0.5 0.5 0.5", "the class '2' is not among the names"),
    "text": ("seal 0.5 0.5 0.5 0.5", "the class 'seal' is not among the names"),
    "fraction": ("0.0 0.5 0.5 0.5 0.5", "is not among the names"),
    "pixels": ("0 20 15 4 4", "are not shares of the image from 0 to 1"),
    "nan": ("0 nan 0.5 0.5 0.5", "are not shares"),
    "digits": ("0 ١ 0.5 0.5 0.5", "are not shares"),
    "flat": ("0 0.5 0.5 0 0.5", "is none"),
}


@pytest.mark.parametrize(("line", "text"), BAD_YOLO.values(), ids=BAD_YOLO)
def test_a_bad_line_of_yolo(folder, line, text):
    files = {"data.yaml": YAML, "a.txt": f"0 .5 .5 .5 .5\n\n{line}\n"}
    with pytest.raises(InputError, match="in: 'a.txt', line 3: ") as caught:
        imported(folder, files, "yolo")
    assert text in str(caught.value)
    result = imported(folder, files, "yolo", skip_bad=True)
    assert len(result.dataset["annotations"]) == len(result.skipped) == 1


def test_labels_without_their_image(folder):
    files = {"data.yaml": YAML, "c.txt": "0 .5 .5 .5 .5\n", "a.txt": "0 .5 .5 .5 .5\n"}
    with pytest.raises(InputError, match="'c.txt': there is no image 'c'"):
        imported(folder, files, "yolo")
    assert len(imported(folder, files, "yolo", skip_bad=True).dataset["annotations"]) == 1
    write_images(folder, {"a.jpg": (4, 4)})
    with pytest.raises(InputError, match="'a.txt': fits two images, 'a.jpg' and 'a.png'"):
        imported(folder, files, "yolo")
    with pytest.raises(InputError, match="Give the image folder"):
        read(folder / "in", "yolo")


def test_a_label_file_in_another_encoding(folder):
    files = {"data.yaml": YAML, "a.txt": "0 .5 .5 .5 .5 é\n".encode("latin-1")}
    with pytest.raises(InputError, match="'a.txt': is not UTF-8"):
        imported(folder, files, "yolo")
    with pytest.raises(InputError, match="data.yaml: is not UTF-8"):
        imported(folder, {"data.yaml": "names: [é]".encode("latin-1")}, "yolo")


YAMLS = {
    "list": "names: [seal, 'it''s', \"b\\x41\\u00e9\\\"\"]",
    "list over lines": "names: [seal,  # the first\n  'it''s',\n  \"bA\\u00E9\\\"\",\n]\nnc: 3",
    "dashes": "names:\n- seal\n- it's\n- 'bAé\"'  # the last\nnc: 3\n",
    "indented dashes": 'nc: 3\nnames:  # all\n\n  - seal\n  - it\'s\n  - "bAé\\""\n',
    "numbers": "names:\n  0: seal\n  1: it's\n  2: bAé\"\n\nval: x",
    "other order": "names:\n  2: bAé\"\n  0: seal\n  1: it's\n",
    "quoted numbers": "'names':\n  '0': seal\n  \"1\": it's\n  2: bAé\"\n",
    "braces": "names: {0: seal, 1: it's, 2: 'bAé\"'}",
    "windows": "names:\r\n  0: seal\r\n  1: it's\r\n  2: bAé\"\r\n",
    "mark": "\ufeffnames: [seal, it's, 'bAé\"']",
}


@pytest.mark.parametrize("text", YAMLS.values(), ids=YAMLS)
def test_names_in_the_ways_that_tools_write_them(tmp_path, text):
    (tmp_path / "data.yaml").write_bytes(text.encode())
    assert read_names(tmp_path / "data.yaml") == {0: "seal", 1: "it's", 2: 'bAé"'}


NAMES = st.text("abZ0 9_-'\"\\:#,.[]{}&*!|>%@`?é\u2028", min_size=1, max_size=12)


@given(names=st.lists(NAMES, min_size=1, max_size=5), style=st.sampled_from([None, True, False]))
def test_names_as_a_yaml_library_writes_them(tmp_path_factory, names, style):
    """Its files are read as it reads them, or refused; never read otherwise."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    path = tmp_path_factory.getbasetemp() / "names.yaml"
    for value in (names, dict(enumerate(names))):
        content = {"path": ".", "names": value, "nc": len(names)}
        text = yaml.safe_dump(content, default_flow_style=style, allow_unicode=True)
        path.write_text(text, encoding="utf-8")
        try:
            assert read_names(path) == dict(enumerate(names)), text
        except InputError:
            # Only whole files in one pair of braces, and what is broken over lines.
            assert style is True or "\n " in text or "\u2028" in text, text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nc: 3\n", "has no entry names"),
        ("names: []\n", "names is empty"),
        ("names:\nnc: 3", "names is empty"),
        ("names: seal", "not read here, at 'seal'"),
        ("names: [seal", "not read here"),
        ("names: [a, b] c", None),
        ("names: &a [*a, *a]", "not read here"),
        ("names:\n  0: *a", "not read here"),
        ("names:\n  0: |\n   seal", "not read here"),
        ("names:\n  0: a\n  0: b", "index 0, which is there twice"),
        ("names:\n  0:\n    id: 1", "not read here"),
        ("names:\n  seal: 0", "not read here"),
        ("names: {0: {0: a}}", "not read here"),
        ('names: ["\\q"]', "not read here"),
        ('names: ["\\UFFFFFFFF"]', "not read here"),
        ("names: ['" + "'" * 100_001, "not read here"),
    ],
)
def test_names_that_are_not_read(tmp_path, text, message):
    (tmp_path / "data.yaml").write_text(text)
    if message is None:
        assert read_names(tmp_path / "data.yaml") == {0: "a", 1: "b"}
        return
    with pytest.raises(InputError, match=message):
        read_names(tmp_path / "data.yaml")


# --- Pascal VOC ---


def test_voc_boxes(folder):
    text = voc((2, 3, 10, 8.5)).replace(
        "</annotation>",
        "<object><name> bird </name><difficult>1</difficult><bndbox><ymin>0</ymin><xmin>0</xmin>"
        "<ymax>30</ymax><xmax>40</xmax></bndbox></object></annotation>",
    )
    files = {"a.xml": text, "b.xml": voc((0, 0, 5, 5), "sub/b.png", (20, 10))}
    dataset = imported(folder, files, "voc").dataset
    assert rows(dataset) == [
        ("a.png", "seal", None, [2, 3, 8, 5.5]),
        ("a.png", "bird", None, [0, 0, 40, 30]),
        ("sub/b.png", "seal", None, [0, 0, 5, 5]),
    ]
    assert [a.get("ignore", 0) for a in dataset["annotations"]] == [0, 1, 0]


def test_voc_counts_pixels_from_one(folder):
    """xmin 1 and xmax 40 are the first and the last column of an image of 40 px."""
    files = {"a.xml": voc((1, 1, 40, 30))}
    dataset = imported(folder, files, "voc", conventions=ONE_BASED).dataset
    assert rows(dataset) == [("a.png", "seal", None, [0, 0, 40, 30])]
    zero_based = imported(folder, files, "voc", conventions=Conventions("centre")).dataset
    assert rows(zero_based) == [("a.png", "seal", None, [1, 1, 40, 30])]


@pytest.mark.parametrize("written", ["a", "", "C:\\x\\a.png", "/x/images/a.png"])
def test_voc_names_of_images(folder, written):
    """With a path, without a suffix, or missing: then the files are called the same."""
    dataset = imported(folder, {"a.xml": voc((2, 3, 10, 8), written)}, "voc").dataset
    assert rows(dataset) == [("a.png", "seal", None, [2, 3, 8, 5])]


def test_voc_without_the_images(folder):
    """The folder of the annotations is no part of the images' names."""
    write_files(folder / "in", {"Annotations/a.xml": voc((2, 3, 10, 8))})
    dataset = read(folder / "in", "voc").dataset
    assert rows(dataset) == [("a.png", "seal", None, [2, 3, 8, 5])]


def test_voc_without_a_size(folder):
    text = voc((2, 3, 10, 8), size=(0, 0))
    assert len(imported(folder, {"a.xml": text}, "voc").dataset["annotations"]) == 1
    with pytest.raises(InputError, match="does not tell its size"):
        read(folder / "in", "voc")


BAD_VOC = {
    "no box": (voc((1, 1, 2, 2)).replace("bndbox", "robndbox"), "Draw an upright box"),
    "no name": (voc((1, 1, 2, 2)).replace("name>", "nom>"), "names no class"),
    "empty name": (voc((1, 1, 2, 2)).replace("seal", " "), "names no class"),
    "text": (voc(("left", 1, 2, 2)), "are not xmin, ymin, xmax, ymax"),
    "missing": (voc((1, 1, 2, 2)).replace("xmin", "x"), "are not xmin, ymin, xmax, ymax"),
    "order": (voc((2, 1, 1, 2)), "is less than xmin or ymin"),
    "flat": (voc((2, 1, 2, 2)), "is none"),
    "outside": (voc((41, 1, 45, 2)), "lies outside a.png"),
    "difficult": (voc((1, 1, 2, 2), more="<difficult>2</difficult>"), "is not 0 or 1"),
    "size": (voc((1, 1, 2, 2), size=(41, 30)), "41 x 30 px, but it has 40 x 30"),
    "no number": (voc((1, 1, 2, 2), size=("x", 30)), "is not one of an image"),
    "entities": ('<!DOCTYPE a [<!ENTITY x "y">]><annotation/>', "holds a DOCTYPE"),
    "cut": (voc((1, 1, 2, 2))[:50], "seems cut"),
    "cvat": ("<annotations/>", "its outermost element is <annotations>"),
}


@pytest.mark.parametrize(("content", "text"), BAD_VOC.values(), ids=BAD_VOC)
def test_a_bad_record_of_voc(folder, content, text):
    files = {"a.xml": content}
    with pytest.raises(InputError, match="in: 'a.xml'") as caught:
        imported(folder, files, "voc")
    assert text in str(caught.value)
    files["b.xml"] = voc((0, 0, 5, 5), "sub/b.png", (20, 10))
    result = imported(folder, files, "voc", skip_bad=True)
    assert [row[0] for row in rows(result.dataset)] == ["sub/b.png"]
    assert text in result.skipped[0].text


# --- DOTA ---

HEADER = "imagesource:GoogleEarth\ngsd:0.1463\n"
LINES = "10 5 20 15 10 25 0 15 small-vehicle 0\n30.5 20 45 20 45 29 30.5 29 plane 1\n"


@pytest.mark.parametrize("header", ["", HEADER, "gsd:null\n", "\ufeff" + HEADER])
def test_dota(folder, header):
    dataset = imported(folder, {"labelTxt/a.txt": header + LINES}, "dota").dataset
    # The second one reaches out of the image of 40 x 30 px: its box is cut, its outline is not.
    assert rows(dataset) == [
        ("a.png", "small-vehicle", None, [0, 5, 20, 20]),
        ("a.png", "plane", None, [30.5, 20, 9.5, 9]),
    ]
    assert [a.get("ignore", 0) for a in dataset["annotations"]] == [0, 1]
    assert dataset["annotations"][0]["segmentation"] == [[10, 5, 20, 15, 10, 25, 0, 15]]


def test_clicks_are_drawn_inside_the_quadrilateral(folder):
    """A diamond: |x - 10| + |y - 15| <= 10; half of its box is outside of it."""
    dataset = imported(folder, {"a.txt": LINES}, "dota").dataset
    line = dataset["annotations"][0]
    dataset["annotations"] = [{**line, "id": number} for number in range(1, 200)]
    clicked = add_coarse_points(dataset, source="mask", seed=3)
    distances = [abs(x - 10) + abs(y - 15) for x, y in (a["point"] for a in clicked["annotations"])]
    assert max(distances) <= 10 + 1  # the outline is drawn on pixels
    boxed = add_coarse_points(dataset, source="box", seed=3)
    distances = [abs(x - 10) + abs(y - 15) for x, y in (a["point"] for a in boxed["annotations"])]
    assert max(distances) > 12


BAD_DOTA = {
    "few": ("1 2 3 4 5 6 plane 0", "is not `x1 y1"),
    "seven": ("1 2 3 4 5 6 7 plane 0", "is not a coordinate"),
    "text": ("1 2 3 4 5 6 7 y plane 0", "is not a coordinate"),
    "difficult": ("1 2 9 2 9 9 2 9 plane 5", "is not 0, 1 or 2"),
    "outside": ("50 2 59 2 59 9 50 9 plane 0", "lies outside its image"),
    "flat": ("1 2 1 2 1 9 1 9 plane 0", "lies outside its image"),
}


@pytest.mark.parametrize(("line", "text"), BAD_DOTA.values(), ids=BAD_DOTA)
def test_a_bad_line_of_dota(folder, line, text):
    files = {"labelTxt/a.txt": HEADER + LINES + line}
    with pytest.raises(InputError, match="in: 'labelTxt/a.txt', line 5: ") as caught:
        imported(folder, files, "dota")
    assert text in str(caught.value)
    result = imported(folder, files, "dota", skip_bad=True)
    assert len(result.dataset["annotations"]) == 2 and len(result.skipped) == 1
