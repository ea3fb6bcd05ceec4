import numpy as np
import pytest

from cpr_deploy.camera import CameraModel
from cpr_deploy.picking.interior import interior_points
from cpr_deploy.picking.picker import PickSettings, PointPicker
from cpr_deploy.picking.surface import find_surfaces, masked_median, patches, window
from cpr_deploy.transforms import Transform
from depth_patches import random_patches

SETTINGS = PickSettings(stable_frames=1, min_separation=0.0, border=0.0, interior_radius=12)
CAMERA = CameraModel(61, 51, [[600.0, 0, 30], [0, 600, 25], [0, 0, 1]], "none")
MIDDLE = np.array([[30.5, 25.5]])


def surface(depth, xy=MIDDLE, settings=SETTINGS):
    return find_surfaces(depth, 1.0, xy, CAMERA, settings)


# --- no pick on the far side of an edge ---


def picks_of_random_patches(aim, rounds, seed):
    """Counts over 400 patches a round: all, picked; those over 4 px from the edge, of them picked;
    picks on the wrong side, and further than a tolerance from the surface."""
    rng = np.random.default_rng(seed)
    settings = PickSettings(
        stable_frames=1, min_separation=0.0, border=0.0, interior_radius=12, aim=aim
    )
    counts = np.zeros(6, int)
    for _ in range(rounds):
        found = random_patches(rng, 20, settings)
        points = [
            {"x": x, "y": y, "score": 1.0, "label": index}
            for index, (x, y) in enumerate(found.xy.tolist())
        ]
        picker = PointPicker(found.camera, Transform.identity(), settings)
        result = picker.pick(points, found.depth, stamp=0, now=0, depth_unit="m")
        clear = found.inset > 4
        counts[[0, 1, 2]] += len(points), len(result.targets), clear.sum()
        for target in result.targets:
            index, moved = target.label, target.image_point != target.detected_point
            column, row = np.floor(target.image_point).astype(int)
            truth = found.plane[row, column] if moved else found.own[index]
            off = abs(target.depth - truth)
            counts[3] += clear[index]
            counts[4] += not moved and off >= abs(target.depth - found.other[index])
            counts[5] += off > settings.edge_tolerance(truth)
    return counts


@pytest.mark.parametrize("aim", ["point", "interior"])
def test_no_pick_beyond_an_edge(aim):
    total, picked, clear, clear_picked, wrong, off = picks_of_random_patches(aim, 8, seed=1)
    assert total == 3200 and wrong == off == 0
    # Refusing everything would be safe as well. A fifth of the patches lack a fifth of their px.
    assert picked > 0.45 * total and clear_picked > 0.8 * clear


@pytest.mark.slow
@pytest.mark.parametrize("aim", ["point", "interior"])
def test_no_pick_beyond_an_edge_in_100_000_patches(aim):
    total, picked, clear, clear_picked, wrong, off = picks_of_random_patches(aim, 250, seed=2)
    print(f"\n{aim}: {picked} of {total} picked, {clear_picked} of {clear} clear of edges")
    assert total == 100_000 and wrong == off == 0
    assert picked > 0.45 * total and clear_picked > 0.8 * clear


# --- what a surface is ---


def test_a_tilted_plane_is_exact():
    """1/z linear in the px: depth at the point, normal and the place's motion by hand."""
    normal = np.array([0.3, -0.5, 1.0]) / np.linalg.norm([0.3, -0.5, 1.0])
    centres = np.stack(np.meshgrid(np.arange(61), np.arange(51)), axis=2) + 0.5
    rays = CAMERA.rays(centres.reshape(-1, 2))
    depth = (0.8 / (rays @ normal)).reshape(51, 61)
    xy = np.array([[28.2, 26.9]])
    found = surface(depth, xy)
    assert found.solid.all()
    ray = CAMERA.rays(xy)[0]
    assert found.z[0] == pytest.approx(0.8 / (ray @ normal), abs=1e-7)
    np.testing.assert_allclose(found.normal[0], normal, atol=1e-5)
    # `along`: differences of the place between px.
    for axis in (0, 1):
        step = np.eye(2)[axis] * 0.01
        ends = [
            ray * 0.8 / (ray @ normal)
            for ray in (CAMERA.rays(xy - step)[0], CAMERA.rays(xy + step)[0])
        ]
        np.testing.assert_allclose(
            found.along[0, :, axis], (ends[1] - ends[0]) / 0.02, rtol=1e-4, atol=1e-9
        )


def test_a_median_not_a_mean():
    """A wrong depth in the window does not move the result at all."""
    depth = np.full((51, 61), 1.0)
    depth[26, 31] = 3.0
    found = surface(depth)
    assert found.solid.all() and found.z[0] == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("distance", [1, 2, 3, 4, 6])
def test_beside_an_edge_the_depth_is_that_of_the_points_side(distance):
    depth = np.full((51, 61), 1.0)
    depth[:, 30 + distance :] = 1.2
    found = surface(depth)
    # Within depth_radius, 2 px, another surface refuses the point.
    assert found.edge.tolist() == [distance <= 2]
    if distance > 2:
        assert found.z[0] == pytest.approx(1.0, abs=1e-9)
        np.testing.assert_allclose(found.normal[0], [0, 0, 1], atol=1e-7)


def test_a_wrong_depth_at_the_point_refuses_it():
    depth = np.full((51, 61), 1.0)
    depth[25, 30] = 1.3
    assert surface(depth).edge.all()


def test_holes():
    depth = np.full((51, 61), 1.0)
    depth[25, 30] = np.nan
    assert surface(depth).solid.all()
    depth[25, 29:32] = 0
    found = surface(depth)
    assert found.few.all() and not found.edge.any()
    assert surface(np.zeros((51, 61))).few.all()
    assert surface(np.full((51, 61), np.nan)).few.all()
    assert surface(np.full((51, 61), -1.0)).few.all()
    assert surface(np.full((51, 61), np.inf)).few.all()


def test_patches_beyond_the_image_are_missing():
    depth = np.arange(51 * 61, dtype=np.uint16).reshape(51, 61) + 10
    z = patches(depth, 0.001, np.array([[0.2, 0.7], [60.9, 50.5]]), 1).reshape(2, 3, 3)
    assert np.isnan(z[0, 0]).all() and np.isnan(z[0, :, 0]).all()
    np.testing.assert_allclose(z[0, 1:, 1:], [[0.010, 0.011], [0.071, 0.072]])
    assert np.count_nonzero(~np.isnan(z[1])) == 4 and z[1, 1, 1] == pytest.approx(3.12)
    assert window(1).tolist()[:4] == [[-1, -1], [0, -1], [1, -1], [-1, 0]]


def test_masked_median_is_that_of_numpy():
    rng = np.random.default_rng(0)
    for _ in range(50):
        values, mask = rng.normal(size=(7, 9)), rng.random((7, 9)) < 0.4
        for found, row, on in zip(masked_median(values, mask), values, mask, strict=True):
            if on.any():
                assert found == pytest.approx(np.median(row[on]), abs=1e-15)
            else:
                assert np.isnan(found)


# --- the most interior point ---


def interior(depth, xy):
    found = surface(depth, xy)
    return interior_points(depth, 1.0, xy, found, SETTINGS), found


def test_the_middle_of_a_box():
    depth = np.full((51, 61), 1.0)
    depth[18:31, 25:38] = 0.9  # middle px (31, 24): centre (31.5, 24.5)
    moved, _ = interior(depth, np.array([[29.3, 27.8]]))
    np.testing.assert_allclose(moved, [[31.5, 24.5]], atol=1e-9)


def test_a_wide_plane_and_a_point_without_surface_stay():
    depth = np.full((51, 61), 1.0)
    moved, _ = interior(depth, MIDDLE)
    np.testing.assert_array_equal(moved, MIDDLE)
    depth[:, 31:] = 2.0
    moved, found = interior(depth, MIDDLE)
    assert not found.solid.any()
    np.testing.assert_array_equal(moved, MIDDLE)


def test_a_neighbour_of_the_same_height_is_another_object():
    """A gap of 2 px without depth, and one of other depth, part two boxes."""
    for gap in (0.0, 1.0):
        depth = np.full((51, 61), 1.0)
        depth[20:31, 26:50] = 0.9
        depth[:, 35:37] = gap
        moved, found = interior(depth, np.array([[31.5, 26.5]]))
        assert found.solid.all()
        assert 26 < moved[0, 0] < 35 and 20 < moved[0, 1] < 31
