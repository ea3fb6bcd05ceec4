"""Where the camera is: on the arm (eye in hand) or beside it (eye to hand).

From pictures of a board with the arm's pose for each, or from points that the arm touched. The
result is a file with its residuals, checked again when it is read. Lengths are m.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from cpr_deploy.camera import CameraModel
from cpr_deploy.files import InputError, read_json, write_json
from cpr_deploy.picking.hand_eye_inputs import EYE_IN_HAND, EYE_TO_HAND, View
from cpr_deploy.picking.hand_eye_solvers import SOLVERS, Motions
from cpr_deploy.transforms import Transform

FORMAT = "cpr-hand-eye"
FORMAT_VERSION = 1
KINDS = (EYE_IN_HAND, EYE_TO_HAND)
REFINED, TOUCHED = "refined", "touched"

MIN_VIEWS = 4
MIN_TOUCHED = 4
# The default limit of the leave-one-out residual, m.
MAX_RESIDUAL = 0.005
# The arm must turn about two axes by about so much between pictures, degrees, ...
MIN_TURN = 8.0
# ... and touched points must lie so far off a line, m.
MIN_SPREAD = 0.02


@dataclasses.dataclass(frozen=True, eq=False)
class HandEye:
    """A calibrated camera pose.

    kind: eye_in_hand (transform is hand_from_camera) or eye_to_hand (base_from_camera). residual:
    leave-one-out, root mean square, m. details: residuals of all methods and samples, JSON values.
    """

    kind: str
    transform: Transform
    method: str
    residual: float
    samples: int
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def pose(self) -> dict[str, Transform]:
        """The argument of `PointPicker` that this is: base_from_camera or hand_from_camera."""
        name = "hand_from_camera" if self.kind == EYE_IN_HAND else "base_from_camera"
        return {name: self.transform}

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "kind": self.kind,
            "transform": self.transform.to_dict(),
            "method": self.method,
            "residual": self.residual,
            "samples": self.samples,
            "details": dict(self.details),
        }


# --- files ---


def save_hand_eye(path: str | os.PathLike, result: HandEye) -> None:
    write_json(path, result.to_dict(), indent=1)


def load_hand_eye(path: str | os.PathLike, *, max_residual: float = MAX_RESIDUAL) -> HandEye:
    """Reads a result.

    Raises:
        InputError: not such a file, of a newer version, no rotation, or a residual above the limit.
    """
    value = read_json(path)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise InputError(
            f"{path}: is no hand-eye calibration. Make one with deploy/calibrate_hand_eye.py."
        )
    if value.get("version") != FORMAT_VERSION:
        raise InputError(
            f"{path}: is of version {value.get('version')!r}, this program reads {FORMAT_VERSION}."
            " Calibrate again, or use the program that wrote it."
        )
    kind, residual, samples = (value.get(key) for key in ("kind", "residual", "samples"))
    if kind not in KINDS:
        raise InputError(f"{path}: kind {kind!r}: one of {', '.join(KINDS)} is needed.")
    transform = Transform.from_dict(value.get("transform"), f"{path}: transform")
    if not isinstance(residual, int | float) or isinstance(residual, bool) or residual < 0:
        raise InputError(f"{path}: residual {residual!r}: metres are needed. Calibrate again.")
    if not isinstance(samples, int) or samples < MIN_TOUCHED:
        raise InputError(f"{path}: samples {samples!r}: at least {MIN_TOUCHED} are needed.")
    _check_residual(residual, max_residual, str(path), "calibrate again")
    details = value.get("details")
    return HandEye(
        kind, transform, str(value.get("method")), float(residual), samples, details or {}
    )


# --- calibration ---


def calibrate_views(
    views: Sequence[View],
    camera: CameraModel,
    kind: str,
    *,
    max_residual: float = MAX_RESIDUAL,
) -> HandEye:
    """The camera's pose from pictures of a board.

    Eye in hand: the board lies still and the camera is on the arm. Eye to hand: the board is on the
    arm and the camera stands still. All of `SOLVERS` are tried, and "refined": the least square
    error in the pictures over the camera's and the board's pose. The method with the smallest
    leave-one-out residual is the result: where the board's middle would be, by all other pictures,
    against where it was seen.

    Raises:
        InputError: too few pictures, too little turning, or a residual above the limit.
    """
    _check_kind(kind)
    if len(views) < MIN_VIEWS:
        raise InputError(
            f"{len(views)} images show the board; at least {MIN_VIEWS}, better 15, are needed."
        )
    outer = [v.base_from_hand if kind == EYE_IN_HAND else v.base_from_hand.inverse() for v in views]
    _check_turns(Motions.between(outer, [view.camera_from_board for view in views]))
    methods = {
        name: _Method(lambda kept, start, solver=solver: _closed(outer, views, kept, solver))
        for name, solver in SOLVERS.items()
    }
    methods[REFINED] = _Method(lambda kept, start: _refine(outer, views, camera, kept, start))
    summary = {}
    for name, method in methods.items():
        method.run(outer, views, camera)
        summary[name] = method.summary()
    best = min(methods, key=lambda name: methods[name].residual)
    result = methods[best]
    per_view = [
        {"image": view.name, "left_out": round(float(off), 6)}
        for view, off in zip(views, result.left_out, strict=True)
    ]
    advice = (
        "A pose that was copied wrong stands out. Else check the board's size, the camera's numbers"
        " and the units and order of all poses, take sharper pictures with more turning"
    )
    _check_residual(result.residual, max_residual, "calibration", f"{_worst(per_view)}. {advice}")
    details = {"methods": summary, "views": per_view, "camera": camera.to_dict()}
    return HandEye(kind, result.x, best, result.residual, len(views), details)


def calibrate_touched(
    in_camera: np.ndarray,
    in_base: np.ndarray,
    kind: str,
    base_from_hand: Sequence[Transform] | None = None,
    *,
    max_residual: float = MAX_RESIDUAL,
) -> HandEye:
    """The camera's pose from points (N, 3) seen by the camera and touched by the arm.

    base_from_hand: for eye in hand, the arm's pose when each point was seen.

    Raises:
        InputError: too few points, all about on a line, poses missing, or a residual above the
            limit.
    """
    _check_kind(kind)
    if len(in_camera) < MIN_TOUCHED:
        raise InputError(f"{len(in_camera)} touched points; at least {MIN_TOUCHED} are needed.")
    if (kind == EYE_IN_HAND) != (base_from_hand is not None):
        raise InputError(
            "touched points: base_from_hand of each point is needed for eye_in_hand, and only then."
        )
    target = np.asarray(in_base, float)
    if kind == EYE_IN_HAND:
        pairs = zip(base_from_hand, target, strict=True)
        target = np.array([pose.inverse().apply(place) for pose, place in pairs])
    spread = np.linalg.svd(in_camera - in_camera.mean(axis=0), compute_uv=False)[1]
    if spread / np.sqrt(len(in_camera)) < MIN_SPREAD:
        raise InputError(
            f"touched points: lie within {1000 * spread / np.sqrt(len(in_camera)):.0f} mm of a"
            " line, which leaves the turn about it open. Touch points all over the workspace."
        )
    transform = _align(in_camera, target)
    fit = np.linalg.norm(transform.apply(in_camera) - target, axis=1)
    left_out = []
    for index in range(len(in_camera)):
        kept = np.arange(len(in_camera)) != index
        other = _align(in_camera[kept], target[kept])
        left_out.append(float(np.linalg.norm(other.apply(in_camera[index]) - target[index])))
    residual = _rms(left_out)
    points = [{"left_out": round(off, 6)} for off in left_out]
    advice = (
        "A point that was noted wrong stands out. Else check the units (m) of base, depth and"
        " poses, the camera's numbers and the length of the tool"
    )
    _check_residual(residual, max_residual, "touched points", f"{_worst(points)}. {advice}")
    details = {
        "methods": {TOUCHED: {"fit": round(_rms(fit), 6), "left_out": round(residual, 6)}},
        "points": points,
    }
    return HandEye(kind, transform, TOUCHED, residual, len(in_camera), details)


def report_lines(result: HandEye) -> list[str]:
    """Residuals of all methods, the worst samples and the result, for people."""
    lines = ["method      left out, mm   fit, mm   turn, deg   px"]
    for name, row in result.details["methods"].items():
        cells = [
            "-" if row.get(key) is None else f"{factor * row[key]:.{digits}f}"
            for key, factor, digits in (
                ("left_out", 1e3, 2),
                ("fit", 1e3, 2),
                ("turn", 1, 3),
                ("pixels", 1, 2),
            )
        ]
        mark = " <-" if name == result.method else ""
        lines.append("{:<12}{:>12}{:>10}{:>12}{:>5}{}".format(name, *cells, mark))
    samples = result.details.get("views") or result.details.get("points") or []
    lines.append(_worst(samples))
    (name,) = result.pose()
    x, y, z = result.transform.translation
    turn = ", ".join(f"{value:.6f}" for value in result.transform.quaternion())
    lines.append(f"{name}: translation {x:.5f}, {y:.5f}, {z:.5f} m; rotation {turn} (x, y, z, w)")
    return lines


def _worst(samples: Sequence[Mapping[str, Any]]) -> str:
    """The three samples that the others predict worst."""
    worst = sorted(enumerate(samples), key=lambda item: -item[1]["left_out"])[:3]
    told = (
        f"{row.get('image', f'points[{i}]')} {1e3 * row['left_out']:.1f} mm" for i, row in worst
    )
    return "worst when left out: " + ", ".join(told)


class _Method:
    """A solver, its solution over all pictures, and how well it predicts each from the others."""

    def __init__(self, solve):
        self._solve = solve
        self.residual = np.inf

    def run(self, outer: list[Transform], views: Sequence[View], camera: CameraModel) -> None:
        everything = list(range(len(views)))
        self.x, z = solution = self._solve(everything, None)
        loops = [o @ self.x @ v.camera_from_board for o, v in zip(outer, views, strict=True)]
        self.fit = [
            float(np.linalg.norm(loop.apply(_middle(v)) - z.apply(_middle(v))))
            for loop, v in zip(loops, views, strict=True)
        ]
        self.turn = [
            float(np.degrees(Rotation.from_matrix(z.rotation.T @ loop.rotation).magnitude()))
            for loop in loops
        ]
        self.pixels = _rms(_pixel_errors(self.x, z, outer, views, camera, everything))
        self.left_out = []
        for index, view in enumerate(views):
            kept = [other for other in everything if other != index]
            x, z = self._solve(kept, solution)
            seen = (outer[index] @ x @ view.camera_from_board).apply(_middle(view))
            self.left_out.append(float(np.linalg.norm(seen - z.apply(_middle(view)))))
        self.residual = _rms(self.left_out)

    def summary(self) -> dict[str, float]:
        """fit, left_out: m; turn: degrees; pixels: px; all root mean squares."""
        values = {"fit": _rms(self.fit), "left_out": self.residual, "turn": _rms(self.turn)}
        values["pixels"] = self.pixels
        # A method may fail altogether: a board that would be behind the camera has no px.
        return {n: round(v, 6) if np.isfinite(v) else None for n, v in values.items()}


def _closed(outer, views, kept, solver) -> tuple[Transform, Transform]:
    """X by a closed solution, and the mean of outer @ X @ board."""
    some = [outer[i] for i in kept]
    boards = [views[i].camera_from_board for i in kept]
    x = solver(Motions.between(some, boards))
    loops = [o @ x @ board for o, board in zip(some, boards, strict=True)]
    rotation = Rotation.from_matrix([loop.rotation for loop in loops]).mean()
    translation = np.mean([loop.translation for loop in loops], axis=0)
    return x, Transform(rotation.as_matrix(), translation)


def _refine(outer, views, camera, kept, start=None) -> tuple[Transform, Transform]:
    """X and Z with the least error in the pictures, from a closed solution or from `start`."""
    start = start or _closed(outer, views, kept, SOLVERS["park"])

    def poses(step: np.ndarray) -> list[Transform]:
        return [
            Transform(
                pose.rotation @ Rotation.from_rotvec(part[:3]).as_matrix(),
                pose.translation + part[3:],
            )
            for pose, part in zip(start, step.reshape(2, 6), strict=True)
        ]

    def errors(step: np.ndarray) -> np.ndarray:
        off = _pixel_errors(*poses(step), outer, views, camera, kept)
        # Behind the camera is far off.
        return np.where(np.isfinite(off), off, 1e3)

    # soft_l1: a picture with a wrong pose shall not bend all.
    step = least_squares(errors, np.zeros(12), loss="soft_l1", ftol=1e-6, xtol=1e-9, max_nfev=30).x
    return tuple(poses(step))


def _pixel_errors(x, z, outer, views, camera, kept) -> np.ndarray:
    """Of all corners, x and y, px: (2 N,)."""
    chain = np.linalg.inv([outer[i].matrix() @ x.matrix() for i in kept]) @ z.matrix()
    each = np.repeat(chain, [len(views[i].places) for i in kept], axis=0)
    places = np.concatenate([views[i].places for i in kept])
    xyz = (each[:, :3, :3] @ places[:, :, None])[:, :, 0] + each[:, :3, 3]
    seen = np.concatenate([views[i].xy for i in kept])
    return (camera.project(xyz) - seen).ravel()


def _align(source: np.ndarray, target: np.ndarray) -> Transform:
    """The rigid transform of least squares from points to points (N, 3) (Kabsch 1976)."""
    middle, goal = source.mean(axis=0), target.mean(axis=0)
    u, _, vt = np.linalg.svd((target - goal).T @ (source - middle))
    rotation = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    return Transform(rotation, goal - rotation @ middle)


def _check_turns(motions: Motions) -> None:
    turns = motions.turns()
    strength = np.degrees(np.linalg.svd(turns, compute_uv=False)[::-1] / np.sqrt(len(turns)))
    if strength[1] < MIN_TURN:
        raise InputError(
            f"poses: the arm turned by about {strength[2]:.0f} degrees about one axis and"
            f" {strength[1]:.1f} about others; {MIN_TURN:g} are needed. Turn the hand about at"
            " least two axes between the pictures, by 30 degrees or more."
        )


def _check_residual(residual: float, limit: float, name: str, advice: str) -> None:
    if not residual <= limit:
        raise InputError(
            f"{name}: the leave-one-out residual is {1000 * residual:.1f} mm, above the limit of"
            f" {1000 * limit:.1f} mm; {advice}, or raise the limit."
        )


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise InputError(f"kind {kind!r}: one of {', '.join(KINDS)} is needed.")


def _middle(view: View) -> np.ndarray:
    return view.places.mean(axis=0)


def _rms(values: Any) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
