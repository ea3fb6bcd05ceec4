"""The review page in a browser: headless Chromium of the system, driven by Playwright."""

import csv
import json

import pytest

from cpr.data.quality.label_quality import label_quality
from cpr.data.quality.review_decisions import DECISIONS, data_set_key, read_decisions
from cpr.visualization.review.page import write_review
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

pytestmark = pytest.mark.browser


@pytest.fixture
def small(tmp_path):
    """Annotations, and the page made of them."""
    annotations, images = write_small(tmp_path)
    dataset = small_dataset()
    output = tmp_path / "review.html"
    write_review(output, dataset, label_quality(dataset), images, title=f"R {HOSTILE_CLASS}")
    return annotations, output


@pytest.fixture
def open_page(browser):
    """Opens a file; at the end nothing may have failed, or have been asked of a network."""
    contexts, wrong = [], []

    def open_page(path, **options):
        options = {"viewport": {"width": 1280, "height": 900}, **options}
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None
        )
        page.on(
            "request",
            lambda r: (
                wrong.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None
            ),
        )
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


def shown(page):
    """Ids of the cards, in the order of their positions."""
    cards = page.locator(".card").all()
    places = [
        (int(c.get_attribute("data-position")), int(c.get_attribute("data-id"))) for c in cards
    ]
    return [number for _, number in sorted(places)]


def current(page):
    return int(page.locator(".card.current").get_attribute("data-id"))


def download(page, button, folder):
    with page.expect_download() as found:
        page.click(button)
    path = folder / found.value.suggested_filename
    found.value.save_as(path)
    return path


def stored(page, key):
    """What the browser keeps: id -> decision."""
    page.evaluate("dispatchEvent(new Event('pagehide'))")  # writes at once what is about to be
    return json.loads(page.evaluate(f"localStorage.getItem('cpr-review:{key}')") or "{}")


def says(page, words):
    """Waits until the page has said it. (Waiting for a script's value would need `eval`.)"""
    page.locator("#status", has_text=words).wait_for()


def test_worst_first_with_everything_of_an_object(open_page, small):
    page = open_page(small[1])
    assert shown(page) == list(SMALL_ORDER)
    card = page.locator(".card[data-id='12']")
    card.locator("img").wait_for()
    assert card.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)")
    text = card.inner_text()
    for words in ("cow", "b.jpg", "#12", "moved 17.0 px", "score 0.60", "moved far"):
        assert words in text
    # Click, way, refined point, its two semantic points, the bag, and the other object nearby.
    kinds = card.locator("svg > *").evaluate_all(
        "all => all.map(e => e.getAttribute('class').split(' ')[0])"
    )
    assert {"click", "way", "point", "semantic", "bag"} <= set(kinds) and "box" not in kinds
    assert page.locator(".card[data-id='11'] svg .box").count() == 1
    # One that kept its click has no refined point.
    assert page.locator(".card[data-id='13'] svg .point").count() == 0
    assert "nothing kept" in page.locator(".card[data-id='13']").inner_text()


def test_marks_lie_where_the_points_are(open_page, small):
    """The refined point's mark, in px of the screen, against the crop it lies on."""
    page = open_page(small[1])
    card = page.locator(".card[data-id='12']")
    card.locator("img").wait_for()
    places = card.evaluate(
        """card => {
          const box = (selector) => card.querySelector(selector).getBoundingClientRect();
          const [point, picture] = [box("svg .point"), box("img")];
          const view = card.querySelector("svg").viewBox.baseVal;
          return [(point.x - picture.x) / picture.width * view.width + view.x,
                  (point.y - picture.y) / picture.height * view.height + view.y];
        }"""
    )
    assert places == pytest.approx([97, 60], abs=0.6)


def test_names_are_text(open_page, small):
    page = open_page(small[1])
    assert page.evaluate("window.broken") is None
    card = page.locator(".card[data-id='13']")
    assert HOSTILE_CLASS in card.inner_text() and HOSTILE_FOLDER in card.inner_text()
    assert page.locator("h1").inner_text() == f"R {HOSTILE_CLASS}"
    assert page.locator("img[src='x']").count() == 0
    page.select_option("#class", "1")
    assert shown(page) == [13]


def test_filters_and_order(open_page, small):
    page = open_page(small[1])
    options = dict(
        zip(
            page.locator("#flag option").all_inner_texts(),
            page.locator("#flag option").evaluate_all("all => all.map(o => o.value)"),
            strict=True,
        )
    )
    assert "two points at one place (2)" in options and "any flag (5)" in options
    page.select_option("#flag", options["two points at one place (2)"])
    assert shown(page) == [15, 16]
    assert page.locator("#count").inner_text() == "2 of 7 objects"
    page.select_option("#flag", "none")
    assert shown(page) == [11, 17]
    page.select_option("#flag", "any")
    assert shown(page) == [13, 15, 16, 12, 14]
    page.select_option("#flag", "")

    page.fill("#text", "C.JPG")
    assert shown(page) == [15, 16, 17]
    page.fill("#text", "nothing like it")
    assert shown(page) == [] and page.locator("#empty").is_visible()
    page.click("#reset")
    assert shown(page) == list(SMALL_ORDER)

    objects = {a["id"]: a for a in small_dataset()["annotations"] if "coarse_point" in a}
    page.select_option("#sort", "distance")
    assert shown(page) == [12, 15, 16, 14, 11, 17, 13]
    page.select_option("#sort", "score")
    scores = [objects[number]["refine_score"] for number in shown(page)]
    assert scores == sorted(scores)
    page.check("#reverse")
    scores = [objects[number]["refine_score"] for number in shown(page)]
    assert scores == sorted(scores, reverse=True)
    page.uncheck("#reverse")
    page.select_option("#sort", "image")
    images = [objects[number]["image_id"] for number in shown(page)]
    assert images == [2, 2, 1, 1, "x", "x", "x"]
    page.select_option("#sort", "class")
    assert shown(page)[0] == 13  # "</script>" sorts before "cow"


def test_review_by_keyboard_and_apply(open_page, small, tmp_path, capsys):
    """Marks three, reloads, exports, applies."""
    page = open_page(small[1], accept_downloads=True)
    page.keyboard.press("a")
    assert current(page) == 15
    page.keyboard.press("j")
    page.keyboard.press("r")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("f")
    assert current(page) == 11
    assert page.evaluate("document.activeElement.dataset.id") == "11"
    page.reload()
    key = data_set_key(small_dataset())
    expected = {13: "accept", 16: "reject", 14: "flag"}
    assert stored(page, key) == {str(number): word for number, word in expected.items()}
    for number, word in expected.items():
        assert DECISIONS[word] in page.locator(f".card[data-id='{number}'] .state").inner_text()
    text = page.locator("#progress-text").inner_text()
    assert text == "3 of 7 decided: 1 accepted, 1 rejected, 1 flagged"
    page.select_option("#decision", "none")
    assert shown(page) == [15, 12, 11, 17]
    page.select_option("#decision", "reject")
    assert shown(page) == [16]

    as_json = download(page, "#export-json", tmp_path)
    as_csv = download(page, "#export-csv", tmp_path)
    assert as_json.name == f"decisions_{key}.json" and as_csv.name == f"decisions_{key}.csv"
    for path in (as_json, as_csv):
        decisions = read_decisions(path)
        assert decisions.data_set == key and decisions.by_id == expected
    rows = list(csv.DictReader(as_csv.open(newline="", encoding="utf-8")))
    assert rows[0]["class"] == HOSTILE_CLASS
    assert rows[0]["image"] == f"'=a,{HOSTILE_FOLDER}.jpg", "a spreadsheet would calculate it"

    reviewed = []
    for path in (as_json, as_csv):
        output = tmp_path / f"{path.suffix[1:]}.json"
        arguments = ["--annotations", small[0], "--decisions", path, "--output", output]
        assert run_tool("prepare_points", "apply-review", *arguments) == 0
        reviewed.append(json.loads(output.read_text()))
    assert reviewed[0] == reviewed[1]
    by_id = {a["id"]: a for a in reviewed[0]["annotations"]}
    assert by_id[16]["point"] == [70, 60] and by_id[16]["review"] == "rejected"
    assert by_id[13]["review"] == "accepted" and by_id[14]["review"] == "flagged"
    assert "review" not in by_id[12]
    assert "1 accepted, 1 rejected" in capsys.readouterr().out


def test_moving_about(open_page, small):
    page = open_page(small[1])
    order = list(SMALL_ORDER)
    places = page.locator(".card").evaluate_all("all => all.map(c => c.getBoundingClientRect().x)")
    assert len(set(places)) == 5
    for key, place in [
        ("j", 1),
        ("ArrowRight", 2),
        ("k", 1),
        ("ArrowLeft", 0),
        ("k", 0),
        ("ArrowDown", 5),
        ("ArrowUp", 0),
        ("End", 6),
        ("j", 6),
        ("Home", 0),
    ]:
        page.keyboard.press(key)
        assert current(page) == order[place], key
    page.click(".card[data-id='16'] .thumb")
    assert current(page) == 16
    page.click(".card[data-id='15'] button.badge")
    assert current(page) == 16
    page.fill("#text", "b.jpg")  # its partner is now hidden, and shown again
    page.fill("#text", "c.jpg")
    page.select_option("#sort", "score")
    page.click(".card[data-id='16'] button.badge")
    assert current(page) == 15


def test_undo_clear_and_bulk(open_page, small):
    page = open_page(small[1])
    key = data_set_key(small_dataset())

    def decided():
        return stored(page, key)

    page.keyboard.press("a")
    page.keyboard.press("u")
    assert decided() == {} and current(page) == 13
    assert page.locator("#undo").is_disabled()
    page.keyboard.press("r")
    page.keyboard.press("k")
    page.keyboard.press("c")
    assert decided() == {}
    page.keyboard.press("u")
    assert decided() == {"13": "reject"}

    page.fill("#text", "c.jpg")
    page.click("#all-flag")
    assert decided() == {"13": "reject", "15": "flag", "16": "flag", "17": "flag"}
    assert "3 objects flagged" in page.locator("#status").inner_text()
    page.click("#undo")
    assert decided() == {"13": "reject"}
    page.fill("#text", "")
    page.click("#all-accept")
    assert len(decided()) == 7 and set(decided().values()) == {"accept"}
    page.click("#undo")
    assert decided() == {"13": "reject"}

    # The buttons of a card; a second press takes the decision back.
    button = page.locator(".card[data-id='15'] .decide .accept")
    button.click()
    assert button.get_attribute("aria-pressed") == "true" and decided()["15"] == "accept"
    button.click()
    assert button.get_attribute("aria-pressed") == "false" and "15" not in decided()

    # While only undecided ones are shown, a decided one makes room for the next.
    page.select_option("#decision", "none")
    page.locator("#decision").evaluate("e => e.blur()")
    page.keyboard.press("Home")
    assert current(page) == 15
    page.keyboard.press("a")
    assert current(page) == 16 and 15 not in shown(page)


def test_keys_do_not_act_while_one_types(open_page, small):
    page = open_page(small[1])
    page.keyboard.press("/")
    page.keyboard.type("afr")
    assert page.locator("#text").input_value() == "afr"
    page.fill("#text", "b")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.classList.contains('card')")
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("a")
    page.keyboard.press("Escape")
    assert not page.locator("#keys").is_visible()
    assert stored(page, data_set_key(small_dataset())) == {}


def test_marks_can_be_taken_away(open_page, small):
    page = open_page(small[1])
    marks = page.locator(".card[data-id='13'] svg")
    marks.wait_for()
    page.keyboard.press("o")
    assert not marks.is_visible() and not page.locator("#overlay").is_checked()
    page.check("#overlay")
    assert marks.is_visible()


def test_import_goes_on_where_one_was(open_page, small, tmp_path):
    page = open_page(small[1])
    key = data_set_key(small_dataset())
    content = {"kind": "review-decisions", "version": 1, "data_set": key}
    path = tmp_path / "d.json"

    def put(decisions, **change):
        path.write_text(json.dumps({**content, "decisions": decisions, **change}))
        page.set_input_files("#file", path)

    page.keyboard.press("r")
    good = [{"id": 13, "decision": "accept"}, {"id": 17, "decision": "flag"}]
    put(good)
    says(page, "Imported d.json: 2 objects changed.")
    assert stored(page, key) == {"13": "accept", "17": "flag"}
    page.keyboard.press("u")
    assert stored(page, key) == {"13": "reject"}
    for decisions, change, words in [
        (good, {"data_set": "ds-0"}, "belongs to other annotations"),
        (good, {"version": 2}, "another version"),
        (good, {"kind": "x"}, "no file of decisions"),
        ([{"id": 99, "decision": "accept"}], {}, "object 99 is not in this page"),
        ([{"id": 13, "decision": "<b>"}], {}, 'unknown decision "<b>"'),
        ([good[0], good[0]], {}, "object 13 is in it twice"),
    ]:
        put(decisions, **change)
        says(page, words)
    path.write_text("no json")
    page.set_input_files("#file", path)
    says(page, "not JSON")
    assert stored(page, key) == {"13": "reject"}


def test_two_windows_and_other_annotations(open_page, small, tmp_path):
    """Decisions are shared by the windows of one page, and by nothing else."""
    page = open_page(small[1])
    second = page.context.new_page()
    second.goto(small[1].as_uri())
    page.keyboard.press("a")
    second.locator(".card[data-id='13'] .state", has_text="accepted").wait_for()
    dataset = small_dataset()
    dataset["annotations"][0]["point"] = [34, 30]
    other = tmp_path / "other.html"
    images = tmp_path / "images"
    write_review(other, dataset, label_quality(dataset), images, title="Other")
    second.goto(other.as_uri())
    assert "0 of 7 decided" in second.locator("#progress-text").inner_text()


def test_a_browser_that_keeps_nothing(open_page, small):
    page = open_page(small[1])
    page.context.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new Error('no') }})"
    )
    page.reload()
    assert "keeps no decisions" in page.locator("#status").inner_text()
    page.keyboard.press("a")
    assert "1 of 7 decided" in page.locator("#progress-text").inner_text()


def test_damaged_image_is_named(open_page, tmp_path):
    dataset = small_dataset()
    _, images = write_small(tmp_path)
    (images / "c.jpg").write_bytes(b"no image")
    output = tmp_path / "review.html"
    write_review(output, dataset, label_quality(dataset), images, title="R", skip_bad=True)
    page = open_page(output)
    text = page.locator(".card[data-id='15'] .thumb").inner_text()
    assert "cannot be read" in text and "c.jpg" in text
    page.locator(".card[data-id='13'] img").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read(open_page, small, scheme):
    """Contrast of at least 4.5 (WCAG AA) for texts, buttons and badges, in both schemes."""
    page = open_page(small[1], color_scheme=scheme)
    page.keyboard.press("a")
    page.keyboard.press("r")
    page.keyboard.press("f")
    page.evaluate("document.querySelector('.about').open = true")
    page.keyboard.press("?")
    low = page.evaluate(
        """() => {
          const parse = (c) => c.match(/[\\d.]+/g).map(Number);
          const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
            .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
          const ground = (e) => {
            for (; e; e = e.parentElement) {
              const c = parse(getComputedStyle(e).backgroundColor);
              if (c.length < 4 || c[3] === 1) return c;
            }
            return [255, 255, 255];
          };
          const low = [];
          const all = "h1,p,li,summary,label,button:not(:disabled),span,dt,dd,kbd,select,.figures";
          for (const e of document.querySelectorAll(all)) {
            if (!e.textContent.trim() || !e.getClientRects().length) continue;
            const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))];
            const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            if (contrast < 4.5) low.push([e.textContent.slice(0, 30), contrast]);
          }
          return low;
        }"""
    )
    assert low == []


def test_on_a_telephone(open_page, small):
    page = open_page(small[1], viewport={"width": 400, "height": 860})
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    # The first object begins on the first screen.
    assert page.locator(".card[data-id='13']").bounding_box()["y"] < 600
    buttons = page.locator(".card[data-id='13'] .decide button")
    assert all(b.bounding_box()["height"] >= 30 for b in buttons.all())


def test_names_for_screen_readers(open_page, small):
    page = open_page(small[1])
    page.locator(".card[data-id='12'] img").wait_for()
    labels = page.locator(".card").evaluate_all("all => all.map(c => c.ariaLabel)")
    assert len(labels) == 7
    card = page.locator(".card[data-id='12']")
    label = card.get_attribute("aria-label")
    assert label == "cow, object 12; b.jpg; moved 17.0 px, score 0.60; moved far; undecided"
    assert card.get_attribute("aria-posinset") == "4"
    assert card.get_attribute("aria-setsize") == "7"
    assert page.locator("[role=list] > [role=listitem]").count() == 7
    # One card is a stop of the tab key.
    assert page.locator(".card[tabindex='0']").count() == 1
    page.keyboard.press("j")
    style = "e => getComputedStyle(e).outlineStyle"
    assert page.locator(".card.current").evaluate(style) == "solid"


def test_five_thousand_objects(open_page, tmp_path):
    """Few elements exist at a time, all can be reached, decided and exported."""
    dataset = large_dataset(5000, 4)
    write_images(tmp_path / "images", [f"{i}.jpg" for i in range(4)], (640, 480))
    quality = label_quality(dataset)
    output = tmp_path / "review.html"
    summary = write_review(output, dataset, quality, tmp_path / "images", title="Many")
    assert output.stat().st_size == summary.bytes < 50e6
    page = open_page(output, accept_downloads=True)
    order = [one.annotation["id"] for one in quality.objects]
    page.wait_for_load_state("load")
    assert page.locator(".card").count() < 80
    page.keyboard.press("End")
    assert current(page) == order[-1]
    page.locator(f".card[data-id='{order[-1]}'] img").wait_for()
    assert page.locator(".card").count() < 80
    page.keyboard.press("Home")
    page.locator(f".card[data-id='{order[0]}'] img").wait_for()
    page.evaluate("scrollTo(0, document.body.scrollHeight / 2)")
    page.locator(f".card[data-id='{order[2500]}'] img").wait_for()
    page.select_option("#flag", "any")
    page.click("#all-accept")
    flagged = {one.annotation["id"]: "accept" for one in quality.objects if one.flags}
    assert 100 < len(flagged) < 5000
    path = download(page, "#export-json", tmp_path)
    assert read_decisions(path).by_id == flagged
