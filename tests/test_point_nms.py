import time
import tracemalloc

import numpy as np
import pytest

from cpr_deploy.point_nms import point_nms, points_conflict

RULES = {
    "pseudo_box": {"rule": "pseudo_box", "size": 16.0, "iou": 0.2},
    "touching boxes": {"rule": "pseudo_box", "size": 32.0, "iou": 0.01},
    "radius": {"rule": "radius", "radius": 9.0},
    "none": {"rule": "none", "size": 16.0, "iou": 0.2, "radius": 9.0},
}


def brute_force(points, scores, labels, settings):
    """Greedy NMS by the definition, with boxes instead of the closed formula."""

    def conflict(a, b):
        if settings["rule"] == "none":
            return False
        if settings["rule"] == "radius":
            return np.hypot(*(a - b)) < settings["radius"]
        size = settings["size"]
        low, high = np.maximum(a, b) - size / 2, np.minimum(a, b) + size / 2
        intersection = np.prod(np.maximum(high - low, 0))
        return intersection / (2 * size**2 - intersection) > settings["iou"]

    kept = []
    for index in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if not any(
            labels[index] == labels[other] and conflict(points[index], points[other])
            for other in kept
        ):
            kept.append(index)
    return kept


@pytest.mark.parametrize("settings", RULES.values(), ids=RULES)
@pytest.mark.parametrize("seed", range(5))
def test_equals_brute_force(settings, seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-30, 120, (250, 2))
    # Coarse scores: many ties, which must keep the input order.
    scores = rng.integers(0, 40, 250) / 40
    labels = rng.integers(0, 3, 250)
    assert point_nms(points, scores, labels, **settings).tolist() == brute_force(
        points, scores, labels, settings
    )


@pytest.mark.parametrize("settings", RULES.values(), ids=RULES)
def test_equals_the_torch_version(settings):
    torch = pytest.importorskip("torch")
    point_ops = pytest.importorskip("cpr.modeling.point_ops")
    rng = np.random.default_rng(7)
    points = rng.uniform(0, 300, (800, 2)).astype(np.float32)
    scores, labels = rng.random(800).astype(np.float32), rng.integers(0, 2, 800)
    full = {"size": 0.0, "iou": 0.0, "radius": 0.0, **settings}
    theirs = point_ops.point_nms(*map(torch.from_numpy, (points, scores, labels)), **full)
    assert point_nms(points, scores, labels, **settings).tolist() == theirs.tolist()


@pytest.mark.parametrize("settings", RULES.values(), ids=RULES)
def test_conflict_equals_the_torch_rule(settings):
    """On multiples of 1/8 px, which float32 holds exactly, borders of the rule included."""
    torch = pytest.importorskip("torch")
    point_ops = pytest.importorskip("cpr.modeling.point_ops")
    steps = np.arange(-40 * 8, 40 * 8 + 1) / 8
    dx, dy = (axis.ravel() for axis in np.meshgrid(steps, steps))
    full = {"size": 0.0, "iou": 0.0, "radius": 0.0, **settings}
    offsets = torch.from_numpy(np.stack([dx, dy], axis=1)).float()
    theirs = point_ops.points_conflict(torch.zeros(2), offsets, **full).numpy()
    ours = points_conflict(dx, dy, **settings)
    assert ours.any() == (settings["rule"] != "none") and not ours.all()
    np.testing.assert_array_equal(ours, theirs)


def test_conflict_worked_by_hand():
    # Squares of 10 px, 5 px apart in x: intersection 50, union 150, IoU 1/3.
    for iou, expected in ((0.33, True), (0.34, False)):
        found = points_conflict(np.array(5.0), np.array(0.0), rule="pseudo_box", size=10, iou=iou)
        assert bool(found) is expected
    # Far apart in both axes: two negative overlaps must not make a positive product.
    assert not points_conflict(np.array(50.0), np.array(50.0), rule="pseudo_box", size=10, iou=0.1)
    # "Closer than": exactly the radius is no conflict.
    assert not points_conflict(np.array(3.0), np.array(4.0), rule="radius", radius=5.0)


def test_classes_never_meet():
    points, scores = np.zeros((3, 2)), np.array([0.3, 0.9, 0.8])
    kept = point_nms(points, scores, np.array([0, 0, 5]), rule="radius", radius=4.0)
    assert kept.tolist() == [1, 2]


def test_empty_and_bad_input():
    empty = point_nms(np.zeros((0, 2)), np.zeros(0), np.zeros(0, int), rule="radius", radius=1.0)
    assert empty.dtype == np.int64 and len(empty) == 0
    with pytest.raises(ValueError, match="rule"):
        point_nms(np.zeros((1, 2)), np.zeros(1), np.zeros(1, int), rule="soft")
    with pytest.raises(ValueError, match="finite"):
        point_nms(np.full((1, 2), np.nan), np.zeros(1), np.zeros(1, int), rule="radius", radius=1.0)


def test_a_crowd_needs_little_memory():
    rng = np.random.default_rng(0)
    # 20,000 points within 60 px: all pairs would be 400 million.
    points = rng.normal(500, 15, (20_000, 2))
    scores, labels = rng.random(20_000), np.zeros(20_000, int)
    tracemalloc.start()
    begin = time.perf_counter()
    kept = point_nms(points, scores, labels, rule="pseudo_box", size=16.0, iou=0.2)
    seconds = time.perf_counter() - begin
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 10 < len(kept) < 500
    assert peak < 32e6 and seconds < 5
