"""From points in a picture to positions on the ground, with their uncertainty.

A line of sight goes from the camera's place through the pixel, by the camera's model and attitude,
and meets the ground. Straight lines in Earth-centred coordinates: the Earth's curvature is exact,
the air's refraction (0.25 m at 5 km) and the deflection of the vertical (below 0.01 degrees) are
left out, the geoid is parallel to the ellipsoid over the picture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from cpr_deploy.camera import CameraModel
from cpr_deploy.files import InputError

from . import earth
from .codes import GeoRefusal
from .flight_path import Heights, Pose
from .ground import MIN_SINE, ElevationModel, LevelGround

# Of an ellipse that holds 95 % of a two-dimensional normal distribution, in sigmas.
ELLIPSE_95 = float(np.sqrt(-2 * np.log(0.05)))
# A distance's relative error grows with sigma / tan(angle above the ground). Beyond this the first
# order, from which the ellipse comes, holds the true place in less than 92 % of all cases, not 95.
MAX_STEEPNESS = 0.2
# North, east, down as rows in east, north, up.
_ENU_FROM_NED = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])


@dataclasses.dataclass(frozen=True)
class Sigmas:
    """Standard deviations of what a position is computed from, independent of each other.

    horizontal: of the camera's place, m, in each direction. altitude: of the camera, m. ground: of
    the ground's altitude, m. tilt: of the camera's attitude about any level axis, degrees (the
    gimbal's horizon). heading: about the vertical, degrees (the compass). pixel: of a point, px.

    The defaults suit a small drone with a gimbal, without RTK.
    """

    horizontal: float = 2.0
    altitude: float = 3.0
    ground: float = 1.0
    tilt: float = 0.5
    heading: float = 2.0
    pixel: float = 2.0

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if not 0 <= value < 1e6:
                raise InputError(f"--sigma {name}={value}: a number from 0 is needed.")


def sigmas_of(values: Mapping[str, float]) -> Sigmas:
    """`Sigmas` with some other than their defaults; InputError for an unknown name."""
    names = [field.name for field in dataclasses.fields(Sigmas)]
    for name in values:
        if name not in names:
            raise InputError(f"--sigma {name}: no such name; there are {', '.join(names)}.")
    return Sigmas(**values)


@dataclasses.dataclass(frozen=True, eq=False)
class GeoPositions:
    """Positions of N points; numbers are NaN where `codes` tells why there is none.

    latitude, longitude: degrees. altitude: m above `reference`. distance: m from the camera.
    covariance (N, 3, 3): of east, north and up, m^2. semi_major, semi_minor: m, azimuth: degrees
    (0 to 180) of the ellipse that holds the true place with 95 %.
    """

    latitude: np.ndarray
    longitude: np.ndarray
    altitude: np.ndarray
    distance: np.ndarray
    covariance: np.ndarray
    semi_major: np.ndarray
    semi_minor: np.ndarray
    azimuth: np.ndarray
    codes: np.ndarray
    reference: str

    def __len__(self) -> int:
        return len(self.codes)


class GeoReferencer:
    """Args:
    camera: of the pictures the points are in.
    ground: what lines of sight meet.
    heights: as for the flight path, for the height above the ellipsoid.
    sigmas: standard deviations of the input.
    max_range: m from the camera; what is farther is refused.
    """

    def __init__(
        self,
        camera: CameraModel,
        ground: LevelGround | ElevationModel,
        heights: Heights | None = None,
        sigmas: Sigmas | None = None,
        max_range: float = 5000.0,
    ):
        if not max_range > 0:
            raise InputError(f"--max-range {max_range}: a distance above 0 m is needed.")
        self.camera, self.ground = camera, ground
        self.heights, self.sigmas = heights or Heights(), sigmas or Sigmas()
        self.max_range = max_range
        # Where the way to the ellipsoid is not known, altitudes are taken as if they counted from
        # it: distances on the ground are off by altitude / Earth's radius, 0.02 % for each 1,000 m.
        lift = self.heights.convert(0.0, ground.reference, "ellipsoid")
        if lift is None:
            lift = self.heights.convert(0.0, ground.reference, "msl")
        self._lift = lift or 0.0

    def locate(self, xy: np.ndarray, pose: Pose) -> GeoPositions:
        """Positions of points (N, 2), px of the picture, that was taken at `pose`."""
        xy = np.asarray(xy, float).reshape(-1, 2)
        rays = self.camera.rays(xy)
        codes = np.full(len(xy), None, object)
        codes[~np.isfinite(rays).all(axis=1)] = GeoRefusal.NO_RAY
        size = np.array([self.camera.width, self.camera.height])
        codes[~((xy >= 0) & (xy <= size)).all(axis=1)] = GeoRefusal.OUTSIDE_IMAGE
        origin, turn = self._camera(pose)
        lengths = np.linalg.norm(rays, axis=1, keepdims=True)
        sights = rays / lengths @ turn.T
        sights[~np.equal(codes, None)] = np.nan
        hits = self.ground.intersect(origin, sights, self._lift, self.max_range)
        codes = np.where(np.equal(codes, None), hits.codes, codes)
        with np.errstate(invalid="ignore"):
            sine = -(sights * hits.normal).sum(axis=1)
            self._refuse(codes, hits.distance > self.max_range, GeoRefusal.BEYOND_RANGE)
            flat = np.radians(self.sigmas.tilt) * np.sqrt(np.maximum(1 - sine**2, 0))
            grazing = (sine < MIN_SINE) | (flat > MAX_STEEPNESS * sine)
            self._refuse(codes, grazing, GeoRefusal.GRAZING)
        good = np.flatnonzero(np.equal(codes, None))
        return self._positions(rays, pose, origin, turn, sights, hits, codes, good)

    @staticmethod
    def _refuse(codes: np.ndarray, wrong: np.ndarray, code: GeoRefusal) -> None:
        codes[np.equal(codes, None) & wrong] = code

    def _camera(self, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
        """ECEF place of the camera, and the rotation from its optical frame to ECEF."""
        origin = to_place(pose, self._lift)
        axes = earth.enu_axes(pose.latitude, pose.longitude)
        return origin, axes.T @ _ENU_FROM_NED @ pose.ned_from_camera

    def _positions(self, rays, pose, origin, turn, sights, hits, codes, good) -> GeoPositions:
        count = len(codes)
        places = origin + hits.distance[good, None] * sights[good]
        latitude, longitude, altitude = (np.full(count, np.nan) for _ in range(3))
        if len(good):
            latitude[good], longitude[good], height = earth.to_geodetic(places)
            altitude[good] = height - self._lift
        covariance = np.full((count, 3, 3), np.nan)
        covariance[good] = self._covariance(
            rays[good], pose, turn, sights[good], hits.distance[good], hits.normal[good],
            earth.enu_axes(latitude[good], longitude[good]),
        )  # fmt: skip
        major, minor, azimuth = ellipses(covariance[:, :2, :2])
        distance = np.full(count, np.nan)
        distance[good] = hits.distance[good]
        return GeoPositions(
            latitude, longitude, altitude, distance, covariance, major, minor, azimuth, codes,
            self.ground.reference,
        )  # fmt: skip

    def _covariance(self, rays, pose, turn, sights, distance, normal, axes) -> np.ndarray:
        """Of east, north, up at each place, to first order.

        A small change of origin and direction moves the hit by (1 - d n^T / n d) (dC + t dd), where
        d is the line of sight, n the ground's normal, t the distance.
        """
        s = self.sigmas
        here = earth.enu_axes(pose.latitude, pose.longitude)
        shifts = [s.horizontal * here[0], s.horizontal * here[1], s.altitude * here[2]]
        moves = [np.broadcast_to(shift, sights.shape) for shift in shifts]
        for axis, sigma in zip(here, (s.tilt, s.tilt, s.heading), strict=True):
            moves.append(np.radians(sigma) * distance[:, None] * np.cross(axis, sights))
        lengths = np.linalg.norm(rays, axis=1, keepdims=True)
        for step in self._ray_steps(rays):
            moves.append(s.pixel * distance[:, None] * (step @ turn.T) / lengths)
        slope = (sights * normal).sum(axis=1)[:, None]
        columns = [move - sights * ((normal * move).sum(axis=1)[:, None] / slope) for move in moves]
        rise = (normal * axes[:, 2]).sum(axis=1)[:, None]
        columns.append(s.ground * rise / slope * sights)
        local = np.einsum("nij,knj->nik", axes, np.stack(columns))
        return local @ local.transpose(0, 2, 1)

    def _ray_steps(self, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How rays (N, 3) with z = 1 change for 1 px to the right, and for 1 px down."""
        tiny = 1e-5
        ends = [
            self.camera.project(rays + shift)
            for shift in tiny * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
        ]
        # At the rim of what the distortion can tell one side may be missing: no pixel error there.
        (a, c), (b, d) = (np.nan_to_num((ends[i] - ends[i + 1]) / (2 * tiny)).T for i in (0, 2))
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = 1 / (a * d - b * c)
            zero = np.zeros(len(rays))
            steps = np.stack([d, -c, zero, -b, a, zero]) * inverse
        steps = np.nan_to_num(steps, posinf=0.0, neginf=0.0)
        return steps[:3].T, steps[3:].T

    def footprint(self, pose: Pose, per_side: int = 6) -> np.ndarray | None:
        """(M, 2) latitudes and longitudes of the picture's border on the ground, in order.

        Where the border is above the horizon or too far, the range limit is the border. None if
        less than three points of it are on the ground.
        """
        steps = np.arange(per_side) / per_side
        width, height = self.camera.width, self.camera.height
        border = np.concatenate(
            [
                np.column_stack([steps * width, 0 * steps]),
                np.column_stack([0 * steps + width, steps * height]),
                np.column_stack([(1 - steps) * width, 0 * steps + height]),
                np.column_stack([0 * steps, (1 - steps) * height]),
            ]
        )
        origin, turn = self._camera(pose)
        sights = self.camera.rays(border) @ turn.T
        sights /= np.linalg.norm(sights, axis=1, keepdims=True)
        hits = self.ground.intersect(origin, sights, self._lift, self.max_range)
        on_ground = hits.distance <= self.max_range
        if np.count_nonzero(on_ground) < 3:
            return None
        with np.errstate(invalid="ignore"):
            latitude, longitude, _ = earth.to_geodetic(origin + hits.distance[:, None] * sights)
        far = [code in (GeoRefusal.ABOVE_HORIZON, GeoRefusal.BEYOND_RANGE) for code in hits.codes]
        far = np.flatnonzero(np.array(far) | (hits.distance > self.max_range))
        if len(far):
            here = earth.enu_axes(pose.latitude, pose.longitude)
            east, north = sights[far] @ here[0], sights[far] @ here[1]
            ones = np.ones(len(far))
            longitude[far], latitude[far], _ = earth.geod().fwd(
                pose.longitude * ones, pose.latitude * ones,
                np.degrees(np.arctan2(east, north)), self.max_range * ones,
            )  # fmt: skip
        outline = np.column_stack([latitude, longitude])
        return outline[np.isfinite(outline).all(axis=1)]


def to_place(pose: Pose, lift: float) -> np.ndarray:
    """ECEF coordinates (3,) of a camera, m."""
    return earth.to_ecef(pose.latitude, pose.longitude, pose.altitude + lift)


def ellipses(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Semi-axes (m) and azimuth (degrees, 0 to 180) of 95 % ellipses.

    covariance (N, 2, 2): of east and north, m^2.
    """
    east, north, both = covariance[:, 0, 0], covariance[:, 1, 1], covariance[:, 0, 1]
    middle, half = (east + north) / 2, np.hypot((east - north) / 2, both)
    major = ELLIPSE_95 * np.sqrt(middle + half)
    minor = ELLIPSE_95 * np.sqrt(np.maximum(middle - half, 0))
    azimuth = np.degrees(np.arctan2(2 * both, north - east)) / 2 % 180
    return major, minor, azimuth
