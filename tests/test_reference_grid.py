"""The grid of references against explicit loops."""

import pytest
import torch

from cpr.modeling.reference_grid import ReferenceGrid, maps_to_references


def _grid(**changes):
    settings = {"height": 3, "width": 4, "stride": 8, "offset": 0.5, "points_per_cell": 1}
    return ReferenceGrid(**{**settings, **changes})


@pytest.mark.parametrize(
    ("offset", "places"),
    [
        pytest.param(0.5, {1: [4.0], 4: [2.0, 6.0]}, id="cell centre"),
        pytest.param(0.0, {1: [0.0], 4: [-2.0, 2.0]}, id="official"),
    ],
)
@pytest.mark.parametrize("q", [1, 4])
def test_points(offset, places, q):
    expected = [
        [8.0 * column + x, 8.0 * row + y]
        for row in range(3)
        for column in range(4)
        for y in places[q]
        for x in places[q]
    ]
    grid = _grid(offset=offset, points_per_cell=q)
    assert grid.points(torch.device("cpu")).tolist() == expected
    assert grid.num_points == len(expected)


def test_maps_follow_the_order_of_the_points():
    """A map that holds its own address lands at that address."""
    batch, q, channels, height, width = 2, 4, 3, 2, 5
    maps = torch.arange(batch * q * channels * height * width).view(
        batch, q * channels, height, width
    )
    values = maps_to_references(maps, q)
    assert values.shape == (batch, height * width * q, channels)
    for image, sub, channel, row, column in ((0, 0, 0, 0, 0), (1, 3, 2, 1, 4), (1, 2, 1, 0, 3)):
        place = (row * width + column) * q + sub
        assert values[image, place, channel] == maps[image, sub * channels + channel, row, column]


@pytest.mark.parametrize(
    ("size", "cells"), [((24, 32), 12), ((16, 24), 6), ((17, 9), 6), ((100, 100), 12)]
)
def test_inside_counts_begun_cells(size, cells):
    device = torch.device("cpu")
    assert _grid().inside(size, device).sum() == cells
    assert _grid(points_per_cell=4).inside(size, device).sum() == 4 * cells


@pytest.mark.parametrize("offset", [0.0, 0.5])
@pytest.mark.parametrize("q", [1, 4])
@pytest.mark.parametrize("radius", [1, 2])
def test_neighbours_are_the_cells_around(offset, q, radius):
    grid = _grid(offset=offset, points_per_cell=q)
    points = torch.tensor([[0.0, 0.0], [9.0, 13.0], [31.9, 23.9], [-40.0, 500.0]])
    numbers, inside = grid.neighbours(points, radius)
    assert numbers.shape == inside.shape == (4, (2 * radius + 1) ** 2 * q)
    shift = 0.5 - offset
    for (x, y), found, good in zip(points.tolist(), numbers, inside, strict=True):
        column = min(max(int((x / 8 + shift) // 1), 0), 3)
        row = min(max(int((y / 8 + shift) // 1), 0), 2)
        expected = {
            (r * 4 + c) * q + sub
            for r in range(max(row - radius, 0), min(row + radius, 2) + 1)
            for c in range(max(column - radius, 0), min(column + radius, 3) + 1)
            for sub in range(q)
        }
        assert set(found[good].tolist()) == expected
        assert len(found[good]) == len(expected)
        assert ((found >= 0) & (found < grid.num_points)).all()
