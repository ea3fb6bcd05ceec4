"""From a point anywhere on an object to the place that is furthest from the object's edges."""

from __future__ import annotations

import cv2
import numpy as np

from cpr_deploy.picking.settings import PickSettings
from cpr_deploy.picking.surface import patches

# An edge lies within this many px: cameras blur it.
_REACH = 2
# The depth of a missing px: far from all others.
_NONE = -1e6


def interior_points(
    depth: np.ndarray, unit: float, xy: np.ndarray, settings: PickSettings
) -> np.ndarray:
    """Moves points to the px centre that is furthest from edges and holes, (N, 2) -> (N, 2) px.

    The surface of the point is followed up to `settings.interior_radius` px away, however it bends;
    the border of this patch counts as an edge. A point that lies at an edge itself stays, and so
    does one that no px is better than.
    """
    radius = settings.interior_radius
    side = 2 * radius + 1
    z, offset = patches(depth, unit, xy, radius)
    moved = xy.astype(float).copy()
    for index, patch in enumerate(z.reshape(-1, side, side).astype(np.float32)):
        at_seed = patch[radius, radius]
        if np.isnan(at_seed):
            continue
        distance = cv2.distanceTransform(_same_surface(patch, settings), cv2.DIST_L2, 5)
        best = int(np.argmax(distance))
        if distance.flat[best] > distance[radius, radius] > 0:
            moved[index] = xy[index] + offset[index, best]
    return moved


def _same_surface(patch: np.ndarray, settings: PickSettings) -> np.ndarray:
    """uint8 mask of the px that a path without edges joins to the middle; 0 at the patch's rim."""
    radius = len(patch) // 2
    # Single missing px are no edge: they take the least of their neighbours' depths.
    missing = np.isnan(patch)
    filled = np.where(missing, np.float32(_NONE), patch)
    near = cv2.dilate(filled, np.ones((3, 3), np.uint8))
    lonely = missing & (cv2.blur(missing.astype(np.float32), (3, 3)) < 1.5 / 9)
    filled = np.where(lonely, near, filled)
    kernel = np.ones((2 * _REACH + 1, 2 * _REACH + 1), np.uint8)
    spread = cv2.dilate(filled, kernel) - cv2.erode(filled, kernel)
    # Twice the tolerance of a surface: slopes are part of the spread.
    flat = spread < 2 * settings.edge_tolerance(float(patch[radius, radius]))
    flat[[0, -1], :] = flat[:, [0, -1]] = False
    _, labels = cv2.connectedComponents(flat.astype(np.uint8), connectivity=4)
    seed = labels[radius, radius]
    return ((labels == seed) & (seed > 0)).astype(np.uint8)
