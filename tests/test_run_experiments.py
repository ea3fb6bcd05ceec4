import json
import os
import subprocess
import sys

import pytest

from scenes import edit_json, tiny_opts, write_scenes
from tool_runner import ROOT, run_tool


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder of data sets with one called `made`."""
    root = tmp_path_factory.mktemp("datasets")
    folder = root / "made"
    for part, seed in (("train", 0), ("val", 1)):
        path, _ = write_scenes(folder, name=part, seed=seed, clicks=False, images=6)
        (folder / "annotations").mkdir(exist_ok=True)
        path.rename(folder / "annotations" / f"{part}.json")
    return root


@pytest.fixture
def run(root, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))

    def run(*args):
        output = [] if "--suggest" in args else ["--output", tmp_path / "out"]
        return run_tool("run_experiments", "--dataset", "made", *output, *args)

    return run


def test_suggest(run, capsys):
    assert run("--suggest") == 0
    text = capsys.readouterr().out
    assert "object size" in text and "R = 4 cells" in text
    assert "MODEL.CPRNET.NUM_CLASSES 2" in text and "MODEL.P2PNET.NMS_SIZE" in text
    assert run("--suggest", "--object-size", "50", "--schedule", "0.5") == 0
    text = capsys.readouterr().out
    assert "object size 50 px (given)" in text and "SOLVER.MAX_ITER 400" in text


def test_suggest_needs_no_boxes(run, root, capsys):
    folder = root / "clicks"
    path, _ = write_scenes(folder, name="train", images=3, objects=(4, 6))

    def without_boxes(dataset):
        for annotation in dataset["annotations"]:
            del annotation["bbox"]

    edit_json(path, without_boxes)
    (folder / "annotations").mkdir()
    (folder / "annotations" / "val.json").write_text(path.read_text())
    path.rename(folder / "annotations" / "train.json")
    assert run_tool("run_experiments", "--dataset", folder, "--suggest") == 0
    assert "distances between clicks" in capsys.readouterr().out
    # To score a table there must be boxes.
    assert (
        run_tool("run_experiments", "--dataset", folder, "--table", "1", "--weights", "random") == 2
    )
    assert "box" in capsys.readouterr().err


def test_list_says_what_would_run_and_runs_nothing(run, tmp_path, capsys):
    assert run("--table", "1", "--list", "--weights", "random") == 0
    names = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    for name in ("coarse", "cprnet", "p2pnet_coarse", "reppoints_coarse", "p2pnet_centre"):
        assert f"seed0-{name}" in names
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "args, text",
    [
        (["--table", "6"], "invalid choice: '6'"),
        (["--table", "1", "--seeds", "0"], "--seeds"),
        (["--table", "1", "--suggest"], "not allowed with"),
        ([], "one of the arguments --table --suggest is required"),
    ],
)
def test_bad_command_lines(run, capsys, args, text):
    with pytest.raises(SystemExit) as error:
        run(*args)
    assert error.value.code == 2
    assert text in capsys.readouterr().err


def test_unknown_data_set(run, capsys):
    assert run("--table", "1", "--dataset", "moon") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: 'moon': no such data set.") and "Traceback" not in error


def test_report_of_nothing_yet(run, capsys):
    assert run("--table", "4d", "--weights", "random", "--list") == 0
    capsys.readouterr()
    assert run("--table", "4d", "--weights", "random", "--report-only") == 2
    assert "run it without --report-only first" in capsys.readouterr().err


@pytest.mark.slow
def test_tables_from_clicks_to_report(root, tmp_path):
    """Table 1 on made images with tiny networks, stopped and gone on with, then Table 4d."""
    opts = {}
    for architecture in ("CPRNET", "P2PNET", "REPPOINTS"):
        words = tiny_opts(architecture, **{"SOLVER.MAX_ITER": 6})
        opts.update(zip(words[::2], words[1::2], strict=True))
    for key in ("MODEL.DEVICE", "MODEL.WEIGHTS", "SEED", "MODEL.REPPOINTS.IN_FEATURE"):
        del opts[key]
    opts.update(
        {
            "MODEL.REPPOINTS.IN_FEATURES": "['p2','p3','p4']",
            "MODEL.REPPOINTS.POINT_CONV_DIM": "32",
            "SOLVER.AMP.ENABLED": "False",
        }
    )

    def run(table, *more):
        command = [
            sys.executable,
            "tools/run_experiments.py",
            "--dataset",
            "made",
            "--table",
            table,
        ]
        command += ["--weights", "random", "--output", str(tmp_path / "out"), *more]
        command += [word for pair in opts.items() for word in pair]
        environment = {**os.environ, "DETECTRON2_DATASETS": str(root)}
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900
        )

    done = run("1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "report:" in done.stdout
    folder = tmp_path / "out" / "table_1"
    summary = json.loads((folder / "summary.json").read_text())
    assert [row["key"] for row in summary["rows"]] == [
        "reppoints",
        "coarse",
        "self",
        "cpr",
        "centre",
    ]
    assert (folder / "report.html").stat().st_size > 10_000
    again = run("4d")
    assert again.returncode == 0
    assert "started" not in again.stderr and again.stderr.count("done before, kept") == 8
    other = run("4d", "--schedule", "2")
    assert other.returncode == 2 and "another --output" in other.stderr
