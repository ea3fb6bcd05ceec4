"""Lines and polygons at the antimeridian and the poles."""

import numpy as np
import pytest

from cpr_deploy.geo.writers.shapes import cut_line, cut_polygon


def area(ring):
    x, y = ring.T
    return (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2


def test_lines_are_cut_where_they_cross():
    (whole,) = cut_line(np.array([[10.0, 1], [20, 2]]))
    assert whole.tolist() == [[10, 1], [20, 2]]
    east, west = cut_line(np.array([[179.0, 0], [-179, 2], [-178, 2]]))
    assert east.tolist() == [[179, 0], [180, 1]] and west.tolist() == [
        [-180, 1],
        [-179, 2],
        [-178, 2],
    ]
    parts = cut_line(np.array([[179.0, 0], [-179, 0], [179, 0]]))
    assert [part[:, 0].tolist() for part in parts] == [[179, 180], [-180, -179, -180], [180, 179]]


def test_a_line_that_only_touches():
    parts = cut_line(np.array([[179.0, 0], [180, 0], [179, 1]]))
    assert np.concatenate(parts)[:, 0].min() >= 179
    assert sum(np.abs(np.diff(part[:, 1])).sum() for part in parts) == 1


@pytest.mark.parametrize("turn", [1, -1])
def test_rings_are_closed_and_counter_clockwise(turn):
    square = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])[::turn]
    (ring,) = cut_polygon(square)
    assert ring[0].tolist() == ring[-1].tolist() and area(ring) == pytest.approx(1)


@pytest.mark.parametrize("turn", [1, -1])
def test_a_ring_across_the_antimeridian(turn):
    square = np.array([[179.0, 10], [-179, 10], [-179, 12], [179, 12]])[::turn]
    rings = cut_polygon(square)
    assert [area(ring) for ring in rings] == pytest.approx([2, 2])
    assert sorted(ring[:, 0].min() for ring in rings) == [-180, 179]
    assert all(np.abs(ring[:, 0]).max() <= 180 for ring in rings)


@pytest.mark.parametrize(("sign", "turn"), [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_a_ring_around_a_pole(sign, turn):
    longitudes = (np.arange(8) * 45.0 + 20)[::turn]
    ring = np.column_stack([(longitudes + 180) % 360 - 180, np.full(8, 89.0 * sign)])
    rings = cut_polygon(ring)
    assert sum(area(ring) for ring in rings) == pytest.approx(360)
    assert max(np.abs(ring[:, 1]).max() for ring in rings) == 90


def test_nothing_is_left_of_a_point():
    assert cut_polygon(np.array([[5.0, 5], [5, 5], [5, 5]])) == []
