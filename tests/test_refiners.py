"""cpr/refiners: self-refinement, the registry, each refiner over a data set."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from cpr import inference
from cpr.checkpoint import PointCheckpointer
from cpr.data.point_json import load_points
from cpr.engine import build_cfg, build_network
from cpr.evaluation.evaluators import format_refinement, refinement_metrics
from cpr.refiners import REFINER, Refiner, get_refiner, refiner_names
from cpr.refiners.registry import import_plugins
from cpr.refiners.run import refine_dataset
from cpr.refiners.self_refinement import assign_and_average
from cpr_deploy.files import InputError, write_json
from scenes import CATEGORY_IDS, edit_json, tiny_opts, write_scenes
from tool_runner import ROOT, run_tool

README = ROOT / "projects" / "CPR" / "cpr" / "refiners" / "README.md"


# --- the mean of the assigned points --------------------------------------------------------------


def refine_plainly(clicks, click_labels, points, point_labels, scores, *, topk, max_distance):
    """Self-refinement, object by object: [(point, score, refined, indices of the kept points)]."""

    def distance(one, two):
        return ((one[0] - two[0]) ** 2 + (one[1] - two[1]) ** 2) ** 0.5

    owners = []
    for point, label in zip(points, point_labels, strict=True):
        rivals = [
            (distance(point, click), index)
            for index, click in enumerate(clicks)
            if click_labels[index] == label
        ]
        owners.append(min(rivals)[1] if rivals else None)
    result = []
    for index, click in enumerate(clicks):
        mine = [i for i, owner in enumerate(owners) if owner == index and scores[i] > 0]
        mine = sorted(mine, key=lambda i: (-scores[i], i))[:topk]
        mine = [i for i in mine if distance(points[i], click) <= max_distance]
        if not mine:
            result.append((click, 0.0, False, []))
            continue
        total = sum(scores[i] for i in mine)
        mean = [sum(scores[i] * points[i][axis] for i in mine) / total for axis in range(2)]
        result.append((mean, total / len(mine), True, mine))
    return result


@pytest.mark.parametrize("seed", range(60))
def test_self_refinement_equals_plain_loops(seed):
    rng = np.random.default_rng(seed)
    num_clicks, num_points = int(rng.integers(0, 9)), int(rng.integers(0, 80))
    # Whole coordinates and few scores: many ties, and points exactly at the limit.
    clicks = rng.integers(0, 20, (num_clicks, 2)).astype(float)
    points = rng.integers(0, 20, (num_points, 2)).astype(float)
    if seed % 2:
        clicks, points = clicks + rng.random(clicks.shape), points + rng.random(points.shape)
    labels = rng.integers(0, 3, num_clicks), rng.integers(0, 3, num_points)
    scores = rng.integers(0, 6, num_points) / 5
    settings = {"topk": int(rng.integers(1, 6)), "max_distance": float(rng.integers(1, 9))}
    result = assign_and_average(clicks, labels[0], points, labels[1], scores, **settings)
    expected = refine_plainly(clicks, labels[0], points, labels[1], scores, **settings)
    assert [kept.tolist() for kept in result.kept] == [row[3] for row in expected]
    assert result.refined.tolist() == [row[2] for row in expected]
    np.testing.assert_allclose(result.scores, [row[1] for row in expected], atol=1e-12)
    wanted = np.array([row[0] for row in expected]).reshape(-1, 2)
    np.testing.assert_allclose(result.points, wanted, atol=1e-12)


def average(clicks, points, scores, labels=None, *, topk=16, max_distance=10.0):
    labels = labels or ([0] * len(clicks), [0] * len(points))
    return assign_and_average(
        clicks, labels[0], points, labels[1], scores, topk=topk, max_distance=max_distance
    )


def test_mean_weighted_by_score():
    result = average([[10, 10]], [[12, 10], [10, 14]], [0.75, 0.25])
    assert result.points.tolist() == [[11.5, 11.0]]
    assert result.scores.tolist() == [0.5] and result.refined.tolist() == [True]


def test_classes_do_not_mix():
    """The point nearest to a click is another class's, even where that class has no click near."""
    result = average(
        [[0, 0], [9, 0]], [[1, 0], [5, 0], [0, 0]], [0.5, 0.5, 0.9], ([3, 7], [7, 3, 5])
    )
    assert [kept.tolist() for kept in result.kept] == [[1], [0]]


def test_ties_go_to_the_first():
    """A point midway between two clicks; the last of three equal scores of which two count."""
    result = average([[0, 0], [2, 0]], [[1, 0], [0, 1], [0, 2]], [0.5, 0.5, 0.5], topk=2)
    assert [kept.tolist() for kept in result.kept] == [[0, 1], []]


def test_limit_of_distance():
    """A point at the limit counts. One beyond it is dropped after the best have been chosen."""
    assert average([[0, 0]], [[6, 8]], [0.5]).refined.tolist() == [True]
    assert average([[0, 0]], [[6, 8.001]], [0.5]).refined.tolist() == [False]
    result = average([[0, 0]], [[50, 0], [1, 0], [2, 0]], [0.9, 0.8, 0.7], topk=2)
    assert result.kept[0].tolist() == [1]


def test_no_predictions_no_clicks():
    result = average([[3, 4], [5, 6]], [], [])
    assert result.points.tolist() == [[3, 4], [5, 6]]
    assert result.refined.tolist() == [False, False] and result.scores.tolist() == [0, 0]
    nothing = average([], [[1, 2]], [0.5])
    assert nothing.points.shape == (0, 2) and nothing.kept == []
    assert nothing.refined.dtype == bool


def test_rounding_leaves_no_point_outside_the_image():
    rng = np.random.default_rng(0)
    for _ in range(200):
        border = rng.uniform(1, 3000)
        points = np.full((9, 2), border)
        result = average([[border, border]], points, rng.random(9))
        assert (result.points == border).all()


# --- registry -------------------------------------------------------------------------------------


def test_registry():
    assert {"cpr", "none", "self"} <= set(refiner_names())
    for name in ("cpr", "none", "self"):
        assert issubclass(get_refiner(name), Refiner)
    assert [get_refiner(name).needs_network for name in ("cpr", "none", "self")] == [1, 0, 1]
    with pytest.raises(InputError, match=r"'banana'.* cpr, none, self"):
        get_refiner("banana")
    with pytest.raises(AssertionError, match="already registered"):
        REFINER.register("none")(get_refiner("none"))


def test_plugins(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("no_such_module", "no_such_package.part", "tests/x", "", "a.b.py"):
        with pytest.raises(InputError, match="no such Python module"):
            import_plugins([module])
    (tmp_path / "broken_plugin.py").write_text("import what_it_needs")
    with pytest.raises(ModuleNotFoundError, match="what_it_needs"):
        import_plugins(["broken_plugin"])


def test_names_need_no_torch():
    code = (
        "import sys; sys.modules['torch'] = sys.modules['detectron2'] = None;"
        "from cpr.refiners import refiner_names; print(refiner_names())"
    )
    environment = {"PYTHONPATH": f"{ROOT / 'projects/CPR'}:{ROOT / 'deploy'}"}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "['cpr', 'none', 'self']"


# --- over a data set ------------------------------------------------------------------------------


@pytest.fixture
def scenes(tmp_path):
    """Clicks of two classes; an ignored object, and an image without objects."""
    path, root = write_scenes(tmp_path, images=4, num_classes=2)

    def change(dataset):
        dataset["annotations"][0]["ignore"] = 1
        dataset["annotations"] = [a for a in dataset["annotations"] if a["image_id"] != 12]

    edit_json(path, change)
    return path, root


P2PNET = ROOT / "configs" / "Base-P2PNet.yaml"
P2PNET_OPTS = tiny_opts(
    "P2PNET", **{"MODEL.P2PNET.SCORE_THRESH": 0.002, "MODEL.P2PNET.NMS_SIZE": 6.0}
)
SIZE = 12.0
SELF_OPTS = ["MODEL.PSEUDO_BOX.SIZE", str(SIZE), "TEST.SELF_REFINE.TOPK", "3"]


@pytest.fixture
def retinanet(tmp_path):
    path = tmp_path / "retinanet.yaml"
    path.write_text(
        """
MODEL:
  META_ARCHITECTURE: RetinaNet
  DEVICE: cpu
  WEIGHTS: ""
  BACKBONE: {NAME: build_retinanet_resnet_fpn_backbone, FREEZE_AT: 0}
  RESNETS: {DEPTH: 18, RES2_OUT_CHANNELS: 64, OUT_FEATURES: [res3, res4, res5], NORM: GN}
  FPN: {IN_FEATURES: [res3, res4, res5], OUT_CHANNELS: 32}
  ANCHOR_GENERATOR: {SIZES: [[8], [16], [32], [64], [128]]}
  RETINANET: {NUM_CLASSES: 2, NUM_CONVS: 1, SCORE_THRESH_TEST: 0.001}
INPUT: {MIN_SIZE_TEST: 64, MAX_SIZE_TEST: 64}
DATALOADER: {NUM_WORKERS: 0}
VERSION: 2
"""
    )
    return path


def save_network(config, opts, folder, **metadata):
    """A checkpoint of random weights."""
    torch.manual_seed(0)
    model = build_network(build_cfg(config, opts))
    names = {"class_names": ["class0", "class1"], "category_ids": list(CATEGORY_IDS[:2])}
    PointCheckpointer(model, str(folder), metadata={**names, **metadata}).save("network")
    return folder / "network.pth"


def tool_arguments(scenes, output, *more):
    return [
        *("--annotations", scenes[0], "--image-root", scenes[1], "--output", output),
        *more,
    ]


@pytest.mark.parametrize("architecture", ["P2PNet", "RetinaNet"])
def test_self_refinement_of_a_data_set(scenes, tmp_path, capsys, request, architecture):
    """Against detections as tools/predict_points.py writes them, refined by plain loops."""
    config, opts = P2PNET, P2PNET_OPTS
    if architecture == "RetinaNet":
        config, opts = request.getfixturevalue("retinanet"), []
    weights = save_network(config, opts, tmp_path)
    given = ["--config-file", config, "--weights", weights]
    assert not run_tool(
        "predict_points", *tool_arguments(scenes, tmp_path / "d.json", *given, *opts)
    )
    report = tmp_path / "report.json"
    more = ["--refiner", "self", "--semantic-points", "--report", report, *given, *opts, *SELF_OPTS]
    assert not run_tool("refine_points", *tool_arguments(scenes, tmp_path / "r.json", *more))
    assert "constraint" not in capsys.readouterr().out

    detections = json.loads((tmp_path / "d.json").read_text())
    clicks = json.loads(scenes[0].read_text())["annotations"]
    refined = load_points(tmp_path / "r.json", require="point")["annotations"]
    assert refined[0] == clicks[0], "ignored ones stay as they are"
    moved = 0
    for image_id in (10, 11, 13):
        mine = [d for d in detections if d["image_id"] == image_id]
        objects = [a for a in clicks[1:] if a["image_id"] == image_id]
        expected = refine_plainly(
            [a["point"] for a in objects],
            [a["category_id"] for a in objects],
            [d["point"] for d in mine],
            [d["category_id"] for d in mine],
            [d["score"] for d in mine],
            topk=3,
            max_distance=1.5 * SIZE,
        )
        found = {a["id"]: a for a in refined}
        for click, (point, score, is_refined, kept) in zip(objects, expected, strict=True):
            record = found[click["id"]]
            np.testing.assert_allclose(record["point"], point, atol=1e-4)
            np.testing.assert_allclose(record["refine_score"], score, atol=1e-5)
            assert record["coarse_point"] == click["point"] and record["bbox"] == click["bbox"]
            assert record["refined"] == is_refined
            semantic = np.array([mine[i]["point"] for i in kept]).reshape(-1, 2)
            np.testing.assert_allclose(
                np.array(record["semantic_points"]).reshape(-1, 2), semantic, atol=0.01
            )
            moved += is_refined
    assert moved > 3
    figures = json.loads(report.read_text())
    assert figures["objects"] == len(clicks) - 1
    assert figures["refined"] == pytest.approx(100 * moved / (len(clicks) - 1))
    assert "kept" not in figures and "rsv_refined" in figures


def test_none(scenes, tmp_path, capsys):
    report = tmp_path / "report.json"
    more = ["--refiner", "none", "--report", report]
    assert not run_tool("refine_points", *tool_arguments(scenes, tmp_path / "r.json", *more))
    shown = capsys.readouterr().out
    assert "0.0 % refined\n" in shown and "nan" not in shown
    clicks = json.loads(scenes[0].read_text())["annotations"]
    same = json.loads((tmp_path / "r.json").read_text())["annotations"]
    assert same[0] == clicks[0]
    for before, after in zip(clicks[1:], same[1:], strict=True):
        added = {"coarse_point": before["point"], "refine_score": 0.0, "refined": False}
        assert after == before | added
    figures = json.loads(report.read_text())
    assert figures["rsv_coarse"] == figures["rsv_refined"] and figures["refined"] == 0


KEYS = {"TOPK": 1, "MAX_DISTANCE": 0.25, "SCORE_THRESH": 0.6}


@pytest.fixture
def predictions(scenes, tmp_path, monkeypatch):
    """Refines by predictions around each click, the same at each call."""
    annotations = json.loads(scenes[0].read_text())["annotations"]
    rng = np.random.default_rng(0)
    found = [
        {
            "image_id": annotation["image_id"],
            "category_id": CATEGORY_IDS.index(annotation["category_id"]),
            "point": np.clip(annotation["point"] + rng.uniform(-9, 9, 2), 0, 64).tolist(),
            "score": float(rng.random()),
        }
        for annotation in annotations
        for _ in range(5)
    ]
    monkeypatch.setattr(inference, "predict", lambda *_: found)
    weights = save_network(P2PNET, P2PNET_OPTS, tmp_path)

    def run(*opts):
        opts = [*P2PNET_OPTS, "MODEL.PSEUDO_BOX.SIZE", str(SIZE), *opts]
        files = {"config_file": P2PNET, "weights": weights}
        refined, _ = refine_dataset("self", *scenes, **files, opts=opts)
        return [a["point"] for a in refined["annotations"]]

    return run


@pytest.mark.parametrize("key", KEYS)
def test_key_of_self_refinement_matters(key, predictions):
    assert predictions() == predictions()
    assert predictions() != predictions(f"TEST.SELF_REFINE.{key}", str(KEYS[key]))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("TOPK", 0, "TOPK is 0; it must be at least 1"),
        ("MAX_DISTANCE", 0.0, "MAX_DISTANCE is 0.0; it must be above 0"),
        ("SCORE_THRESH", 1.0, "SCORE_THRESH is 1.0; it must be at least 0 and below 1"),
    ],
)
def test_bad_settings_of_self_refinement(key, value, message, predictions):
    with pytest.raises(InputError, match=rf"TEST\.SELF_REFINE\.{message}"):
        predictions(f"TEST.SELF_REFINE.{key}", str(value))


def test_predictions_beyond_the_border(scenes, predictions, monkeypatch):
    """By rounding a point may come back outside its image, where no point may be written."""
    found = [
        {"image_id": 10, "category_id": label, "point": [64.001, 64.001], "score": 0.5}
        for label in (0, 1)
    ]
    monkeypatch.setattr(inference, "predict", lambda *_: found)
    points = predictions("TEST.SELF_REFINE.MAX_DISTANCE", "100.0")
    assert [64.0, 64.0] in points and max(map(max, points)) == 64


# --- errors ---------------------------------------------------------------------------------------


def error_of(capsys, scenes, tmp_path, *more):
    arguments = tool_arguments(scenes, tmp_path / "r.json", *more)
    assert run_tool("refine_points", *arguments) == 2
    assert not (tmp_path / "r.json").exists()
    return capsys.readouterr().err


def test_unknown_refiner_and_missing_network(scenes, tmp_path, capsys):
    line = error_of(capsys, scenes, tmp_path, "--refiner", "banana")
    assert "'banana'" in line and "cpr, none, self" in line
    for name in ("cpr", "self"):
        for more in ((), ("--config-file", P2PNET), ("--weights", scenes[0])):
            line = error_of(capsys, scenes, tmp_path, "--refiner", name, *more)
            assert f"refiner {name!r}" in line and "--weights" in line
    assert "no such Python module" in error_of(capsys, scenes, tmp_path, "--plugin", "nowhere")


def test_network_that_the_refiner_cannot_use(scenes, tmp_path, capsys):
    config = ROOT / "configs" / "Base-CPRNet.yaml"
    opts = tiny_opts("CPRNET")
    weights = save_network(config, opts, tmp_path)
    given = ["--config-file", config, "--weights", weights]
    line = error_of(capsys, scenes, tmp_path, "--refiner", "self", *given, *opts)
    assert "CPRNet" in line and "a localizer is needed" in line
    given[1] = P2PNET
    line = error_of(capsys, scenes, tmp_path, "--refiner", "cpr", *given, *P2PNET_OPTS)
    assert "CPRNet is needed" in line


def test_self_refinement_needs_clicks_and_its_classes(scenes, tmp_path, capsys):
    weights = save_network(P2PNET, P2PNET_OPTS, tmp_path, class_names=["class0", "whale"])
    given = ["--refiner", "self", "--config-file", P2PNET, "--weights", weights, *P2PNET_OPTS]
    line = error_of(capsys, scenes, tmp_path, *given)
    assert str(scenes[0]) in line and "trained on class0, whale" in line
    edit_json(scenes[0], lambda d: d["annotations"][1].pop("point"))
    assert "has no point" in error_of(capsys, scenes, tmp_path, *given)
    assert "has no point" in error_of(capsys, scenes, tmp_path, "--refiner", "none")


# --- one of your own ------------------------------------------------------------------------------


def test_the_readme_example(scenes, tmp_path, capsys, monkeypatch):
    """Its module, config and command, as they stand there, against the images' pixels."""
    text = README.read_text(encoding="utf-8")
    (tmp_path / "brightest.py").write_text(re.search(r"```python\n(.*?)```", text, re.S)[1])
    (tmp_path / "brightest.yaml").write_text(re.search(r"```yaml\n(.*?)```", text, re.S)[1])
    command = re.search(r"    python (tools/\S+ --plugin [^\n]*\\\n[^\n]*)", text)[1]
    (tmp_path / "coarse.json").write_bytes(scenes[0].read_bytes())
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'projects/CPR'}:{ROOT / 'deploy'}",
    }
    script, *words = command.replace("\\\n", " ").split()
    done = subprocess.run(
        [sys.executable, ROOT / script, *words],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "100.0 % refined" in done.stdout
    from PIL import Image

    dataset = load_points(tmp_path / "refined.json", require="point")
    files = {image["id"]: scenes[1] / image["file_name"] for image in dataset["images"]}
    for annotation in dataset["annotations"][1:]:
        pixels = np.array(Image.open(files[annotation["image_id"]])).mean(axis=2)
        x, y = annotation["point"]
        around = [
            pixels[j, i]
            for j in range(64)
            for i in range(64)
            if np.hypot(*(np.array([i + 0.5, j + 0.5]) - annotation["coarse_point"])) <= 4
        ]
        assert pixels[int(y), int(x)] == max(around)

    # As a row of a table: planned here, and its step is the command above.
    mine = tmp_path / "datasets" / "mine"
    (mine / "annotations").mkdir(parents=True)
    (mine / "images").symlink_to(scenes[1])
    for part in ("train", "val"):
        (mine / "annotations" / f"{part}.json").write_bytes(scenes[0].read_bytes())
    (tmp_path / "resnet18-f37072fd.pth").touch()
    command = re.search(r"    python (tools/run_experiments[^\n]*\\\n[^\n]*)", text)[1]
    script, *words = command.replace("\\\n", " ").split()
    done = subprocess.run(
        [sys.executable, ROOT / script, *words, "--list"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"seed0-brightest_brightest: .*--refiner brightest --plugin", done.stdout)
    assert "p2pnet_brightest_brightest" in done.stdout


@pytest.fixture
def registered(request):
    """Registers a refiner that returns given records, for one test."""

    def register(records):
        class Given(Refiner):
            needs_network = False

            def refine(self, dataset, images):
                return records

        REFINER.register("given")(Given)
        request.addfinalizer(lambda: REFINER._obj_map.pop("given"))

    return register


def test_records_must_be_those_of_the_objects(scenes, registered):
    records = []
    registered(records)
    with pytest.raises(ValueError, match="refiner 'given': 0 records for .* annotation id 101"):
        refine_dataset("given", *scenes)
    ids = [a["id"] for a in json.loads(scenes[0].read_text())["annotations"][1:]]
    point = {"coarse_point": (1, 1), "point": (2, 2), "score": 0.5, "refined": True}
    records.extend({"id": id_, **point} for id_ in ids)
    refined, metrics = refine_dataset("given", *scenes)
    assert metrics["refined"] == 100
    assert [a["point"] for a in refined["annotations"][1:]] == [[2.0, 2.0]] * len(ids)
    records.append(records[0])
    with pytest.raises(ValueError, match=f"{len(ids) + 1} records for {len(ids)} objects"):
        refine_dataset("given", *scenes)


def test_figures_without_bags(scenes, tmp_path):
    """Of records with and without bag points: the constraints' shares are the former's."""
    dataset = load_points(scenes[0])
    plain = {"coarse_point": (1, 2), "point": (1, 3), "score": 0.5, "refined": True}
    bag = {"kept_by": [8, 4, 6, 7], "kept": 2}
    metrics = refinement_metrics(dataset, [{"id": 101, **plain}, {"id": 102, **plain, **bag}])
    assert (metrics["kept_I"], metrics["kept_II"], metrics["kept"]) == (50, 75, 25)
    without = refinement_metrics(dataset, [{"id": 101, **plain}])
    assert np.isnan(without["kept"]) and np.isnan(without["kept_I"])
    assert "constraint" in format_refinement(metrics)
    assert "constraint" not in format_refinement(without)
    write_json(tmp_path / "x.json", {k: v for k, v in without.items() if v == v})
