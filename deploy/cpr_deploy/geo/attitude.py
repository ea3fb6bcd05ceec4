"""Attitude of platform and camera as rotations.

Angles are yaw, pitch, roll in degrees, applied in this order about the axes down, right, forward
(Tait-Bryan, z-y'-x''), in the frame north-east-down (NED): yaw 0 looks north and 90 east, pitch 0
at the horizon and -90 straight down, roll positive with the right side down.
"""

from __future__ import annotations

import numpy as np

# A camera at yaw = pitch = roll = 0 looks forward with its right to the right: the optical frame's
# x, y, z are the body's right, down, forward.
BODY_FROM_OPTICAL = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def rotation_of(angles: np.ndarray) -> np.ndarray:
    """Rotations (..., 3, 3) that take the turned frame to the fixed one; `angles` (..., 3)."""
    yaw, pitch, roll = np.moveaxis(np.radians(np.asarray(angles, float)), -1, 0)
    cy, sy, cp, sp, cr, sr = (
        np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    )  # fmt: skip
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def angles_of(rotation: np.ndarray) -> np.ndarray:
    """Yaw (-180..180), pitch (-90..90), roll of rotations (..., 3, 3), degrees.

    Straight down or up, where only yaw and roll together are known, roll is 0.
    """
    pitch = np.arcsin(np.clip(-rotation[..., 2, 0], -1, 1))
    steep = np.hypot(rotation[..., 0, 0], rotation[..., 1, 0]) < 1e-9
    yaw = np.arctan2(rotation[..., 1, 0], rotation[..., 0, 0])
    roll = np.arctan2(rotation[..., 2, 1], rotation[..., 2, 2])
    yaw = np.where(steep, np.arctan2(-rotation[..., 0, 1], rotation[..., 1, 1]), yaw)
    roll = np.where(steep, 0.0, roll)
    return np.degrees(np.stack([yaw, pitch, roll], axis=-1))


def between(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Rotations (N, 3, 3) on the shortest way from `first` to `second`; `share` (N,) 0 to 1.

    Angles are never averaged one by one: 359 and 1 degrees meet at 0, and straight down, where yaw
    and roll may both jump by 180, nothing turns.
    """
    from scipy.spatial.transform import Rotation

    start = Rotation.from_matrix(first)
    turn = (start.inv() * Rotation.from_matrix(second)).as_rotvec()
    return (start * Rotation.from_rotvec(turn * np.asarray(share)[:, None])).as_matrix()
