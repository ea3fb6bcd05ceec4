"""DOTA's labelTxt: headers, difficult, what is refused, and where the message points."""

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpr.data import dota_text
from cpr.data.dota_text import Quadrilateral, horizontal_box, polygon_area, read_quadrilaterals
from cpr.data.point_json import Problem
from cpr_deploy.files import InputError

LINE = "10 20 50 20 50 40.5 10 40.5 small-vehicle 1"
CORNERS = ((10.0, 20.0), (50.0, 20.0), (50.0, 40.5), (10.0, 40.5))


def read(tmp_path, text):
    path = tmp_path / "P0001.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_quadrilaterals(path))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "imagesource:GoogleEarth\ngsd:0.146343590398\n",
        "imagesource:GoogleEarth\r\ngsd:null\r\n",
        "\n\nacquisition dates:2016-05-04\nimagesource: GF-2\ngsd:None\n",
        "\ufeffimagesource:GoogleEarth\n",
        "\ufeff",
    ],
)
def test_with_and_without_header(tmp_path, header):
    (found,) = read(tmp_path, header + LINE + "\n")
    number = header.count("\n") + 1
    assert found == Quadrilateral(f"line {number}", CORNERS, "small-vehicle", True)


@pytest.mark.parametrize(
    ("end", "label", "difficult"),
    [
        ("plane 0", "plane", False),
        ("plane 1", "plane", True),
        ("plane 2", "plane", True),
        ("plane", "plane", False),
        ("storage tank 1", "storage tank", True),
        ("\tLarge-Vehicle\t0 ", "Large-Vehicle", False),
    ],
)
def test_class_and_difficulty(tmp_path, end, label, difficult):
    (found,) = read(tmp_path, f"1 2 3 2 3 4 1 4 {end}")
    assert (found.label, found.difficult) == (label, difficult)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 2 3 4 5 6 7 plane 0", "'plane' is not a coordinate"),
        ("1 2 3 4 5 6 7 8", "x1 y1 x2 y2"),
        ("1 2 3 4 5 6 7 nan plane 0", "'nan' is not a coordinate"),
        ("1 2 3 4 5 6 7 1e9 plane 0", "'1e9' is not a coordinate"),
        ("1 2 3 4 5 6 7 1_0 plane 0", "'1_0' is not a coordinate"),
        ("1 2 3 4 5 6 7 8 plane 7", "difficult '7' is not 0, 1 or 2"),
        ("1 2 3 4 5 6 7 8 0", "names no class"),
        ("1 2 3 4 5 6 7 8 pl\x00ne 0", "nothing can show"),
        ("1,2,3,4,5,6,7,8,plane,0", "x1 y1 x2 y2"),
    ],
)
def test_bad_lines_are_problems(tmp_path, line, message):
    first, problem, last = read(tmp_path, f"{LINE}\n{line}\n{LINE}\n")
    assert isinstance(problem, Problem) and problem.record == "line 2"
    assert message in problem.text
    assert first.corners == last.corners == CORNERS
    # A header in the middle is none.
    problem = read(tmp_path, f"{LINE}\ngsd:0.1\n")[1]
    assert isinstance(problem, Problem)


def test_bad_files(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no such file"):
        list(read_quadrilaterals(tmp_path / "none.txt"))
    with pytest.raises(InputError, match="no such file"):
        list(read_quadrilaterals(tmp_path))
    with pytest.raises(InputError, match="not UTF-8"):
        read(tmp_path, LINE.encode("utf-16"))
    assert read(tmp_path, "") == read(tmp_path, "gsd:1\n") == []
    monkeypatch.setattr(dota_text, "MAX_BYTES", 10)
    with pytest.raises(InputError, match="no label file"):
        read(tmp_path, LINE)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode("utf-8", "replace")))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_read_or_refused(tmp_path, content):
    try:
        found = read(tmp_path, content)
    except InputError:
        return
    for item in found:
        if isinstance(item, Quadrilateral):
            assert len(item.corners) == 4 and item.label
            assert all(math.isfinite(value) for corner in item.corners for value in corner)


def test_box_and_area():
    diamond = ((10.0, 0.0), (20.0, 10.0), (10.0, 20.0), (0.0, 10.0))
    assert horizontal_box(diamond, 100, 100) == [0, 0, 20, 20]
    assert polygon_area(diamond) == polygon_area(diamond[::-1]) == 200
    # Clipped to the image, and gone outside of it.
    assert horizontal_box(diamond, 15, 12) == [0, 0, 15, 12]
    assert horizontal_box([(x - 5, y - 8) for x, y in diamond], 100, 100) == [0, 0, 15, 12]
    assert horizontal_box([(x + 50, y) for x, y in diamond], 50, 50) is None
    assert horizontal_box([(x, y - 20) for x, y in diamond], 50, 50) is None
