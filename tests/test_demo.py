import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cpr.demo import neon_trees
from cpr.demo.pan_clip import pan_path, write_pan
from cpr.demo.pipeline import ROWS, DemoSettings, build_steps, max_iterations
from cpr.demo.summary import chance_level, compare_detections, video_facts
from cpr.evaluation.gap_closed import gap_closed
from cpr_deploy.files import InputError

ROOT = Path(__file__).resolve().parents[1]


def test_steps_only_read_what_earlier_steps_write(tmp_path):
    steps = build_steps(DemoSettings(root=ROOT, output=tmp_path))
    by_name = {step.name: step for step in steps}
    ancestors = {}
    for step in steps:
        todo, seen = list(step.after), set()
        while todo:
            name = todo.pop()
            seen.add(name)
            todo += by_name[name].after
        ancestors[step.name] = seen
    for step in steps:
        for path in step.inputs:
            if path.is_relative_to(ROOT):
                assert path.is_file(), path
                continue
            writers = {s.name for s in steps if path in s.outputs}
            assert writers & ancestors[step.name], f"{step.name} reads {path}"


def test_heldout_images_are_never_trained_on():
    settings = DemoSettings(root=ROOT, output=ROOT / "output" / "demo")
    for step in build_steps(settings):
        if step.iterations is not None or step.name == "refine":
            assert not any("heldout" in argument for argument in step.command)


def test_rows_differ_in_their_points_only(tmp_path):
    steps = {s.name: s for s in build_steps(DemoSettings(root=ROOT, output=tmp_path))}
    commands = {
        row: [argument.replace(row, "ROW") for argument in steps[f"p2pnet_{row}"].command]
        for row in ROWS
    }
    assert commands["coarse"] == commands["refined"] == commands["centre"]


def test_commands_do_not_depend_on_where_the_repository_lies():
    settings = DemoSettings(root=ROOT, output=ROOT / "output" / "demo")
    for step in build_steps(settings):
        assert not any(str(ROOT) in argument for argument in step.command[1:])


@pytest.mark.parametrize("name", ["cprnet", "p2pnet"])
def test_configs_build_the_small_network(name):
    engine = pytest.importorskip("cpr.engine")
    settings = DemoSettings(root=ROOT, output=Path("x"))
    path = getattr(settings, f"{name}_config")
    cfg = engine.build_cfg(path)
    assert max_iterations(path) == cfg.SOLVER.MAX_ITER
    assert cfg.MODEL.META_ARCHITECTURE.lower() == name
    node = cfg.MODEL[name.upper()]
    assert (node.NUM_CLASSES, node.IN_FEATURE, node.CONV_DIM) == (1, "p2", 128)
    assert cfg.MODEL.WEIGHTS == "" and cfg.MODEL.BACKBONE.FREEZE_AT == 0
    assert cfg.MODEL.RESNETS.NORM == cfg.MODEL.FPN.NORM == node.NORM == "GN"


@pytest.mark.parametrize("frames", [1, 7, 100])
def test_pan_stays_inside_and_is_smooth(frames):
    corners = pan_path((937, 776), (640, 480), frames)
    assert len(corners) == frames and corners[0] == (0, 0)
    steps = [abs(a - c) + abs(b - d) for (a, b), (c, d) in zip(corners, corners[1:], strict=False)]
    for x, y in corners:
        assert 0 <= x <= 937 - 640 and 0 <= y <= 776 - 480
    assert all(step <= 2 * (297 + 296) / frames + 2 for step in steps)


def test_pan_over_an_image_of_the_window_s_size():
    assert pan_path((64, 48), (64, 48), 3) == [(0, 0)] * 3
    with pytest.raises(ValueError, match="does not fit"):
        pan_path((60, 48), (64, 48), 3)


def test_pan_clip_shows_the_image(tmp_path):
    av = pytest.importorskip("av")
    image = np.zeros((121, 161, 3), dtype=np.uint8)
    image[:, :, 0] = np.linspace(0, 255, 161)
    write_pan(image, tmp_path / "pan.mp4", window=(64, 48), frames=5, fps=10)
    with av.open(str(tmp_path / "pan.mp4")) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 10
    assert len(frames) == 5 and frames[0].shape == (48, 64, 3)
    for (x, y), frame in zip(pan_path((161, 121), (64, 48), 5), frames, strict=True):
        expected = image[y : y + 48, x : x + 64, 0].astype(float)
        assert np.abs(frame[:, :, 0] - expected).mean() < 6


@pytest.mark.parametrize(
    ("coarse", "refined", "centre", "error", "expected"),
    [
        (0.3848, 0.5546, 0.5747, 0.0, pytest.approx(0.894, abs=1e-3)),  # the paper's, on COCO
        (0.50, 0.45, 0.60, 0.0, pytest.approx(-0.5)),
        (0.50, 0.55, 0.515, 0.0, None),
        (0.50, 0.55, 0.60, 0.06, None),
        (0.60, 0.55, 0.50, 0.0, None),
    ],
)
def test_gap_closed(coarse, refined, centre, error, expected):
    assert gap_closed(coarse, refined, centre, standard_error=error) == expected


def detection(x, y, score=0.5, image_id=1):
    return {"image_id": image_id, "category_id": 1, "point": [x, y], "score": score}


def test_detections_are_compared_one_to_one():
    first = [detection(1, 1), detection(5, 5), detection(9, 9, image_id=2)]
    second = [detection(5, 5.0625, 0.6), detection(1, 1), detection(1.05, 1), detection(9, 9)]
    result = compare_detections(first, second)
    assert result["points"] == 3
    assert result["max_point_difference_px"] == pytest.approx(0.0625)
    assert result["max_score_difference"] == pytest.approx(0.1)
    # One of the two near (1, 1), and (9, 9), which lies in different images.
    assert result["unmatched"] == 3


def test_chance_level_grows_with_tau_and_density():
    def scene(side):
        boxes = [[x, y, side, side] for x in range(0, 100, 25) for y in range(0, 100, 25)]
        annotations = [
            {"id": i, "image_id": 1, "category_id": 4, "bbox": box} for i, box in enumerate(boxes)
        ]
        images = [{"id": 1, "file_name": "a.png", "width": 100, "height": 100}]
        categories = [{"id": 4, "name": "tree"}]
        return {"images": images, "annotations": annotations, "categories": categories}

    sparse, dense = chance_level(scene(3), seed=0), chance_level(scene(20), seed=0)
    assert sparse["1.0"] < 0.1 < 0.4 < dense["1.0"]
    assert dense["0.5"] < dense["1.0"] < dense["2.0"] <= 1


def test_video_facts(tmp_path):
    path = tmp_path / "points.jsonl"
    lines = [
        {"type": "frame", "latency_ms": {"decode": 10, "infer": 40}, "points": [{}, {}]},
        {"type": "drop", "count": 3},
        {"type": "frame", "latency_ms": {"decode": 10, "infer": 40}, "points": [{}]},
        {"type": "end", "frames": 2},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert video_facts(path) == {"frames": 2, "fps": 20.0, "points_per_frame": 1.5}
    path.write_text(json.dumps(lines[3]))
    with pytest.raises(InputError, match="no frame"):
        video_facts(path)


@pytest.mark.slow
@pytest.mark.onnx
@pytest.mark.timeout(900)
def test_quick_demo_runs_through_and_then_has_nothing_to_do(tmp_path):
    try:
        neon_trees.fetch_wheel(neon_trees.cache_folder())
    except InputError as error:
        pytest.skip(f"the data cannot be had here: {error}")
    output = tmp_path / "demo"
    command = [sys.executable, "tools/demo.py", "--output", str(output), "--quick"]
    command += ["--device", "cpu"]
    packages = [str(ROOT / "projects" / "CPR"), str(ROOT / "deploy")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(packages)}

    def run():
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )

    done = run()
    assert done.returncode == 0, done.stderr[-4000:]
    assert "gap closed" in done.stdout
    for name in ("summary.json", "report.html", "model.onnx", "points.mp4", "points.jsonl"):
        assert (output / name).stat().st_size > 0, name
    summary = json.loads((output / "summary.json").read_text())
    assert [row["train_points"] for row in summary["rows"]] == list(ROWS)
    for row in summary["rows"]:
        assert set(row["AP"]) == {"0.5", "1.0", "2.0"} and len(row["interval"]) == 2
    assert set(summary["chance"]) == {"0.5", "1.0", "2.0"}
    assert {"coarse", "refined", "inside_coarse", "inside_refined"} <= set(summary["rsv"])
    # Nearly untrained, all scores are close together: what rounding and the padding's rounded mean
    # add changes which points NMS keeps, but not how good they are.
    assert summary["onnx"]["max_score_difference"] < 1e-3
    assert summary["onnx"]["AP"]["1.0"] == pytest.approx(summary["rows"][1]["AP"]["1.0"], abs=0.05)
    assert summary["video"]["frames"] == 4 and summary["video"]["fps"] > 0
    assert summary["seed"] == 0 and summary["versions"]["torch"]

    again = run()
    assert again.returncode == 0
    assert again.stderr.count("done before, kept") == len(
        build_steps(DemoSettings(root=ROOT, output=output))
    )
