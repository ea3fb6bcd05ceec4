"""Closed solutions of the hand-eye equation A X = X B, by the names that OpenCV gives them.

A and B are motions of the hand and of the camera between two pictures of one board. OpenCV 5 left
its own solvers out of its Python package; these follow the papers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from cpr_deploy.transforms import Transform


@dataclasses.dataclass(frozen=True)
class Motions:
    """P motions between pictures: rotations (P, 3, 3) and translations (P, 3), m, of A and B."""

    rotation_a: np.ndarray
    translation_a: np.ndarray
    rotation_b: np.ndarray
    translation_b: np.ndarray

    @staticmethod
    def between(outer: Sequence[Transform], boards: Sequence[Transform]) -> Motions:
        """All pairs of pictures, where outer[i] @ X @ boards[i] is the same for all i."""
        first, second = np.triu_indices(len(outer), 1)
        a, b = np.array([pose.matrix() for pose in outer]), [pose.matrix() for pose in boards]
        a = np.linalg.inv(a[second]) @ a[first]
        b = np.array(b)[second] @ np.linalg.inv(np.array(b)[first])
        return Motions(a[:, :3, :3], a[:, :3, 3], b[:, :3, :3], b[:, :3, 3])

    def turns(self) -> np.ndarray:
        """Rotation vectors (P, 3) of A, rad."""
        return Rotation.from_matrix(self.rotation_a).as_rotvec()


def park(motions: Motions) -> Transform:
    """Park and Martin 1994: the rotation that best takes the logarithms of B to those of A."""
    a = motions.turns()
    b = Rotation.from_matrix(motions.rotation_b).as_rotvec()
    u, _, vt = np.linalg.svd(a.T @ b)
    rotation = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    return Transform(rotation, _translation(motions, rotation))


def tsai(motions: Motions) -> Transform:
    """Tsai and Lenz 1989: modified Rodrigues vectors 2 sin(angle / 2) axis."""
    a, b = (2 * quaternions[:, :3] for quaternions in _quaternions(motions))
    half = np.linalg.lstsq(_skew(a + b).reshape(-1, 3), (b - a).ravel(), rcond=None)[0]
    vector = 2 * half / np.sqrt(1 + half @ half)
    rotation = (1 - vector @ vector / 2) * np.eye(3)
    rotation += 0.5 * (np.outer(vector, vector) + np.sqrt(4 - vector @ vector) * _skew(vector))
    return Transform(rotation, _translation(motions, rotation))


def horaud(motions: Motions) -> Transform:
    """Horaud and Dornaika 1995: the unit quaternion q that least violates a q = q b."""
    a, b = _quaternions(motions)
    left = _left(a) - _right(b)
    _, vectors = np.linalg.eigh((left.transpose(0, 2, 1) @ left).sum(axis=0))
    rotation = Rotation.from_quat(vectors[:, 0]).as_matrix()
    return Transform(rotation, _translation(motions, rotation))


def andreff(motions: Motions) -> Transform:
    """Andreff, Horaud and Espiau 1999: rotation and translation in one linear system."""
    count = len(motions.translation_a)
    system, right = np.zeros((count, 12, 12)), np.zeros((count, 12))
    turned = np.einsum("pij,pkl->pikjl", motions.rotation_a, motions.rotation_b)
    system[:, :9, :9] = np.eye(9) - turned.reshape(count, 9, 9)
    for axis in range(3):
        system[:, 9 + axis, 3 * axis : 3 * axis + 3] = motions.translation_b
    system[:, 9:, 9:] = np.eye(3) - motions.rotation_a
    right[:, 9:] = motions.translation_a
    solution = np.linalg.lstsq(system.reshape(-1, 12), right.ravel(), rcond=None)[0]
    rotation = solution[:9].reshape(3, 3)
    u, _, vt = np.linalg.svd(rotation)
    rotation = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    return Transform(rotation, solution[9:])


def daniilidis(motions: Motions) -> Transform:
    """Daniilidis 1998: dual quaternions, rotation and translation at once."""
    a, b = _quaternions(motions)
    a_dual = _product(_pure(motions.translation_a), a) / 2
    b_dual = _product(_pure(motions.translation_b), b) / 2
    top = np.concatenate([(a - b)[:, :3, None], _skew((a + b)[:, :3])], axis=2)
    low = np.concatenate([(a_dual - b_dual)[:, :3, None], _skew((a_dual + b_dual)[:, :3])], axis=2)
    system = np.concatenate(
        [np.concatenate([top, np.zeros_like(top)], 2), np.concatenate([low, top], 2)], axis=1
    ).reshape(-1, 8)
    _, _, vt = np.linalg.svd(system, full_matrices=False)
    # Two vectors span the solutions; unit length, and real and dual part at right angles, fix it.
    (u1, v1), (u2, v2) = vt[6].reshape(2, 4), vt[7].reshape(2, 4)
    ratios = np.roots([u1 @ v1, u1 @ v2 + u2 @ v1, u2 @ v2]).real
    lengths = [r * r * u1 @ u1 + 2 * r * u1 @ u2 + u2 @ u2 for r in ratios]
    ratio, scale = ratios[np.argmax(lengths)], 1 / np.sqrt(max(lengths))
    real, dual = scale * (ratio * u1 + u2), scale * (ratio * v1 + v2)
    real, dual = np.roll(real, -1)[None], np.roll(dual, -1)[None]  # scalar part last
    translation = 2 * _product(dual, real * [-1, -1, -1, 1])[0, :3]
    return Transform(Rotation.from_quat(real[0]).as_matrix(), translation)


SOLVERS: dict[str, Callable[[Motions], Transform]] = {
    "tsai": tsai,
    "park": park,
    "horaud": horaud,
    "andreff": andreff,
    "daniilidis": daniilidis,
}


def _translation(motions: Motions, rotation: np.ndarray) -> np.ndarray:
    """The translation of X, by least squares, once its rotation is known."""
    system = (motions.rotation_a - np.eye(3)).reshape(-1, 3)
    right = motions.translation_b @ rotation.T - motions.translation_a
    return np.linalg.lstsq(system, right.ravel(), rcond=None)[0]


def _quaternions(motions: Motions) -> tuple[np.ndarray, np.ndarray]:
    """(P, 4) each, x, y, z, w with w >= 0."""
    return tuple(
        Rotation.from_matrix(rotation).as_quat(canonical=True)
        for rotation in (motions.rotation_a, motions.rotation_b)
    )


def _skew(vectors: np.ndarray) -> np.ndarray:
    """(..., 3) -> (..., 3, 3) matrices of the cross product."""
    matrices = np.zeros((*vectors.shape, 3))
    for row, column, axis, sign in (
        (0, 1, 2, -1),
        (0, 2, 1, 1),
        (1, 0, 2, 1),
        (1, 2, 0, -1),
        (2, 0, 1, -1),
        (2, 1, 0, 1),
    ):
        matrices[..., row, column] = sign * vectors[..., axis]
    return matrices


def _left(q: np.ndarray) -> np.ndarray:
    """(P, 4) -> (P, 4, 4): the matrix of p -> q p."""
    matrices = q[:, 3, None, None] * np.eye(4)
    matrices[:, :3, :3] += _skew(q[:, :3])
    matrices[:, :3, 3] += q[:, :3]
    matrices[:, 3, :3] -= q[:, :3]
    return matrices


def _right(q: np.ndarray) -> np.ndarray:
    """(P, 4) -> (P, 4, 4): the matrix of p -> p q."""
    matrices = q[:, 3, None, None] * np.eye(4)
    matrices[:, :3, :3] -= _skew(q[:, :3])
    matrices[:, :3, 3] += q[:, :3]
    matrices[:, 3, :3] -= q[:, :3]
    return matrices


def _product(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (_left(p) @ q[:, :, None])[:, :, 0]


def _pure(vectors: np.ndarray) -> np.ndarray:
    return np.column_stack([vectors, np.zeros(len(vectors))])
