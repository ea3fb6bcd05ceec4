from html.parser import HTMLParser

import numpy as np
import pytest

from cpr.visualization.draw import encode_image
from cpr.visualization.plots import ap_bars, relative_position_plot, rsv_curve
from cpr.visualization.report import Report

PNG = b"\x89PNG\r\n\x1a\n"


class Tags(HTMLParser):
    """Start tags with their attributes, and whether every tag is closed in order."""

    VOID = ("meta", "img", "br")

    def __init__(self, page):
        super().__init__()
        self.found, self.open = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def pixels(png):
    import cv2

    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)


def test_heat_maps_differ_where_the_points_do():
    rng = np.random.default_rng(0)
    wide, narrow = rng.normal(0, 0.25, (500, 2)), rng.normal(0, 0.05, (500, 2))
    same = pixels(relative_position_plot(wide, wide))
    moved = pixels(relative_position_plot(wide, narrow))
    half = same.shape[1] // 2
    assert (same[:, half:] != moved[:, half:]).any()


@pytest.mark.parametrize(
    "png",
    [
        relative_position_plot(np.zeros((0, 2)), np.zeros((0, 2))),
        rsv_curve([1, 2, 3], [0.05, 0.04, 0.03]),
        rsv_curve([1], [0.05], coarse=0.06, inside=[0.9]),
        ap_bars({"clicks": {"0.5": 0.3, "1.0": 0.5}}),
        ap_bars(
            {"clicks": {"1.0": 0.5}, "refined": {"1.0": 0.9}}, {"refined": {"1.0": (0.85, 1.0)}}
        ),
    ],
    ids=["no points", "curve", "curve of one with all", "bars", "bars with an interval"],
)
def test_plots_are_png_images(png):
    assert png.startswith(PNG)
    image = pixels(png)
    assert min(image.shape[:2]) > 200 and image.std() > 1


def full_report():
    report = Report("A <b>title</b> & more", "lead")
    report.section("Se<ction>")
    report.paragraph("<script>alert(1)</script>")
    report.cards([("1.5", 'a "label"')])
    report.table(["name", "value"], [["<x>", 1], ["y", "&"]], "cap<tion>")
    report.image(np.zeros((8, 8, 3), np.uint8), 'quote " and <tag>')
    report.image(encode_image(np.zeros((8, 8, 3), np.uint8)), "png")
    report.code("a < b")
    return report


def test_page_is_well_formed_and_everything_is_escaped():
    page = full_report().html()
    tags = Tags(page)
    assert tags.open == []
    names = [tag for tag, _ in tags.found]
    assert "script" not in names and "x" not in names and "tag" not in names and "b" not in names
    images = [attributes for tag, attributes in tags.found if tag == "img"]
    assert images[0]["alt"] == 'quote " and <tag>'
    assert images[0]["src"].startswith("data:image/jpeg;base64,")
    assert images[1]["src"].startswith("data:image/png;base64,")


def test_page_needs_nothing_from_elsewhere():
    page = full_report().html()
    for attributes in (a for _, a in Tags(page).found):
        for key in ("src", "href"):
            assert attributes.get(key, "data:").startswith("data:")
    assert "url(" not in page and "@import" not in page
    assert 'name="viewport"' in page and "prefers-color-scheme: dark" in page


def test_save_writes_the_page(tmp_path):
    report = full_report()
    report.save(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == report.html()


def test_mistakes_are_refused():
    report = Report("t")
    with pytest.raises(ValueError, match="header"):
        report.table(["a", "b"], [["only one"]])
    with pytest.raises(ValueError, match="PNG or JPEG"):
        report.image(b"GIF89a", "gif")


def test_names_are_no_mathematics():
    """Classes may be called what they want; matplotlib sets $...$ as formulas or fails."""
    from cpr.visualization.plots import Bar, grouped_bars, heat_maps

    name = r"$\foo$ 5$"
    points = np.zeros((3, 2))
    assert heat_maps({name: points}).startswith(b"\x89PNG")
    bars = {name: {name: Bar(50.0)}}
    assert grouped_bars(bars, colours={name: "#123456"}, label="mAP").startswith(b"\x89PNG")
