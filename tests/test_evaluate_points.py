import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cpr.evaluation.point_ap import evaluate_points
from point_scenes import make_scene

ROOT = Path(__file__).parents[1]


def run(*arguments: object) -> subprocess.CompletedProcess:
    paths = [str(ROOT / "projects" / "CPR"), str(ROOT / "deploy")]
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "evaluate_points.py"), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def files(tmp_path):
    ground_truth, detections = make_scene(2)
    (tmp_path / "gt.json").write_text(json.dumps(ground_truth))
    (tmp_path / "det.json").write_text(json.dumps(detections))
    arguments = ["--annotations", tmp_path / "gt.json", "--predictions", tmp_path / "det.json"]
    return tmp_path, arguments, ground_truth, detections


def test_help_is_fast():
    start = time.perf_counter()
    result = run("--help")
    assert result.returncode == 0 and "--absent-classes" in result.stdout
    assert time.perf_counter() - start < 2


def test_metrics_file_and_table(files):
    folder, arguments, ground_truth, detections = files
    output = folder / "out" / "metrics.json"
    result = run(*arguments, "--output", output, "--bootstrap", 20, "--per-class")
    assert result.returncode == 0, result.stderr
    metrics = json.loads(output.read_text())
    expected = evaluate_points(ground_truth, detections)
    interval = metrics.pop("interval")
    assert metrics == expected
    assert list(interval) == ["0.5", "1.0", "2.0"] and len(interval["1.0"]) == 2
    assert f"{100 * expected['AP']['all']['1.0']:.2f}" in result.stdout
    assert "class 1" in result.stdout and "95 % interval" in result.stdout


def test_official_settings_and_radius(files):
    folder, arguments, ground_truth, detections = files
    output = folder / "metrics.json"
    flags = "--size-ranges tiny --max-dets 5 --ap coco --paper-ignore --box-centre official"
    flags += " --absent-classes official --tau 1"
    result = run(*arguments, *flags.split(), "--output", output)
    assert result.returncode == 0, result.stderr
    expected = evaluate_points(
        ground_truth,
        detections,
        taus=[1.0],
        size_ranges="tiny",
        max_dets=5,
        ap="coco",
        paper_ignore=True,
        box_centre="official",
        absent_classes="official",
    )
    assert json.loads(output.read_text()) == expected
    result = run(*arguments, "--radius", 4, 8)
    assert result.returncode == 0, result.stderr
    assert "F1" in result.stdout and "count MAE" in result.stdout


def test_bad_input(files):
    folder, arguments, _, detections = files
    output = folder / "metrics.json"
    detections[1]["image_id"] = 99
    (folder / "det.json").write_text(json.dumps(detections))
    result = run(*arguments, "--output", output)
    assert result.returncode == 2 and not output.exists()
    assert "det.json: detection 1" in result.stderr and "Traceback" not in result.stderr


def test_no_torch_is_loaded(files):
    _, arguments, _, _ = files
    code = (
        "import sys; sys.argv[0] = 'evaluate_points'; sys.path.insert(0, 'tools');"
        "import evaluate_points as tool; tool.main(sys.argv[1:]);"
        "sys.exit('torch' in sys.modules or 'detectron2' in sys.modules)"
    )
    paths = [str(ROOT / "projects" / "CPR"), str(ROOT / "deploy")]
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
