"""The map: what is in the file, and how it behaves in a browser."""

import json
import os
import re

import numpy as np
import pytest

import geo_parts
from cpr_deploy.geo.writers.html_map import write_html
from cpr_deploy.geo.writers.report import Report

HOSTILE = '</script><img src=x onerror="document.title=1">'
HOME = (54.179, 12.081)


def at(east, north, latitude=HOME[0], longitude=HOME[1]):
    lon, lat, _ = geo_parts.GEOD.fwd(
        longitude, latitude, np.degrees(np.arctan2(east, north)), np.hypot(east, north)
    )
    return lat, lon


def find(number, east, north, **fields):
    latitude, longitude = at(east, north)
    return {
        "id": number, "name": f"person {number}", "class_name": "person", "score": number / 10,
        "latitude": latitude, "longitude": longitude, "altitude": 0.0,
        "altitude_reference": "takeoff", "semi_major": 20.0, "semi_minor": 8.0, "azimuth": 45.0,
        "distance": 100.0, "count": 2, "pts": 1.5, "source": "clip.mp4", "frame": 30, **fields,
    }  # fmt: skip


def report(finds=None, **fields):
    flight = [(*at(east, north), 100, time) for time, (east, north) in enumerate(
        [(-300, 0), (-300, 400), (0, 400), (0, 0), (300, 0), (300, 400)])]  # fmt: skip
    seen = [np.array([at(e + a, n + b) for a, b in ((-60, -40), (60, -40), (60, 40), (-60, 40))])
            for e, n in ((-300, 0), (-300, 200), (0, 300))]  # fmt: skip
    if finds is None:
        finds = [find(1, -250, 50), find(2, -240, 300), find(3, 40, 200),
                 find(9, 280, 350, class_name=HOSTILE, name=HOSTILE)]  # fmt: skip
    base = {"lines": [np.array(flight)], "footprints": seen, "refusals": {"gap": 3}, "frames": 40}
    return Report(f"Search {HOSTILE}", finds, positions=12, **{**base, **fields})


def test_one_file_that_asks_nobody(tmp_path):
    write_html(tmp_path / "m.html", report())
    text = (tmp_path / "m.html").read_text()
    assert text.count("</script>") == 2 and "<img" not in text
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', text)
    assert "default-src 'none'" in policy and "unsafe" not in policy
    addresses = set(re.findall(r"\w+://[^\s\"'<>)]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    data = json.loads(data)
    assert [one["id"] for one in data["finds"]] == [1, 2, 3, 9]
    assert data["refusals"][0]["count"] == 3 and len(data["lines"][0]) == 6


# --- in a browser ---


@pytest.fixture
def show(browser, tmp_path):
    """Opens a report; at the end nothing may have failed, or have been asked of a network."""
    wrong, pages = [], []

    def show(made, **options):
        path = tmp_path / "map.html"
        write_html(path, made)
        page = browser.new_context(
            **{"viewport": {"width": 1360, "height": 860}, **options}
        ).new_page()
        pages.append(page)
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        # The tests read the canvas, the page does not.
        page.on(
            "console", lambda m: None if "willReadFrequently" in m.text else wrong.append(m.text)
        )
        page.on(
            "request",
            lambda r: None if r.url.startswith(("file:", "data:")) else wrong.append(r.url),
        )
        page.goto(path.as_uri())
        page.locator("#count", has_text="finds").wait_for()
        settle(page)
        return page

    yield show
    for page in pages:
        page.context.close()
    assert not wrong


def settle(page):
    """Waits for two frames of the canvas."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def colour(page, x, y):
    settle(page)
    return page.evaluate(
        "([x, y]) => [...ink.getImageData(x * devicePixelRatio, y * devicePixelRatio, 1, 1).data]",
        [x, y],
    )


def place(page, number):
    """Where a find is, px of the canvas."""
    return page.evaluate(f"toScreen(finds.find(f => f.id === {number}).xy)")


@pytest.mark.browser
@pytest.mark.parametrize("home", [(54.179, 12.081), (-80.5, 179.9999), (89.9995, 30.0)])
def test_the_projection_is_that_of_pyproj(show, home):
    """Distances and directions from the centre, and the way back, wherever it is."""
    finds = [
        find(i, 0, 0, **dict(zip(("latitude", "longitude"), at(e, n, *home), strict=True)))
        for i, (e, n) in enumerate([(-900, 0), (900, 0), (0, 900), (0, -900)], 1)
    ]
    page = show(report(finds, lines=[], footprints=[]))
    centre = page.evaluate("[LAT0, LON0]")
    assert geo_parts.GEOD.inv(*home[::-1], *centre[::-1])[2] < 0.5
    for one in finds:
        x, y = page.evaluate(f"project({one['latitude']}, {one['longitude']})")
        azimuth, _, metres = geo_parts.GEOD.inv(
            centre[1], centre[0], one["longitude"], one["latitude"]
        )
        assert np.hypot(x, y) == pytest.approx(metres, abs=1e-3)
        assert (np.degrees(np.arctan2(x, y)) - azimuth + 180) % 360 - 180 == pytest.approx(
            0, abs=1e-4
        )
        lat, lon = page.evaluate(f"unproject([{x}, {y}])")
        assert geo_parts.GEOD.inv(lon, lat, one["longitude"], one["latitude"])[2] < 1e-3


@pytest.mark.browser
def test_finds_flight_and_list(show, tmp_path):
    page = show(report())
    assert page.title() == f"Search {HOSTILE}"
    assert "4 finds from 12 positions in 40 frames" in page.locator("#summary").inner_text()
    assert page.locator("#count").inner_text() == "4 of 4 finds"
    assert HOSTILE in page.locator("#finds").inner_text()
    assert "3 points without a position" in page.locator("#refused").inner_text()
    # A find's dot has its class's colour, wherever it is drawn.
    for number, expected in ((1, [209, 73, 91, 255]), (9, [42, 111, 219, 255])):
        assert colour(page, *place(page, number)) == expected
    # East is right of west and north above south, to scale.
    (x1, y1), (x2, y2) = place(page, 1), place(page, 3)
    scale = page.evaluate("view.scale")
    assert ((x2 - x1) / scale, (y1 - y2) / scale) == pytest.approx((290, 150), abs=0.2)
    bar = page.locator("#scale-bar").bounding_box()["width"]
    metres = float(page.locator("#scale-text").inner_text().removesuffix(" m"))
    assert bar / scale == pytest.approx(metres, rel=0.01)
    page.screenshot(path=os.environ.get("SCREENSHOT") or tmp_path / "page.png")


@pytest.mark.browser
def test_a_click_shows_the_find(show):
    page = show(report())
    box = page.locator("#map").bounding_box()
    x, y = place(page, 3)
    page.mouse.click(box["x"] + x, box["y"] + y)
    details = page.locator("#details")
    assert details.locator("h2").inner_text() == "person 3"
    latitude, longitude = at(40, 200)
    assert page.input_value("#decimal") == f"{latitude:.6f}, {longitude:.6f}"
    # 54.1808.. degrees: degrees, minutes and seconds read back.
    d, m, s = map(float, re.match(r"(\d+)°(\d+)′([\d.]+)″N", page.input_value("#dms")).groups())
    assert d + m / 60 + s / 3600 == pytest.approx(latitude, abs=2e-6)
    assert "20.0 m × 8.0 m" in details.inner_text() and "2 frames" in details.inner_text()
    assert page.locator("#finds [aria-current=true]").get_attribute("data-id") == "3"
    page.mouse.click(box["x"] + x - 60, box["y"] + y + 60)
    assert details.is_hidden()
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert details.locator("h2").inner_text() == "person 2"
    settle(page)
    assert place(page, 2) == pytest.approx(page.evaluate("[width / 2, height / 2]")), (
        "the chosen one is in the middle"
    )
    page.keyboard.press("Escape")
    assert details.is_hidden()


@pytest.mark.browser
def test_the_ellipse_lies_as_it_should(show):
    """Its longer axis is at 45 degrees, 20 m; 8 m across."""
    page = show(report(lines=[], footprints=[]))
    page.uncheck("#show-names")
    page.locator("#finds button").first.click()
    page.keyboard.press("Escape")
    x, y = place(page, 1)
    scale = page.evaluate("view.scale")
    paper = colour(page, x + 30 * scale, y)

    def inside(metres, azimuth):
        east, north = np.sin(np.radians(azimuth)), np.cos(np.radians(azimuth))
        return colour(page, x + metres * scale * east, y - metres * scale * north) != paper

    assert inside(18, 45) and inside(18, 225) and not inside(22, 45)
    assert inside(7, 135) and not inside(10, 135) and not inside(18, 135)


@pytest.mark.browser
def test_zoom_pan_and_fit(show):
    page = show(report())
    before = page.evaluate("({...view})")
    box = page.locator("#map").bounding_box()
    x, y = place(page, 3)
    off = round(x) - x, round(y) - y  # a pointer is at whole px
    page.mouse.move(box["x"] + round(x), box["y"] + round(y))
    page.mouse.wheel(0, -400)
    settle(page)
    assert page.evaluate("view.scale") > 2 * before["scale"]
    factor = page.evaluate("view.scale") / before["scale"]
    x, y = (at + gap - gap * factor for at, gap in zip((x, y), off, strict=True))
    assert place(page, 3) == pytest.approx([x, y], abs=0.01), "what is under the pointer stays"
    page.mouse.down()
    page.mouse.move(box["x"] + x + 50, box["y"] + y - 30, steps=4)
    page.mouse.up()
    assert place(page, 3) == pytest.approx([x + 50, y - 30], abs=1.5)
    shown = page.locator("#cursor").inner_text()
    under = page.evaluate(f"unproject(toGround([{x + 50}, {y - 30}]))")
    latitude, longitude = map(float, re.findall(r"-?\d+\.\d+", shown)[:2])
    metres = geo_parts.GEOD.inv(longitude, latitude, under[1], under[0])[2]
    assert metres < 2 / page.evaluate("view.scale")
    page.locator("#map").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("+")
    page.keyboard.press("0")
    assert page.evaluate("view.scale") == pytest.approx(before["scale"])
    page.click("#in")
    assert page.evaluate("view.scale") == pytest.approx(1.6 * before["scale"])


@pytest.mark.browser
def test_filters(show):
    page = show(report())
    page.locator(".chip", has_text="person").click()
    assert page.locator("#count").inner_text() == "1 of 4 finds"
    x, y = place(page, 1)
    assert colour(page, x, y) != [209, 73, 91, 255]
    page.locator(".chip", has_text="person").click()
    page.locator("#score").evaluate("e => { e.value = 0.25; e.dispatchEvent(new Event('input')); }")
    ids = page.locator("#finds button").evaluate_all("all => all.map(b => b.dataset.id)")
    assert ids == ["3", "9"]
    page.select_option("#order", "score")
    assert page.locator("#finds button").first.get_attribute("data-id") == "9"
    page.locator("#score").evaluate("e => { e.value = 1; e.dispatchEvent(new Event('input')); }")
    assert page.locator("#empty").is_visible()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_graticule_has_round_labels(show, scheme):
    """Every label is the latitude or longitude of the line it stands at."""
    page = show(report(), color_scheme=scheme)
    labels = page.evaluate(
        "paintGraticule().map(l => ({text: l.text, edge: l.edge,"
        " at: unproject(toGround(l.points[16]))}))"
    )
    assert {label["edge"] for label in labels} == {"left", "bottom"} and len(labels) > 5
    for label in labels:
        d, m, s = re.fullmatch(r"(\d+)°(?:(\d+)′)?(?:([\d.]+)″)?[NE]", label["text"]).groups()
        value = float(d) + float(m or 0) / 60 + float(s or 0) / 3600
        assert label["at"][0 if label["edge"] == "left" else 1] == pytest.approx(value, abs=1e-6)


@pytest.mark.browser
def test_nothing_found(show):
    page = show(report([], lines=[], footprints=[]))
    assert page.locator("#count").inner_text() == "0 of 0 finds"
    assert page.locator("#empty").is_visible()


@pytest.mark.browser
def test_many_finds_are_drawn_quickly_enough_to_pan(show):
    """5,000 finds: a frame of the map still comes; names are left out where they would overlap."""
    rng = np.random.default_rng(0)
    finds = [
        find(i + 1, *rng.uniform(-2000, 2000, 2), score=float(rng.uniform())) for i in range(5000)
    ]
    page = show(report(finds))
    assert page.evaluate("(() => { paint(); return visible().length; })()") == 5000
