"""Pictures of calibration boards from known poses, by ray casting."""

from __future__ import annotations

import functools

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from cpr_deploy.camera import CameraModel
from cpr_deploy.picking.board import Board
from cpr_deploy.transforms import Transform
from depth_scenes import rays_of

CAMERA = CameraModel(
    640,
    480,
    [[620.0, 0, 318.3], [0, 618.0, 243.1], [0, 0, 1]],
    "plumb_bob",
    [0.06, -0.1, 1e-3, -5e-4, 0.02],
)
CHESS = Board(8, 5, 0.03)
CHARUCO = Board(8, 6, 0.03, 0.022, "DICT_4X4_50")
# Of the pattern, per square.
_PX = 48
# Rays along each side of a px.
_SIDE = 2


def pattern(board: Board) -> tuple[np.ndarray, np.ndarray]:
    """A grey picture with a white rim, and the px of it (column, row) of the board's origin."""
    if board.dictionary:
        size = (board.columns * _PX, board.rows * _PX)
        dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, board.dictionary))
        drawn = cv2.aruco.CharucoBoard(
            (board.columns, board.rows), board.square, board.marker, dictionary
        )
        return np.pad(drawn.generateImage(size), _PX, constant_values=255), np.full(2, _PX)
    # The square to the right and below of the first inner corner is dark: (1, 1) of all squares.
    rows, columns = np.indices((board.rows + 1, board.columns + 1))
    squares = np.where((rows + columns) % 2, 255, 0).astype(np.uint8)
    picture = np.kron(squares, np.ones((_PX, _PX), np.uint8))
    return np.pad(picture, _PX, constant_values=255), np.full(2, 2 * _PX)


@functools.cache
def _rays() -> np.ndarray:
    """Of CAMERA, _SIDE^2 a px."""
    steps = [(np.arange(_SIDE * n) + 0.5) / _SIDE for n in (CAMERA.width, CAMERA.height)]
    return rays_of(CAMERA, np.stack(np.meshgrid(*steps), axis=2).reshape(-1, 2))


def photograph(board: Board, camera_from_board: Transform) -> np.ndarray:
    """By CAMERA, (H, W, 3) uint8."""
    picture, origin = pattern(board)
    board_from_camera = camera_from_board.inverse()
    directions = _rays() @ board_from_camera.rotation.T
    places = board_from_camera.translation - directions * (
        board_from_camera.translation[2] / directions[:, 2:]
    )
    at = (places[:, :2] / board.square * _PX + origin - 0.5).astype(np.float32)
    at = at.reshape(_SIDE * CAMERA.height, _SIDE * CAMERA.width, 2)
    fine = cv2.remap(picture, at, None, cv2.INTER_LINEAR, borderValue=120)
    grey = cv2.resize(fine, (CAMERA.width, CAMERA.height), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(cv2.GaussianBlur(grey, (3, 3), 0.6), cv2.COLOR_GRAY2BGR)


def poses_over(board: Board, rng: np.random.Generator, count: int) -> list[Transform]:
    """camera_from_board with the board's middle in view, turned in all ways, upside down too."""
    middle = np.array([board.columns, board.rows, 0]) * board.square / 2
    poses = []
    for index in range(count):
        tilt = Rotation.from_euler("xy", rng.uniform(-30, 30, 2), degrees=True)
        turn = Rotation.from_euler("z", index * 137.5 % 360, degrees=True)
        rotation = (tilt * turn).as_matrix()
        at = np.array([*rng.uniform(-0.03, 0.03, 2), rng.uniform(0.4, 0.5)])
        poses.append(Transform(rotation, at - rotation @ middle))
    return poses
