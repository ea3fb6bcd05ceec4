"""A table with boxes, rendered to depth images by ray casting, so that every place is known."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from cpr_deploy.camera import CameraModel
from cpr_deploy.transforms import Transform

CAMERA = CameraModel(
    320,
    240,
    [[300.0, 0, 158.2], [0, 302.0, 121.9], [0, 0, 1]],
    "plumb_bob",
    [0.08, -0.15, 1e-3, -1e-3, 0.04],
)
# Lowest and highest corner, base frame, m; the table is z = 0.
BOXES = np.array(
    [
        [[-0.20, -0.15, 0], [-0.08, -0.05, 0.06]],
        [[0.00, -0.12, 0], [0.10, -0.02, 0.10]],
        [[-0.10, 0.04, 0], [0.02, 0.14, 0.03]],
        [[0.12, 0.03, 0], [0.22, 0.13, 0.15]],
    ]
)


def camera_pose(rng: np.random.Generator) -> Transform:
    """0.7 to 0.9 m above the table, looking down, tilted by up to about 20 degrees, any turn."""
    turn = Rotation.from_euler("ZX", [rng.uniform(-180, 180), 180], degrees=True)
    tilt = Rotation.from_euler("xy", rng.uniform(-15, 15, 2), degrees=True)
    rotation = turn * tilt
    height = rng.uniform(0.7, 0.9)
    axis = rotation.apply([0, 0, 1])
    return Transform(rotation.as_matrix(), -axis / axis[2] * -height)


def rays_of(camera: CameraModel, xy: np.ndarray) -> np.ndarray:
    """(N, 2) px to directions with z = 1, by OpenCV."""
    pixels = np.asarray(xy, float)[:, None] - 0.5
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-12)
    d = np.array(camera.d) if camera.d else None
    flat = cv2.undistortPoints(pixels, camera.k, d, criteria=criteria)[:, 0]
    return np.column_stack([flat, np.ones(len(flat))])


def cast(origin: np.ndarray, directions: np.ndarray, boxes: np.ndarray = BOXES) -> np.ndarray:
    """(N,) the least t with origin + t direction on the table or a box."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = -origin[2] / directions[:, 2]
        t = np.where(t > 0, t, np.inf)
        for low, high in boxes:
            ends = np.stack([low - origin, high - origin])[:, None] / directions
            enter, leave = ends.min(axis=0).max(axis=1), ends.max(axis=0).min(axis=1)
            t = np.where((enter < leave) & (enter > 0) & (enter < t), enter, t)
    return t


def places(camera: CameraModel, base_from_camera: Transform, xy: np.ndarray) -> np.ndarray:
    """Where in the base frame the px show, (N, 3)."""
    directions = rays_of(camera, xy) @ base_from_camera.rotation.T
    t = cast(base_from_camera.translation, directions)
    return base_from_camera.translation + t[:, None] * directions


def render(camera: CameraModel, base_from_camera: Transform) -> np.ndarray:
    """(H, W) float64, m."""
    centres = np.stack(np.meshgrid(np.arange(camera.width), np.arange(camera.height)), axis=2) + 0.5
    directions = rays_of(camera, centres.reshape(-1, 2)) @ base_from_camera.rotation.T
    return cast(base_from_camera.translation, directions).reshape(camera.height, camera.width)


def pixels_of(camera: CameraModel, base_from_camera: Transform, xyz: np.ndarray) -> np.ndarray:
    """Our px (N, 2) of places in the base frame, by OpenCV."""
    rotation = base_from_camera.rotation.T
    translation = -rotation @ base_from_camera.translation
    d = np.array(camera.d) if camera.d else None
    xy, _ = cv2.projectPoints(
        np.asarray(xyz, float), cv2.Rodrigues(rotation)[0], translation, camera.k, d
    )
    return xy[:, 0] + 0.5


def point(xy, score: float = 0.9, **fields) -> dict:
    """As in a stream record."""
    x, y = (float(value) for value in xy)
    return {"x": x, "y": y, "score": score, "label": 0, "class_name": "box", **fields}
