"""The surface at points of a depth image, of many points at once, never across an edge.

On a plane in space 1/z is linear in the pixel (but for the lens' distortion, which is linear over a
small patch), so that a tilted surface needs no tolerance of its own.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from cpr_deploy.camera import CameraModel
from cpr_deploy.picking.settings import PickSettings

# Of the px within depth_radius so many must have a depth, and of those so few may lie off the
# surface: less than half the px that the far side of an edge through the point would leave.
MIN_VALID_SHARE = 0.7
MAX_OFF_SHARE = 0.12
# Of the 3 x 3 px at the point.
MAX_HEART_HOLES = 2
MAX_HEART_OFF = 1
# Root mean square of their distances from the surface, in tolerances. Of noise alone it is 0.25 at
# most; of a small step, whose two sides are both within the tolerance, more.
MAX_ROUGHNESS = 0.4
# Beyond these it is no depth but garbage, m.
NEAREST, FARTHEST = 1e-3, 1e4
# Px of a depth image that share their error: matching windows and filters of cameras.
CORRELATED = 9


@dataclasses.dataclass(frozen=True)
class Surfaces:
    """Arrays over N points; numbers of a point that is not `solid` mean nothing.

    ray (N, 3): line of sight, z = 1; NaN where the lens has none. z (N,): depth, m. normal (N, 3):
    unit length, into the surface, optical frame. few, edge (N,) bool: too few valid depths, more
    than one surface. share (N,): px within depth_radius on the surface. sigma (N,): standard
    deviation of z. slope (N, 2): of 1/z by column and row, 1/(m px). along (N, 3, 2): how the place
    moves with the image point, m/px.
    """

    ray: np.ndarray
    z: np.ndarray
    normal: np.ndarray
    few: np.ndarray
    edge: np.ndarray
    share: np.ndarray
    sigma: np.ndarray
    slope: np.ndarray
    along: np.ndarray

    def replaced(self, other: Surfaces, mask: np.ndarray) -> Surfaces:
        """These, but the `other` ones where `mask` (N,) is true."""
        fields = {}
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            wide = mask.reshape(-1, *[1] * (mine.ndim - 1))
            fields[field.name] = np.where(wide, theirs, mine)
        return Surfaces(**fields)

    @property
    def solid(self) -> np.ndarray:
        return ~(self.few | self.edge | np.isnan(self.ray[:, 0]))


def find_surfaces(
    depth: np.ndarray, unit: float, xy: np.ndarray, camera: CameraModel, settings: PickSettings
) -> Surfaces:
    """The surface at each of the points.

    Args:
        depth: (H, W) along the optical axis, of the camera's size; 0, negative, NaN and infinity
            are no depth.
        unit: metres per unit of `depth`.
        xy: (N, 2) px, inside the image.
    """
    ray, per_px = _local_rays(camera, xy, settings.normal_radius)
    z = patches(depth, unit, xy, settings.normal_radius)
    valid = np.isfinite(z)
    inverse = np.zeros_like(z)
    np.divide(1.0, z, out=inverse, where=valid)

    # The px within depth_radius decide on the point; their columns in the patch, row by row.
    grid = window(settings.normal_radius)
    reach = np.abs(grid).max(axis=1)
    core = np.flatnonzero(reach <= settings.depth_radius)
    core_valid, core_inverse = valid[:, core], inverse[:, core]
    middle = masked_median(core_inverse, core_valid)
    with np.errstate(divide="ignore", invalid="ignore"):
        # A difference of depths dz is one of dz/z^2 in 1/z.
        tolerance = (settings.edge_tolerance(1 / middle) * middle**2)[:, None]

    # From the nearest px outwards: a constant, then planes of 1/z by column and row.
    plane = np.column_stack([middle, np.zeros((len(xy), 2))])
    design = np.column_stack([np.ones(len(grid)), grid])
    weight = 1 - (grid**2).sum(axis=1) / (2 * (settings.normal_radius + 1) ** 2)
    around = slice(None)
    for part, share in ((core, 1.0), (core, 0.5), (around, 0.5), (around, 0.5)):
        left = inverse[:, part] - plane @ design[part].T
        on = valid[:, part] & (np.abs(left) < share * tolerance)
        plane = _fit(design[part], inverse[:, part], weight[part] * on)
    slope = plane[:, 1:]

    # What each px says about 1/z at the point, which is not at a px' centre.
    aside = xy - np.floor(xy) - 0.5
    level = core_inverse - slope @ grid[core].T + (slope * aside).sum(axis=1)[:, None]
    fitted = plane[:, :1] + (slope * aside).sum(axis=1)[:, None]
    on = core_valid & (np.abs(level - fitted) < tolerance)
    at_point = masked_median(level, on)
    left = np.abs(level - at_point[:, None])
    on = core_valid & (left < tolerance)
    off = core_valid & ~on

    heart = reach[core] <= 1
    count_valid = np.count_nonzero(core_valid, axis=1)
    few = count_valid < MIN_VALID_SHARE * len(core)
    few |= np.count_nonzero(~core_valid[:, heart], axis=1) > MAX_HEART_HOLES
    edge = np.count_nonzero(off, axis=1) > MAX_OFF_SHARE * count_valid
    edge |= ((left * on) ** 2).sum(axis=1) > (MAX_ROUGHNESS * tolerance[:, 0]) ** 2 * on.sum(axis=1)
    edge |= off[:, len(core) // 2] | (np.count_nonzero(off[:, heart], axis=1) > MAX_HEART_OFF)

    with np.errstate(divide="ignore", invalid="ignore"):
        depth_here = 1 / at_point
        # Slopes of 1/z by px to slopes by x/z and y/z: n . P = 1 on the plane n.
        by_ray = (slope[:, None] @ np.linalg.inv(_finite(per_px)))[:, 0]
        normal = np.column_stack([by_ray, at_point - (by_ray * ray[:, :2]).sum(axis=1)])
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        count = np.count_nonzero(on, axis=1)
        spread = 1.4826 * masked_median(left, on) * depth_here**2
        # pi/2: of a median, against a mean.
        independent = np.maximum(count / CORRELATED, 1)
        sigma = np.maximum(spread, settings.depth_sigma(depth_here))
        sigma = sigma * np.sqrt(np.pi / 2 / independent)
        # P = z ray, and z changes by -z^2 times the slope of 1/z.
        along = np.zeros((len(xy), 3, 2))
        along[:, :2] = per_px * depth_here[:, None, None]
        along -= ray[:, :, None] * (slope * depth_here[:, None] ** 2)[:, None, :]
    return Surfaces(
        ray=ray,
        z=depth_here,
        normal=normal,
        few=few,
        edge=edge & ~few,
        share=count / len(core),
        sigma=sigma,
        slope=slope,
        along=along,
    )


def window(radius: int) -> np.ndarray:
    """Offsets (P, 2) of columns and rows, row by row; P = (2 radius + 1)^2."""
    side = np.arange(-radius, radius + 1)
    return np.stack(np.meshgrid(side, side), axis=2).reshape(-1, 2)


def patches(depth: np.ndarray, unit: float, xy: np.ndarray, radius: int) -> np.ndarray:
    """The depths (N, P), m, of the px of `window` around the px that points are in.

    NaN where there is no depth or no image.
    """
    height, width = depth.shape
    side = np.arange(-radius, radius + 1)
    column = np.floor(xy[:, :1]).astype(np.int64) + side
    row = np.floor(xy[:, 1:]).astype(np.int64) + side
    index = np.clip(row, 0, height - 1)[:, :, None] * width + np.clip(column, 0, width - 1)[:, None]
    with np.errstate(over="ignore", invalid="ignore"):
        z = np.take(depth, index).astype(float) * unit
        good = (z > NEAREST) & (z < FARTHEST)
    good &= ((row >= 0) & (row < height))[:, :, None] & ((column >= 0) & (column < width))[:, None]
    z[~good] = np.nan
    return z.reshape(-1, len(side) ** 2)


def masked_median(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(N, P), (N, P) bool -> (N,) medians of each row's masked values, NaN where there are none."""
    ordered = np.sort(np.where(mask, values, np.inf), axis=1)
    count = np.count_nonzero(mask, axis=1)
    rows = np.arange(len(values))
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, values.shape[1] - 1)
    with np.errstate(invalid="ignore"):
        median = (ordered[rows, low] + ordered[rows, high]) / 2
    return np.where(count > 0, median, np.nan)


def _local_rays(camera: CameraModel, xy: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Rays (N, 3) at the points, and their change (N, 2, 2): d(x/z, y/z) / d(column, row)."""
    steps = radius * np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
    rays = camera.rays((xy[None] + steps[:, None]).reshape(-1, 2)).reshape(5, -1, 3)
    columns = (rays[1] - rays[2])[:, :2], (rays[3] - rays[4])[:, :2]
    per_px = np.stack(columns, axis=2) / (2 * radius)
    # Where the picture around a point ends the point has no use either.
    ray = np.where(np.isnan(per_px).any(axis=(1, 2))[:, None], np.nan, rays[0])
    return ray, per_px


def _finite(matrices: np.ndarray) -> np.ndarray:
    """Unit matrices in place of those with NaN, which cannot be inverted."""
    bad = ~np.isfinite(matrices).all(axis=(1, 2))
    return np.where(bad[:, None, None], np.eye(2), matrices)


def _fit(design: np.ndarray, values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted least squares of each row: (P, 3), (N, P), (N, P) -> (N, 3)."""
    products = (design[:, :, None] * design[:, None]).reshape(-1, 9)
    # The little on the diagonal keeps rows without data solvable; offsets are of about 1 px.
    normal = (weight @ products).reshape(-1, 3, 3) + 1e-9 * np.eye(3)
    return np.linalg.solve(normal, ((weight * values) @ design)[:, :, None])[:, :, 0]
