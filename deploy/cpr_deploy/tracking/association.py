"""Which point belongs to which track: gated likelihoods, and the assignment with the best sum."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

# Squared distance over variance that 99.9 % of an object's own points keep (chi2, two degrees).
GATE = 13.8
# What another class than the voted one costs, in nats: rather this than a jump.
CLASS_COST = 2.0


def associate(
    predicted: np.ndarray,
    variance: np.ndarray,
    track_labels: np.ndarray,
    points: np.ndarray,
    labels: np.ndarray,
    *,
    reach: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows (track rows, point rows), each row at most once.

    Args:
        predicted: (T, 2) px where the tracks should be; variance: (T,) px^2 of point minus
            prediction, per axis; track_labels: (T,) by vote.
        points, labels: (N, 2) px and (N,).
        reach: (T,) px; no pair is further apart, however uncertain the track.

    A pair is worth its likelihood over that of a new object anywhere within reach. So a track that
    was seen a moment ago wins against one that has been lost for long and could be anywhere, and
    nobody is matched to something far away only because it is left over.
    """
    nothing = np.zeros(0, np.int64)
    if not len(predicted) or not len(points):
        return nothing, nothing
    pairs = cKDTree(predicted).sparse_distance_matrix(
        cKDTree(points), float(reach.max()), output_type="ndarray"
    )
    i, j, distance = pairs["i"], pairs["j"], pairs["v"]
    squared = distance**2 / variance[i]
    worth = (
        0.5 * (GATE - squared)
        + np.log(reach[i] ** 2 / GATE / variance[i])
        - CLASS_COST * (track_labels[i] != labels[j])
    )
    near = (distance <= reach[i]) & (squared < GATE) & (worth > 0)
    if not near.any():
        return nothing, nothing
    # Rows and columns without a pair are left out; a zero is "no pair".
    rows, i = np.unique(i[near], return_inverse=True)
    columns, j = np.unique(j[near], return_inverse=True)
    table = np.zeros((len(rows), len(columns)))
    table[i, j] = worth[near]
    i, j = linear_sum_assignment(table, maximize=True)
    paired = table[i, j] > 0
    return rows[i[paired]], columns[j[paired]]
