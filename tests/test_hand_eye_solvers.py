import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from cpr_deploy.picking.hand_eye_solvers import SOLVERS, Motions
from cpr_deploy.transforms import Transform

# 10 random poses each, exact and with noise of the board's pose (rad, m), and what
# cv2.calibrateHandEye of OpenCV 4.14 makes of them. OpenCV 5 has none in Python.
DATA = json.loads((Path(__file__).parent / "data/hand_eye/opencv.json").read_text())


def poses(case, name):
    return [Transform.from_matrix(matrix) for matrix in case[name]]


@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize("case", DATA["cases"], ids=lambda case: f"noise {case['noise']}")
def test_solvers_are_those_of_opencv(case, method):
    found = SOLVERS[method](Motions.between(poses(case, "outer"), poses(case, "boards"))).matrix()
    # OpenCV's Tsai leaves out pairs of pictures.
    tolerance = 0.1 * case["noise"] + 1e-10 if method == "tsai" else 1e-10
    np.testing.assert_allclose(found, case["opencv"][method], atol=tolerance)
    if hasattr(cv2, "calibrateHandEye"):
        flag = getattr(cv2, f"CALIB_HAND_EYE_{method.upper()}")
        outer, boards = poses(case, "outer"), poses(case, "boards")
        parts = [[getattr(p, n) for p in s] for s in (outer, boards) for n in _NAMES]
        rotation, translation = cv2.calibrateHandEye(*parts, method=flag)
        np.testing.assert_allclose(found[:3, :3], rotation, atol=tolerance)
        np.testing.assert_allclose(found[:3, 3:], translation, atol=tolerance)


_NAMES = ("rotation", "translation")


@pytest.mark.parametrize("method", SOLVERS)
def test_exact_poses_give_the_truth(method):
    exact, *noisy = DATA["cases"]
    for case, tolerance in ((exact, 1e-9), *((case, 4 * case["noise"]) for case in noisy)):
        found = SOLVERS[method](Motions.between(poses(case, "outer"), poses(case, "boards")))
        np.testing.assert_allclose(found.matrix(), case["truth"], atol=tolerance)
