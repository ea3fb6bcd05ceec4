"""Random depth patches with an edge near the point in their middle, tiled into one depth image."""

from __future__ import annotations

import dataclasses

import numpy as np

from cpr_deploy.camera import CameraModel

TILE = 31
FOCAL = 600.0


@dataclasses.dataclass(frozen=True)
class Patches:
    """N patches. depth (H, W) float32 m, 0 where missing; xy (N, 2) px of the points; own, other
    (N,): depth at the point of the surface it lies on, and of the one beyond the edge; inset (N,):
    distance from the point to the nearest px of the other surface, px. mine, plane (H, W): which px
    are of the surface of their patch's point, and that surface without noise, m."""

    camera: CameraModel
    depth: np.ndarray
    xy: np.ndarray
    own: np.ndarray
    other: np.ndarray
    inset: np.ndarray
    mine: np.ndarray
    plane: np.ndarray


def random_patches(rng: np.random.Generator, side: int, settings) -> Patches:
    """side x side patches: tilted planes, steps of 3 tolerances to 1 m, straight edges, corners,
    bars and discs, mixed px at the edge, shadows, missing px, outliers and noise."""
    size = side * TILE
    camera = CameraModel(
        size, size, [[FOCAL, 0, size / 2], [0, FOCAL, size / 2], [0, 0, 1]], "none"
    )
    depth, mine, plane = (np.zeros((size, size), type) for type in (np.float32, bool, float))
    rows = []
    for tile in range(side * side):
        row, column = divmod(tile, side)
        corner = np.array([column, row]) * TILE
        part = np.s_[corner[1] : corner[1] + TILE, corner[0] : corner[0] + TILE]
        depth[part], mine[part], plane[part], xy, own, other, inset = _patch(rng, settings)
        rows.append((*(corner + xy), own, other, inset))
    x, y, own, other, inset = np.array(rows).T
    xy = np.column_stack([x, y])
    return Patches(camera, depth, xy, own, other, inset, mine, plane)


def _patch(rng, settings):
    """The fields of `Patches` of one patch; the point in px of it."""
    point = TILE // 2 + rng.uniform(0, 1, 2)
    centres = np.stack(np.meshgrid(np.arange(TILE), np.arange(TILE)), axis=2) + 0.5 - point
    own = np.exp(rng.uniform(np.log(0.25), np.log(4)))
    tolerance = settings.edge_tolerance(own)
    step = rng.choice([-1, 1]) * np.exp(rng.uniform(np.log(3 * tolerance), np.log(1.0)))
    other = own + step if own + step > 0.15 else own - step
    while True:
        outside = _distance_outside(rng, centres)
        if outside[TILE // 2, TILE // 2] < 0:
            break
    mine = outside < 0
    planes = [_plane(rng, z, centres) for z in (own, other)]
    # Mixed px: up to 1.5 px to each side.
    blur = rng.choice([0, 0, 0.5, 1.0, 1.5])
    share = np.clip(0.5 + outside / max(2 * blur, 1e-9), 0, 1)
    if blur and rng.random() < 0.5:
        share = np.where((share > 0) & (share < 1), rng.random(share.shape), share)
    depth = planes[0] * (1 - share) + planes[1] * share
    sigma = settings.depth_sigma(depth)
    depth = depth + rng.uniform(0, 1) * rng.normal(0, 1, depth.shape) * sigma
    wrong = rng.random(depth.shape) < rng.choice([0, 0.01])
    depth[wrong] = rng.uniform(0.2, 5, np.count_nonzero(wrong))
    missing = rng.random(depth.shape) < rng.choice([0, 0.05, 0.2])
    shadow = rng.choice([0, 0, 1, 2, 4])
    missing |= (
        (outside > 0) & (outside < shadow) if rng.random() < 0.5 else mine & (outside > -shadow)
    )
    depth[missing] = 0
    away = np.linalg.norm(centres[~mine], axis=1).min() if not mine.all() else np.inf
    return depth, mine, planes[0], point, own, other, away


def _distance_outside(rng, centres):
    """Signed px from the edge of the point's surface, negative on it."""
    angle = rng.uniform(0, 2 * np.pi)
    normal = np.array([np.cos(angle), np.sin(angle)])
    shape = rng.choice(["half", "corner", "notch", "bar", "disc", "hole"])
    shift = rng.uniform(0, 8 if shape != "bar" else 2.5)
    along = centres @ normal - shift
    if shape == "half":
        return along
    if shape in ("corner", "notch"):
        across = centres @ [-normal[1], normal[0]] - rng.uniform(0, 8)
        return np.maximum(along, across) if shape == "corner" else np.minimum(along, across)
    if shape == "bar":
        width = rng.uniform(2.5, 12)
        return np.maximum(along, -along - width)
    radius = rng.uniform(1.5, 10)
    if shape == "disc":
        middle = normal * rng.uniform(0, radius)
        return np.linalg.norm(centres - middle, axis=2) - radius
    middle = normal * (radius + rng.uniform(0, 8))
    return radius - np.linalg.norm(centres - middle, axis=2)


def _plane(rng, z, centres):
    """Depths of a plane at z in the middle, seen at up to 65 degrees from its normal."""
    steep = np.tan(np.radians(rng.uniform(0, 65))) / FOCAL
    angle = rng.uniform(0, 2 * np.pi)
    tilt = centres @ [np.cos(angle), np.sin(angle)] * steep
    return z / np.maximum(1 - tilt, 0.1)
