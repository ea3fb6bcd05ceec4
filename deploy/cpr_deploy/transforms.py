"""Rigid transforms between frames, named by what they map: base_from_camera takes camera to base.

Lengths are metres. Quaternions are (x, y, z, w) as in ROS and scipy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cpr_deploy.files import InputError

# A matrix that is off by more is no rotation; by less it is made exact (files with few digits).
ROTATION_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class Transform:
    """x -> rotation @ x + translation.

    rotation (3, 3) float64, exactly orthogonal; translation (3,) float64, m. Both read-only.

    Raises:
        InputError: not finite, of another shape, or a matrix that is no rotation: mirrored, scaled
            or sheared by more than 1e-3.
    """

    rotation: np.ndarray
    translation: np.ndarray

    def __post_init__(self):
        rotation = _numbers(self.rotation, (3, 3), "rotation")
        translation = _numbers(self.translation, (3,), "translation")
        off = np.abs(rotation @ rotation.T - np.eye(3)).max()
        if off > ROTATION_TOLERANCE or np.linalg.det(rotation) < 0:
            fault = "it is mirrored" if off <= ROTATION_TOLERANCE else f"it is off by {off:.3g}"
            raise InputError(
                f"rotation {rotation.tolist()}: is no rotation matrix ({fault}). Give orthonormal"
                " rows with determinant +1, or a unit quaternion."
            )
        if off > 1e-12:
            u, _, vt = np.linalg.svd(rotation)
            rotation = u @ vt
        for name, value in (("rotation", rotation), ("translation", translation)):
            value.flags.writeable = False
            object.__setattr__(self, name, value)

    @classmethod
    def identity(cls) -> Transform:
        return cls(np.eye(3), np.zeros(3))

    @classmethod
    def from_quaternion(cls, xyzw: Sequence[float], translation: Sequence[float]) -> Transform:
        """From a quaternion (x, y, z, w) of length 1, within 1e-3."""
        quaternion = _numbers(xyzw, (4,), "quaternion")
        length = np.linalg.norm(quaternion)
        if abs(length - 1) > ROTATION_TOLERANCE:
            raise InputError(
                f"quaternion {quaternion.tolist()}: has length {length:.4g}; a rotation has 1. The"
                " order is x, y, z, w."
            )
        x, y, z, w = quaternion / length
        rotation = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
        return cls(np.array(rotation), translation)

    @classmethod
    def from_matrix(cls, matrix: Any) -> Transform:
        """From a homogeneous matrix (4, 4)."""
        matrix = _numbers(matrix, (4, 4), "matrix")
        if not np.allclose(matrix[3], [0, 0, 0, 1], atol=1e-9):
            raise InputError(f"matrix: its last row is {matrix[3].tolist()}; 0, 0, 0, 1 is needed.")
        return cls(matrix[:3, :3], matrix[:3, 3])

    @classmethod
    def from_dict(cls, value: Any, name: str = "transform") -> Transform:
        """From {"rotation": [x, y, z, w], "translation": [x, y, z]} or {"matrix": 4 x 4 numbers}.

        `name` is what errors begin with: the file and record.
        """
        try:
            if isinstance(value, Mapping) and "matrix" in value:
                return cls.from_matrix(value["matrix"])
            if not isinstance(value, Mapping) or not {"rotation", "translation"} <= set(value):
                raise InputError(
                    'is no transform; {"rotation": [x, y, z, w], "translation": [x, y, z]} (m) or'
                    ' {"matrix": 4 rows of 4} is needed.'
                )
            return cls.from_quaternion(value["rotation"], value["translation"])
        except InputError as error:
            raise InputError(f"{name}: {error}") from None

    def to_dict(self) -> dict[str, list[float]]:
        return {"rotation": self.quaternion().tolist(), "translation": self.translation.tolist()}

    def matrix(self) -> np.ndarray:
        """Homogeneous, (4, 4)."""
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = self.rotation, self.translation
        return matrix

    def quaternion(self) -> np.ndarray:
        """(x, y, z, w), w >= 0."""
        r = self.rotation
        # Four times the products of all pairs of components. The row of the largest square is well
        # away from 0.
        diagonal = 1 + np.array([1, -1, -1, 1]) * r[0, 0] + np.array([-1, 1, -1, 1]) * r[1, 1]
        products = np.diag(diagonal + np.array([-1, -1, 1, 1]) * r[2, 2])
        for i, j, value in (
            (0, 1, r[1, 0] + r[0, 1]),
            (0, 2, r[0, 2] + r[2, 0]),
            (1, 2, r[2, 1] + r[1, 2]),
            (0, 3, r[2, 1] - r[1, 2]),
            (1, 3, r[0, 2] - r[2, 0]),
            (2, 3, r[1, 0] - r[0, 1]),
        ):
            products[i, j] = products[j, i] = value
        row = products[np.argmax(np.diag(products))]
        quaternion = row / np.linalg.norm(row)
        return -quaternion if quaternion[3] < 0 else quaternion

    def apply(self, xyz: np.ndarray) -> np.ndarray:
        """Points (..., 3), m, in the other frame."""
        return np.asarray(xyz, float) @ self.rotation.T + self.translation

    def inverse(self) -> Transform:
        return Transform(self.rotation.T, -self.rotation.T @ self.translation)

    def __matmul__(self, other: Transform) -> Transform:
        """a_from_b @ b_from_c = a_from_c."""
        return Transform(
            self.rotation @ other.rotation, self.rotation @ other.translation + self.translation
        )


def _numbers(value: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    """A copy as float64; InputError unless it has this shape and is finite."""
    try:
        array = np.array(value, float)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.shape != shape or not np.isfinite(array).all():
        count = " x ".join(map(str, shape))
        raise InputError(f"{name} {value!r}: {count} finite numbers are needed.")
    return array
