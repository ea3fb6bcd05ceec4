"""Calibration boards: where their corners are in an image, and the pose that follows."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from cpr_deploy.camera import HALF_PIXEL, CameraModel
from cpr_deploy.files import InputError
from cpr_deploy.transforms import Transform

# Fewer corners do not fix a pose well.
MIN_CORNERS = 8


@dataclasses.dataclass(frozen=True)
class Board:
    """A chessboard, or a ChArUco board if it has a dictionary.

    columns, rows: of a chessboard the inner corners, of a ChArUco board the squares, as in OpenCV.
    square, marker: sides, m. dictionary: OpenCV's name, e.g. DICT_4X4_50.

    Raises:
        InputError: sizes that no board has; a chessboard that looks the same upside down.
    """

    columns: int
    rows: int
    square: float
    marker: float = 0.0
    dictionary: str = ""

    def __post_init__(self):
        if min(self.columns, self.rows) < 3 or not 0 < self.square < 10:
            raise InputError(
                f"board {self.columns}x{self.rows} of {self.square} m: at least 3x3, and squares"
                " of a side in metres, are needed."
            )
        if self.dictionary:
            known = getattr(cv2.aruco, self.dictionary, None)
            if not isinstance(known, int) or not self.dictionary.startswith("DICT_"):
                raise InputError(f"board: {self.dictionary!r} is no dictionary of OpenCV's aruco.")
            if not 0 < self.marker < self.square:
                raise InputError(f"board: a marker of {self.marker} m does not fit its square.")
        elif (self.columns + self.rows) % 2 == 0:
            raise InputError(
                f"board {self.columns}x{self.rows}: looks the same upside down. One of the numbers"
                " of inner corners must be odd, the other even; or use a ChArUco board."
            )

    @staticmethod
    def from_text(text: str) -> Board:
        """From chessboard:9x6:0.025 or charuco:7x5:0.04:0.03:DICT_4X4_50."""
        kind, *parts = text.split(":")
        try:
            columns, rows = (int(side) for side in parts[0].lower().split("x"))
            if kind == "chessboard" and len(parts) == 2:
                return Board(columns, rows, float(parts[1]))
            if kind == "charuco" and len(parts) == 4:
                return Board(columns, rows, float(parts[1]), float(parts[2]), parts[3])
        except (IndexError, ValueError) as error:
            if isinstance(error, InputError):
                raise
        raise InputError(
            f"board {text!r}: chessboard:COLUMNSxROWS:SQUARE (inner corners; m) or"
            " charuco:COLUMNSxROWS:SQUARE:MARKER:DICTIONARY (squares) is needed."
        )

    def find(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """The corners in an image (H, W, 3) uint8 BGR.

        Returns:
            places on the board (N, 3), m, z = 0, and px (N, 2); None if it is not there.
        """
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        found = self._find_charuco(grey) if self.dictionary else self._find_chessboard(grey)
        if found is None or len(found[1]) < MIN_CORNERS:
            return None
        return found

    def _find_chessboard(self, grey: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        seen, corners = cv2.findChessboardCornersSB(
            grey, (self.columns, self.rows), flags=cv2.CALIB_CB_ACCURACY
        )
        if not seen:
            return None
        corners = corners.reshape(-1, 2)
        # OpenCV may begin at either end. Ours is the one whose first square is dark.
        if self._is_light(grey, corners, 0, 0):
            corners = corners[::-1]
        grid = np.stack(np.meshgrid(np.arange(self.columns), np.arange(self.rows)), axis=2)
        places = np.zeros((len(corners), 3))
        places[:, :2] = grid.reshape(-1, 2) * self.square
        return places, corners.astype(float) + HALF_PIXEL

    def _is_light(self, grey: np.ndarray, corners: np.ndarray, row: int, column: int) -> bool:
        """Whether a square between four corners is lighter than the next one."""
        grid = corners.reshape(self.rows, self.columns, 2)
        levels = []
        for first in (column, column + 1):
            middle = grid[row : row + 2, first : first + 2].mean(axis=(0, 1))
            x, y = np.round(middle).astype(int)
            levels.append(float(grey[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].mean()))
        return levels[0] > levels[1]

    def _find_charuco(self, grey: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, self.dictionary))
        board = cv2.aruco.CharucoBoard(
            (self.columns, self.rows), self.square, self.marker, dictionary
        )
        corners, ids, _, _ = cv2.aruco.CharucoDetector(board).detectBoard(grey)
        if ids is None or not len(ids):
            return None
        places = np.array(board.getChessboardCorners(), float)[np.asarray(ids).ravel()]
        return places, np.asarray(corners, float).reshape(-1, 2) + HALF_PIXEL


def board_pose(
    camera: CameraModel, places: np.ndarray, xy: np.ndarray
) -> tuple[Transform, float] | None:
    """camera_from_board by places (N, 3), m, and px (N, 2), and the root mean square error, px.

    None if there is no pose with all places in front of the camera.
    """
    flat = np.ascontiguousarray(camera.rays(xy)[:, :2])
    if np.isnan(flat).any():
        return None
    # Undistorted directions suit every model of lens.
    seen, turn, shift = cv2.solvePnP(places, flat, np.eye(3), None, flags=cv2.SOLVEPNP_IPPE)
    if not seen:
        return None
    turn, shift = cv2.solvePnPRefineLM(places, flat, np.eye(3), None, turn, shift)
    pose = Transform(cv2.Rodrigues(turn)[0], shift.ravel())
    off = camera.project(pose.apply(places)) - xy
    error = float(np.sqrt((off**2).sum(axis=1).mean()))
    return (pose, error) if np.isfinite(error) else None
