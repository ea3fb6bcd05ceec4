import numpy as np
import pytest

from cpr.evaluation.semantic_variance import heat_map, relative_positions, rsv


def test_relative_positions_by_hand():
    boxes = [[10, 20, 40, 20], [0, 0, 2, 4]]
    points = [[30, 30], [2, 0]]
    np.testing.assert_allclose(relative_positions(points, boxes), [[0, 0], [0.5, -0.5]])


def test_rsv_by_hand():
    # x' = -0.4, 0, 0.4 and y' = -0.1, 0.1, 0 inside; the last point is outside its box.
    boxes = np.tile([0.0, 0.0, 10.0, 20.0], (4, 1))
    points = np.array([[1, 8], [5, 12], [9, 10], [16, 10]])
    result = rsv(points, boxes)
    variance_x, variance_y = 2 * 0.4**2 / 3, 2 * 0.1**2 / 3  # population variance
    assert result["rsv"] == pytest.approx(np.sqrt(variance_x * variance_y))
    assert result["inside"] == 0.75
    distances = [np.hypot(0.4, 0.1), 0.1, 0.4, 1.1]
    assert result["mean_distance"] == pytest.approx(np.mean(distances))
    assert result["count"] == 4
    assert all(type(value) in (float, int) for value in result.values())


def test_rsv_does_not_depend_on_place_or_scale():
    rng = np.random.default_rng(0)
    offsets = rng.normal(0, 0.2, (500, 2))
    sides = rng.uniform(5, 100, (500, 2))
    corners = rng.uniform(0, 1000, (500, 2))
    spread = rsv(corners + (offsets + 0.5) * sides, np.concatenate([corners, sides], 1))
    unit = np.tile([-0.5, -0.5, 1, 1], (500, 1))
    assert spread["rsv"] == pytest.approx(rsv(offsets, unit)["rsv"])


def test_nothing_to_measure():
    assert rsv(np.zeros((0, 2)), np.zeros((0, 4)))["rsv"] is None
    outside = rsv([[50, 50]], [[0, 0, 1, 1]])
    assert outside["rsv"] is None and outside["inside"] == 0
    assert heat_map([[50, 50]], [[0, 0, 1, 1]], bins=4).sum() == 0


def test_heat_map():
    unit = np.tile([-0.5, -0.5, 1, 1], (4, 1))
    points = [[-0.49, -0.49], [-0.49, -0.49], [0.49, -0.49], [0.6, 0]]
    shares = heat_map(points, unit, bins=2)
    np.testing.assert_allclose(shares, [[2 / 3, 1 / 3], [0, 0]])


def test_bad_boxes():
    with pytest.raises(ValueError, match="positive"):
        rsv([[1, 1]], [[0, 0, 0, 5]])
    with pytest.raises(ValueError, match="2 points but 1 boxes"):
        rsv([[1, 1], [2, 2]], [[0, 0, 3, 5]])
