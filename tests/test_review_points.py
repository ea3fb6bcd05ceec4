"""The review page as a file; tests/test_review_page.py opens it in a browser."""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from cpr.data.quality.label_quality import label_quality
from cpr.data.quality.review_decisions import data_set_key
from cpr.visualization.review.page import write_review
from cpr.visualization.review.thumbnails import LEVELS, Thumbnail, cut, fit, make_thumbnails
from cpr_deploy.files import InputError
from review_data import (
    HOSTILE_CLASS,
    HOSTILE_FOLDER,
    SMALL_ORDER,
    large_dataset,
    small_dataset,
    write_images,
    write_small,
)
from tool_runner import run_tool

VOID = {"meta", "input", "img", "br", "hr", "link"}


class Page(HTMLParser):
    """A page's elements as (tag, attributes, text); a tag out of order is an error."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        element = [tag, dict(attributes), ""]
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), ""])

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, f"</{tag}> in {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open:
            self.open[-1][2] += data

    def all(self, tag):
        return [element for element in self.elements if element[0] == tag]

    def by_id(self, name):
        return next(element for element in self.elements if element[1].get("id") == name)


def make_page(folder, dataset, images, **options):
    output = folder / "review.html"
    options = {"title": "Review", **options}
    summary = write_review(output, dataset, label_quality(dataset), images, **options)
    text = output.read_text(encoding="utf-8")
    assert summary.bytes == output.stat().st_size
    return summary, text, Page(text)


@pytest.fixture
def small(tmp_path):
    path, images = write_small(tmp_path)
    return path, images, small_dataset()


def test_page_is_whole_and_alone(small, tmp_path):
    _, text, page = make_page(tmp_path, small[2], small[1])
    scripts = [element for element in page.all("script") if "type" not in element[1]]
    assert len(scripts) == 1 and len(page.all("style")) == 1
    policy = next(e[1]["content"] for e in page.all("meta") if "http-equiv" in e[1])
    for kind, (_, _, content) in (("script", scripts[0]), ("style", page.all("style")[0])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for tag, attributes, _ in page.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes), tag
        assert not {"src", "href"} & set(attributes) or attributes.get("href") == "#objects"
    style = page.all("style")[0][2]
    assert "url(" not in style and "@import" not in style
    found = set(re.findall(r"\w+://[\w./]+", text)) - {"http://www.w3.org/2000/svg"}
    assert not found
    assert "{{" not in text


def test_every_control_has_a_name(small, tmp_path):
    _, text, page = make_page(tmp_path, small[2], small[1])
    for tag, attributes, content in page.elements:
        if tag == "button":
            assert content.strip(), attributes
        if tag in ("select", "input") and "hidden" not in attributes:
            assert re.search(rf'<label[^>]*>[^/]*<{tag} id="{attributes["id"]}"', text), attributes
    used = set(re.findall(r'byId\("([\w-]+)"\)', text))
    known = {element[1].get("id") for element in page.elements}
    assert used <= known


def test_data_of_the_page(small, tmp_path):
    summary, _, page = make_page(tmp_path, small[2], small[1])
    data = json.loads(page.by_id("data")[2])
    assert data["id"] == list(SMALL_ORDER)
    names = [flag["name"] for flag in data["flags"]]
    flags = [tuple(n for i, n in enumerate(names) if bits >> i & 1) for bits in data["bits"]]
    assert flags == list(SMALL_ORDER.values())
    assert data["key"] == summary.data_set == data_set_key(small[2])
    assert data["classes"][data["class"][0]] == HOSTILE_CLASS
    assert HOSTILE_FOLDER in data["images"][data["image"][0]]
    assert data["partners"] == {"1": [2], "2": [1]}
    assert data["point"][3] == [97, 60] and data["distance"][3] == 17
    assert [bool(box) for box in data["box"]] == [i == 5 for i in range(7)]
    assert "empty.jpg" not in data["images"]


def test_nothing_of_the_data_is_html(small, tmp_path):
    title = "<b>{{data}}</b> & {{script}}"
    _, text, page = make_page(tmp_path, small[2], small[1], title=title)
    assert HOSTILE_CLASS not in text and HOSTILE_FOLDER not in text
    assert not page.all("img") and not page.all("b")
    assert page.all("h1")[0][2] == page.all("title")[0][2] == title
    assert json.loads(page.by_id("data")[2])["title"] == title


def lines_of(page):
    blocks = [e for e in page.all("script") if e[1].get("type") == "text/plain"]
    assert [e[1]["id"] for e in blocks] == [f"block{i}" for i in range(len(blocks))]
    return [line.split(" ") for block in blocks for line in block[2].split("\n")]


def test_pictures_show_what_the_data_say(small, tmp_path):
    _, _, page = make_page(tmp_path, small[2], small[1])
    data = json.loads(page.by_id("data")[2])
    lines = lines_of(page)
    assert len(lines) == 7
    for place, (semantic, picture) in enumerate(lines):
        left, top, width, height = data["crop"][place]
        image = Image.open(io.BytesIO(base64.b64decode(picture)))
        assert image.format == "JPEG" and image.size == (width, height)
        name = data["images"][data["image"][place]]
        source = Image.open(small[1] / name).convert("RGB")
        same = np.asarray(source.crop((left, top, left + width, top + height)), dtype=float)
        assert np.abs(np.asarray(image, dtype=float) - same).mean() < 12
        for x, y in (data["click"][place], data["point"][place]):
            assert left <= x <= left + width and top <= y <= top + height
        points = np.frombuffer(base64.b64decode(semantic), np.uint8).reshape(-1, 2) / 255
        if data["id"][place] == 12:
            found = points * (width, height) + (left, top)
            np.testing.assert_allclose(found, [[96, 59], [98, 61]], atol=width / 255)
        else:
            assert not len(points)


def test_crop_holds_everything_of_the_object():
    image = np.zeros((120, 160, 3), np.uint8)
    for one in label_quality(small_dataset()).objects:
        crop = cut(image, one, reach=20, side=256)
        click = np.array(one.annotation["coarse_point"])
        circle = click + 20 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
        corners = np.vstack([circle, one.annotation["point"]]).clip(0, [160, 120])
        if "bbox" in one.annotation:
            x, y, w, h = one.annotation["bbox"]
            corners = np.vstack([corners, [x, y], [x + w, y + h]])
        inside = crop.points(corners)
        height, width = crop.image.shape[:2]
        assert (inside >= 0).all() and (inside <= [width, height]).all()
        assert crop.scale == (1.0, 1.0)


# --- size ---


def noise_jpeg(side, quality):
    rng = np.random.default_rng(side)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(
        buffer, "JPEG", quality=quality
    )
    return buffer.getvalue()


def items_of(number):
    data = noise_jpeg(*LEVELS[0])
    return [Thumbnail((0, 0, 1, 1), data) for _ in range(number)]


def size_of(item):
    return Image.open(io.BytesIO(item.data)).size[0]


def test_fit_makes_the_last_ones_smaller_first():
    items = items_of(10)
    full = sum(len(item.data) for item in items)
    assert fit(items, full) == 0 and all(item.level == 0 for item in items)
    for share in (0.9, 0.4, 0.1, 0.05):
        assert fit(items, share * full) == 0
        assert sum(len(item.data) for item in items) <= share * full
        sizes = [size_of(item) for item in items]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes == [LEVELS[item.level].side for item in items]
        assert items[-1].level - items[0].level <= 1


def test_fit_leaves_the_last_ones_out_when_nothing_else_helps():
    items = items_of(6)
    smallest = items_of(1)
    fit(smallest, 1)
    assert smallest[0].data is None and smallest[0].level == len(LEVELS) - 1
    least = len(noise_jpeg(*LEVELS[-1]))
    left_out = fit(items, 2.5 * least)
    assert 1 <= left_out <= 5
    assert [item.data is None for item in items] == [False] * (6 - left_out) + [True] * left_out


@pytest.mark.parametrize("megabytes", [0.25, 0.5, 1.2])
def test_page_keeps_its_size(tmp_path, megabytes):
    dataset = large_dataset(150, 3)
    write_images(tmp_path / "images", ["0.jpg", "1.jpg", "2.jpg"], (640, 480))
    summary, _, page = make_page(tmp_path, dataset, tmp_path / "images", max_bytes=megabytes * 1e6)
    assert 0.6 * megabytes * 1e6 < summary.bytes <= megabytes * 1e6 or megabytes == 1.2
    assert summary.shown == 150 and sum(summary.levels.values()) + summary.without_room == 150
    pictures = [picture for _, picture in lines_of(page)]
    assert sum(not picture for picture in pictures) == summary.without_room
    lead = next(e[2] for e in page.all("p") if e[2].startswith("Flagged:"))
    assert ("have no picture" in lead) == bool(summary.without_room)


def test_no_room_at_all(small, tmp_path):
    with pytest.raises(InputError, match="without any picture.*--max-mb.*--max-objects"):
        make_page(tmp_path, small[2], small[1], max_bytes=10_000)
    assert not (tmp_path / "review.html").exists()


def test_only_the_worst(small, tmp_path):
    summary, text, page = make_page(tmp_path, small[2], small[1], max_objects=2)
    data = json.loads(page.by_id("data")[2])
    assert data["id"] == list(SMALL_ORDER)[:2] and summary.shown == 2
    assert data["partners"] == {"1": []}
    assert "Only the 2 worst are here, 5 are not." in text


def test_five_thousand_objects_stay_below_50_mb(tmp_path):
    dataset = large_dataset(5000, 4)
    write_images(tmp_path / "images", [f"{i}.jpg" for i in range(4)], (640, 480))
    summary, _, _ = make_page(tmp_path, dataset, tmp_path / "images")
    assert 5e6 < summary.bytes < 50e6
    assert summary.without_room == 0 and sum(summary.levels.values()) == 5000
    smallest = min(int(name.split()[0]) for name in summary.levels)
    assert smallest >= 128


# --- images that cannot be read, and the command ---


def test_damaged_image(small, tmp_path):
    bad = small[1] / "c.jpg"
    bad.write_bytes(bad.read_bytes()[:500])
    objects = label_quality(small[2]).objects
    with pytest.raises(InputError, match="c.jpg"):
        make_thumbnails(objects, small[2]["images"], small[1], max_bytes=1e6, reach=20)
    summary, _, page = make_page(tmp_path, small[2], small[1], skip_bad=True)
    assert list(summary.problems) == ["x"] and "c.jpg" in summary.problems["x"]
    data = json.loads(page.by_id("data")[2])
    assert list(data["problems"]) == [str(data["images"].index("c.jpg"))]
    shown = [bool(picture) for _, picture in lines_of(page)]
    assert shown == [image != 2 for image in data["image"]] == [bool(c) for c in data["crop"]]


def test_command(small, tmp_path, capsys):
    output = tmp_path / "out" / "review.html"
    arguments = ["--annotations", small[0], "--image-root", small[1], "--output", output]
    assert run_tool("review_points", *arguments) == 0
    printed = capsys.readouterr().out
    assert "7 objects, 5 of them flagged" in printed
    assert re.search(r"^ +2 same-place: ", printed, re.MULTILINE)
    assert data_set_key(small[2]) in printed
    assert "Review of refined.json" in output.read_text(encoding="utf-8")
    assert [path.name for path in output.parent.iterdir()] == ["review.html"]

    assert run_tool("review_points", *arguments, "--radius", 3.5, "--max-objects", 3) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^ +4 moved: ", printed, re.MULTILINE) and "only the 3 worst" in printed

    before = output.read_bytes()
    (small[1] / "b.jpg").write_bytes(b"no image")
    assert run_tool("review_points", *arguments) == 2
    assert "b.jpg" in capsys.readouterr().err and output.read_bytes() == before
    assert run_tool("review_points", *arguments, "--skip-bad") == 0
    assert re.search(r"not shown: image id 1: .*b\.jpg", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--radius", "-1"], "--radius -1.0: give a distance"),
        (["--same-place", "nan"], "--same-place nan"),
        (["--min-score", "3"], "--min-score 3.0"),
        (["--image-root", "nowhere"], "nowhere: no such image folder"),
        (["--max-mb", "0.001"], "--max-mb"),
    ],
)
def test_bad_arguments(small, tmp_path, capsys, change, words):
    arguments = ["--annotations", small[0], "--image-root", small[1]]
    arguments += ["--output", tmp_path / "r.html", *change]
    assert run_tool("review_points", *arguments) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_unrefined_annotations(small, tmp_path, capsys):
    dataset = small[2]
    for annotation in dataset["annotations"]:
        annotation.pop("coarse_point", None)
    small[0].write_text(json.dumps(dataset))
    arguments = ["--annotations", small[0], "--image-root", small[1]]
    assert run_tool("review_points", *arguments, "--output", tmp_path / "r.html") == 2
    assert "refined.json: no object has a coarse_point" in capsys.readouterr().err
    # Nor may the page overwrite them.
    assert run_tool("review_points", *arguments, "--output", small[0]) == 2
