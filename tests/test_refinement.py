"""Algorithm 2: each constraint alone on planted scores, and a slow reference."""

import dataclasses

import numpy as np
import pytest
import torch

from cpr.modeling import refinement
from cpr.modeling.point_sampling import circle_offsets, point_bags
from cpr.modeling.refinement import RefinementSettings, class_evidence, refine_points

OFF = RefinementSettings(constraint_i=False, constraint_ii=False, constraint_iii=False)
SIZE = (100, 120)


def _bag(points, radius=2, stride=4):
    points = torch.tensor(points, dtype=torch.float32)
    return points, point_bags(points, circle_offsets(radius, 8), stride)


def _refine(points, bags, scores, labels, settings, size=SIZE):
    return refine_points(
        bags, scores, points, torch.tensor(labels, dtype=torch.long), size, settings
    )


def test_uniform_scores_give_the_centre_of_the_bag():
    points, bags = _bag([[50, 40]])
    result = _refine(points, bags, torch.full((1, 25, 1), 0.7), [0], RefinementSettings())
    torch.testing.assert_close(result.points, points)
    assert result.scores.item() == pytest.approx(0.7)
    assert result.kept.all()
    assert result.kept_by.tolist() == [[25, 25, 25, 25]]


def test_points_outside_the_image_are_never_kept():
    points, bags = _bag([[2, 50]])
    result = _refine(points, bags, torch.full((1, 25, 1), 0.7), [0], OFF)
    assert (bags[result.kept][:, 0] >= 0).all()
    assert result.kept_by[0, 0] == result.kept.sum() < 25
    assert result.points[0, 0] > 2


def test_constraint_i_needs_both_thresholds():
    points, bags = _bag([[50, 40]])
    scores = torch.full((1, 25, 1), 0.05)
    scores[0, -1] = 0.8
    scores[0, 0] = 0.39  # below half of the annotated point's score
    scores[0, 1] = 0.41
    only_i = dataclasses.replace(OFF, constraint_i=True)
    assert _refine(points, bags, scores, [0], only_i).kept.nonzero()[:, 1].tolist() == [1, 24]


def test_constraint_ii_keeps_points_of_the_own_class_ties_to_the_lower():
    points, bags = _bag([[50, 40], [60, 70]])
    scores = torch.full((2, 25, 2), 0.5)
    scores[:, 0] = torch.tensor([0.6, 0.4])
    scores[:, 1] = torch.tensor([0.4, 0.6])
    only_ii = dataclasses.replace(OFF, constraint_ii=True)
    result = _refine(points, bags, scores, [0, 1], only_ii)
    assert result.kept[0].nonzero().flatten().tolist() == [0, *range(2, 25)]
    assert result.kept[1].nonzero().flatten().tolist() == [1]


def test_constraint_iii_splits_a_bag_between_neighbours_of_a_class():
    points, bags = _bag([[50, 40], [54, 40], [50, 41]])
    only_iii = dataclasses.replace(OFF, constraint_iii=True)
    result = _refine(points, bags, torch.full((3, 25, 2), 0.5), [0, 0, 1], only_iii)
    assert (bags[0][result.kept[0]][:, 0] <= 52).all()
    assert (bags[1][result.kept[1]][:, 0] > 52).all()
    assert result.kept[2].all()


def test_constraint_iii_tie_goes_to_the_first():
    points, bags = _bag([[50, 40], [50, 40]])
    result = _refine(points, bags, torch.full((2, 25, 1), 0.5), [0, 0], RefinementSettings())
    assert result.kept[0].all()
    assert not result.kept[1].any()
    assert result.refined.tolist() == [True, False]
    assert result.points[1].tolist() == [50, 40]
    assert result.scores[1] == 0


def test_forced_annotated_point_is_always_kept():
    points, bags = _bag([[50, 40]])
    scores = torch.zeros(1, 25, 1)
    scores[0, 0] = 0.6
    scores[0, -1] = 0.05
    candidate = _refine(points, bags, scores, [0], RefinementSettings())
    forced = _refine(points, bags, scores, [0], RefinementSettings(force_annotated=True))
    assert candidate.kept.sum() == 1
    torch.testing.assert_close(candidate.points, bags[:, 0])
    assert forced.kept.nonzero()[:, 1].tolist() == [0, 24]
    assert forced.points[0, 0] < candidate.points[0, 0]


def test_no_objects():
    result = _refine(
        torch.zeros(0, 2), torch.zeros(0, 25, 2), torch.zeros(0, 25, 3), [], RefinementSettings()
    )
    assert result.points.shape == (0, 2)
    assert result.kept_by.shape == (0, 4)


# --- what the surroundings look like ---


def test_class_evidence_by_hand():
    """Two neighbours of different classes: each bag counts on its own side only."""
    points, bags = _bag([[50, 40], [58, 40]])
    scores = torch.zeros(2, 25, 3)
    left = (bags[..., 0] < 54)[..., None]
    # What is left of 54 looks like class 2, what is right of it like class 1.
    scores += torch.where(left, torch.tensor([0.1, 0.0, 0.8]), torch.tensor([0.1, 0.6, 0.0]))
    result = class_evidence(bags, scores, points, torch.tensor([0, 1]), SIZE)
    torch.testing.assert_close(result.own_scores[0], torch.tensor(0.1))
    assert result.other_labels.tolist() == [2, 0]
    # The points right in the middle are of the first click (the lower index).
    own = bags[0][:, 0] <= 54
    share = (bags[0][own][:, 0] < 54).float().mean()
    torch.testing.assert_close(result.other_scores[0], 0.8 * share)
    torch.testing.assert_close(result.own_scores[1], torch.tensor(0.6))
    torch.testing.assert_close(result.other_scores[1], torch.tensor(0.1))


def test_class_evidence_is_what_loops_find():
    rng = np.random.default_rng(3)
    points, bags = _bag(rng.uniform(0, 40, (6, 2)).tolist(), radius=4)
    scores = torch.tensor(rng.random((6, bags.shape[1], 4)), dtype=torch.float32)
    labels = rng.integers(0, 4, 6)
    result = class_evidence(bags, scores, points, torch.tensor(labels), (35, 38))
    for j, label in enumerate(labels):
        kept = []
        for u, (x, y) in enumerate(bags[j].tolist()):
            distances = [(x - a) ** 2 + (y - b) ** 2 for a, b in points.tolist()]
            if 0 <= x <= 38 and 0 <= y <= 35 and min(distances) == distances[j]:
                kept.append(scores[j, u].tolist())
        mean = np.mean(kept, axis=0) if kept else np.zeros(4)
        others = [k for k in range(4) if k != label]
        assert result.own_scores[j].item() == pytest.approx(mean[label], abs=1e-5)
        assert result.other_scores[j].item() == pytest.approx(max(mean[others]), abs=1e-5)
        assert result.other_labels[j] == max(others, key=lambda k: mean[k])


def test_class_evidence_of_clicks_at_one_place_and_of_none():
    points, bags = _bag([[50, 40], [50, 40]])
    scores = torch.full((2, 25, 2), 0.5)
    result = class_evidence(bags, scores, points, torch.tensor([0, 1]), SIZE)
    assert result.own_scores.tolist() == [0.5, 0]
    assert result.other_scores.tolist() == [0.5, 0] and result.other_labels.tolist() == [1, 0]
    none = torch.zeros(0, dtype=torch.long)
    empty = class_evidence(bags[:0], scores[:0], points[:0], none, SIZE)
    assert [tuple(value.shape) for value in empty] == [(0,)] * 3


def _slow(points, bags, scores, labels, size, settings):
    """Algorithm 2 with loops, in float64."""
    refined = []
    for j, label in enumerate(labels):
        kept = []
        for u, (x, y) in enumerate(bags[j]):
            own = scores[j, u, label]
            rivals = [i for i in range(len(labels)) if labels[i] == label]
            nearest = min(rivals, key=lambda i: (np.sum((points[i] - (x, y)) ** 2), i))
            if (
                0 <= x < size[1]
                and 0 <= y < size[0]
                and own > settings.delta1
                and own > settings.delta2 * scores[j, -1, label]
                and int(np.argmax(scores[j, u])) == label
                and nearest == j
            ):
                kept.append(u)
        weights = scores[j, kept, label]
        if kept and weights.mean() >= settings.score_thresh:
            refined.append((weights[:, None] * bags[j, kept]).sum(0) / weights.sum())
        else:
            refined.append(points[j])
    return np.array(refined)


@pytest.mark.parametrize("seed", range(6))
def test_equals_slow_reference(seed, monkeypatch):
    # A small budget makes the distances of constraint III come in several chunks.
    monkeypatch.setattr(refinement, "MAX_DISTANCES", 500)
    rng = np.random.default_rng(seed)
    points, bags = _bag(rng.uniform(0, 100, size=(9, 2)).astype(np.float32))
    scores = torch.tensor(rng.uniform(0, 1, size=(9, 25, 3)), dtype=torch.float32)
    labels = rng.integers(0, 3, size=9).tolist()
    result = _refine(points, bags, scores, labels, RefinementSettings())
    expected = _slow(
        points.double().numpy(),
        bags.double().numpy(),
        scores.double().numpy(),
        labels,
        SIZE,
        RefinementSettings(),
    )
    np.testing.assert_allclose(result.points, expected, atol=1e-3)
