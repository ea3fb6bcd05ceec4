import json
import subprocess
import sys
import time

import numpy as np
import pytest

import tiny_localizer
from cpr_deploy import timing
from cpr_deploy.files import InputError
from cpr_deploy.video_writer import open_video

pytestmark = pytest.mark.onnx
SCRIPT = tiny_localizer.ROOT / "deploy" / "benchmark.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """model.onnx and clip.mp4, 12 frames of 96x64 px."""
    path = tmp_path_factory.mktemp("benchmark")
    (path / "model.onnx").write_bytes(tiny_localizer.exported_bytes())
    with open_video(path / "clip.mp4") as video:
        for index in range(12):
            video.write(tiny_localizer.scene(64, 96, index), index / 25)
    return path


def test_all_take_turns_and_nobody_is_always_first():
    order = []
    functions = [lambda n, name=name: order.append((name, n)) for name in "abc"]
    times = timing.interleave(functions, 3)
    assert "".join(name for name, _ in order) == "abcbcacab"
    assert [number for _, number in order] == [0] * 3 + [1] * 3 + [2] * 3
    assert [len(own) for own in times] == [3, 3, 3]


def test_seconds_belong_to_the_function_that_took_them():
    slow, quick = timing.interleave([lambda _: time.sleep(0.02), lambda _: None], 4)
    assert min(slow) >= 0.02 > max(quick)


def test_figures_of_models(folder):
    data = (folder / "model.onnx").read_bytes()
    labels = ("one", "two")
    candidates = [timing.load(label, data, threads=1, resize="none") for label in labels]
    frames = [tiny_localizer.scene(64, 96, seed) for seed in range(3)]
    figures = timing.time_models(candidates, frames, rounds=6, warm_up=2)
    assert tuple(figures) == labels
    for row in figures.values():
        stages = row["stages"]
        assert list(stages) == ["preprocess", "infer", "postprocess", "total"]
        # Warm-up and first frame are not among the timed ones.
        assert {stage["count"] for stage in stages.values()} == {6}
        assert stages["total"]["mean"] >= stages["infer"]["mean"]
        # Rate and mean time are of the same turns.
        assert row["fps"] == pytest.approx(1e3 / stages["total"]["mean"], rel=1e-6)
        assert row["load_seconds"] > 0 and row["first_frame_seconds"] > 0
        assert row["providers"] == ["CPUExecutionProvider"] and row["precision"] == "fp32"
    counts = [len(candidates[0].localizer(frame)) for frame in frames] * 2
    assert figures["one"]["points"] == {"mean": np.mean(counts), "max": max(counts)}
    text = timing.figures_table(figures)
    assert "one (fp32, CPUExecutionProvider)" in text and "two: " in text


def test_figures_from_the_decoder_on(folder):
    candidate = timing.load("one", folder / "model.onnx", threads=1, resize="none")
    row = timing.time_pipeline(candidate, str(folder / "clip.mp4"), limit=5, write=True)
    assert row["frames"] == 5
    stages = ["decode", "preprocess", "infer", "postprocess", "draw", "write"]
    assert list(row["stages"]) == stages
    assert {stage["count"] for stage in row["stages"].values()} == {5}
    assert row["fps_without_decode"] > row["fps"] > 0
    plain = timing.time_pipeline(candidate, str(folder / "clip.mp4"), limit=99, write=False)
    assert plain["frames"] == 12 and "draw" not in plain["stages"]


def test_a_source_without_frames(tmp_path):
    with pytest.raises(InputError):
        timing.read_frames(str(tmp_path), 3)


def script(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=tiny_localizer.environment(),
    )


def test_script_compares_files_and_providers(folder, tmp_path):
    copy = tmp_path / "copy.onnx"
    copy.write_bytes((folder / "model.onnx").read_bytes())
    output = tmp_path / "figures.json"
    done = script(
        *("--model", folder / "model.onnx", copy, "--source", folder / "clip.mp4"),
        *("--rounds", 6, "--warm-up", 1, "--threads", 1, "--write", "--output", output),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    labels = ["model on cpu", "copy on cpu"]
    assert list(report["in_memory"]) == labels and list(report["from_decoder"]) == labels
    for label in labels:
        memory, decoder = report["in_memory"][label], report["from_decoder"][label]
        assert decoder["share_of_model_rate"] == pytest.approx(decoder["fps"] / memory["fps"])
        assert {"decode", "infer", "draw", "write"} <= set(decoder["stages"])
        assert {"p50", "p95", "p99"} <= set(memory["stages"]["infer"])
    assert {"onnxruntime", "cpu", "cores", "gpu", "numpy"} <= set(report["machine"])
    assert "copy on cpu:" in done.stdout and "p95" in done.stdout


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--rounds", 0], "--rounds 0"),
        (["--size", "720"], "--size 720"),
        (["--write"], "--write needs --source"),
        (["--providers", "gpu"], "execution provider 'gpu'"),
        (["--resize", "half"], "--resize half"),
    ],
)
def test_bad_options(folder, arguments, message):
    done = script("--model", folder / "model.onnx", *arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
