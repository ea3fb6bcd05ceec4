"""Bags, negatives and bilinear sampling against brute force and planted maps."""

import math

import numpy as np
import pytest
import torch

from cpr.modeling.point_sampling import (
    cell_centres,
    circle_offsets,
    inside,
    negative_mask,
    point_bags,
    rectangle_offsets,
    rectangle_sides,
    sample_maps,
)


@pytest.mark.parametrize(("radius", "u0"), [(1, 8), (5, 8), (3, 4)])
def test_circle_offsets_ring_counts_and_radii(radius, u0):
    offsets = circle_offsets(radius, u0)
    assert len(offsets) == u0 * radius * (radius + 1) // 2 + 1
    norms = offsets.norm(dim=1)
    for r in range(1, radius + 1):
        assert ((norms - r).abs() < 1e-5).sum() == u0 * r
    assert offsets[-1].tolist() == [0, 0]
    # Angle 0 points to +x, the next point of the first circle goes towards +y (down).
    assert offsets[0].tolist() == [1, 0]
    assert offsets[1][1] > 0


@pytest.mark.parametrize("aspect", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("radius", [2, 5, 8, 40])
def test_rectangle_has_the_area_of_the_circle(radius, aspect):
    width, height = rectangle_sides(radius, aspect)
    assert width * height == pytest.approx(math.pi * radius**2)
    assert width / height == pytest.approx(aspect)
    offsets = rectangle_offsets(radius, aspect)
    # A whole odd number of cells on each side, at most one more or less than the side.
    columns, rows = (len(offsets[:, axis].unique()) for axis in (0, 1))
    assert (columns % 2, rows % 2) == (1, 1)
    assert abs(columns - width) <= 1 and abs(rows - height) <= 1
    assert len(offsets) == columns * rows
    rounding = 1 / width + 1 / height + 1 / (width * height)
    assert len(offsets) == pytest.approx(math.pi * radius**2, rel=rounding)


@pytest.mark.parametrize("aspect", [1.0, 2.0, 0.5])
def test_rectangle_offsets_are_all_whole_cells_inside(aspect):
    offsets = rectangle_offsets(8, aspect)
    width, height = rectangle_sides(8, aspect)
    found = [tuple(offset) for offset in offsets.tolist()]
    assert len(set(found)) == len(found)
    assert set(found) == {
        (float(x), float(y))
        for x in range(-30, 31)
        for y in range(-30, 31)
        if abs(x) <= width / 2 and abs(y) <= height / 2
    }
    # Symmetric, and the annotated point is the last.
    assert set(found) == {(-x, y) for x, y in found} == {(x, -y) for x, y in found}
    assert found[-1] == (0, 0)
    turned = rectangle_offsets(8, 1 / aspect)
    assert set(found) == {(y, x) for x, y in turned.tolist()}


def test_bag_is_in_pixels():
    bags = point_bags(torch.tensor([[10.0, 20.0]]), circle_offsets(2, 8), stride=4)
    assert bags.shape == (1, 25, 2)
    assert bags[0, 0].tolist() == [14, 20]
    assert bags[0, -1].tolist() == [10, 20]


def test_inside_is_half_open():
    points = torch.tensor([[0.0, 0.0], [9.999, 4.999], [10.0, 1.0], [1.0, 5.0], [-1e-3, 1.0]])
    assert inside(points, torch.tensor([5.0, 10.0])).tolist() == [True, True, False, False, False]


def test_sampling_reads_a_planted_ramp_at_cell_centres():
    stride, height, width = 4, 6, 8
    centres = cell_centres(height, width, stride).reshape(height, width, 2)
    maps = centres.permute(2, 0, 1)[None]
    points = torch.tensor([[[6.0, 10.0], [13.5, 7.25], [2.0, 2.0]]])
    values = sample_maps(maps, points, torch.tensor([0]), [1], stride, 0.5)
    torch.testing.assert_close(values, points)


def test_sampling_clamps_at_the_border():
    maps = torch.arange(6.0).reshape(1, 1, 2, 3)
    points = torch.tensor([[[-100.0, -100.0], [100.0, 100.0]]])
    values = sample_maps(maps, points, torch.tensor([0]), [1], 4, 0.5)
    assert values.flatten().tolist() == [0, 5]


def test_sampling_keeps_images_apart_and_takes_empty_ones():
    maps = torch.stack([torch.full((2, 5, 5), float(b)) for b in range(4)])
    counts = [2, 0, 3, 1]
    batch_index = torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
    points = torch.rand(6, 7, 2) * 20
    values = sample_maps(maps, points, batch_index, counts, 4, 0.5)
    torch.testing.assert_close(values, batch_index[:, None, None].expand(6, 7, 2).float())


def test_linear_layer_commutes_with_sampling():
    torch.manual_seed(0)
    feature = torch.randn(2, 16, 7, 9, dtype=torch.float64)
    weight, bias = torch.randn(3, 16, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    points = torch.rand(5, 11, 2, dtype=torch.float64) * 60 - 10
    index, counts = torch.tensor([0, 0, 1, 1, 1]), [2, 3]
    dense = torch.nn.functional.conv2d(feature, weight[:, :, None, None], bias)
    before = sample_maps(dense, points, index, counts, 8, 0.5)
    after = sample_maps(feature, points, index, counts, 8, 0.5) @ weight.T + bias
    torch.testing.assert_close(before, after, atol=1e-12, rtol=0)


def test_sampling_without_objects_keeps_the_graph():
    maps = torch.randn(2, 3, 4, 4, requires_grad=True)
    empty = torch.zeros(0, 9, 2)
    values = sample_maps(maps, empty, torch.zeros(0, dtype=torch.long), [0, 0], 4, 0.5)
    assert values.shape == (0, 9, 3)
    values.sum().backward()
    assert maps.grad.abs().sum() == 0


def _brute_force_negatives(
    points, labels, batch_index, sizes, num_classes, radius, stride, shape, aspect
):
    height, width = shape

    def is_far(x, y, point):
        if aspect is None:
            return math.dist((x, y), point) >= radius * stride
        # Width and height of the rectangle, in px: of the circle's area, w = aspect * h.
        area = math.pi * (radius * stride) ** 2
        half_w, half_h = math.sqrt(area * aspect) / 2, math.sqrt(area / aspect) / 2
        return abs(x - point[0]) >= half_w or abs(y - point[1]) >= half_h

    mask = np.zeros((len(sizes), num_classes, height, width), dtype=bool)
    for b, (pad_h, pad_w) in enumerate(sizes):
        for k in range(num_classes):
            own = [
                p for p, c, i in zip(points, labels, batch_index, strict=True) if (c, i) == (k, b)
            ]
            for i in range(height):
                for j in range(width):
                    x, y = (j + 0.5) * stride, (i + 0.5) * stride
                    far = all(is_far(x, y, p) for p in own)
                    mask[b, k, i, j] = far and x < pad_w and y < pad_h
    return mask


@pytest.mark.parametrize("aspect", [None, 1.0, 2.0, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_negatives_equal_brute_force(seed, aspect):
    rng = np.random.default_rng(seed)
    num_classes, stride, radius, shape = 3, 8, 2, (9, 11)
    counts = [int(n) for n in rng.integers(0, 6, size=3)]
    total = sum(counts)
    # Some points lie outside the map; their bags must neither wrap around nor fail.
    points = rng.uniform(-40, 130, size=(total, 2)).astype(np.float32)
    labels = rng.integers(0, num_classes, size=total)
    batch_index = np.repeat(np.arange(3), counts)
    sizes = [(72, 88), (64, 88), (72, 40)]
    mask = negative_mask(
        torch.tensor(points),
        torch.tensor(labels),
        torch.tensor(batch_index),
        torch.tensor(sizes, dtype=torch.float32),
        num_classes=num_classes,
        radius=radius,
        stride=stride,
        map_size=shape,
        aspect=aspect,
    )
    expected = _brute_force_negatives(
        points.tolist(), labels, batch_index, sizes, num_classes, radius, stride, shape, aspect
    )
    np.testing.assert_array_equal(mask, expected)


def test_negatives_are_class_wise():
    mask = negative_mask(
        torch.tensor([[20.0, 20.0]]),
        torch.tensor([1]),
        torch.tensor([0]),
        torch.tensor([[40.0, 40.0]]),
        num_classes=2,
        radius=2,
        stride=4,
        map_size=(10, 10),
    )
    assert mask[0, 0].all()
    assert not mask[0, 1, 4:6, 4:6].any()
