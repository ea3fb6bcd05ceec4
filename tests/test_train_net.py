"""tools/train_net.py as a user runs it."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch

from scenes import edit_json, tiny_opts, write_scenes


@pytest.fixture
def scenes(tmp_path):
    return write_scenes(tmp_path, images=4, num_classes=2)


@pytest.fixture
def train_net(request):
    root = request.config.rootpath

    def run(*args):
        environment = {
            **os.environ,
            "PYTHONPATH": f"{root / 'projects/CPR'}{os.pathsep}{root / 'deploy'}",
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.run(
            [sys.executable, str(root / "tools" / "train_net.py"), *map(str, args)],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
        )

    return run


def options(scenes, architecture, output, **overrides):
    spec = f"points:{scenes[0]}@{scenes[1]}"
    return [
        *tiny_opts(architecture.upper(), **overrides),
        *("DATASETS.TRAIN", spec, "DATASETS.TEST", spec, "OUTPUT_DIR", output),
    ]


@pytest.mark.parametrize("architecture, task", [("CPRNet", "refinement"), ("P2PNet", "points")])
def test_two_processes_equal_one(train_net, scenes, tmp_path, architecture, task):
    """Same losses, weights and evaluation; the objects per image differ."""
    weights, logs = [], []
    for processes in (1, 2):
        output = tmp_path / f"processes{processes}"
        changes = {"SOLVER.IMS_PER_BATCH": 4, "MODEL.P2PNET.SCORE_THRESH": 0.001}
        done = train_net(
            *("--config-file", f"configs/Base-{architecture}.yaml", "--num-gpus", processes),
            *options(scenes, architecture, output, **changes),
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert f"Finished. weights: {output / 'model_final.pth'}" in done.stdout
        weights.append(torch.load(output / "model_final.pth", weights_only=True)["model"])
        logs.append(json.loads((output / "metrics.json").read_text().splitlines()[-1]))
    compared = [key for key in logs[0] if key.startswith(("loss", "total_loss", f"{task}/"))]
    assert len(compared) > 3
    for key in compared:
        assert logs[1][key] == pytest.approx(logs[0][key], rel=1e-4, abs=1e-6, nan_ok=True), key
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-3, atol=1e-5, msg=key)


def test_bad_input_ends_with_a_clear_line(train_net, scenes, tmp_path):
    edit_json(scenes[0], lambda dataset: dataset["annotations"][1].update(point=[10, 1000]))
    base = ["--config-file", "configs/Base-P2PNet.yaml"]
    for processes in ("1", "2"):
        done = train_net(
            *base, "--num-gpus", processes, *options(scenes, "P2PNet", tmp_path / "out")
        )
        assert done.returncode == 2
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("error: ") and "scenes.json" in last and "annotation id 101" in last
    done = train_net("--config-file", "nowhere.yaml")
    assert done.returncode == 2 and "nowhere.yaml" in done.stderr


def test_help_is_fast(train_net):
    start = time.perf_counter()
    done = train_net("--help")
    assert done.returncode == 0 and "--num-gpus" in done.stdout
    assert time.perf_counter() - start < 2
