import copy
import csv
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpr.data.quality.review_decisions import (
    DECISIONS,
    Decisions,
    apply_decisions,
    data_set_key,
    read_decisions,
)
from cpr_deploy.files import InputError
from tool_runner import run_tool


def make_dataset():
    def one(number, **more):
        return {
            "id": number,
            "image_id": 1,
            "category_id": 1,
            "coarse_point": [10, number],
            "point": [12.5, number],
            "refined": True,
            "refine_score": 0.5,
            **more,
        }

    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 50, "height": 40}],
        "categories": [{"id": 1, "name": "seal"}],
        "annotations": [
            one(1, note="kept"),
            one(2, bbox=[5, 0, 9, 9], semantic_points=[[12.5, 2]]),
            one(3),
            one(4),
            {"id": 5, "image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "ignore": 1},
            {"id": 6, "image_id": 1, "category_id": 1, "point": [1, 1]},
        ],
    }


KEY = data_set_key(make_dataset())


def as_json(decisions, **change):
    content = {"kind": "review-decisions", "version": 1, "data_set": KEY, "decisions": decisions}
    return json.dumps({**content, **change})


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


# --- the key ---


def test_key_follows_what_is_reviewed():
    dataset = make_dataset()
    assert KEY.startswith("ds-") and len(KEY) == 19
    same = copy.deepcopy(dataset)
    same["annotations"].reverse()
    same["annotations"][-1]["coarse_point"] = [10.0, 1.0]
    same["info"] = {"by": "us"}
    same["annotations"][0]["point"] = [3, 3]  # never refined
    assert data_set_key(same) == KEY
    for change in (
        lambda d: d["annotations"][0].update(point=[12.5, 1.25]),
        lambda d: d["annotations"][0].update(coarse_point=[10, 1.5]),
        lambda d: d["annotations"][0].update(id=99),
        lambda d: d["annotations"].pop(0),
        lambda d: d["images"][0].update(file_name="b.png"),
        lambda d: d["categories"][0].update(name="bird"),
    ):
        other = copy.deepcopy(dataset)
        change(other)
        assert data_set_key(other) != KEY


# --- files ---


def test_json_and_csv_say_the_same(tmp_path):
    expected = Decisions(KEY, {2: "reject", 1: "accept"})
    records = [{"id": 2, "decision": "reject"}, {"id": 1, "decision": "accept"}]
    assert read_decisions(write(tmp_path / "d.json", as_json(records))) == expected
    rows = f"version,data_set,annotation_id,decision\r\n1,{KEY},2,reject\r\n1,{KEY},1,accept\r\n"
    for name, text in {
        "a.csv": rows,
        "bom.csv": "\ufeff" + rows,
        "semicolon.csv": rows.replace(",", ";").replace("\r\n", "\n"),
        "tab.tsv": rows.replace(",", "\t"),
        "wide.csv": f'image,decision,annotation_id,data_set,version\n"=a,b",reject,2,{KEY},1\n'
        f"b,accept,1,{KEY},1\n\n",
    }.items():
        assert read_decisions(write(tmp_path / name, text)) == expected, name


def test_no_decision_is_fine_in_json(tmp_path):
    assert read_decisions(write(tmp_path / "d.json", as_json([]))) == Decisions(KEY, {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "is no decisions file"),
        ("{", "not valid JSON"),
        (as_json([], kind="x"), "is no decisions file"),
        (as_json([], version=2), "version 2 is not 1"),
        (as_json([], version=True), "version 'True' is not 1"),
        (as_json([], data_set=3), "data_set 3 is not a text"),
        (as_json({}), "no list 'decisions'"),
        (as_json([3]), "decision 0 (from 0): is no object"),
        (as_json([{"id": "1", "decision": "accept"}]), "id '1' is not a whole number"),
        (as_json([{"id": 1, "decision": "keep"}]), "decision 'keep' is none of accept"),
        (as_json([{"id": 1, "decision": ["accept"]}]), "is none of accept"),
        (as_json([{"id": 1}]), "decision 0 (from 0): decision 'None'"),
        (as_json([{"id": 1, "decision": "flag"}] * 2), "annotation id 1 is decided twice"),
    ],
)
def test_bad_json(tmp_path, text, words):
    with pytest.raises(InputError) as caught:
        read_decisions(write(tmp_path / "d.json", text))
    assert str(tmp_path / "d.json") in str(caught.value) and words in str(caught.value)


HEAD = "version,data_set,annotation_id,decision\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: has no column 'version'"),
        ("version,data_set,decision\n", "no column 'annotation_id'"),
        (HEAD, "holds no decision"),
        (f"{HEAD}1,{KEY},x,accept\n", "line 2: annotation_id 'x' is not a whole number"),
        (f"{HEAD}1,{KEY},1\n", "line 2: has 3 cells, too few"),
        (f"{HEAD}9,{KEY},1,accept\n", "line 2: version 9 is not 1"),
        (f"{HEAD}1.0,{KEY},1,accept\n", "version '1.0'"),
        (f"{HEAD}1,{KEY},1,accept\n1,ds-0,2,accept\n", "line 3: belongs to data set 'ds-0'"),
        (f"{HEAD}1,{KEY},1,accept\n1,{KEY},1,reject\n", "line 3: annotation id 1 is decided twice"),
        (f"{HEAD}1,{KEY},1,Accept\n", "decision 'Accept' is none of"),
        (f'{HEAD}1,{KEY},1,"accept\n', "line 2"),
        ("a\0b\n", "NUL"),
    ],
)
def test_bad_csv(tmp_path, text, words):
    with pytest.raises(InputError) as caught:
        read_decisions(write(tmp_path / "d.csv", text))
    assert str(tmp_path / "d.csv") in str(caught.value) and words in str(caught.value)


def test_wrong_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_decisions(tmp_path / "d.csv")
    (tmp_path / "l.csv").write_bytes(b"version\xff")
    with pytest.raises(InputError, match="not UTF-8"):
        read_decisions(tmp_path / "l.csv")


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp()
    for name in ("any.csv", "any.json"):
        path = folder / name
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            assert set(read_decisions(path).by_id.values()) <= set(DECISIONS)
        except InputError as error:
            assert name in str(error)


# --- applying ---

THREE = Decisions(KEY, {1: "accept", 2: "reject", 3: "flag"})


def test_apply():
    dataset = make_dataset()
    reviewed, counts = apply_decisions(dataset, THREE)
    assert dataset == make_dataset(), "the argument must not change"
    assert counts == {"accept": 1, "reject": 1, "flag": 1, "undecided": 1}
    first, second, third, *rest = reviewed["annotations"]
    assert first == {**dataset["annotations"][0], "review": "accepted"}
    expected = {**dataset["annotations"][1], "review": "rejected"}
    expected |= {"point": [10.0, 2.0], "refined": False}
    del expected["semantic_points"]
    assert second == expected
    assert third == {**dataset["annotations"][2], "review": "flagged"}
    assert rest == dataset["annotations"][3:]


def test_rejected():
    dropped, _ = apply_decisions(make_dataset(), THREE, rejected="drop")
    assert [a["id"] for a in dropped["annotations"]] == [1, 3, 4, 5, 6]
    ignored, _ = apply_decisions(make_dataset(), THREE, rejected="ignore")
    changed = ignored["annotations"][1]
    assert changed == {**make_dataset()["annotations"][1], "review": "rejected", "ignore": 1}
    with pytest.raises(ValueError, match="rejected"):
        apply_decisions(make_dataset(), THREE, rejected="burn")


def test_other_data_are_refused():
    dataset = make_dataset()
    dataset["annotations"][3]["point"] = [13.0, 4]
    with pytest.raises(InputError, match="decisions are of data set"):
        apply_decisions(dataset, THREE)
    for number in (5, 6, 99):  # ignored, never refined, unknown
        with pytest.raises(InputError, match=f"annotation id {number} is decided"):
            apply_decisions(make_dataset(), Decisions(KEY, {1: "accept", number: "flag"}))


def test_command(tmp_path, capsys):
    annotations = write(tmp_path / "refined.json", json.dumps(make_dataset()))
    with open(tmp_path / "d.csv", "w", newline="") as file:
        rows = [[1, KEY, 1, "accept"], [1, KEY, 2, "reject"]]
        csv.writer(file).writerows([HEAD.strip().split(","), *rows])
    arguments = ["--annotations", annotations, "--decisions", tmp_path / "d.csv"]
    output = tmp_path / "new" / "reviewed.json"
    assert run_tool("prepare_points", "apply-review", *arguments, "--output", output) == 0
    printed = capsys.readouterr().out
    assert "1 accepted, 1 rejected (back to their click), 0 flagged, 2 undecided" in printed
    expected, _ = apply_decisions(make_dataset(), Decisions(KEY, {1: "accept", 2: "reject"}))
    assert json.loads(output.read_text()) == expected
    # Without a box nothing says which place is to be ignored.
    for number, said in ((1, True), (2, False)):
        (tmp_path / "one.csv").write_text(f"{HEAD}1,{KEY},{number},reject\n")
        words = ["--annotations", annotations, "--decisions", tmp_path / "one.csv"]
        words += ["--output", output, "--rejected", "ignore"]
        assert run_tool("prepare_points", "apply-review", *words) == 0
        assert ("1 of the ignored ones have no box" in capsys.readouterr().out) is said
    before = annotations.read_text()
    assert run_tool("prepare_points", "apply-review", *arguments, "--output", annotations) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert annotations.read_text() == before

    (tmp_path / "d.csv").write_text(f"{HEAD}1,ds-0,1,accept\n")
    assert run_tool("prepare_points", "apply-review", *arguments, "--output", output) == 2
    error = capsys.readouterr().err
    assert "d.csv: the decisions are of data set 'ds-0'" in error and "Traceback" not in error
