"""CVAT for images 1.1: shapes by hand, what is refused, and XML that means harm."""

import logging

import pytest

from cpr.data.importers import xml_file
from cpr.data.importers.xml_file import read_children
from cpr_deploy.files import InputError
from foreign_files import cvat, read, rows, write_files, write_images


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path)


def imported(folder, text, **settings):
    write_files(folder, {"annotations.xml": text})
    return read(folder / "annotations.xml", "cvat", folder / "images", **settings)


def test_points_and_boxes(folder):
    shapes = """
    <points label="seal" source="manual" occluded="0" points="3.50,4.25" z_order="0"></points>
    <box label="bird" xtl="1" ytl="2" xbr="11.5" ybr="5" occluded="1">
      <attribute name="x">y</attribute></box>
    <tag label="seal" source="manual"></tag>
    <points label="seal" points="1,2;3,4"/>
    """
    dataset = imported(folder, cvat(shapes, labels=("walrus", "seal", "bird"))).dataset
    assert rows(dataset) == [
        ("a.png", "seal", [3.5, 4.25], None),
        ("a.png", "bird", None, [1.0, 2.0, 10.5, 3.0]),
        # A shape of two points is two clicks.
        ("a.png", "seal", [1.0, 2.0], None),
        ("a.png", "seal", [3.0, 4.0], None),
    ]
    # The classes in the order of the file; all images of the folder; the id of the frame is kept.
    assert [c["name"] for c in dataset["categories"]] == ["walrus", "seal", "bird"]
    assert {i["file_name"]: i["id"] for i in dataset["images"]} == {
        "a.png": 0,
        "dot.png": 1,
        "sub/b.png": 2,
    }


def test_polygons_and_turned_boxes_become_boxes_with_outlines(folder):
    shapes = '<polygon label="seal" points="10,5;20,5;15,25"/>'
    # 4 x 2 px about (12, 11), turned by a quarter: 2 x 4 px about the same centre.
    shapes += '<box label="seal" xtl="10" ytl="10" xbr="14" ybr="12" rotation="90"/>'
    first, second = imported(folder, cvat(shapes)).dataset["annotations"]
    assert first["bbox"] == [10, 5, 10, 20]
    assert first["segmentation"] == [[10, 5, 20, 5, 15, 25]]
    assert second["bbox"] == pytest.approx([11, 9, 2, 4])
    # Clockwise: the top-left corner goes to the top right.
    assert second["segmentation"][0][:2] == pytest.approx([13, 9])


def test_our_own_attributes(folder):
    attributes = '<attribute name="annotation_id">17</attribute>'
    shapes = f'<points label="seal" points="1,2">{attributes}</points>'
    shapes += (
        '<box label="seal" xtl="0" ytl="0" xbr="9" ybr="9"><attribute name="ignore">true'
        "</attribute></box>"
    )
    click, region = imported(folder, cvat(shapes)).dataset["annotations"]
    assert click["id"] == 17 and "ignore" not in click
    # Ids go on from the largest one.
    assert region["id"] == 18 and region["ignore"] == 1


def test_without_the_images_their_sizes_are_those_of_the_file(folder):
    write_files(folder, {"c.xml": cvat('<points label="seal" points="1,2"/>')})
    dataset = read(folder / "c.xml", "cvat").dataset
    assert dataset["images"] == [{"id": 0, "file_name": "a.png", "width": 40, "height": 30}]


def test_tasks_of_a_project_number_their_frames_alike(folder):
    image = (
        '<image id="0" name="{}" width="{}" height="{}"><points label="s" points="1,1"/></image>'
    )
    text = "<annotations>" + image.format("a.png", 40, 30) + image.format("sub/b.png", 20, 10)
    dataset = imported(folder, text + "</annotations>").dataset
    ids = {i["file_name"]: i["id"] for i in dataset["images"]}
    assert ids["a.png"] == 0 and len(set(ids.values())) == 3


BAD_SHAPES = {
    "polyline": ('<polyline label="seal" points="1,2;3,4"/>', "its first vertex is not taken"),
    "ellipse": ('<ellipse label="seal" cx="1" cy="2" rx="3" ry="4"/>', "draw a box or a point"),
    "mask": ('<mask label="seal" rle="1, 2"/>', "draw a point, a box or a polygon"),
    "unknown": ('<hexagon label="seal"/>', "is no shape of"),
    "no number": ('<points label="seal" points="1,x"/>', "is not `x,y;x,y`"),
    "three numbers": ('<points label="seal" points="1,2,3"/>', "is not `x,y;x,y`"),
    "nothing": ('<points label="seal"/>', "is not `x,y;x,y`"),
    "nan": ('<points label="seal" points="nan,1"/>', "is not `x,y;x,y`"),
    "huge": ('<points label="seal" points="1e999,1"/>', "is no pixel"),
    "long": (f'<points label="seal" points="{"1" * 70000}x,1"/>', "is not `x,y;x,y`"),
    "outside": ('<points label="seal" points="41,1"/>', "lies outside a.png of 40 x 30 px"),
    "no label": ('<points points="1,1"/>', "names no class"),
    "flat box": ('<box label="seal" xtl="1" ytl="1" xbr="1" ybr="5"/>', "is none"),
    "half a box": ('<box label="seal" xtl="1" ytl="1" xbr="3"/>', "is not a number"),
    "two corners": ('<polygon label="seal" points="1,1;2,2"/>', "a polygon of 2 points"),
    "id": (
        '<points label="seal" points="1,1"><attribute name="annotation_id">x</attribute></points>',
        "is not a whole number",
    ),
    "shared id": (
        '<points label="seal" points="1,1;2,2"><attribute name="annotation_id">4</attribute>'
        "</points>",
        "2 points share the annotation_id 4",
    ),
}


@pytest.mark.parametrize(("shape", "text"), BAD_SHAPES.values(), ids=BAD_SHAPES)
def test_a_bad_shape_is_named_with_rule_and_fix(folder, shape, text):
    good = '<points label="seal" points="5,5"/>'
    with pytest.raises(InputError) as caught:
        imported(folder, cvat(f"{good}\n{shape}"))
    # Its image, its kind and the line where it stands.
    assert "annotations.xml: image 'a.png', " in str(caught.value)
    assert "in line 6" in str(caught.value) and text in str(caught.value)
    result = imported(folder, cvat(f"{good}\n{shape}"), skip_bad=True)
    assert rows(result.dataset) == [("a.png", "seal", [5.0, 5.0], None)]
    assert len(result.skipped) == 1 and text in result.skipped[0].text


BAD_IMAGES = {
    "unknown": (cvat("<points label='s' points='1,1'/>", "c.png"), "is not in the image folder"),
    "case": (cvat("<points label='s' points='1,1'/>", "A.PNG"), "Did you mean 'a.png'"),
    "upwards": (cvat("<points label='s' points='1,1'/>", "../a.png"), "without '..'"),
    "windows": (cvat("<points label='s' points='1,1'/>", "C:\\x\\a.png"), "leads out of the image"),
    "size": (cvat("<points label='s' points='1,1'/>", size=(41, 30)), "41 x 30 px, but it has 40"),
    "turned": (cvat("<points label='s' points='1,1'/>", size=(30, 40)), "turned by its EXIF tag"),
    "no size": (cvat("<points label='s' points='1,1'/>", size=("x", 30)), "is not one of an image"),
    "absurd": (
        cvat("<points label='s' points='1,1'/>", size=(10**9, 30)),
        "is not one of an image",
    ),
}


@pytest.mark.parametrize(("text", "message"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_a_bad_image_is_named(folder, text, message):
    with pytest.raises(InputError, match="annotations.xml: image ") as caught:
        imported(folder, text)
    assert message in str(caught.value)


def test_an_image_that_is_listed_twice_would_double_its_objects(folder):
    image = '<image id="{}" name="a.png"><points label="s" points="1,{}"/></image>'
    text = f"<annotations>{image.format(0, 1)}{image.format(1, 2)}</annotations>"
    with pytest.raises(InputError, match="listed twice"):
        imported(folder, text)
    result = imported(folder, text, skip_bad=True)
    assert [point for _, _, point, _ in rows(result.dataset)] == [[1, 1]]
    assert len(result.skipped) == 2  # the image, and the click on it


def test_an_image_of_another_size_is_no_image_without_objects(folder):
    image = (
        '<image id="{}" name="{}" width="{}" height="30"><points label="s" points="1,1"/></image>'
    )
    text = image.format(0, "a.png", 99) + image.format(1, "dot.png", 1).replace("30", "1")
    result = imported(folder, f"<annotations>{text}</annotations>", skip_bad=True)
    assert [i["file_name"] for i in result.dataset["images"]] == ["dot.png", "sub/b.png"]


def test_two_spellings_of_a_class_are_pointed_out(folder, caplog):
    shapes = '<points label="Seal" points="1,1"/><points label="seal" points="2,2"/>'
    with caplog.at_level(logging.WARNING):
        imported(folder, cvat(shapes))
    assert "differ in case" in caplog.text
    with pytest.raises(InputError, match="Did you mean 'seal'"):
        imported(folder, cvat(shapes), classes=["seal"])


# --- XML ---

BOMB = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;">]><annotations>&y;</annotations>'
BAD_XML = {
    "entities": (BOMB, "line 1: holds a DOCTYPE"),
    "external": ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>', "holds a DOCTYPE"),
    "cut": (cvat("")[:-30], "at line 4, column 0: unclosed token. The file seems cut"),
    "empty": ("", "not valid XML at line 1"),
    "json": ("[]", "not valid XML"),
    "html": ("<html></html>", "its outermost element is <html>, not <annotations>"),
    "zip": (b"PK\x03\x04" + bytes(50), "is a ZIP archive. Unpack it"),
    "video": ('<annotations><track id="0"/></annotations>', "this is `CVAT for video`"),
    "deep": ("<annotations>" + "<a>" * 40 + "</a>" * 40 + "</annotations>", "nested deeper than"),
    "latin-1": (cvat("", "é.png").encode("latin-1"), "save the file again as UTF-8"),
    "unknown encoding": (b'<?xml version="1.0" encoding="klingon"?><annotations/>', "UTF-8"),
    "nothing in it": ("<annotations></annotations>", "no usable click or box"),
}


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize(("text", "message"), BAD_XML.values(), ids=BAD_XML)
def test_what_is_no_such_file_is_refused(folder, text, message, skip_bad):
    with pytest.raises(InputError) as caught:
        imported(folder, text, skip_bad=skip_bad)
    assert str(caught.value).startswith(f"{folder / 'annotations.xml'}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_a_declared_encoding_and_byte_order_marks(folder, encoding):
    text = cvat('<points label="phoque tacheté" points="1,2"/>')
    text = text.replace("utf-8", "latin-1" if encoding == "latin-1" else encoding[:6].strip("-"))
    dataset = imported(folder, text.replace("utf-8-", "utf-8").encode(encoding)).dataset
    assert rows(dataset) == [("a.png", "phoque tacheté", [1.0, 2.0], None)]


def test_limits(tmp_path, monkeypatch):
    path = tmp_path / "a.xml"
    path.write_text("<a><b>" + "<c/>" * 20 + "</b></a>")
    assert [len(e.children) for e in read_children(path, "a")] == [20]
    monkeypatch.setattr(xml_file, "MAX_ELEMENTS", 20)
    with pytest.raises(InputError, match="more than 20"):
        list(read_children(path, "a"))
    monkeypatch.setattr(xml_file, "MAX_BYTES", 50)
    with pytest.raises(InputError, match="is more than 50. Split"):
        list(read_children(path, "a"))
    monkeypatch.undo()
    monkeypatch.setattr(xml_file, "MAX_TOKEN_BYTES", 1000)
    monkeypatch.setattr(xml_file, "_CHUNK", 100)
    for text in ('<a><b c="' + "x" * 5000 + '"/></a>', "<a><b>" + "x" * 5000 + "</b></a>"):
        path.write_text(text)
        with pytest.raises(InputError, match="1000"):
            list(read_children(path, "a"))
    # Not of several small parts together.
    path.write_text("<a>" + ("<b>" + "x" * 500 + "</b>") * 9 + "</a>")
    assert len(list(read_children(path, "a"))) == 9


def test_the_reader_agrees_with_the_standard_library(tmp_path):
    from xml.etree import ElementTree

    text = '<a>x<b k="1&amp;2">t<c>u</c>v<!-- no --><![CDATA[<w>]]></b><d/>y</a>'
    (tmp_path / "a.xml").write_text(text)
    found = list(read_children(tmp_path / "a.xml", "a"))
    expected = ElementTree.fromstring(text)
    assert [(e.tag, e.attributes) for e in found] == [(e.tag, e.attrib) for e in expected]
    assert [e.tag for e in found[0].walk()] == [e.tag for e in expected[0].iter()]
    assert found[0].text == "tv<w>" and found[0].text_of("c") == "u"
