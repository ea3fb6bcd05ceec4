import dataclasses
import json
import math
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from cpr.data.point_json import load_detections, load_points
from cpr.evaluation.point_ap import bootstrap_samples
from cpr.experiments.markdown import format_markdown, format_seconds
from cpr.experiments.pictures import choose_objects, worst_objects
from cpr.experiments.report import PICTURES, write_report
from cpr.experiments.results import RowResult, RunResult, TableResult
from cpr.experiments.summary import spread, summarize
from cpr.visualization.draw import CLICK, REFINED, SEMANTIC
from cpr.visualization.plots import Bar, grouped_bars
from experiment_runs import make_table, write
from scenes import write_scenes

TABLE_1 = {
    "reppoints": ("RepPoints on pseudo boxes", None, 0.55, 2),
    "coarse": ("P2PNet on clicks", None, 0.5, 2),
    "self": ("self-refinement + P2PNet", 0.4, 0.4, 2),
    "cpr": ("CPR + P2PNet", 0.7, 0.3, 2),
    "centre": ("P2PNet on true centres", 1, 0.2, 2),
}


# -- figures, against values worked by hand ------------------------------------------------------


def test_spread_is_mean_and_sample_deviation():
    # Deviations -0.1, 0, 0.1: (0.01 + 0 + 0.01) / 2 = 0.01.
    found = spread([0.3, 0.4, 0.5])
    assert found["mean"] == pytest.approx(0.4) and found["std"] == pytest.approx(0.1)
    assert spread([0.7]) == {"mean": 0.7, "std": None, "values": [0.7]}
    assert spread([None, 0.7, None])["mean"] == 0.7
    assert spread([]) == {"mean": None, "std": None, "values": []}


def metrics(ap):
    """A metrics.json of two classes and one size with the mAP `ap` at tau 1."""
    taus = {"0.5": ap / 2, "1.0": ap, "2.0": min(1.0, 2 * ap)}

    def of_class(shift):
        return {"objects": 7, "AP": {"all": {t: max(0.0, v + shift) for t, v in taus.items()}}}

    return {
        "AP": {"all": taus, "small": {t: v / 4 for t, v in taus.items()}},
        "per_class": {"seal": of_class(0.1), "pup": of_class(-0.1), "none": {"AP": {"all": {}}}},
        "settings": {},
    }


def plain_table(folder, aps, *, seeds=None, paper=None):
    """A TableResult whose rows have the mAP `aps[key]` at tau 1, one per seed, and no pictures."""
    box = {"category_id": 1, "image_id": 1, "bbox": [10.0, 10.0, 20.0, 40.0]}
    # A quarter of the box off its centre (20, 30), in the four directions.
    points = [[25.0, 40.0], [15.0, 40.0], [25.0, 20.0], [15.0, 20.0]]
    dataset = {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "seal"}],
        "annotations": [{"id": i, **box, "point": point} for i, point in enumerate(points)],
    }
    clicks = write(folder / "clicks.json", dataset)
    rows = []
    for key, values in aps.items():
        runs = [
            RunResult(
                seed=seed,
                metrics=write(folder / key / f"metrics_{seed}.json", metrics(ap)),
                detections=write(folder / key / f"detections_{seed}.json", []),
                points=clicks,
                seconds={"p2pnet": 60.0 * (seed + 1)},
            )
            for seed, ap in enumerate(values)
        ]
        rows.append(RowResult(key, f"row {key}", (paper or {}).get(key, {}), [], runs))
    return TableResult(
        table="4d",
        title="points",
        dataset="seals",
        seeds=seeds or max(map(len, aps.values())),
        rows=rows,
        held_out=clicks,
        clicks={0: clicks},
        image_root=folder,
        settings={},
        command="python tools/run_experiments.py --table 4d --dataset seals",
        machine="one core",
        date="2026-11-22",
    )


def test_row_has_mean_and_spread_at_each_tau_class_and_size(tmp_path):
    summary = summarize(plain_table(tmp_path, {"cpr": [0.38, 0.40, 0.45]}), resamples=0)
    row = summary["rows"][0]
    # Mean 0.41; squares 0.0009 + 0.0001 + 0.0016 = 0.0026, halved 0.0013.
    assert row["AP"]["1.0"]["mean"] == pytest.approx(0.41)
    assert row["AP"]["1.0"]["std"] == pytest.approx(math.sqrt(0.0013))
    assert row["AP"]["0.5"]["mean"] == pytest.approx(0.205)
    assert row["AP_by_size"]["small"]["mean"] == pytest.approx(0.1025)
    assert row["per_class"]["seal"]["mean"] == pytest.approx(0.51)
    assert row["per_class"]["seal"]["std"] == pytest.approx(math.sqrt(0.0013))
    assert row["per_class"]["none"] == {"mean": None, "std": None, "values": [None] * 3}
    assert row["total_seconds"]["mean"] == pytest.approx(120)
    assert row["seeds"] == [0, 1, 2] and row["missing"] is None and row["interval"] is None
    assert summary["taus"] == ["0.5", "1.0", "2.0"] and summary["gap_closed"] == {}


def test_training_points_without_refiner_are_measured(tmp_path):
    row = summarize(plain_table(tmp_path, {"coarse": [0.3]}), resamples=0)["rows"][0]
    after = {name: value["mean"] for name, value in row["points"]["after"].items()}
    # x' and y' are +-1/4: variance 1/16 each, distance sqrt(1/8).
    assert after == {
        "rsv": pytest.approx(1 / 16),
        "inside": 1.0,
        "distance": pytest.approx(math.sqrt(1 / 8)),
    }
    assert row["points"]["before"] is None and row["refinement"] == {}


def test_refinement_figures_become_fractions(tmp_path):
    result = plain_table(tmp_path, {"cpr": [0.3, 0.5]})
    runs = []
    for run, refined in zip(result.rows[0].runs, (80.0, 90.0), strict=True):
        figures = {"refined": refined, "score": 0.4, "kept_I": 30.0, "rsv_coarse": 0.05}
        figures |= {"rsv_refined": 0.02, "inside_coarse": 100.0, "inside_refined": 95.0}
        figures |= {"moved": 0.6, "refined-seal": refined - 10}
        path = write(tmp_path / f"refinement_{run.seed}.json", figures)
        runs.append(dataclasses.replace(run, refinement=path))
    row = dataclasses.replace(result.rows[0], runs=runs)
    row = summarize(dataclasses.replace(result, rows=[row]), resamples=0)["rows"][0]
    assert row["refinement"]["refined"]["mean"] == pytest.approx(0.85)
    assert row["refinement"]["refined"]["std"] == pytest.approx(math.sqrt(0.005))
    assert row["refinement"]["score"]["mean"] == pytest.approx(0.4)
    assert row["refinement"]["moved"]["mean"] == pytest.approx(0.6)
    assert row["refined_per_class"]["seal"]["mean"] == pytest.approx(0.75)
    assert row["points"]["before"]["rsv"]["mean"] == pytest.approx(0.05)
    assert row["points"]["after"]["inside"]["mean"] == pytest.approx(0.95)
    # Without boxes the file has no distance.
    assert row["points"]["after"]["distance"]["mean"] is None


def test_box_ap_is_read_where_it_was_measured(tmp_path):
    result = plain_table(tmp_path, {"retinanet": [0.3, 0.5], "cpr": [0.3, 0.5]})
    for run, ap in zip(result.rows[0].runs, (20.0, 24.0), strict=True):
        # Both runs need a folder of their own, as the evaluator's outputs have.
        folder = run.metrics.parent / str(run.seed)
        write(folder / "metrics.json", json.loads(run.metrics.read_text()))
        write(folder / "box_metrics.json", {"AP": ap, "AP50": 2 * ap})
    runs = [
        dataclasses.replace(run, metrics=run.metrics.parent / str(run.seed) / "metrics.json")
        for run in result.rows[0].runs
    ]
    rows = [dataclasses.replace(result.rows[0], runs=runs), result.rows[1]]
    summary = summarize(dataclasses.replace(result, rows=rows), resamples=0)
    found = summary["rows"][0]["box_AP"]
    assert found["AP"]["mean"] == pytest.approx(0.22) and found["AP75"]["mean"] is None
    assert found["AP"]["std"] == pytest.approx(0.04 / math.sqrt(2))
    assert summary["rows"][1]["box_AP"] == {}
    table = read_table(format_markdown(summary))
    assert [row["box AP"] for row in table] == ["22.0 +- 2.8", "-"]


def test_gap_closed_per_seed_and_of_the_means(tmp_path):
    aps = {"coarse": [0.20, 0.22], "cpr": [0.40, 0.36], "centre": [0.50, 0.40]}
    paper = {"coarse": {"COCO": 38.48}, "cpr": {"COCO": 55.46}, "centre": {"COCO": 57.47}}
    result = plain_table(tmp_path, aps, paper=paper)
    gap = summarize(result, resamples=0)["gap_closed"]["cpr"]
    # 0.20 / 0.30 and 0.14 / 0.18; means 0.21, 0.38, 0.45: 0.17 / 0.24.
    assert gap["per_seed"] == pytest.approx([2 / 3, 7 / 9])
    assert gap["of_means"] == pytest.approx(17 / 24)
    # Differences 0.30 and 0.18: deviation 0.12 / sqrt(2), its error 0.06.
    assert gap["gap"] == pytest.approx(0.24)
    assert gap["standard_error"] == pytest.approx(0.06)
    assert gap["gain"]["mean"] == pytest.approx(0.17)
    assert gap["paper"]["COCO"] == pytest.approx(0.894, abs=1e-3)


@pytest.mark.parametrize(
    ("coarse", "centre", "of_means", "per_seed"),
    [
        # 1.5 mAP are too few, 2.5 are not.
        ([0.400], [0.415], None, [None]),
        ([0.400], [0.425], 4.0, [4.0]),
        # Differences 0.30 and -0.02: mean 0.14, standard error 0.16.
        ([0.20, 0.42], [0.50, 0.40], None, [1.0, None]),
    ],
    ids=["below 2 mAP", "above", "below two standard errors"],
)
def test_gap_closed_is_not_applicable_where_clicks_cost_nothing(
    tmp_path, coarse, centre, of_means, per_seed
):
    result = plain_table(tmp_path, {"coarse": coarse, "cpr": [0.5] * len(coarse), "centre": centre})
    summary = summarize(result, resamples=0)
    gap = summary["gap_closed"]["cpr"]
    assert gap["of_means"] == (None if of_means is None else pytest.approx(of_means))
    assert gap["per_seed"] == [None if v is None else pytest.approx(v) for v in per_seed]
    text = format_markdown(summary)
    assert ("n/a" in text) == (of_means is None)
    assert ("not applicable" in text) == (of_means is None)


def test_gap_closed_uses_only_seeds_of_all_three_rows(tmp_path):
    aps = {"coarse": [0.20, 0.22, 0.9], "cpr": [0.40], "centre": [0.50, 0.40]}
    gap = summarize(plain_table(tmp_path, aps), resamples=0)["gap_closed"]["cpr"]
    assert gap["seeds"] == [0] and gap["of_means"] == pytest.approx(2 / 3)
    aps["cpr"] = []
    summary = summarize(plain_table(tmp_path, aps), resamples=0)
    assert summary["gap_closed"]["cpr"]["of_means"] is None
    assert "unknown until" in format_markdown(summary)


# -- whole tables --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    train, images = write_scenes(folder, images=6, size=(120, 100), objects=(4, 8), seed=1)
    held_out, _ = write_scenes(folder, images=6, size=(120, 100), seed=2, name="held_out")
    return json.loads(train.read_text()), json.loads(held_out.read_text()), images


@pytest.fixture(scope="module")
def table_1(scenes, tmp_path_factory):
    """Two seeds of Table 1, its report, and the summary that was returned."""
    folder = tmp_path_factory.mktemp("table")
    result = make_table(folder, *scenes, TABLE_1, seeds=2, epochs=(1, 4, 8))
    return result, folder / "report", write_report(result, folder / "report", resamples=20)


def test_standard_error_is_that_of_the_resampled_difference(scenes, tmp_path):
    rows = {key: (*TABLE_1[key][:3], 1) for key in ("coarse", "cpr", "centre")}
    result = make_table(tmp_path, *scenes, rows, seeds=1)
    summary = summarize(result, resamples=50)
    held_out = load_points(result.held_out)
    drawn = {
        row.key: bootstrap_samples(
            held_out,
            load_detections(row.runs[0].detections, held_out),
            taus=(1.0,),
            resamples=50,
        )
        for row in result.rows
    }
    error = float((drawn["centre"] - drawn["coarse"]).std())
    assert summary["gap_closed"]["cpr"]["standard_error"] == pytest.approx(error)
    for row in summary["rows"]:
        expected = np.quantile(drawn[row["key"]], [0.025, 0.975])
        assert row["interval"] == pytest.approx(expected.tolist())
        assert row["AP"]["1.0"]["std"] is None


def test_summary_is_json_without_nan(table_1):
    result, folder, summary = table_1
    assert json.loads((folder / "summary.json").read_text()) == summary
    odd = {"rate": float("nan"), "size": np.float32(2), "where": folder, "both": (1, np.inf)}
    summary = summarize(dataclasses.replace(result, settings=odd), resamples=0)
    json.dumps(summary, allow_nan=False)
    assert summary["settings"] == {
        "rate": None,
        "size": 2.0,
        "where": str(folder),
        "both": [1, None],
    }
    assert summary["notes"] == [] and all(row["missing"] is None for row in summary["rows"])


def read_table(markdown):
    """Header and rows of the first table, as dicts; every row must have every cell."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    cells = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    header, rule, *rows = cells
    assert all(set(cell) <= {"-"} for cell in rule) and all(len(r) == len(header) for r in cells)
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_markdown_table(table_1):
    _, folder, summary = table_1
    text = (folder / "table.md").read_text()
    assert text == format_markdown(summary)
    rows = read_table(text)
    assert [row["row"] for row in rows] == [label for label, *_ in TABLE_1.values()]
    for row, expected in zip(rows, summary["rows"], strict=True):
        for tau in ("0.5", "1.0", "2.0"):
            mean, std = re.fullmatch(r"(\d+\.\d) \+- (\d+\.\d)", row[f"tau {tau}"]).groups()
            assert float(mean) == pytest.approx(100 * expected["AP"][tau]["mean"], abs=0.051)
            assert float(std) == pytest.approx(100 * expected["AP"][tau]["std"], abs=0.051)
    assert [row["paper, COCO"] for row in rows] == ["40.00", "41.00", "42.00", "43.00", "44.00"]
    assert rows[1]["refined %"] == "-" and "->" in rows[3]["RSV"] and "->" not in rows[1]["RSV"]
    assert rows[4]["RSV"] == "0.0000"
    assert "**Gap closed, CPR + P2PNet: " in text and "**Gap closed, self-refinement" in text
    for part in ("level: p2, R: 5, sizes: 320, 400", "2 cores, no GPU, 2026-11-22", "--table 1"):
        assert part in text


def test_bars_and_line_breaks_in_names_do_not_break_the_table(tmp_path):
    result = plain_table(tmp_path, {"a": [0.5]})
    row = dataclasses.replace(result.rows[0], label="a | b\nc")
    text = format_markdown(summarize(dataclasses.replace(result, rows=[row]), resamples=0))
    assert read_table(text)[0]["row"] == "a \\| b c"


def test_single_seed_has_its_interval(scenes, tmp_path):
    result = make_table(tmp_path, *scenes, {"cpr": (*TABLE_1["cpr"][:3], 1)}, seeds=1)
    text = format_markdown(summarize(result, resamples=20))
    row = read_table(text)[0]
    low, high = map(float, re.fullmatch(r"\S+ \((\S+)-(\S+)\)", row["tau 1.0"]).groups())
    assert 0 <= low <= high <= 100
    assert re.fullmatch(r"\d+\.\d", row["tau 0.5"])
    assert "bootstrap interval" in text and "standard deviation" not in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (59.6, "60 s"), (600, "10 min"), (5940, "99 min"), (9000, "2.5 h")],
)
def test_seconds_for_people(seconds, text):
    assert format_seconds(seconds) == text


# -- report --------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Texts, images and links of a page."""

    def __init__(self, path):
        super().__init__()
        self.images, self.links, self.text = [], [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "img":
            self.images.append(attrs["src"])
        self.links += [attrs[key] for key in ("href", "src") if key in attrs and tag != "img"]

    def handle_data(self, data):
        self.text += data


def read_picture(path):
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert image is not None, path
    return image[:, :, ::-1]


def test_report_has_every_picture_and_none_is_blank(table_1):
    _, folder, _ = table_1
    assert {path.name for path in folder.iterdir()} == {
        *PICTURES,
        "summary.json",
        "table.md",
        "report.html",
    }
    for name in PICTURES:
        image = read_picture(folder / name)
        assert image.shape[0] > 100 and 200 < image.shape[1] < 2500, name
        assert image.std() > 5 and len(np.unique(image @ (1, 256, 65536))) > 50, name


def test_page_is_self_contained(table_1):
    _, folder, _ = table_1
    page = Page(folder / "report.html")
    assert len(page.images) == len(PICTURES) and page.links == []
    assert all(source.startswith("data:image/") for source in page.images)
    html = (folder / "report.html").read_text()
    assert "http:" not in html and "https:" not in html and "url(" not in html
    for text in ("CPR + P2PNet", "Not drawn", "±", "MODEL.CPRNET.RADIUS 5"):
        assert (text in page.text) == (text != "Not drawn")


def colour_count(image, colour):
    return int((np.abs(image.astype(int) - colour).sum(axis=2) < 12).sum())


@pytest.mark.parametrize("semantic", [True, False])
def test_crops_show_click_semantic_and_refined_points(scenes, tmp_path, semantic):
    train, held_out, _ = scenes
    for record in train["images"]:  # grey, so that every colour is a drawn one
        size = (record["height"], record["width"], 3)
        cv2.imwrite(str(tmp_path / record["file_name"]), np.full(size, 120, np.uint8))
    rows = {"cpr": (*TABLE_1["cpr"][:3], 1)}
    result = make_table(tmp_path, train, held_out, tmp_path, rows, seeds=1, semantic=semantic)
    write_report(result, tmp_path / "report", resamples=0)
    crops = read_picture(tmp_path / "report" / "crops.png")
    # Four columns of 224 px with gaps of 6.
    assert crops.shape[1] == 4 * 230 + 6
    assert colour_count(crops, CLICK) > 200 and colour_count(crops, REFINED) > 200
    assert (colour_count(crops, SEMANTIC) > 200) == semantic
    page = Page(tmp_path / "report" / "report.html")
    assert ("no semantic points" in page.text) != semantic
    assert "kept no refined points of earlier epochs" in page.text
    assert not (tmp_path / "report" / "over_training.png").exists()


def test_unfinished_rows_are_told(scenes, tmp_path):
    rows = {**TABLE_1, "cpr": (*TABLE_1["cpr"][:3], 1), "centre": (*TABLE_1["centre"][:3], 0)}
    result = make_table(tmp_path, *scenes, rows, seeds=2)
    last = dataclasses.replace(result.rows[-1], missing="training stopped at 400 of 1,500")
    result = dataclasses.replace(result, rows=[*result.rows[:-1], last])
    summary = write_report(result, tmp_path / "report", resamples=10)
    text = (tmp_path / "report" / "table.md").read_text()
    row = read_table(text)[-1]
    assert row["row"] == "P2PNet on true centres (0 of 2 seeds)"
    assert row["tau 1.0"] == row["tau 0.5"] == row["RSV"] == row["time"] == "-"
    assert "0 of 2 seeds finished; training stopped at 400 of 1,500" in text
    assert summary["rows"][3]["missing"] == "1 of 2 seeds finished"
    assert "training stopped at 400" in Page(tmp_path / "report" / "report.html").text


def test_runs_that_are_only_planned_are_no_trouble(scenes, tmp_path):
    result = make_table(tmp_path, *scenes, {"cpr": TABLE_1["cpr"]}, seeds=2)
    home = tmp_path / "nowhere"
    planned = RunResult(2, home / "m.json", home / "d.json", home / "p.json", home / "r.json")
    planned = dataclasses.replace(planned, rsv_curve=home / "c.json")
    row = dataclasses.replace(result.rows[0], runs=[planned, *result.rows[0].runs])
    clicks = {**result.clicks, 2: home / "coarse.json"}
    result = dataclasses.replace(result, rows=[row], clicks=clicks, seeds=3)
    summary = write_report(result, tmp_path / "report", resamples=0)
    assert summary["rows"][0]["missing"] == "2 of 3 seeds finished" and summary["notes"] == []
    assert "nowhere" not in (tmp_path / "report" / "report.html").read_text()
    assert (tmp_path / "report" / "rsv_curve.png").exists()


def test_table_without_any_run_has_a_page_and_no_picture(scenes, tmp_path):
    rows = {key: (*row[:3], 0) for key, row in TABLE_1.items()}
    result = make_table(tmp_path, *scenes, rows, seeds=2)
    folder = tmp_path / "report"
    write(folder / "table.png", "of an earlier report")
    write_report(result, folder)
    assert {path.name for path in folder.iterdir()} == {"summary.json", "table.md", "report.html"}
    page = Page(folder / "report.html")
    assert page.images == [] and "no row has a finished run yet" in page.text
    assert all(row["tau 1.0"] == "-" for row in read_table((folder / "table.md").read_text()))


def test_missing_and_damaged_files_become_sentences(scenes, tmp_path):
    rows = {key: TABLE_1[key] for key in ("coarse", "cpr")}
    result = make_table(tmp_path, *scenes, rows, seeds=2)
    coarse, cpr = result.rows
    cpr.runs[0].metrics.write_text('{"AP": {"all": ')
    write(cpr.runs[1].metrics, {"AP": []})
    cpr.runs[0].rsv_curve.write_text("[")
    write(cpr.runs[1].rsv_curve, [{"epoch": 1.0, "dataset": "d", "refined": 3.0}])
    coarse.runs[0].points.unlink()
    result.held_out.unlink()
    result = dataclasses.replace(result, image_root=tmp_path / "nowhere")
    summary = write_report(result, tmp_path / "report")
    assert re.search(r"0 of 2 seeds finished; seed 0: \S+json: not valid JSON", _missing(summary))
    assert "seed 1" in _missing(summary) and "no metrics.json of point mAP" in _missing(summary)
    notes = "\n".join(summary["notes"])
    assert "held_out.json: no such file" in notes and "coarse_0.json: no such file" in notes
    page = Page(tmp_path / "report" / "report.html")
    for text in ("rsv_curve.json: not valid JSON", "has no RSV of refined points", "no such image"):
        assert text in page.text
    found = {path.name for path in (tmp_path / "report").glob("*.png")}
    assert found == {"table.png", "classes.png", "heat_maps.png"}


def _missing(summary):
    return summary["rows"][-1]["missing"]


def test_points_without_boxes(scenes, tmp_path):
    train, held_out, images = scenes
    result = make_table(tmp_path, train, held_out, images, {"cpr": TABLE_1["cpr"]}, seeds=2)
    for path in [*result.clicks.values(), *(run.points for run in result.rows[0].runs)]:
        dataset = json.loads(path.read_text())
        for annotation in dataset["annotations"]:
            del annotation["bbox"]
        write(path, dataset)
    summary = write_report(result, tmp_path / "report", resamples=0)
    assert summary["clicks"]["rsv"]["mean"] is None
    page = Page(tmp_path / "report" / "report.html")
    assert "refined points have no boxes" in page.text and "without boxes" in page.text
    assert (tmp_path / "report" / "crops.png").exists()


def test_rows_that_share_points_are_shown_once(scenes, tmp_path):
    rows = {"cpr": TABLE_1["cpr"], "retinanet": ("RetinaNet + CPR", 0.7, 0.4, 2)}
    result = make_table(tmp_path, *scenes, rows, seeds=2)
    first, second = result.rows
    shared = [
        dataclasses.replace(theirs, points=ours.points, rsv_curve=ours.rsv_curve)
        for ours, theirs in zip(first.runs, second.runs, strict=True)
    ]
    separate = write_report(result, tmp_path / "separate", resamples=0)
    result = dataclasses.replace(result, rows=[first, dataclasses.replace(second, runs=shared)])
    assert write_report(result, tmp_path / "shared", resamples=0).keys() == separate.keys()
    assert "CPR + P2PNet and 1 more row" in Page(tmp_path / "shared" / "report.html").text
    widths = [read_picture(tmp_path / n / "heat_maps.png").shape[1] for n in ("shared", "separate")]
    assert widths[0] < widths[1]  # two maps, not three


def test_keys_of_rows_are_unique(tmp_path):
    result = plain_table(tmp_path, {"cpr": [0.5]})
    with pytest.raises(ValueError, match="one key"):
        dataclasses.replace(result, rows=result.rows * 2)


# -- choice of objects, bars ---------------------------------------------------------------------


def square(number, label, side):
    return {"id": number, "category_id": label, "bbox": [0.0, 0.0, side, side]}


def test_objects_are_spread_over_classes_and_sizes():
    objects = [square(i, 5, float(i + 1)) for i in range(100)] + [square(200, 2, 9.0)]
    chosen = choose_objects(objects, 5)
    # The rare class first, then the 12th, 37th, 62nd and 87th per cent of the sizes.
    assert [a["id"] for a in chosen] == [200, 12, 37, 62, 87]
    assert choose_objects(objects[::-1], 5) == chosen
    assert len(choose_objects(objects, 500)) == 101
    assert len({a["id"] for a in choose_objects(objects, 500)}) == 101
    assert choose_objects([], 5) == []


def test_worst_objects_are_those_whose_distance_grew():
    def moved(number, before, after):
        box = {"bbox": [0.0, 0.0, 10.0, 20.0]}
        return {"id": number, **box, "coarse_point": [before, 10.0], "point": [after, 10.0]}

    # Centre x = 5, width 10: distances 0.1 to 0.4, 0.3 to 0.1, 0.2 to 0.3, 0.2 to 0.2.
    objects = [moved(1, 6.0, 9.0), moved(2, 8.0, 6.0), moved(3, 7.0, 8.0), moved(4, 7.0, 3.0)]
    worst = worst_objects(objects, 3)
    assert [a["id"] for a, _, _ in worst] == [1, 3]
    assert worst[0][1:] == pytest.approx((0.1, 0.4))
    assert [a["id"] for a, _, _ in worst_objects(objects, 1)] == [1]
    assert worst_objects([], 3) == []


def test_bars_are_as_long_as_their_values():
    colours = {"a": "#c8553d", "b": "#4a7fb5"}
    groups = {"one": {"a": Bar(20.0), "b": Bar(60.0)}, "two": {"a": None, "b": None}}
    image = cv2.imdecode(
        np.frombuffer(grouped_bars(groups, colours=colours, label="x"), np.uint8), 1
    )
    image = image[45:, :, ::-1]  # without the legend
    lengths = []
    for colour in ((0xC8, 0x55, 0x3D), (0x4A, 0x7F, 0xB5)):
        lengths.append(int((np.abs(image.astype(int) - colour).sum(axis=2) < 12).any(axis=0).sum()))
    assert lengths[1] / lengths[0] == pytest.approx(3, rel=0.03)
