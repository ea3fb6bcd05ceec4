import itertools

import numpy as np

from cpr_deploy.tracking.association import GATE, associate


def best_by_trial(worth):
    """The best sum over all partial assignments, tried one by one."""
    rows, columns = worth.shape
    best = 0.0
    for count in range(1, min(rows, columns) + 1):
        for chosen in itertools.combinations(range(rows), count):
            for places in itertools.permutations(range(columns), count):
                values = worth[list(chosen), list(places)]
                if np.isfinite(values).all():
                    best = max(best, values.sum())
    return best


def test_the_best_sum_of_likelihoods_over_that_of_new_objects():
    rng = np.random.default_rng(0)
    for _ in range(200):
        tracks, points = rng.random((4, 2)) * 60, rng.random((4, 2)) * 60
        variance, reach = rng.uniform(4, 200, 4), rng.uniform(15, 50, 4)
        votes, labels = rng.integers(0, 2, 4), rng.integers(0, 2, 4)
        squared = ((tracks[:, None] - points) ** 2).sum(axis=2)
        worth = 0.5 * (GATE - squared / variance[:, None])
        worth += np.log(reach**2 / GATE / variance)[:, None]
        worth -= 2.0 * (votes[:, None] != labels)
        outside = (squared > reach[:, None] ** 2) | (squared / variance[:, None] >= GATE)
        worth[outside | (worth <= 0)] = -np.inf
        i, j = associate(tracks, variance, votes, points, labels, reach=reach)
        assert len(set(i)) == len(i) and len(set(j)) == len(j)
        assert np.isclose(worth[i, j].sum() if len(i) else 0.0, best_by_trial(worth))


def test_nobody_to_match():
    none, one = np.zeros((0, 2)), np.zeros((1, 2))
    for tracks, points in ((none, one), (one, none), (one, one + 500)):
        count = len(tracks)
        i, j = associate(
            tracks,
            np.ones(count),
            np.zeros(count),
            points,
            np.zeros(len(points)),
            reach=np.full(count, 50.0),
        )
        assert len(i) == len(j) == 0
