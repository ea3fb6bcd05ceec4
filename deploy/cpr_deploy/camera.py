"""Camera models: from points in space to pixels and back.

The camera's optical frame is x right, y down, z forward, in metres. Pixels are ours: continuous,
the first pixel's centre at (0.5, 0.5). The numbers of a camera (`k`, `d`) stay as OpenCV, ROS and
RealSense give them, where whole numbers are pixel centres; the shift by 0.5 is made here only.

Formulas: OpenCV's documentation of `calib3d` and `fisheye`; names of the models: ROS CameraInfo.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cpr_deploy.files import InputError, read_json

# Distortion model -> how many coefficients it may have. Missing ones are 0.
DISTORTION_MODELS = {
    "none": (0,),
    "plumb_bob": (0, 4, 5),
    "rational_polynomial": (8,),
    "equidistant": (0, 4),
}
# Of our pixels against OpenCV's.
HALF_PIXEL = 0.5
MAX_SIDE = 1 << 16
MAX_FILE_BYTES = 1 << 20
_NEWTON_STEPS = 20
# What undistortion may leave, in units of the focal length: 1e-6 px at f = 1000 px.
_TOLERANCE = 1e-9


@dataclasses.dataclass(frozen=True, eq=False)
class CameraModel:
    """A camera as in ROS CameraInfo.

    width, height: px of its images. k (3, 3): focal lengths and principal point, px, whole numbers
    at pixel centres. d: coefficients in OpenCV's order: plumb_bob k1 k2 p1 p2 k3 (Brown-Conrady),
    rational_polynomial k1 k2 p1 p2 k3 k4 k5 k6, equidistant k1 k2 k3 k4 (fisheye), none.

    Raises:
        InputError: sizes, matrix or coefficients that no camera has, or an unknown model.
    """

    width: int
    height: int
    k: np.ndarray
    distortion_model: str = "plumb_bob"
    d: tuple[float, ...] = ()

    def __post_init__(self):
        for name in ("width", "height"):
            value = getattr(self, name)
            if isinstance(value, bool) or value != int(value) or not 1 <= value <= MAX_SIDE:
                raise InputError(f"{name} {value!r}: a whole number of px above 0 is needed.")
            object.__setattr__(self, name, int(value))
        k = _numbers(self.k, "k")
        if k.size != 9 or not np.isfinite(k).all():
            raise InputError(f"k {self.k!r}: 9 finite numbers are needed, row by row.")
        k = k.reshape(3, 3)
        if k[0, 0] <= 0 or k[1, 1] <= 0 or k[0, 1] or k[1, 0] or k[2].tolist() != [0, 0, 1]:
            raise InputError(
                f"k {k.tolist()}: [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with fx, fy > 0 is needed."
                " A camera that was not calibrated has zeros here."
            )
        k.flags.writeable = False
        d = _numbers(self.d, "d").ravel()
        counts = DISTORTION_MODELS.get(self.distortion_model)
        if counts is None:
            raise InputError(
                f"distortion_model {self.distortion_model!r}: is not known; one of"
                f" {', '.join(DISTORTION_MODELS)} is needed."
            )
        if len(d) not in counts and d.any() or not np.isfinite(d).all():
            raise InputError(
                f"d {d.tolist()}: {self.distortion_model} has {counts[-1]} finite coefficients."
            )
        d = d[: counts[-1]]
        d = np.concatenate([d, np.zeros(counts[-1] - len(d))])
        object.__setattr__(self, "k", k)
        object.__setattr__(self, "d", tuple(d.tolist()))
        object.__setattr__(self, "_limit", self._find_limit())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CameraModel) and self.to_dict() == other.to_dict()

    @classmethod
    def from_dict(cls, value: Any, name: str = "camera") -> CameraModel:
        """From the keys width, height, distortion_model, d, k (9 numbers or 3 x 3).

        Also from camera_info files of ROS and files of OpenCV: image_width, image_height,
        camera_matrix and distortion_coefficients (with `data`). `name` begins the errors: the file.
        """
        if not isinstance(value, Mapping):
            raise InputError(f"{name}: is no camera; width, height, distortion_model, d, k needed.")
        upper = {key.lower(): item for key, item in value.items() if isinstance(key, str)}
        found = {
            "width": upper.get("width", upper.get("image_width")),
            "height": upper.get("height", upper.get("image_height")),
            "k": _data(upper.get("k", upper.get("camera_matrix"))),
            "d": _data(upper.get("d", upper.get("distortion_coefficients", ()))),
        }
        missing = [key for key, item in found.items() if item is None]
        if missing:
            raise InputError(
                f"{name}: has no {', '.join(missing)}. A camera has width, height,"
                " distortion_model, d, k, as a CameraInfo of ROS."
            )
        # ROS drivers leave the model empty where there is no distortion.
        model = upper.get("distortion_model") or ("plumb_bob" if len(found["d"]) else "none")
        try:
            return cls(distortion_model=_MODEL_NAMES.get(model, model), **found)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        except (TypeError, ValueError):
            raise InputError(f"{name}: width, height, k and d must be numbers.") from None

    def to_dict(self) -> dict[str, Any]:
        return {
            "width": self.width,
            "height": self.height,
            "distortion_model": self.distortion_model,
            "d": list(self.d),
            "k": self.k.ravel().tolist(),
        }

    def scaled(self, width: int, height: int) -> CameraModel:
        """The same camera with its images resized to `width` x `height` px."""
        scale = np.array([width / self.width, height / self.height])
        k = self.k.copy()
        k[[0, 1], [0, 1]] *= scale
        k[:2, 2] = (k[:2, 2] + HALF_PIXEL) * scale - HALF_PIXEL
        return CameraModel(width, height, k, self.distortion_model, self.d)

    def project(self, xyz: np.ndarray) -> np.ndarray:
        """Points (N, 3) of the optical frame, m, to (N, 2) px.

        NaN behind the camera, and beyond the angle up to which the distortion is one-to-one: there
        the formulas would fold far points back into the picture. Results may lie outside of it.
        """
        xyz = np.asarray(xyz, float).reshape(-1, 3)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            flat = np.where(xyz[:, 2:] > 0, xyz[:, :2] / xyz[:, 2:], np.nan)
            flat[~(np.hypot(flat[:, 0], flat[:, 1]) < self._limit)] = np.nan
            return self._pixels(self._distort(flat))

    def rays(self, xy: np.ndarray) -> np.ndarray:
        """(N, 2) px to directions (N, 3) of the optical frame with z = 1; NaN where there is none.

        That is where the distortion has no inverse: pixels that no light in front of the camera
        falls on by this model.
        """
        xy = np.asarray(xy, float).reshape(-1, 2)
        seen = (xy - HALF_PIXEL - self.k[:2, 2]) / self.k[[0, 1], [0, 1]]
        with np.errstate(all="ignore"):
            flat = self._undistort(seen)
        return np.column_stack([flat, np.where(np.isnan(flat[:, 0]), np.nan, 1.0)])

    def deproject(self, xy: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """(N, 2) px and depths (N,) along z, m, to points (N, 3) of the optical frame, m."""
        return self.rays(xy) * np.asarray(depth, float).reshape(-1, 1)

    def _pixels(self, flat: np.ndarray) -> np.ndarray:
        return flat * self.k[[0, 1], [0, 1]] + self.k[:2, 2] + HALF_PIXEL

    def _find_limit(self) -> float:
        """The radius x/z, y/z up to which the radial distortion grows with the angle."""
        if not any(self.d):
            return np.inf
        if self.distortion_model == "equidistant":
            # d/dt of t (1 + k1 t^2 + ... + k4 t^8), in u = t^2.
            angle = np.sqrt(_first_root([1, *(np.array([3, 5, 7, 9]) * self.d)]))
            return np.tan(angle) if angle < np.pi / 2 else np.inf
        top, bottom = (np.polynomial.Polynomial(part) for part in self._radial())
        u = np.polynomial.Polynomial([0, 1])
        slope = (top + 2 * u * top.deriv()) * bottom - 2 * u * top * bottom.deriv()
        return np.sqrt(min(_first_root(slope.coef), _first_root(bottom.coef)))

    def _radial(self) -> tuple[list[float], list[float]]:
        """Numerator and denominator of the radial factor, as coefficients of u = r^2."""
        d = [*self.d, *[0.0] * (8 - len(self.d))]
        return [1.0, d[0], d[1], d[4]], [1.0, d[5], d[6], d[7]]

    def _distort(self, flat: np.ndarray) -> np.ndarray:
        if not any(self.d):
            return _fisheye(flat) if self.distortion_model == "equidistant" else flat
        if self.distortion_model == "equidistant":
            return _fisheye(flat, self.d)
        return self._distort_with_slope(flat)[0]

    def _distort_with_slope(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Brown-Conrady: the points, and the derivatives (N, 2, 2) of them by the input."""
        x, y = flat[:, 0], flat[:, 1]
        p1, p2 = self.d[2:4]
        u = x * x + y * y
        (_, k1, k2, k3), (_, k4, k5, k6) = self._radial()
        top, bottom = 1 + u * (k1 + u * (k2 + u * k3)), 1 + u * (k4 + u * (k5 + u * k6))
        factor = top / bottom
        # 2 d(factor)/du: d(factor)/dx = slope x.
        slope = k1 + u * (2 * k2 + u * 3 * k3) - factor * (k4 + u * (2 * k5 + u * 3 * k6))
        slope = 2 * slope / bottom
        seen = np.empty_like(flat)
        seen[:, 0] = x * factor + 2 * p1 * x * y + p2 * (u + 2 * x * x)
        seen[:, 1] = y * factor + p1 * (u + 2 * y * y) + 2 * p2 * x * y
        slopes = np.empty((len(flat), 2, 2))
        slopes[:, 0, 0] = factor + slope * x * x + 2 * p1 * y + 6 * p2 * x
        slopes[:, 1, 1] = factor + slope * y * y + 6 * p1 * y + 2 * p2 * x
        slopes[:, 0, 1] = slopes[:, 1, 0] = slope * x * y + 2 * p1 * x + 2 * p2 * y
        return seen, slopes

    def _undistort(self, seen: np.ndarray) -> np.ndarray:
        if self.distortion_model == "equidistant":
            return _fisheye_inverse(seen, self.d, np.arctan(self._limit))
        if not any(self.d):
            return seen
        flat = seen.copy()
        for _ in range(_NEWTON_STEPS):
            value, slopes = self._distort_with_slope(flat)
            left = value - seen
            det = slopes[:, 0, 0] * slopes[:, 1, 1] - slopes[:, 0, 1] ** 2
            good = (np.abs(left).max(axis=1) < _TOLERANCE) & (det > 0)
            if not (np.abs(left) > 1e-3 * _TOLERANCE).any():
                break
            step = np.empty_like(left)
            step[:, 0] = slopes[:, 1, 1] * left[:, 0] - slopes[:, 0, 1] * left[:, 1]
            step[:, 1] = slopes[:, 0, 0] * left[:, 1] - slopes[:, 0, 1] * left[:, 0]
            flat = flat - step / det[:, None]
            if np.isfinite(self._limit):
                # Beyond the limit is another branch: back to the edge of this one.
                radius = np.hypot(flat[:, 0], flat[:, 1])
                flat *= np.minimum(1.0, self._limit / radius)[:, None]
        return np.where(good[:, None], flat, np.nan)


def load_camera(path: str | os.PathLike) -> CameraModel:
    """Reads a camera from JSON or YAML: see `CameraModel.from_dict`.

    Raises:
        InputError: the file is missing, damaged, or no camera.
    """
    path = Path(path)
    if path.suffix.lower() in (".yaml", ".yml"):
        return CameraModel.from_dict(_read_yaml(path), str(path))
    return CameraModel.from_dict(read_json(path), str(path))


# Names that drivers and tools use for the same models.
_MODEL_NAMES = {
    "radtan": "plumb_bob",
    "brown_conrady": "plumb_bob",
    "fisheye": "equidistant",
    "kannala_brandt4": "equidistant",
}


def _numbers(value: Any, name: str) -> np.ndarray:
    try:
        return np.array(value, float)
    except (TypeError, ValueError):
        raise InputError(f"{name} {value!r}: numbers are needed.") from None


def _data(value: Any) -> Any:
    """The numbers of a matrix, which files of ROS and OpenCV hold with its shape."""
    return value.get("data") if isinstance(value, Mapping) else value


def _read_yaml(path: Path) -> Any:
    try:
        import yaml
    except ModuleNotFoundError:
        raise InputError(
            f"{path}: YAML needs PyYAML: pip install 'cpr-point-localization[pick]', or give the"
            " camera as JSON."
        ) from None

    class Loader(yaml.SafeLoader):
        """Also takes OpenCV's matrices."""

    Loader.add_constructor(
        "tag:yaml.org,2002:opencv-matrix", lambda loader, node: loader.construct_mapping(node, True)
    )
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{path}: is too large to describe a camera.")
        text = path.read_text(encoding="utf-8-sig")
        # OpenCV writes "%YAML:1.0", which is no YAML.
        text = "\n".join(line for line in text.splitlines() if not line.startswith("%YAML"))
        return yaml.load(text, Loader)  # a SafeLoader
    except FileNotFoundError:
        raise InputError(f"{path}: no such file. Check the path.") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: is not valid YAML ({error}). Correct it.") from None


def _first_root(coefficients: Any) -> float:
    """The smallest positive root of a polynomial, coefficients from the constant on, or inf."""
    roots = np.polynomial.Polynomial(coefficients).trim().roots()
    real = roots.real[(np.abs(roots.imag) < 1e-9) & (roots.real > 0)]
    return float(real.min()) if len(real) else np.inf


def _fisheye(flat: np.ndarray, d: tuple[float, ...] = (0, 0, 0, 0)) -> np.ndarray:
    radius = np.hypot(flat[:, 0], flat[:, 1])
    angle = np.arctan(radius)
    bent = _bend(angle, d)
    return flat * np.where(radius > 1e-12, bent / np.maximum(radius, 1e-12), 1.0)[:, None]


def _bend(angle: np.ndarray, d: tuple[float, ...]) -> np.ndarray:
    u = angle * angle
    return angle * (1 + u * (d[0] + u * (d[1] + u * (d[2] + u * d[3]))))


def _fisheye_inverse(seen: np.ndarray, d: tuple[float, ...], limit: float) -> np.ndarray:
    """`limit`: the largest angle, rad."""
    bent = np.hypot(seen[:, 0], seen[:, 1])
    angle = np.minimum(bent, limit)
    for _ in range(_NEWTON_STEPS):
        u = angle * angle
        slope = 1 + u * (3 * d[0] + u * (5 * d[1] + u * (7 * d[2] + u * 9 * d[3])))
        angle = np.clip(angle - (_bend(angle, d) - bent) / slope, 0, limit)
    good = (np.abs(_bend(angle, d) - bent) < _TOLERANCE) & (angle < np.pi / 2)
    scale = np.where(bent > 1e-12, np.tan(angle) / np.maximum(bent, 1e-12), 1.0)
    return np.where(good[:, None], seen * scale[:, None], np.nan)
