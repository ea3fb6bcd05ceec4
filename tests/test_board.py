import numpy as np
import pytest

import boards
from boards import CAMERA, CHARUCO, CHESS
from cpr_deploy.camera import CameraModel
from cpr_deploy.files import InputError
from cpr_deploy.picking.board import Board, board_pose
from depth_scenes import pixels_of

FISHEYE = CameraModel(640, 480, CAMERA.k, "equidistant", [0.02, 0.01, 0, 0])


@pytest.mark.parametrize("board", [CHESS, CHARUCO], ids=["chessboard", "charuco"])
def test_corners_and_pose_of_a_photograph(board):
    """Any way round: the first corner is always the same one."""
    for pose in boards.poses_over(board, np.random.default_rng(0), 6):
        places, xy = board.find(boards.photograph(board, pose))
        truth = pixels_of(CAMERA, pose.inverse(), places)
        assert np.abs(xy - truth).max() < 0.5 and np.abs(xy - truth).mean() < 0.1
        found, error = board_pose(CAMERA, places, xy)
        assert error < 0.15
        np.testing.assert_allclose(found.translation, pose.translation, atol=1.5e-3)
        np.testing.assert_allclose(found.rotation, pose.rotation, atol=5e-3)


def test_pose_through_a_fisheye_lens():
    for pose in boards.poses_over(CHESS, np.random.default_rng(1), 5):
        grid = np.stack(np.meshgrid(np.arange(8), np.arange(5)), axis=2).reshape(-1, 2) * 0.03
        places = np.column_stack([grid, np.zeros(len(grid))])
        found, error = board_pose(FISHEYE, places, FISHEYE.project(pose.apply(places)))
        assert error < 1e-3
        np.testing.assert_allclose(found.matrix(), pose.matrix(), atol=1e-5)


@pytest.mark.parametrize("board", [CHESS, CHARUCO], ids=["chessboard", "charuco"])
def test_no_board_in_the_image(board):
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    assert board.find(noise) is None
    assert board.find(np.zeros((480, 640, 3), np.uint8)) is None


def test_boards_from_text():
    assert Board.from_text("chessboard:8x5:0.03") == CHESS
    assert Board.from_text("charuco:8x6:0.03:0.022:DICT_4X4_50") == CHARUCO


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chessboard:9x7:0.03", "looks the same upside down"),
        ("chessboard:9x6:30", "squares of a side in metres"),
        ("chessboard:2x1:0.03", "at least 3x3"),
        ("chessboard:9:0.03", "is needed"),
        ("circles:9x6:0.03", "is needed"),
        ("charuco:7x5:0.03:0.04:DICT_4X4_50", "does not fit its square"),
        ("charuco:7x5:0.04:0.03:DICT_NONE", "no dictionary"),
        ("charuco:7x5:0.04:0.03:CORNER_REFINE_NONE", "no dictionary"),
        ("", "is needed"),
    ],
)
def test_bad_boards(text, message):
    with pytest.raises(InputError, match=message):
        Board.from_text(text)
