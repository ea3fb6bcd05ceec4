"""Boxes of point sets and both assigners, against hand-worked cases and plain loops."""

import math

import pytest
import torch
from torchvision.ops import box_iou

from cpr.modeling.point_sets import (
    BACKGROUND,
    UNUSED,
    box_loss,
    iou_assign,
    matched_iou,
    nearest_centre_assign,
    points_to_boxes,
    scale_gradient,
)

# Mean (1, 2); squared deviations sum to 4 in x and 16 in y.
CORNERS = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0], [2.0, 4.0]])


# --- boxes ---


def test_moment_box_by_hand():
    sx, sy = math.sqrt(4 / 3), math.sqrt(16 / 3)
    box = points_to_boxes(CORNERS, "moment", torch.zeros(2))
    torch.testing.assert_close(box, torch.tensor([1 - sx, 2 - sy, 1 + sx, 2 + sy]))
    # The learned spread is one factor per axis, x first.
    box = points_to_boxes(CORNERS, "moment", torch.tensor([math.log(3.0), 0.0]))
    torch.testing.assert_close(box, torch.tensor([1 - 3 * sx, 2 - sy, 1 + 3 * sx, 2 + sy]))


def test_minmax_boxes_by_hand():
    points = torch.cat([CORNERS, torch.tensor([[9.0, -3.0]])])
    assert points_to_boxes(points, "minmax").tolist() == [0, -3, 9, 4]
    assert points_to_boxes(points, "partial_minmax").tolist() == [0, 0, 2, 4]


@pytest.mark.parametrize("transform", ["moment", "minmax", "partial_minmax"])
def test_boxes_follow_their_points(transform):
    """Any leading shape; moving and stretching the points moves and stretches the box."""
    points = torch.randn(2, 5, 9, 2, generator=torch.Generator().manual_seed(0))
    spread = torch.tensor([0.2, -0.3])
    boxes = points_to_boxes(points, transform, spread)
    assert boxes.shape == (2, 5, 4)
    assert (boxes[..., 2:] > boxes[..., :2]).all()
    factor, shift = torch.tensor([2.0, 3.0]), torch.tensor([10.0, -5.0])
    moved = points_to_boxes(points * factor + shift, transform, spread)
    torch.testing.assert_close(moved, boxes * factor.repeat(2) + shift.repeat(2))


def test_points_at_one_place_have_a_finite_gradient():
    points = torch.ones(3, 9, 2, requires_grad=True)
    spread = torch.zeros(2, requires_grad=True)
    points_to_boxes(points, "moment", spread).sum().backward()
    assert torch.isfinite(points.grad).all() and torch.isfinite(spread.grad).all()


def test_scaled_gradient():
    x = torch.tensor([1.5, -2.0], requires_grad=True)
    y = scale_gradient(x, 0.1)
    assert y.tolist() == x.tolist()
    (y * torch.tensor([1.0, 3.0])).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([0.1, 0.3]))


# --- stage 1 ---

STRIDES = (4, 8)


def _grid(width=32, height=16):
    """Locations of two levels of a small image: 4 x 8 cells of 4 px, 2 x 4 cells of 8 px."""
    points, levels = [], []
    for level, stride in enumerate(STRIDES):
        for y in range(height // stride):
            for x in range(width // stride):
                points.append([(x + 0.5) * stride, (y + 0.5) * stride])
                levels.append(level)
    return torch.tensor(points), torch.tensor(levels)


def _nearest(boxes, *, valid=None, positives=1, base_scale=2.0):
    points, levels = _grid()
    valid = torch.ones(len(points), dtype=torch.bool) if valid is None else valid
    return nearest_centre_assign(
        points,
        levels,
        valid,
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        strides=STRIDES,
        base_scale=base_scale,
        positives=positives,
    )


def _where(assigned):
    """{location: object} of the positives."""
    return {i: row for i, row in enumerate(assigned.tolist()) if row != BACKGROUND}


def _square(x, y, side):
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


@pytest.mark.parametrize(
    ("side", "location"),
    [
        # Cell (1, 2) of the first level is location 10; cell (0, 1) of the second 32 + 1.
        pytest.param(1.0, 10, id="below the first level"),
        pytest.param(8.0, 10, id="first level: 2 cells of 4 px"),
        pytest.param(15.9, 10, id="still the first"),
        pytest.param(16.0, 33, id="second level: 2 cells of 8 px"),
        pytest.param(500.0, 33, id="above the last level"),
    ],
)
def test_an_object_is_learned_on_the_level_of_its_size(side, location):
    # Nearest centres: (10, 6) of the first level, (12, 4) of the second.
    assert _where(_nearest([_square(10.5, 6.0, side)])) == {location: 0}


def test_size_is_the_root_of_the_area():
    # 32 x 8 px has the area of 16 x 16.
    assert _where(_nearest([[-5.0, 2.0, 27.0, 10.0]])) == {33: 0}
    assert _where(_nearest([[-5.0, 2.1, 27.0, 9.9]])) == {10: 0}


def test_a_location_that_two_objects_want_learns_the_nearest_in_their_own_sizes():
    # Both nearest to (10, 6); 1 px of 8 is nearer than 0.9 px of 4.
    near, far = _square(11.0, 6.0, 8.0), _square(10.9, 6.0, 4.0)
    assert _where(_nearest([far, near])) == {10: 1}
    # Equally near: the first.
    assert _where(_nearest([near, near])) == {10: 0}


def test_several_locations_for_an_object():
    # (10, 6), then (14, 6), (6, 6) on its row.
    assert _where(_nearest([_square(10.5, 6.0, 8.0)], positives=2)) == {10: 0, 11: 0}
    # Never more than its level has: 8 cells.
    assert set(_where(_nearest([_square(10.5, 6.0, 16.0)], positives=99))) == set(range(32, 40))


def test_locations_in_the_padding_and_images_without_objects():
    valid = torch.ones(40, dtype=torch.bool)
    valid[10] = False
    assert _where(_nearest([_square(10.5, 6.0, 8.0)], valid=valid)) == {11: 0}
    assert _where(_nearest([_square(10.5, 6.0, 8.0)], valid=torch.zeros_like(valid))) == {}
    assert _where(_nearest([])) == {}


@pytest.mark.parametrize("seed", range(5))
def test_nearest_centre_against_loops(seed):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(12, 2, generator=generator) * torch.tensor([32.0, 16.0])
    sides = 2 + 30 * torch.rand(12, 2, generator=generator)
    boxes = torch.cat([centres - sides / 2, centres + sides / 2], dim=1)
    points, levels = _grid()
    wanted: dict[int, tuple[float, int]] = {}
    for row, box in enumerate(boxes.tolist()):
        w, h = box[2] - box[0], box[3] - box[1]
        level = 1 if math.log2(math.sqrt(w * h) / 2) >= 3 else 0
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        distances = sorted(
            (math.hypot((px - x) / w, (py - y) / h), i)
            for i, (px, py) in enumerate(points.tolist())
            if levels[i] == level
        )
        for distance, i in distances[:3]:
            wanted[i] = min(wanted.get(i, (math.inf, -1)), (distance, row))
    found = _where(_nearest(boxes.tolist(), positives=3))
    assert found == {i: row for i, (_, row) in wanted.items()}


# --- stage 2 ---


def _by_iou(predicted, boxes, *, valid=None, positive=0.5, negative=0.4, least=0.0):
    predicted = torch.tensor(predicted, dtype=torch.float32).reshape(-1, 4)
    valid = [True] * len(predicted) if valid is None else valid
    return iou_assign(
        predicted,
        torch.tensor(valid),
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        positive_iou=positive,
        negative_iou=negative,
        min_positive_iou=least,
    ).tolist()


OBJECT = [0.0, 0.0, 10.0, 10.0]


def test_thresholds_of_the_overlap():
    # IoU 1, 0.5, 0.45, 0.4, 0.39, 0.
    predicted = [[0, 0, 10, y] for y in (10, 5, 4.5, 4, 3.9)] + [[20, 20, 30, 30]]
    assert _by_iou(predicted, [OBJECT]) == [0, 0, UNUSED, UNUSED, BACKGROUND, BACKGROUND]


def test_an_object_gets_its_best_locations_below_the_threshold():
    predicted = [[0, 0, 10, 2], [0, 0, 10, 1], [0, 8, 10, 10]]
    assert _by_iou(predicted, [OBJECT]) == [0, BACKGROUND, 0]
    assert _by_iou(predicted, [OBJECT], least=0.3) == [BACKGROUND] * 3


def test_an_object_that_no_box_touches_claims_none():
    assert _by_iou([[20, 20, 30, 30], [5, 5, 5, 5]], [OBJECT]) == [BACKGROUND] * 2


def test_a_location_learns_the_object_it_overlaps_most():
    second = [0.0, 0.0, 10.0, 8.0]
    assert _by_iou([[0, 0, 10, 8.5], [0, 0, 10, 10]], [OBJECT, second]) == [1, 0]
    # One box for two objects: the better overlap.
    assert _by_iou([[0, 0, 10, 8.5]], [OBJECT, second]) == [1]
    # The only location of an object is its own, even where another overlaps it more.
    small = [0.0, 0.0, 2.0, 2.0]
    assert _by_iou([[0, 0, 10, 9], OBJECT], [OBJECT, small]) == [1, 0]


def test_padding_and_images_without_objects_in_stage_two():
    assert _by_iou([OBJECT, OBJECT], [OBJECT], valid=[False, True]) == [UNUSED, 0]
    assert _by_iou([OBJECT, OBJECT], [], valid=[False, True]) == [UNUSED, BACKGROUND]


@pytest.mark.parametrize("seed", range(5))
def test_overlap_against_loops(seed):
    generator = torch.Generator().manual_seed(seed)

    def random_boxes(count):
        corner = 30 * torch.rand(count, 2, generator=generator)
        return torch.cat([corner, corner + 3 + 20 * torch.rand(count, 2, generator=generator)], 1)

    predicted, boxes = random_boxes(60), random_boxes(6)
    iou = box_iou(boxes, predicted).tolist()
    expected = []
    for i in range(60):
        overlaps = [iou[row][i] for row in range(6)]
        best = max(overlaps)
        row = overlaps.index(best)
        value = row if best >= 0.5 else BACKGROUND if best < 0.4 else UNUSED
        own = [r for r in range(6) if max(iou[r]) == iou[r][i] > 0]
        if own:
            value = max(own, key=lambda r: iou[r][i])
        expected.append(value)
    assert _by_iou(predicted.tolist(), boxes.tolist()) == expected


# --- losses ---


def test_box_loss_by_hand():
    predicted = torch.tensor([[[0.0, 0.0, 16.0, 16.0], [0.0, 0.0, 64.0, 64.0], [5.0, 5.0, 5.0, 5]]])
    boxes = torch.tensor([[[0.8, 0.0, 16.0, 24.0], [0.0, 32.0, 64.0, 64.0], [0.0, 0.0, 0.0, 0.0]]])
    positive = torch.tensor([[True, True, False]])
    scale = torch.tensor([16.0, 64.0, 16.0])
    # Errors: 0.05 (quadratic: 0.05^2 / 2 / 0.1), 0.5 and 0.5 (linear: 0.5 - 0.05).
    loss = box_loss(predicted, boxes, positive, scale=scale, beta=0.1)
    assert loss.item() == pytest.approx(0.0125 + 0.45 + 0.45)
    assert box_loss(predicted, boxes, ~positive, scale=scale, beta=0.0).item() == 4 * 5 / 16


def test_matched_iou():
    generator = torch.Generator().manual_seed(0)
    corner = 10 * torch.rand(2, 20, 2, generator=generator)
    one, two = torch.cat([corner, corner + 1 + 8 * torch.rand(2, 20, 2, generator=generator)], 2)
    torch.testing.assert_close(matched_iou(one, two), box_iou(one, two).diagonal())
    assert matched_iou(torch.zeros(1, 4), torch.zeros(1, 4)).tolist() == [0]
