"""The checks for a GPU, rehearsed on the CPU with small networks."""

import json
import subprocess
import sys

import pytest

import tiny_localizer

pytestmark = [pytest.mark.onnx, pytest.mark.slow]
SCRIPT = tiny_localizer.ROOT / "benchmarks" / "gpu_checks.py"
SMALL = [
    *("MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"),
    *("MODEL.P2PNET.PRE_NMS_TOPK", "300", "MODEL.P2PNET.MAX_DETS", "200", "MODEL.DEVICE", "cpu"),
]


def run(folder, *more):
    return subprocess.run(
        [
            *(sys.executable, str(SCRIPT), "--provider", "cpu", "--size", "128x160"),
            *("--rounds", "3", "--models", str(folder / "models"), *more, "--opts", *SMALL),
        ],
        capture_output=True,
        text=True,
        timeout=280,
        env=tiny_localizer.environment(),
    )


def test_rehearsal(tmp_path):
    assert run(tmp_path, "--export-only").returncode == 0
    files = sorted((tmp_path / "models").rglob("*.onnx"))
    assert len(files) == 5
    times = [path.stat().st_mtime_ns for path in files]
    output = tmp_path / "checks.json"
    done = run(tmp_path, "--output", str(output))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.stat().st_mtime_ns for path in files] == times
    report = json.loads(output.read_text())
    passed = {row["name"]: row["passed"] for row in report["checks"]}
    # Speed is not judged here; where nodes run and what they find is.
    judged = {name for name, value in passed.items() if value is not None}
    assert len(judged) == 5 + 5 + 4 and all(passed[name] for name in judged)
    assert any("p95" in name for name in passed) and any("NMS" in name for name in passed)

    # A file that finds other points is noticed.
    by_name = {path.stem: path for path in files}
    by_name["realtime_fp16"].write_bytes(by_name["paper_fp16"].read_bytes())
    done = run(tmp_path, "--output", str(output))
    assert done.returncode == 1
    assert "failed: realtime_fp16: points as on the CPU" in done.stderr
