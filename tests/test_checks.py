"""The rules of `check` that concern several records, and its command with all it writes."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cpr.data.quality import checks
from cpr.data.quality.checks import RULES, check_dataset, images_without_objects
from cpr.data.quality.fixes import fix_dataset
from cpr_deploy.files import InputError
from tool_runner import run_tool


def dataset(*annotations, names=("a.png", "b.png", "c.png")):
    return {
        "images": [
            {"id": n, "file_name": name, "width": 60, "height": 50}
            for n, name in enumerate(names, 1)
        ],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "boat"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 1, **a} for n, a in enumerate(annotations, 1)
        ],
    }


BOAT = {"point": [55, 45], "category_id": 2}  # so that no class is without objects


def found(content, **more):
    """(rule, record, whether it is an error), without what is in brackets."""
    problems = check_dataset(content, **more)
    assert all(problem.rule in RULES for problem in problems)
    return [(p.rule, p.record.split(" (")[0], p.is_error) for p in problems]


def test_nothing_wrong():
    content = dataset(BOAT, {"bbox": [1, 1, 5, 5]}, {"bbox": [1, 1, 5, 5], "ignore": 1})
    assert found(content) == []
    assert images_without_objects(content) == 2


def test_three_objects_at_one_place_are_two_too_many():
    content = dataset(BOAT, *[{"point": [5 + n / 10, 5]} for n in range(3)])
    same = [("same-place", f"annotation id {n}", True) for n in (3, 4)]
    assert found(content) == same
    content["annotations"][3]["category_id"] = 2
    assert found(content) == [same[0], ("other-class", "annotation id 4", True)]
    assert found(content, same_place=0) == []


def test_boxes_tell_two_objects_at_one_place_apart():
    """A person and their tie have one centre."""
    tie = {"bbox": [9, 9, 2, 2], "category_id": 2}
    assert found(dataset({"bbox": [5, 5, 10, 10]}, tie)) == []
    tie["bbox"] = [5, 5, 10, 10.1]
    assert [rule for rule, *_ in found(dataset({"bbox": [5, 5, 10, 10]}, tie))] == ["other-class"]


def test_double_clicks_are_warnings():
    two = [{"bbox": [5, 5, 20, 20]}, {"bbox": [6, 5, 20, 20]}]
    assert found(dataset(BOAT, *two)) == [("double-click", "annotation id 3", False)]
    clicks = [{"point": [5, 5]}, {"point": [8, 5]}]
    assert found(dataset(BOAT, *clicks)) == []
    assert found(dataset(BOAT, *clicks), double_click=4) == [
        ("double-click", "annotation id 3", False)
    ]
    clicks[1]["image_id"] = 2
    assert found(dataset(BOAT, *clicks), double_click=4) == []


def test_an_image_that_is_listed_twice():
    content = dataset(BOAT, {"point": [1, 1]}, names=("a.png", "b.png", "a.png"))
    assert found(content) == [("image-twice", "image id 3", False)]
    for image in content["images"]:  # tiles of one image are several
        image["corner"] = [image["id"], 0, image["id"] + 60, 50]
    assert found(content) == []


def test_boxes_over_the_border():
    boxes = [[50, 0, 11, 5], [50, 20, 11.5, 5], [0, -1.5, 5, 5], [60, 0, 5, 5], [-5, 0, 5, 5]]
    content = dataset(BOAT, *[{"bbox": box} for box in boxes])
    assert found(content) == [
        ("box-over-border", "annotation id 3", False),
        ("box-over-border", "annotation id 4", False),
        ("box-outside", "annotation id 5", True),
        ("box-outside", "annotation id 6", True),
    ]


def test_distances_that_are_none():
    for name in ("same_place", "double_click"):
        with pytest.raises(InputError, match=f"{name} nan"):
            check_dataset(dataset(BOAT), **{name: float("nan")})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["id", "image_id", "category_id", "point", "bbox", "file_name", "width", "ignore"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@st.composite
def spoilt(draw):
    """A data set with up to three parts replaced by anything."""
    content = json.loads(json.dumps(dataset(BOAT, {"point": [5, 5]}, {"bbox": [5, 5, 9, 9]})))
    for _ in range(draw(st.integers(1, 3))):
        target = content
        while isinstance(target, (dict, list)) and target:
            key = draw(
                st.sampled_from(sorted(target) if isinstance(target, dict) else range(len(target)))
            )
            if draw(st.integers(0, 2)) == 0 or not isinstance(target[key], (dict, list)):
                target[key] = draw(JSON)
                break
            target = target[key]
    return content


@settings(deadline=None, max_examples=300)
@given(content=spoilt())
def test_whatever_stands_in_a_file(content):
    problems = check_dataset(content)
    assert {p.rule for p in problems} <= set(RULES)
    if isinstance(content, dict):
        images_without_objects(content)
    if any(p.rule == "structure" for p in problems):
        with pytest.raises(InputError):
            fix_dataset(content)
    else:
        check_dataset(fix_dataset(content).dataset)


# --- the command ---


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.png"):
        small = Image.fromarray(rng.integers(0, 255, (5, 6, 3), np.uint8))
        small.resize((60, 50), Image.Resampling.BICUBIC).save(tmp_path / "images" / name)
    return tmp_path


def check(folder, capsys, content, *arguments, name="gt.json"):
    """Exit code, what is printed, the report."""
    (folder / name).write_text(json.dumps(content))
    report = folder / "report.json"
    code = run_tool(
        "prepare_points", "check", "--annotations", folder / name, "--report", report, *arguments
    )
    written = capsys.readouterr()
    output = written.out + written.err
    return code, output, json.loads(report.read_text()) if report.exists() else None


def test_the_report_and_the_table(folder, capsys):
    content = dataset(BOAT, {"point": [5, 5]}, {"point": [5, 5]}, {"point": [90, 5]})
    content["categories"].append({"id": 3, "name": "plane"})
    code, output, report = check(folder, capsys, content)
    assert code == 1
    assert "error: annotation id 3: is at the same place" in output
    assert "same-place             error          1  an object at the place" in output
    assert "2 images hold no object" in output
    assert "2 errors, 1 warnings in 3 images, 4 annotations, 3 categories" in output
    assert (report["errors"], report["warnings"]) == (2, 1)
    assert report["rules"] == {
        "out-of-image": {"level": "error", "found": 1},
        "same-place": {"level": "error", "found": 1},
        "class-without-objects": {"level": "warning", "found": 1},
    }
    assert report["images_without_objects"] == 2 and report["annotations"] == 4
    assert [p["rule"] for p in report["problems"]] == [
        "out-of-image", "class-without-objects", "same-place",
    ]  # fmt: skip


def test_fix_writes_a_copy_and_a_log(folder, capsys):
    content = dataset(BOAT, {"point": [5, 5]}, {"point": [5, 5]}, {"point": [60.5, 5]})
    content["annotations"].append({"id": 9, "image_id": 2, "category_id": 1, "point": [5, 5]})
    content["annotations"].append({"id": 10, "image_id": 3, "category_id": 7, "point": [5, 5]})
    (folder / "images" / "b.png").unlink()
    output = folder / "clean.json"
    arguments = ("--image-root", folder / "images", "--fix", output)
    code, text, report = check(folder, capsys, content, *arguments)
    assert code == 1, "a class that nobody knows is left"
    clean = json.loads(output.read_text())
    assert [a["id"] for a in clean["annotations"]] == [1, 2, 4, 10]
    assert clean["annotations"][2]["point"] == [60, 5]
    assert [image["id"] for image in clean["images"]] == [1, 3]
    log = json.loads((folder / "clean.json.log.json").read_text())
    assert [(c["record"].split(" (")[0], c["rule"], c["action"]) for c in log["changes"]] == [
        ("image id 2", "unreadable-image", "removed"),
        ("annotation id 9", "unreadable-image", "removed"),
        ("annotation id 4", "out-of-image", "changed"),
        ("annotation id 3", "same-place", "removed"),
    ]
    assert log["changes"][1]["before"] == content["annotations"][4]
    assert log["changes"][2]["before"] == {"point": [60.5, 5]}
    assert [p["rule"] for p in log["problems_left"]] == ["class-id"]
    assert report["rules"]["class-id"] == {"level": "error", "found": 1, "changes": 0, "left": 1}
    assert report["rules"]["same-place"]["left"] == 0 and report["changes"] == 4
    assert "4 changes" in text and "1 errors, 0 warnings are left" in text
    # The copy is good for the next time, and the file that was given is as it was.
    assert json.loads((folder / "gt.json").read_text()) == content
    clean["annotations"].pop()
    code, text, _ = check(folder, capsys, clean, "--image-root", folder / "images")
    assert code == 0 and "0 errors, 0 warnings" in text


def test_fix_keeps_clicks_that_only_a_wrong_size_puts_outside(folder, capsys):
    content = dataset({"point": [55, 5]}, {"point": [5, 45]}, {"point": [5, 5]}, BOAT)
    content["images"][0] |= {"width": 50, "height": 60}  # it is 60 x 50
    content["annotations"][3]["image_id"] = 2
    output = folder / "clean.json"
    arguments = ("--image-root", folder / "images", "--fix", output)
    code, text, _ = check(folder, capsys, content, *arguments)
    assert code == 1 and json.loads(output.read_text()) == content
    assert "left as it is: out-of-image: 1 objects of image id 1, whose file has another" in text


def test_outputs_that_are_one_file_are_refused(folder, capsys):
    output = folder / "clean.json"
    for name in (output, folder / "clean.json.log.json"):
        (folder / "gt.json").write_text(json.dumps(dataset(BOAT)))
        words = ["check", "--annotations", folder / "gt.json", "--fix", output, "--report", name]
        assert run_tool("prepare_points", *words) == 2
        assert not output.exists() and not name.exists()


def test_fix_never_writes_in_place(folder, capsys):
    for name in ("gt.json", "report.json"):
        code, text, _ = check(folder, capsys, dataset(BOAT), "--fix", folder / name)
        assert code == 2 and "would be overwritten" in text
    assert json.loads((folder / "gt.json").read_text()) == dataset(BOAT)


def test_fix_of_what_is_no_data_set(folder, capsys):
    code, text, _ = check(folder, capsys, {"images": []}, "--fix", folder / "clean.json")
    assert code == 2 and "gt.json: top level: has no list" in text
    assert not (folder / "clean.json").exists()


def test_leaks_between_parts(folder, capsys):
    train = dataset(BOAT, {"point": [5, 5]}, names=("a.png", "b.png"))
    test = dataset(BOAT, names=("b.png", "c.png"))
    (folder / "test.json").write_text(json.dumps(test))
    against = ("--against", folder / "test.json")
    code, text, report = check(folder, capsys, train, *against)
    assert code == 1 and list(report["rules"]) == ["leak-file"]
    assert "error: image id 2: 'b.png' is an image of both parts" in text

    # In a folder of its own: a copy under another name, another format of an image.
    other = folder / "other"
    other.mkdir()
    shutil.copy(folder / "images" / "a.png", other / "b.png")
    Image.open(folder / "images" / "b.png").save(other / "c.png", compress_level=0)
    arguments = (*against, "--image-root", folder / "images", "--against-root", other)
    code, text, report = check(folder, capsys, train, *arguments)
    assert code == 1
    assert "error: image id 1: 'a.png' is the same file as 'b.png' of the other part" in text
    assert "warning: image id 2: 'b.png' looks like 'c.png' of the other part (0 of 64" in text
    assert list(report["rules"]) == ["leak-file", "leak-near-duplicate"]

    # Which part to take it out of is not for --fix to say.
    code, text, report = check(folder, capsys, train, *arguments, "--fix", folder / "clean.json")
    assert code == 1 and json.loads((folder / "clean.json").read_text()) == train
    assert report["rules"]["leak-file"] == {"level": "error", "found": 1, "changes": 0, "left": 1}

    other_test = dataset(BOAT, names=("x.png",))
    Image.effect_noise((60, 50), 90).convert("RGB").save(folder / "images" / "x.png")
    (folder / "test.json").write_text(json.dumps(other_test))
    code, text, _ = check(folder, capsys, train, *against, "--image-root", folder / "images")
    assert code == 0 and "0 errors" in text


def test_the_page_has_every_rule():
    page = Path(checks.__file__).with_name("CHECKS.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `([a-z-]+)` \| (?:error|warning) \| (.+?) \| .+ \|$", page, re.MULTILINE
    )
    assert [rule for rule, _ in rows] == list(RULES)
    for rule, text in rows:
        assert text.startswith(RULES[rule]), rule


def test_settings_that_belong_to_another(folder, capsys):
    code, text, _ = check(folder, capsys, dataset(BOAT), "--near-duplicate", "3")
    assert code == 2 and "belong to --against" in text
    (folder / "test.json").write_text(json.dumps(dataset(BOAT)))
    against = ("--against", folder / "test.json")
    code, text, _ = check(folder, capsys, dataset(BOAT), *against, "--near-duplicate", "65")
    assert code == 2 and "threshold 65" in text
    code, text, _ = check(folder, capsys, dataset(BOAT), *against, "--against-root", folder / "no")
    assert code == 2 and "no such image folder" in text
