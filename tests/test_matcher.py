"""Label assignment: costs by hand, the reference by definition, the default by the reference."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from cpr.modeling.matcher import (
    CostSettings,
    assignment_cost,
    candidate_topk_assign,
    hungarian_topk_assign,
)
from cpr.modeling.reference_grid import ReferenceGrid

COST = CostSettings()
# Of the original P2PNet (ICCV 2021).
ORIGINAL_COST = CostSettings(class_weight=1.0, point_weight=0.05, rule="probability", distance="l2")
STRIDE = 4


def _grid(side=24, q=1):
    return ReferenceGrid(height=side, width=side, stride=STRIDE, offset=0.5, points_per_cell=q)


def _scene(counts, *, num_classes=2, side=24, q=1, seed=0, min_distance=6.0):
    """Predictions as of a trained network: near an object its point and a high score."""
    generator = torch.Generator().manual_seed(seed)
    grid = _grid(side, q)
    references = grid.points(torch.device("cpu"))
    logits, points, gt_points, gt_labels = [], [], [], []
    for count in counts:
        objects = torch.zeros(0, 2)
        while len(objects) < count:
            place = torch.rand(1, 2, generator=generator) * side * STRIDE
            if not len(objects) or torch.cdist(place, objects).min() >= min_distance:
                objects = torch.cat([objects, place])
        labels = torch.randint(0, num_classes, (count,), generator=generator)
        logit = torch.randn(len(references), num_classes, generator=generator) * 0.8 - 5
        noise = torch.randn(len(references), 2, generator=generator)
        predicted = references + 2 * noise
        if count:
            distance, nearest = torch.cdist(references, objects).min(dim=1)
            pull = torch.sigmoid(5 - distance / (0.4 * STRIDE))[:, None]
            predicted = references + pull * (objects[nearest] - references) + 0.6 * noise
            high = 6.5 * torch.sigmoid((1.5 * STRIDE - distance) / (0.4 * STRIDE))
            logit[torch.arange(len(logit)), labels[nearest]] += high
        logits.append(logit)
        points.append(predicted)
        gt_points.append(objects)
        gt_labels.append(labels)
    valid = torch.ones(len(counts), len(references), dtype=torch.bool)
    targets = (torch.cat(gt_points), torch.cat(gt_labels), list(counts))
    return grid, (torch.stack(logits).sigmoid(), torch.stack(points), valid, *targets)


def _candidate(grid, scene, k=5, radius=8):
    return candidate_topk_assign(*scene, k=k, cost=COST, grid=grid, radius=radius)


def _hungarian(grid, scene, k=5):
    return hungarian_topk_assign(*scene, k=k, cost=COST)


BOTH = pytest.mark.parametrize("assign", [_candidate, _hungarian])


def test_cost_by_hand():
    positive = -0.25 * 0.2**2 * math.log(0.8)
    negative = -0.75 * 0.8**2 * math.log(0.2)
    cost = assignment_cost(
        torch.tensor([0.8]), torch.tensor([[3.0, 5.0]]), torch.tensor([[1.0, 8.0]]), COST
    )
    assert cost.item() == pytest.approx(2 * (positive - negative) + 0.1 * 5, rel=1e-5)


def test_original_cost_by_hand():
    """Minus the probability of the object's class, and 0.05 times the distance of 3, 4, 5."""
    cost = assignment_cost(
        torch.tensor([0.8]), torch.tensor([[3.0, 5.0]]), torch.tensor([[0.0, 9.0]]), ORIGINAL_COST
    )
    assert cost.item() == pytest.approx(-0.8 + 0.05 * 5)


@pytest.mark.parametrize("q", [1, 4])
@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_one_to_one_is_the_cheapest_matching_at_the_original_cost(num_classes, q, seed):
    """The published cost, written out in numpy, and scipy's matching of objects to references."""
    grid, scene = _scene([9, 4], num_classes=num_classes, side=12, q=q, seed=seed)
    scores, points, _, gt_points, gt_labels, counts = scene
    found = hungarian_topk_assign(*scene, k=1, cost=ORIGINAL_COST)
    start = 0
    for image, count in enumerate(counts):
        own = slice(start, start + count)
        offsets = points[image].numpy()[None] - gt_points[own].numpy()[:, None]
        probability = scores[image].numpy()[:, gt_labels[own].numpy()].T
        cost = 0.05 * np.hypot(offsets[..., 0], offsets[..., 1]) - probability
        objects, references = linear_sum_assignment(cost)
        expected = np.full(grid.num_points, -1)
        expected[references] = objects + start
        assert found[image].tolist() == expected.tolist()
        start += count


def test_default_agrees_with_the_reference_one_to_one_at_the_original_cost():
    agreed = total = 0
    for seed in range(4):
        grid, scene = _scene([40], side=48, q=4, seed=seed)
        reference = hungarian_topk_assign(*scene, k=1, cost=ORIGINAL_COST)
        default = candidate_topk_assign(*scene, k=1, cost=ORIGINAL_COST, grid=grid, radius=8)
        agreed += ((reference == default) & (reference >= 0)).sum().item()
        total += (reference >= 0).sum().item()
        assert (default >= 0).sum() == 40
    assert agreed >= 0.95 * total


def test_cost_has_no_gradient():
    scores = torch.full((3,), 0.5, requires_grad=True)
    points = torch.zeros(3, 2, requires_grad=True)
    assert not assignment_cost(scores, points, torch.ones(3, 2), COST).requires_grad


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("COST_CLASS", {"class_weight": -1.0}),
        ("COST_POINT", {"point_weight": -0.1}),
        ("FOCAL_ALPHA", {"alpha": 1.5}),
        ("FOCAL_GAMMA", {"gamma": 0.5}),
        ("COST_RULE", {"rule": "giou"}),
        ("COST_DISTANCE", {"distance": "L2"}),
    ],
)
def test_bad_cost_names_its_key(key, change):
    with pytest.raises(ValueError, match=f"MODEL.P2PNET.{key}"):
        CostSettings(**change)


def test_each_round_is_the_cheapest_one_to_one_matching():
    """Against all permutations, on a map of three by three cells."""
    grid, scene = _scene([2], num_classes=1, side=3)
    scores, points, _, gt_points, _, _ = scene
    cost = assignment_cost(scores[0, :, :1], points[0, :, None], gt_points, COST)
    expected, free = {}, list(range(9))
    for _ in range(3):
        best = min(
            itertools.permutations(free, 2), key=lambda pair: cost[pair[0], 0] + cost[pair[1], 1]
        )
        for gt, place in enumerate(best):
            expected[place] = gt
            free.remove(place)
    found = _hungarian(grid, scene, k=3)[0]
    assert {i: found[i].item() for i in range(9) if found[i] >= 0} == expected
    torch.testing.assert_close(_candidate(grid, scene, k=3)[0], found)


@pytest.mark.parametrize(
    "scene_settings",
    [
        pytest.param({"counts": [40], "side": 48}, id="one image"),
        pytest.param({"counts": [20, 0, 7], "num_classes": 5}, id="batch with an empty image"),
        pytest.param({"counts": [60], "side": 48, "q": 4}, id="four a cell"),
        pytest.param({"counts": [40], "min_distance": 5.0}, id="crowd"),
    ],
)
def test_default_agrees_with_the_reference(scene_settings):
    agreed = total = 0
    for seed in range(3):
        grid, scene = _scene(**scene_settings, seed=seed)
        reference, default = _hungarian(grid, scene), _candidate(grid, scene)
        agreed += ((reference == default) & (reference >= 0)).sum().item()
        total += (reference >= 0).sum().item()
        assert (default >= 0).sum() == (reference >= 0).sum()
    assert agreed >= 0.98 * total


def test_default_gives_a_contested_reference_to_who_loses_most_without_it():
    """Both objects like the middle reference best; only the second one has a good other choice."""
    grid = ReferenceGrid(height=1, width=3, stride=STRIDE, offset=0.5, points_per_cell=1)
    points = torch.tensor([[[-40.0, 2.0], [6.0, 2.0], [9.0, 2.0]]])
    objects = torch.tensor([[5.0, 2.0], [6.5, 2.0]])
    scene = (torch.full((1, 3, 1), 0.5), points, torch.ones(1, 3, dtype=torch.bool), objects)
    scene = (*scene, torch.zeros(2, dtype=torch.long), [2])
    assert _hungarian(grid, scene, k=1).tolist() == [[-1, 0, 1]]
    assert _candidate(grid, scene, k=1).tolist() == [[-1, 0, 1]]


@BOTH
def test_every_object_gets_k_positives_and_no_reference_is_shared(assign):
    grid, scene = _scene([15, 3], seed=4)
    assigned = assign(grid, scene)
    assert assigned.shape == (2, grid.num_points)
    assert torch.bincount(assigned[assigned >= 0], minlength=18).tolist() == [5] * 18
    # Each image's objects only.
    assert set(assigned[0][assigned[0] >= 0].tolist()) == set(range(15))
    assert set(assigned[1][assigned[1] >= 0].tolist()) == set(range(15, 18))


@BOTH
def test_batch_equals_single_images(assign):
    grid, (scores, points, valid, gt_points, gt_labels, counts) = _scene([6, 0, 9], seed=2)
    together = assign(grid, (scores, points, valid, gt_points, gt_labels, counts))
    start = 0
    for image, count in enumerate(counts):
        own = slice(start, start + count)
        part = (scores[image, None], points[image, None], valid[image, None])
        alone = assign(grid, (*part, gt_points[own], gt_labels[own], [count]))[0]
        torch.testing.assert_close(together[image], torch.where(alone >= 0, alone + start, -1))
        start += count


@BOTH
@pytest.mark.parametrize("counts", [[0], [0, 0]])
def test_no_objects(assign, counts):
    grid, scene = _scene(counts)
    assert (assign(grid, scene) == -1).all()


@BOTH
def test_invalid_references_are_never_positives(assign):
    grid, (scores, points, _, gt_points, *rest) = _scene([4], num_classes=1)
    valid = grid.inside((32, 96), torch.device("cpu"))[None]
    gt_points[:, 1] /= 3
    assigned = assign(grid, (scores, points, valid, gt_points, *rest))
    assert (assigned[~valid] == -1).all()
    assert (assigned >= 0).sum() == 20


@BOTH
@pytest.mark.parametrize(
    ("objects", "k", "positives"),
    [
        pytest.param(2, 5, 8, id="one round short"),
        pytest.param(4, 5, 8, id="two rounds"),
        pytest.param(9, 5, 9, id="just enough"),
        pytest.param(12, 5, 0, id="more objects than references"),
        pytest.param(12, 1, 9, id="one-to-one always runs"),
    ],
)
def test_few_references_stop_like_the_official_rounds(assign, objects, k, positives):
    """Nine references; a round takes place while as many are free as there are objects."""
    grid, scene = _scene([objects], num_classes=1, side=3, min_distance=0.0)
    counts = torch.bincount(assign(grid, scene, k=k).clamp(min=-1)[0] + 1, minlength=objects + 1)
    assert counts[1:].sum() == positives
    assert counts[1:].max() <= k


def test_objects_at_one_place_share_their_neighbourhood():
    grid, scene = _scene([1], num_classes=1)
    scores, points, valid, place, _, _ = scene
    scene = (scores, points, valid, place.repeat(4, 1), torch.zeros(4, dtype=torch.long), [4])
    assigned = _candidate(grid, scene)
    assert torch.bincount(assigned[assigned >= 0], minlength=4).tolist() == [5] * 4


@BOTH
def test_a_diverged_network_still_returns(assign):
    grid, (scores, points, *rest) = _scene([3])
    points = torch.full_like(points, float("nan"))
    assert assign(grid, (scores, points, *rest)).shape == (1, grid.num_points)


def test_radius_must_reach_the_next_cells():
    grid, scene = _scene([1])
    with pytest.raises(ValueError, match="radius"):
        _candidate(grid, scene, radius=0)


def test_memory_follows_candidates_not_the_map():
    """Targets by the hundred on a large map: no tensor of references times objects."""
    grid, scene = _scene([100], side=128, num_classes=1)
    limit = 100 * (2 * 8 + 1) ** 2 * 4
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            sizes.extend(
                x.numel() for x in torch.utils._pytree.tree_leaves(result) if torch.is_tensor(x)
            )
            return result

    with Watch():
        _candidate(grid, scene)
    assert max(sizes) <= limit
    assert limit < grid.num_points * 100
