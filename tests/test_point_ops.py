"""Point operations against numbers worked by hand and a brute-force greedy NMS."""

import pytest
import torch

from cpr.modeling import point_ops
from cpr.modeling.point_ops import (
    clip_points,
    point_box_distance,
    point_nms,
    points_conflict,
    scale_points,
)

RULES = [
    pytest.param({"rule": "pseudo_box", "size": 16.0, "iou": 0.2, "radius": 0.0}, id="seaperson"),
    pytest.param({"rule": "pseudo_box", "size": 32.0, "iou": 0.01, "radius": 0.0}, id="coco"),
    pytest.param({"rule": "radius", "size": 0.0, "iou": 0.0, "radius": 10.0}, id="radius"),
    pytest.param({"rule": "none", "size": 16.0, "iou": 0.2, "radius": 10.0}, id="none"),
]


def _greedy(points, scores, labels, rule):
    """The definition: from the best down, keep what conflicts with no kept point of its class."""
    ranking = sorted(range(len(points)), key=lambda i: (-scores[i].item(), i))
    kept = []
    for i in ranking:
        rivals = [j for j in kept if labels[j] == labels[i]]
        if not any(points_conflict(points[i], points[j], **rule) for j in rivals):
            kept.append(i)
    return kept


def _iou(first, second, size):
    """IoU of two squares of side `size`, by their corners."""
    sides = [
        max(0.0, min(a, b) + size / 2 - (max(a, b) - size / 2))
        for a, b in zip(first, second, strict=True)
    ]
    intersection = sides[0] * sides[1]
    return intersection / (2 * size**2 - intersection)


def test_distance_by_hand():
    box = torch.tensor([10.0, 20.0, 8.0, 4.0])
    points = torch.tensor([[14.0, 22.0], [18.0, 22.0], [14.0, 24.0], [18.0, 24.0], [22.0, 22.0]])
    expected = [0, 0.5, 0.5, 0.5**0.5, 1]
    assert point_box_distance(points, box).tolist() == pytest.approx(expected)


def test_scale_and_clip_treat_x_and_y_apart():
    points = torch.tensor([[10.0, 20.0], [-1.0, 99.0]])
    assert scale_points(points, (2.0, 0.5)).tolist() == [[20.0, 10.0], [-2.0, 49.5]]
    assert clip_points(points, (30, 5)).tolist() == [[5.0, 20.0], [0.0, 30.0]]


@pytest.mark.parametrize("threshold", [0.01, 0.2, 0.5])
def test_pseudo_box_rule_is_the_iou_of_squares(threshold):
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 300, 2, generator=generator) * 24
    conflict = points_conflict(
        first, second, rule="pseudo_box", size=16.0, iou=threshold, radius=0.0
    )
    expected = [
        _iou(a, b, 16.0) > threshold for a, b in zip(first.tolist(), second.tolist(), strict=True)
    ]
    assert conflict.tolist() == expected


def test_far_points_do_not_conflict_by_two_negative_overlaps():
    far = torch.tensor([100.0, 100.0])
    assert not points_conflict(
        torch.zeros(2), far, rule="pseudo_box", size=16.0, iou=0.2, radius=0.0
    )


def test_radius_rule_is_strict():
    origin, other = torch.zeros(2), torch.tensor([3.0, 4.0])
    for radius, expected in ((5.0, False), (5.01, True)):
        conflict = points_conflict(origin, other, rule="radius", size=0, iou=0, radius=radius)
        assert conflict.item() == expected


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pairs_at_once", [1 << 22, 40], ids=["at once", "in parts"])
def test_nms_equals_brute_force(rule, seed, pairs_at_once, monkeypatch):
    """Negative and repeated coordinates, few distinct scores: many ties."""
    monkeypatch.setattr(point_ops, "_PAIRS_AT_ONCE", pairs_at_once)
    generator = torch.Generator().manual_seed(seed)
    points = (torch.rand(120, 2, generator=generator) * 110 - 20).round()
    scores = torch.randint(0, 8, (120,), generator=generator) / 8
    labels = torch.randint(0, 3, (120,), generator=generator)
    kept = point_nms(points, scores, labels, **rule)
    assert kept.tolist() == _greedy(points, scores, labels, rule)


def test_equal_scores_keep_the_first_given():
    points = torch.tensor([[1.0, 1.0], [0.0, 0.0], [50.0, 50.0]])
    kept = point_nms(
        points,
        torch.full((3,), 0.5),
        torch.zeros(3, dtype=torch.long),
        rule="radius",
        size=0,
        iou=0,
        radius=5.0,
    )
    assert kept.tolist() == [0, 2]


def test_a_chain_keeps_every_second_point():
    """Each point conflicts with its neighbours only; suppression must not pass on."""
    points = torch.stack([torch.arange(41.0) * 4, torch.zeros(41)], dim=1)
    kept = point_nms(
        points,
        torch.linspace(1, 0.5, 41),
        torch.zeros(41, dtype=torch.long),
        rule="radius",
        size=0,
        iou=0,
        radius=5.0,
    )
    assert kept.tolist() == list(range(0, 41, 2))


def test_nms_of_nothing():
    empty = torch.zeros(0)
    labels = torch.zeros(0, dtype=torch.long)
    kept = point_nms(
        torch.zeros(0, 2), empty, labels, rule="pseudo_box", size=16.0, iou=0.2, radius=0.0
    )
    assert kept.shape == (0,)
    assert kept.dtype == torch.int64


def test_classes_never_meet_at_opposite_corners():
    """Shifting classes apart by the largest coordinate fails for these two."""
    points = torch.tensor([[99.0, 99.0], [-1.0, -1.0]])
    kept = point_nms(
        points,
        torch.tensor([0.9, 0.8]),
        torch.tensor([0, 1]),
        rule="pseudo_box",
        size=32.0,
        iou=0.01,
        radius=0.0,
    )
    assert kept.tolist() == [0, 1]


def test_unknown_rule_is_named():
    with pytest.raises(ValueError, match="'soft'"):
        points_conflict(torch.zeros(2), torch.zeros(2), rule="soft", size=1, iou=0, radius=1)
