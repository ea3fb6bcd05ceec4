"""Sets of points matched; each case worked by hand."""

import numpy as np
import pytest

from cpr_deploy.parity import Tolerance, match_points

TOLERANCE = Tolerance(point_px=0.5, score=0.01, unmatched=0.0)


def points(*rows):
    """(x, y, score, label) each."""
    table = np.array(rows, float).reshape(-1, 4)
    return table[:, :2], table[:, 2], table[:, 3].astype(int)


def match(first, second, borderline=()):
    return match_points(first, second, borderline=borderline, tolerance=TOLERANCE)


def test_order_does_not_matter_and_differences_are_the_largest():
    first = points((10, 10, 0.9, 0), (50, 50, 0.8, 0), (20, 30, 0.7, 1))
    second = points((20.1, 30, 0.7, 1), (10, 10.3, 0.895, 0), (50, 50, 0.8, 0))
    count, unmatched, distance, score = match(first, second)
    assert (count, unmatched) == (3, 0)
    assert distance == pytest.approx(0.3) and score == pytest.approx(0.005)


@pytest.mark.parametrize(
    "other",
    [(10.6, 10, 0.9, 0), (10, 10, 0.88, 0), (10, 10, 0.9, 1)],
    ids=["place", "score", "class"],
)
def test_a_point_that_differs_is_missing_on_both_sides(other):
    assert match(points((10, 10, 0.9, 0)), points(other))[:2] == (1, 2)


def test_one_to_one():
    # Two points at one place need two partners.
    twice = points((10, 10, 0.9, 0), (10, 10, 0.9, 0))
    assert match(twice, points((10, 10, 0.9, 0)))[:2] == (2, 1)
    assert match(twice, twice)[:2] == (2, 0)


def test_points_at_a_cut_are_excused():
    first, nothing = points((10, 10, 0.2, 0)), points()
    assert match(first, nothing, borderline=(0.2001,))[:2] == (1, 0)
    assert match(nothing, first, borderline=(0.2001,))[:2] == (1, 0)
    assert match(first, nothing, borderline=(0.25,))[:2] == (1, 1)
    assert match(nothing, nothing)[:2] == (0, 0)
