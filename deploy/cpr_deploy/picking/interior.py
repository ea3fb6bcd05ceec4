"""From a point anywhere on an object to the place that is furthest from the object's edges."""

from __future__ import annotations

import cv2
import numpy as np

from cpr_deploy.picking.settings import PickSettings
from cpr_deploy.picking.surface import Surfaces, patches, window


def interior_points(
    depth: np.ndarray, unit: float, xy: np.ndarray, surfaces: Surfaces, settings: PickSettings
) -> np.ndarray:
    """Moves points to the px centre that is furthest from edges and holes, (N, 2) -> (N, 2) px.

    The px within `settings.interior_radius` count that are joined to the point and lie on the plane
    of its surface, within the tolerance of an edge; the border of this patch counts as an edge. A
    point without a surface stays, and so does one that no px is better than.

    Args:
        depth, unit, xy: as for `find_surfaces`.
        surfaces: what that found.
    """
    moved = xy.astype(float)
    solid = np.flatnonzero(surfaces.solid)
    z = patches(depth, unit, xy[solid], settings.interior_radius)
    grid = window(settings.interior_radius)
    # From the points to their px' centres.
    aside = np.floor(xy[solid]) + 0.5 - xy[solid]
    slope = surfaces.slope[solid]
    with np.errstate(divide="ignore"):
        level = 1 / surfaces.z[solid] + (aside * slope).sum(axis=1)
        plane = level[:, None] + slope @ grid.T
        tolerance = settings.edge_tolerance(surfaces.z[solid]) / surfaces.z[solid] ** 2
        on = np.abs(1 / z - plane) < tolerance[:, None]
    side = 2 * settings.interior_radius + 1
    masks = on.astype(np.uint8).reshape(-1, side, side)
    missing = np.isnan(z).astype(np.float32).reshape(-1, side, side)
    middle = settings.interior_radius
    for row, (index, mask, holes) in enumerate(zip(solid, masks, missing, strict=True)):
        # A single missing px is no edge.
        mask |= ((holes > 0) & (cv2.blur(holes, (3, 3)) < 1.5 / 9)).astype(np.uint8)
        mask[[0, -1], :] = mask[:, [0, -1]] = 0
        _, labels = cv2.connectedComponents(mask, connectivity=4)
        joined = (labels == labels[middle, middle]).astype(np.uint8) * mask
        distance = cv2.distanceTransform(joined, cv2.DIST_L2, 5)
        best = int(np.argmax(distance))
        if distance.flat[best] > distance[middle, middle] > 0:
            moved[index] += aside[row] + grid[best]
    return moved
