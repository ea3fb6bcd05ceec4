import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import boards
from boards import CAMERA, CHESS
from cpr_deploy.files import InputError, write_json
from cpr_deploy.image_files import write_rgb
from cpr_deploy.picking import hand_eye, hand_eye_inputs
from cpr_deploy.picking.board import board_pose
from cpr_deploy.picking.hand_eye_inputs import View
from cpr_deploy.picking.hand_eye_solvers import SOLVERS
from cpr_deploy.picking.picker import PointPicker
from cpr_deploy.transforms import Transform
from tool_runner import run_script

HAND_FROM_CAMERA = Transform(
    Rotation.from_euler("xyz", [10, -5, 92], degrees=True).as_matrix(), [0.03, -0.06, 0.11]
)
BASE_FROM_BOARD = Transform(
    Rotation.from_euler("xyz", [2, 3, 40], degrees=True).as_matrix(), [0.5, 0.1, 0.02]
)
GRID = np.stack(np.meshgrid(np.arange(8), np.arange(5)), axis=2).reshape(-1, 2) * CHESS.square
PLACES = np.column_stack([GRID, np.zeros(len(GRID))])


def arm_pose(kind, camera_from_board):
    """base_from_hand that makes the camera see the board so.

    Eye to hand: HAND_FROM_CAMERA is the camera in the base, BASE_FROM_BOARD the board in the hand.
    """
    if kind == "eye_in_hand":
        return BASE_FROM_BOARD @ (HAND_FROM_CAMERA @ camera_from_board).inverse()
    return HAND_FROM_CAMERA @ camera_from_board @ BASE_FROM_BOARD.inverse()


def views(kind, count=12, px=0.0, seed=0, arm=0.0):
    """Corners by projection, with noise of px, and of the arm's translation (m)."""
    rng = np.random.default_rng(seed)
    made = []
    for index, pose in enumerate(boards.poses_over(CHESS, rng, count)):
        xy = CAMERA.project(pose.apply(PLACES)) + rng.normal(0, 1, (len(PLACES), 2)) * px
        held = arm_pose(kind, pose)
        held = Transform(held.rotation, held.translation + rng.normal(0, 1, 3) * arm)
        found, _ = board_pose(CAMERA, PLACES, xy)
        made.append(View(f"{index}.png", held, PLACES, xy, found))
    return made


def off(result):
    """Of the truth: degrees and m."""
    turn = Rotation.from_matrix(HAND_FROM_CAMERA.rotation.T @ result.transform.rotation)
    shift = result.transform.translation - HAND_FROM_CAMERA.translation
    return np.degrees(turn.magnitude()), np.linalg.norm(shift)


# --- from views of a board ---


@pytest.mark.parametrize("kind", hand_eye.KINDS)
def test_exact_views_give_the_truth_by_every_method(kind):
    result = hand_eye.calibrate_views(views(kind), CAMERA, kind)
    turn, shift = off(result)
    assert turn < 1e-4 and shift < 1e-6 and result.residual < 1e-6
    assert set(result.details["methods"]) == {*SOLVERS, "refined"}
    for row in result.details["methods"].values():
        assert row["left_out"] < 2e-5 and row["turn"] < 1e-3 and row["pixels"] < 0.02


@pytest.mark.parametrize("kind", hand_eye.KINDS)
def test_noisy_views(kind):
    """A fifth of a px, half a mm of the arm: the residual tells about the true error."""
    result = hand_eye.calibrate_views(views(kind, 15, px=0.2, arm=0.0005), CAMERA, kind)
    turn, shift = off(result)
    assert turn < 0.3 and shift < 0.002
    assert 0.0003 < result.residual < 0.002
    best = min(row["left_out"] for row in result.details["methods"].values())
    assert result.residual == pytest.approx(best, abs=1e-6)
    assert len(result.details["views"]) == result.samples == 15


def test_a_wrong_pose_is_named():
    made = views("eye_in_hand", 12, px=0.1)
    wrong = made[4].base_from_hand
    made[4] = View(
        "wrong.png",
        Transform(wrong.rotation, wrong.translation + [0.03, 0, 0]),
        *(getattr(made[4], name) for name in ("places", "xy", "camera_from_board")),
    )
    result = hand_eye.calibrate_views(made, CAMERA, "eye_in_hand", max_residual=0.1)
    worst = max(result.details["views"], key=lambda row: row["left_out"])
    assert worst["image"] == "wrong.png" and worst["left_out"] > 0.02
    with pytest.raises(InputError, match="above the limit of 5.0 mm; worst .* out: wrong.png"):
        hand_eye.calibrate_views(made, CAMERA, "eye_in_hand")


def test_an_arm_that_turns_about_one_axis_only():
    made = []
    for angle in range(0, 360, 30):
        turned = Rotation.from_euler("z", angle, degrees=True).as_matrix()
        pose = Transform(turned, [0.0, 0.0, 0.5] - turned @ PLACES.mean(axis=0))
        xy = CAMERA.project(pose.apply(PLACES))
        made.append(View(f"{angle}", arm_pose("eye_in_hand", pose), PLACES, xy, pose))
    with pytest.raises(InputError, match="at least two axes"):
        hand_eye.calibrate_views(made, CAMERA, "eye_in_hand")


def test_too_few_views_and_unknown_kinds():
    with pytest.raises(InputError, match="3 images show the board; at least 4"):
        hand_eye.calibrate_views(views("eye_in_hand")[:3], CAMERA, "eye_in_hand")
    with pytest.raises(InputError, match="kind 'eye'"):
        hand_eye.calibrate_views(views("eye_in_hand"), CAMERA, "eye")


# --- from touched points ---


def touched(noise=0.0, seed=0, count=8):
    rng = np.random.default_rng(seed)
    in_camera = rng.uniform([-0.2, -0.15, 0.5], [0.2, 0.15, 0.8], (count, 3))
    in_base = HAND_FROM_CAMERA.apply(in_camera)
    return in_camera, in_base + rng.normal(0, 1, in_base.shape) * noise


def test_touched_points():
    result = hand_eye.calibrate_touched(*touched(), "eye_to_hand")
    np.testing.assert_allclose(result.transform.matrix(), HAND_FROM_CAMERA.matrix(), atol=1e-12)
    noisy = hand_eye.calibrate_touched(*touched(noise=0.001), "eye_to_hand")
    turn, shift = off(noisy)
    assert turn < 0.6 and shift < 0.006 and 0.0005 < noisy.residual < 0.004


def test_touched_points_with_the_camera_on_the_arm():
    in_camera, in_hand = touched()
    poses = [
        Transform(rotation.as_matrix(), [0.1 * i, 0, 0.5])
        for i, rotation in enumerate(Rotation.random(len(in_camera), random_state=0))
    ]
    in_base = [pose.apply(place) for pose, place in zip(poses, in_hand, strict=True)]
    result = hand_eye.calibrate_touched(in_camera, in_base, "eye_in_hand", poses)
    np.testing.assert_allclose(result.transform.matrix(), HAND_FROM_CAMERA.matrix(), atol=1e-9)
    with pytest.raises(InputError, match="base_from_hand of each point"):
        hand_eye.calibrate_touched(in_camera, in_base, "eye_in_hand")


def test_a_point_in_mm_is_named():
    in_camera, in_base = touched()
    in_base[3] *= [1000, 1, 1]
    with pytest.raises(InputError, match=r"worst when left out: points\[3\] .*units \(m\)"):
        hand_eye.calibrate_touched(in_camera, in_base, "eye_to_hand")


def test_touched_points_on_a_line_or_too_few():
    in_camera, _ = touched()
    line = in_camera[0] + np.linspace(0, 1, 8)[:, None] * [0.3, 0.1, 0]
    with pytest.raises(InputError, match="within 0 mm of a line"):
        hand_eye.calibrate_touched(line, HAND_FROM_CAMERA.apply(line), "eye_to_hand")
    with pytest.raises(InputError, match="3 touched points"):
        hand_eye.calibrate_touched(in_camera[:3], in_camera[:3], "eye_to_hand")
    # A plane is enough.
    flat = in_camera * [1, 1, 0] + [0, 0, 0.6]
    result = hand_eye.calibrate_touched(flat, HAND_FROM_CAMERA.apply(flat), "eye_to_hand")
    np.testing.assert_allclose(result.transform.matrix(), HAND_FROM_CAMERA.matrix(), atol=1e-9)


# --- files and the command ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten photographs of a chessboard from a camera on the arm, and one without a board."""
    root = tmp_path_factory.mktemp("hand_eye")
    records = []
    (root / "images").mkdir()
    for index, pose in enumerate(boards.poses_over(CHESS, np.random.default_rng(5), 10)):
        write_rgb(root / f"images/{index}.png", boards.photograph(CHESS, pose), jpeg_quality=95)
        held = arm_pose("eye_in_hand", pose)
        vector = Rotation.from_matrix(held.rotation).as_rotvec().tolist()
        form = {"rotation_vector": vector, "translation": held.translation.tolist()}
        forms = (held.to_dict(), {"matrix": held.matrix().tolist()}, form)
        records.append({"image": f"{index}.png", **forms[index % 3]})
    blank = np.full((480, 640, 3), 128, np.uint8)
    write_rgb(root / "images/blank.png", blank, jpeg_quality=95)
    records.append({"image": "blank.png", **Transform.identity().to_dict()})
    write_json(root / "poses.json", {"poses": records})
    write_json(root / "camera.json", CAMERA.to_dict())
    return root


@pytest.fixture
def command(folder, capsys):
    """Runs the script with the folder's camera: exit code, standard output and error."""

    def run(*words):
        code = run_script(
            "deploy/calibrate_hand_eye.py", "--camera", folder / "camera.json", *words
        )
        return code, *capsys.readouterr()

    return run


def test_the_command_on_photographs(folder, command):
    code, out, err = command(
        *("--mount", "hand", "--images", folder / "images", "--poses", folder / "poses.json"),
        *("--board", "chessboard:8x5:0.03", "--output", folder / "result.json"),
    )
    assert code == 0, err
    assert "10 images show the board" in out and "blank.png" in out
    for method in (*SOLVERS, "refined"):
        assert f"\n{method}" in out
    result = hand_eye.load_hand_eye(folder / "result.json")
    turn, shift = off(result)
    assert result.kind == "eye_in_hand" and result.samples == 10
    assert turn < 0.1 and shift < 0.001 and result.residual < 0.001
    # It is what a picker takes.
    PointPicker(CAMERA, **result.pose())


def test_the_command_on_touched_points(command, tmp_path):
    in_camera, in_base = touched()
    xy = CAMERA.project(in_camera)
    records = [
        {"pixel": at.tolist(), "depth": float(place[2]), "base": base.tolist()}
        for at, place, base in zip(xy, in_camera, in_base, strict=True)
    ]
    records[0] = {"camera": in_camera[0].tolist(), "base": in_base[0].tolist()}
    write_json(tmp_path / "touched.json", {"points": records})
    words = ("--mount", "fixed", "--points", tmp_path / "touched.json")
    code, out, err = command(*words, "--output", tmp_path / "result.json")
    assert code == 0, err
    result = hand_eye.load_hand_eye(tmp_path / "result.json")
    np.testing.assert_allclose(result.transform.matrix(), HAND_FROM_CAMERA.matrix(), atol=1e-5)
    assert list(result.pose()) == ["base_from_camera"]


def test_a_bad_calibration_is_not_written(command, tmp_path):
    in_camera, in_base = touched(noise=0.05)
    records = [
        {"camera": one.tolist(), "base": other.tolist()}
        for one, other in zip(in_camera, in_base, strict=True)
    ]
    write_json(tmp_path / "touched.json", {"points": records})
    words = ("--mount", "fixed", "--points", tmp_path / "touched.json")
    code, out, err = command(*words, "--output", tmp_path / "result.json")
    assert code == 2 and "above the limit of 5.0 mm" in err
    assert not (tmp_path / "result.json").exists()


GOOD = hand_eye.HandEye("eye_to_hand", HAND_FROM_CAMERA, "refined", 0.001, 10).to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is no hand-eye calibration"),
        ({"version": 2}, "is of version 2, this program reads 1"),
        ({"kind": "eye"}, "kind 'eye'"),
        ({"transform": {"rotation": [1, 1, 1, 1], "translation": [0, 0, 0]}}, "has length 2"),
        ({"transform": None}, "transform: is no transform"),
        ({"residual": 0.02}, "residual is 20.0 mm, above the limit of 5.0 mm"),
        ({"residual": None}, "residual None"),
        ({"samples": 0}, "samples 0"),
    ],
)
def test_a_result_file_is_checked_when_read(tmp_path, change, message):
    path = tmp_path / "result.json"
    path.write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(InputError, match=f"result.json.*{message}"):
        hand_eye.load_hand_eye(path)


def test_a_result_file_round_trips(tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(GOOD))
    found = hand_eye.load_hand_eye(path)
    assert (found.kind, found.method, found.samples) == ("eye_to_hand", "refined", 10)
    np.testing.assert_allclose(found.transform.matrix(), HAND_FROM_CAMERA.matrix(), atol=1e-15)
    assert hand_eye.load_hand_eye(path, max_residual=0.001).residual == 0.001
    with pytest.raises(InputError, match="above the limit"):
        hand_eye.load_hand_eye(path, max_residual=0.0009)


@pytest.mark.parametrize(
    ("poses", "message"),
    [
        ([], "is needed|needed"),
        ({"poses": [1]}, "needed"),
        (
            {"poses": [{"rotation": [0, 0, 0, 1], "translation": [0, 0, 0]}]},
            r"poses\[0\]: image None",
        ),
        ({"poses": [{"image": "0.png", "translation": [0, 0, 0]}]}, r"poses\[0\]: is no transform"),
        (
            {"poses": [{"image": "0.png", "rotation_vector": [0, 0], "translation": [0, 0, 0]}]},
            r"poses\[0\]: rotation_vector",
        ),
        ({"poses": [{"image": "no.png", **GOOD["transform"]}]}, "have no pose in"),
    ],
)
def test_bad_poses(folder, tmp_path, poses, message):
    write_json(tmp_path / "poses.json", poses)
    with pytest.raises(InputError, match=message):
        hand_eye_inputs.read_views(folder / "images", tmp_path / "poses.json", CAMERA, CHESS)


def test_images_of_another_resolution(folder):
    half = CAMERA.scaled(320, 240)
    with pytest.raises(InputError, match="is 640x480 px, the camera 320x240"):
        hand_eye_inputs.read_views(folder / "images", folder / "poses.json", half, CHESS)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"camera": [0, 0, 1]}, r"points\[0\]: base None"),
        ({"base": [0, 0, 0]}, r"points\[0\]: pixel"),
        ({"base": [0, 0, 0], "pixel": [1, 1], "depth": -1}, "show no place"),
        ({"base": [0, 0, 0], "camera": [0, 0]}, r"points\[0\]: camera"),
        (
            {"base": [0, 0, 0], "camera": [0, 0, 1], "base_from_hand": GOOD["transform"]},
            "1 of 1 points have base_from_hand",
        ),
    ],
)
def test_bad_touched_points(tmp_path, record, message):
    write_json(tmp_path / "touched.json", {"points": [record]})
    with pytest.raises(InputError, match=message):
        hand_eye_inputs.read_touched(tmp_path / "touched.json", CAMERA, "eye_to_hand")


def test_options_that_do_not_fit(folder, command):
    for words in (
        ("--points", "a.json", "--images", "b"),
        ("--images", "b"),
        (),
        ("--points", "a.json", "--max-residual", "0"),
    ):
        code, out, err = command("--mount", "hand", "--output", folder / "x.json", *words)
        assert code == 2 and err.startswith("error: ")
