"""The examples of deploy/PICKING.md run as they stand."""

import json
import re
import types
from pathlib import Path

import numpy as np
import pytest

import spot_model
from cpr_deploy.camera import CameraModel
from cpr_deploy.files import write_json
from cpr_deploy.picking import hand_eye, hand_eye_inputs
from cpr_deploy.picking.results import RefusalCode
from cpr_deploy.picking.settings import PickSettings
from cpr_deploy.transforms import Transform

PAGE = (Path(__file__).parents[1] / "deploy/PICKING.md").read_text(encoding="utf-8")
# Looks down on the table from 1 m above (0.5, 0, 0).
DOWN = Transform(np.diag([1.0, -1, -1]), [0.5, 0, 1])


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.onnx
def test_the_loop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").write_bytes(spot_model.model_bytes())
    camera = CameraModel(256, 192, [[300, 0, 127.5], [0, 300, 95.5], [0, 0, 1]], "none")
    write_json("camera.json", camera.to_dict())
    hand_eye.save_hand_eye(
        "hand_eye.json", hand_eye.HandEye("eye_to_hand", DOWN, "refined", 0.001, 12)
    )
    (code,) = (block for block in blocks("python") if "PickQueue()" in block)
    cells, told = [(16, 12), (20, 12)], []
    arm = types.SimpleNamespace(
        pick=lambda position, approach: told.append((position, approach)) or True,
        stop=lambda code, reason: told.append(code),
    )
    now = iter(np.arange(0, 100, 0.001))

    def frames():
        for index in range(5):
            noise = np.random.default_rng(index).normal(0, 1, (192, 256))
            image = spot_model.picture(192, 256, cells)
            yield image, (1000 + noise).astype(np.uint16), 0.1 * index

    monkeypatch.setattr("time.time", lambda: float(next(now)) + 0.1 * len(told))
    exec(code, {"frames": frames(), "arm": arm})
    # Two frames for stability, then one object after the other.
    assert told[:2] == ["no_target", "no_target"]
    places = [position for position, _ in told[2:4]]
    spots = np.array([[8 * x + 4, 8 * y + 4] for x, y in cells])
    truth = DOWN.apply(camera.deproject(spots, np.ones(2)))
    for place in places:
        assert np.linalg.norm(truth - place, axis=1).min() < 0.02
    assert np.dot(told[2][1], [0, 0, -1]) > 0.99


def test_every_code_and_setting_of_the_page():
    for code in RefusalCode:
        assert f"`{code}`" in PAGE, code
    known = PickSettings.__dataclass_fields__
    settings, *_ = (json.loads(block) for block in blocks("json") if "max_age" in block)
    assert PickSettings.from_dict(settings).order == "distance"
    for name in known:
        assert f"`{name}`" in PAGE or f"`{name}=" in PAGE or f"`{name} " in PAGE, name


def test_the_files_of_the_page(tmp_path):
    poses, touched = (block for block in blocks("json") if "max_age" not in block)
    (tmp_path / "poses.json").write_text(poses)
    assert len(hand_eye_inputs.read_poses(tmp_path / "poses.json")) == 3
    (tmp_path / "touched.json").write_text(touched)
    camera = CameraModel(640, 480, [[600, 0, 320], [0, 600, 240], [0, 0, 1]], "none")
    in_camera, *_ = hand_eye_inputs.read_touched(tmp_path / "touched.json", camera, "eye_to_hand")
    np.testing.assert_allclose(in_camera[0, 2], 0.641)
