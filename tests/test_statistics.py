"""Numbers and sizes of objects against hand-worked ones; what the data card says and keeps."""

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpr.data.statistics.data_card import data_card, owners_text
from cpr.data.statistics.measure import joined, markdown_tables, measure, statistics
from cpr.visualization.statistics_plots import position_plots, size_plots
from tool_runner import run_tool

CATEGORIES = [{"id": 3, "name": "seal"}, {"id": 8, "name": "bird"}]


def box(number, image_id, category_id, *xywh, **more):
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [*xywh],
        "area": xywh[2] * xywh[3],
        **more,
    }


def make_dataset():
    """Boxes of 3 x 12 and 8 x 2 px in 100 x 25 px, of 30 x 30 px in 60 x 240 px; a region, and an
    image without an object."""
    sizes = {1: (100, 25), 2: (60, 240), 5: (60, 240)}
    images = [
        {"id": key, "file_name": f"{key}.png", "width": w, "height": h}
        for key, (w, h) in sizes.items()
    ]
    annotations = [
        box(1, 1, 3, 10, 0, 3, 12, point=[25.0, 5.0]),
        box(2, 1, 3, 0, 0, 8, 2, point=[50.0, 10.0]),
        box(3, 2, 8, 0, 0, 30, 30),
        box(4, 2, 8, 0, 0, 60, 60, iscrowd=1),
    ]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def test_hand_worked_numbers():
    """sqrt(36) = 6, sqrt(16) = 4, sqrt(900) = 30 px; the images' sides are sqrt(2500) = 50 and
    sqrt(14400) = 120 px; ratios 1/4, 4 and 1."""
    part = measure(make_dataset())
    np.testing.assert_allclose(part.quantity("absolute_size"), [6, 4, 30])
    np.testing.assert_allclose(part.quantity("relative_size"), [0.12, 0.08, 0.25])
    np.testing.assert_allclose(part.quantity("aspect_ratio"), [0.25, 4, 1])
    np.testing.assert_allclose(part.positions, [[0.25, 0.2], [0.5, 0.4], [0.25, 0.0625]])
    entry = statistics({"train": part}, CATEGORIES)["parts"]["train"]
    assert (entry["images"], entry["images_without_objects"]) == (3, 1)
    assert (entry["annotations"], entry["regions"]) == (3, 1)
    assert (entry["with_point"], entry["with_box"]) == (2, 3)
    size = entry["absolute_size"]
    # (6 + 4 + 30) / 3; variance (36 + 16 + 900) / 3 - mean squared.
    assert size["mean"] == pytest.approx(40 / 3)
    assert size["std"] == pytest.approx(math.sqrt(952 / 3 - (40 / 3) ** 2))
    assert (size["count"], size["min"], size["median"], size["max"]) == (3, 4, 6, 30)
    assert entry["objects_per_image"]["mean"] == 1
    assert entry["objects_per_image"]["std"] == pytest.approx(math.sqrt(2 / 3))
    seal, bird = entry["per_class"]["seal"], entry["per_class"]["bird"]
    assert (seal["annotations"], seal["images"], seal["regions"]) == (2, 1, 0)
    assert (seal["absolute_size"]["mean"], seal["absolute_size"]["std"]) == (5, 1)
    assert (bird["annotations"], bird["regions"], bird["aspect_ratio"]["std"]) == (1, 1, 0)


def test_the_tables():
    result = statistics({"train": measure(make_dataset())}, CATEGORIES)
    parts, classes = markdown_tables(result).split("\n\n")
    assert parts.splitlines()[2] == (
        "| train | 3 | 3 | 1 | 1.0 ± 0.8 | 13.3 ± 11.8 | 0.1500 ± 0.0726 | 1.750 ± 1.620 |"
    )
    assert classes.splitlines()[2] == (
        "| seal | 2 | 0 | 5.0 ± 1.0 | 0.1000 ± 0.0200 | 2.125 ± 1.875 |"
    )


def test_points_only():
    dataset = make_dataset()
    for annotation in dataset["annotations"]:
        del annotation["bbox"]
    del dataset["annotations"][2]
    part = measure(dataset)
    entry = statistics({"a": part}, CATEGORIES)["all"]
    assert entry["absolute_size"] is entry["relative_size"] is entry["aspect_ratio"] is None
    assert (entry["with_point"], entry["with_box"], entry["annotations"]) == (2, 0, 2)
    assert "| 0.7 ± 0.9 | n/a | n/a | n/a |" in markdown_tables(
        {"parts": {"a": entry}, "all": entry}
    )
    assert size_plots({"a": part}).startswith(b"\x89PNG")
    assert position_plots({"a": part}).startswith(b"\x89PNG")


def test_the_limits_of_a_data_set_without_boxes():
    part = make_dataset()
    for annotation in part["annotations"]:
        annotation |= {"point": [1, 1]}
        annotation.pop("bbox", None)
    assert "- No object has a box: sizes are not known" in card_of({"train": part})


def test_nothing_annotated():
    part = measure({**make_dataset(), "annotations": []})
    entry = statistics({"a": part}, CATEGORIES)["all"]
    assert entry["objects_per_image"]["max"] == 0 and entry["relative_size"] is None
    assert size_plots({"a": part}) and position_plots({"a": part})


@given(st.lists(st.integers(0, 2), max_size=6), st.integers(0, 6))
def test_the_whole_is_the_sum_of_its_parts(kinds, cut):
    """A data set measured at once, and in two parts that are joined."""
    dataset = make_dataset()
    objects = [{**dataset["annotations"][kind], "id": n} for n, kind in enumerate(kinds)]
    images = dataset["images"]
    whole = {**dataset, "annotations": objects}
    parts = [
        {
            **dataset,
            "images": chosen,
            "annotations": [a for a in objects if a["image_id"] in {i["id"] for i in chosen}],
        }
        for chosen in (images[: cut % 4], images[cut % 4 :])
    ]
    together = statistics({"a": joined(map(measure, parts))}, CATEGORIES)["all"]
    alone = statistics({"a": measure(whole)}, CATEGORIES)["all"]
    assert flat(together) == pytest.approx(flat(alone))
    boxes = [o["bbox"] for o in objects]
    if boxes:
        sizes = [math.sqrt(w * h) for _, _, w, h in boxes]
        assert alone["absolute_size"]["mean"] == pytest.approx(sum(sizes) / len(sizes))


def flat(value, name=""):
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in flat(item, f"{name}.{key}").items()}
    return {name: -1 if value is None else value}


def card_of(parts, owner=None):
    result = statistics({name: measure(part) for name, part in parts.items()}, CATEGORIES)
    return data_card("seals_2", parts, result, [("sizes.png", "Sizes")], owner=owner)


def test_the_data_card_says_what_the_files_know():
    train, test = make_dataset(), make_dataset()
    train["coarse_points"] = {"source": "box", "sigma": 0.25, "seed": 7}
    train["licenses"] = [{"id": 1, "name": "CC BY 4.0", "url": "https://creativecommons.org"}]
    train["footage"] = {
        "every": 25,
        "image_format": "jpg",
        "threshold": 4,
        "frames": 6,
        "dropped": 2,
        "across": False,
        "problems": 1,
    }
    for part in (train, test):
        for number, image in enumerate(part["images"]):
            image |= {"sequence": "flight", "video": "f.mp4", "seconds": 5.0 * number}
    test["images"] = [
        {**image, "id": image["id"], "file_name": "t.png"} for image in test["images"]
    ]
    test["annotations"] = [
        {**a, "coarse_point": [1, 1], "refined": a["id"] == 1}
        for a in test["annotations"]
        if a["category_id"] == 3
    ]
    card = card_of({"train": train, "test": test})
    assert "# Data card: seals\\_2" in card
    headings = re.findall(r"^## (.*)$", card, re.MULTILINE)
    assert headings == [
        "Motivation",
        "Composition",
        "Collection",
        "Clicks",
        "Parts",
        "Statistics",
        "Known limits",
        "Licence",
        "Upkeep",
    ]
    for text in (
        "6 images, 3 of them without an object",
        "5 objects of 2 classes: seal, bird",
        "6 images are frames of 1 videos",
        "one frame in 25, as jpg",
        "2 frames were dropped because their perceptual hash differs in at most 4 of 64 bits",
        "1 damaged places",
        "train: 2 points, simulated by `coarse` from box, sigma 0.25, seed 7.",
        "test: 2 points, how they were made is not recorded; 2 were given to a refiner, which"
        " moved 1.",
        "train: 3 images of 1 sequences",
        "1 sequences are in more than one part, for example flight",
        "test has no bird",
        "CC BY 4.0 https://creativecommons.org",
        "![Sizes](sizes.png)",
        "| train | 3 | 3 | 1 |",
    ):
        assert text in card, text


@given(st.dictionaries(st.sampled_from(["motivation", "licence", "clicks"]), st.text()))
def test_what_the_owner_wrote_is_kept(owner):
    # The marks themselves cannot be part of a text.
    owner = {name: text.replace("<!--", "").replace("\r", "") for name, text in owner.items()}
    card = card_of({"train": make_dataset()}, owner)
    kept = owners_text(card)
    assert {name: kept[name] for name in owner} == owner
    assert card_of({"train": make_dataset()}, kept) == card


@pytest.mark.parametrize(
    ("mark", "instead"),
    [
        ("<!-- end -->", ""),
        ("<!-- owner: clicks -->", ""),
        ("<!-- owner: clicks -->", "<!-- owner: licence -->"),
        ("<!-- owner: clicks -->", "<!-- owner: Clicks -->"),
    ],
)
def test_a_card_that_lost_a_mark_is_not_read(mark, instead):
    """Else a text would be lost, or all that lies between two blocks would become one."""
    card = card_of({"train": make_dataset()}, {"clicks": "By Ada."})
    assert owners_text(card)["clicks"] == "By Ada."
    assert owners_text(card.replace(mark, instead, 1)) == {}


def test_an_emptied_block_of_a_card():
    card = card_of({"train": make_dataset()}, {"clicks": "By Ada.", "licence": "CC0"})
    kept = owners_text(card.replace("By Ada.\n", ""))
    assert kept["clicks"] == "" and kept["licence"] == "CC0"
    assert owners_text(card_of({"train": make_dataset()}, kept)) == kept


def test_the_command(tmp_path, capsys):
    paths = [tmp_path / "seals" / f"{name}.json" for name in ("train", "valid")]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_text(json.dumps(make_dataset()))
    out = tmp_path / "out"
    arguments = ["statistics", "--annotations", *paths, "--output-dir", out]
    assert run_tool("prepare_points", *arguments) == 0
    printed = capsys.readouterr().out
    assert "| all | 6 | 6 | 2 |" in printed
    assert sorted(path.name for path in out.iterdir()) == [
        "DATA_CARD.md",
        "positions.png",
        "sizes.png",
        "statistics.json",
        "statistics.md",
    ]
    assert json.loads((out / "statistics.json").read_text())["all"]["annotations"] == 6
    assert (out / "statistics.md").read_text() in printed
    card = out / "DATA_CARD.md"
    assert "# Data card: seals\n" in card.read_text()
    lines = card.read_text().splitlines()
    lines[lines.index("<!-- owner: licence -->") + 1] = "For seals only."
    card.write_text("\n".join(lines))
    assert run_tool("prepare_points", *arguments) == 0
    assert "<!-- owner: licence -->\nFor seals only.\n<!-- end -->" in card.read_text()
    # Of the usual folder of annotations the one above it names the data set.
    usual = tmp_path / "flights" / "annotations" / "train.json"
    usual.parent.mkdir(parents=True)
    usual.write_text(json.dumps(make_dataset()))
    other = ["statistics", "--annotations", usual, "--output-dir", tmp_path / "other"]
    assert run_tool("prepare_points", *other) == 0
    assert "# Data card: flights\n" in (tmp_path / "other" / "DATA_CARD.md").read_text()
    capsys.readouterr()
    card.write_text("my own card")
    assert run_tool("prepare_points", *arguments) == 2
    assert "was not written by this command" in capsys.readouterr().err
    assert card.read_text() == "my own card"


def test_parts_of_different_data_sets(tmp_path, capsys):
    paths = [tmp_path / f"{name}.json" for name in "ab"]
    out = tmp_path / "out"
    for categories, message in (
        ([{"id": 3, "name": "bird"}, {"id": 8, "name": "seal"}], "in another part 'seal'"),
        ([{"id": 3, "name": "seal"}, {"id": 9, "name": "bird"}], "'bird' has different ids"),
    ):
        paths[0].write_text(json.dumps(make_dataset()))
        other = {**make_dataset(), "categories": categories, "annotations": []}
        paths[1].write_text(json.dumps(other))
        assert (
            run_tool("prepare_points", "statistics", "--annotations", *paths, "--output-dir", out)
            == 2
        )
        assert message in capsys.readouterr().err
    assert (
        run_tool(
            "prepare_points", "statistics", "--annotations", paths[0], paths[0], "--output-dir", out
        )
        == 2
    )
    assert "two files have one name" in capsys.readouterr().err
    with pytest.raises(ValueError, match="is none of"):
        measure(make_dataset()).quantity("weight")
