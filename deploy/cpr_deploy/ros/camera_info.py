"""The camera of an image, out of sensor_msgs/CameraInfo."""

from __future__ import annotations

from typing import Any

import numpy as np

from cpr_deploy.camera import HALF_PIXEL, CameraModel
from cpr_deploy.files import InputError


def camera_of(message: Any, name: str, *, rectified: bool = False) -> CameraModel:
    """The camera of the images that come with this CameraInfo; `name` of it begins errors.

    CameraInfo describes the full picture; binning and the region of interest are applied here.
    rectified: the images are (image_rect), so that P and no distortion is theirs.

    Raises:
        InputError: not calibrated (zeros), a binning or a region that does not fit, a P with a
            baseline (of a stereo pair's right camera).
    """
    p = np.array(message.p, float)
    if rectified and (p.size != 12 or p.reshape(3, 4)[:, 3].any()):
        raise InputError(
            f"{name}: P {p.tolist()} is none of a single camera: its last column must be 0. Use the"
            " left camera of a pair, or the raw images."
        )
    numbers = {
        "width": int(message.width),
        "height": int(message.height),
        "k": p.reshape(3, 4)[:, :3] if rectified else np.array(message.k, float),
        "d": () if rectified else tuple(np.array(message.d, float).tolist()),
        "distortion_model": "none" if rectified else str(message.distortion_model),
    }
    full = CameraModel.from_dict(numbers, name)
    roi = message.roi
    # 0 means none, also of the driver that leaves all of it empty.
    step = np.maximum([int(message.binning_x), int(message.binning_y)], 1)
    corner = np.array([int(roi.x_offset), int(roi.y_offset)])
    size = np.array([int(roi.width) or full.width, int(roi.height) or full.height])
    if not int(roi.width) and not int(roi.height) and corner.any():
        size = size - corner
    if (corner + size > [full.width, full.height]).any() or (size // step < 1).any():
        raise InputError(
            f"{name}: region {corner.tolist()} + {size.tolist()} px with binning {step.tolist()}"
            f" does not fit into {full.width} x {full.height} px. The message is damaged."
        )
    if (step == 1).all() and not corner.any() and (size == [full.width, full.height]).all():
        return full
    k = full.k.copy()
    k[[0, 1], [0, 1]] /= step
    k[:2, 2] = (k[:2, 2] + HALF_PIXEL - corner) / step - HALF_PIXEL
    width, height = size // step
    return CameraModel(int(width), int(height), k, full.distortion_model, full.d)
