import numpy as np
import pytest

from cpr_deploy.camera import CameraModel
from cpr_deploy.picking.interior import interior_points
from cpr_deploy.picking.settings import PickSettings
from cpr_deploy.picking.surface import find_surfaces, masked_median
from depth_patches import random_patches

SETTINGS = PickSettings()


def wrong_sides(patches, settings):
    """Solid surfaces that are nearer to the other side of the edge, or off by more than a
    tolerance; the solid ones."""
    found = find_surfaces(patches.depth, 1.0, patches.xy, patches.camera, settings)
    off = np.abs(found.z - patches.own)
    wrong = off >= np.abs(found.z - patches.other)
    wrong |= off > settings.edge_tolerance(patches.own)
    return found.solid & wrong, found.solid


def check(side, rounds):
    rng = np.random.default_rng(0)
    count = kept = clear = clear_kept = 0
    for _ in range(rounds):
        patches = random_patches(rng, side, SETTINGS)
        wrong, solid = wrong_sides(patches, SETTINGS)
        assert not wrong.any(), np.flatnonzero(wrong)
        away = patches.inset > 4
        count, kept = count + len(solid), kept + np.count_nonzero(solid)
        clear, clear_kept = clear + np.count_nonzero(away), clear_kept + (solid & away).sum()
    return count, kept / count, clear_kept / clear
