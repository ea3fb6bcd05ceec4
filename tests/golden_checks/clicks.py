"""Golden vectors of simulated clicks and pseudo boxes."""

import numpy as np

from cpr.data.coarse_points import mask_probabilities, sample_in_box, sample_in_mask
from cpr.data.pseudo_boxes import pseudo_boxes

DRAWS = 200_000


def check_coarse_point_distribution(case: dict) -> None:
    if "mask_rle_rows" in case:
        _check_mask_generator(case)
    else:
        _check_box_generator(case)


def _check_box_generator(case: dict) -> None:
    box = np.array([12.5, 30.0, 40.0, 25.0])
    points = sample_in_box(
        np.tile(box, (DRAWS, 1)), np.arange(DRAWS), sigma=float(case["sigma"]), seed=0
    )
    offsets = (points - box[:2] - box[2:] / 2) / box[2:]
    assert (np.abs(offsets) <= 0.5).all()
    np.testing.assert_allclose(offsets.mean(axis=0), case["mean"], atol=0.005)
    np.testing.assert_allclose(offsets.std(axis=0), case["std"], atol=0.005)
    levels = [float(level) for level in case["quantiles"]]
    expected = np.array(list(case["quantiles"].values()))[:, None]
    np.testing.assert_allclose(
        np.quantile(offsets, levels, axis=0), np.broadcast_to(expected, (len(levels), 2)), atol=0.01
    )


def _check_mask_generator(case: dict) -> None:
    mask = np.array([[character == "1" for character in row] for row in case["mask_rle_rows"]])
    expected = np.array(case["prob"])
    np.testing.assert_allclose(mask_probabilities(mask, case["sigma"]), expected, atol=1e-6)

    points = sample_in_mask(mask, np.arange(DRAWS), sigma=case["sigma"], seed=0)
    columns, rows = np.floor(points).astype(int).T
    share = np.zeros(mask.shape)
    np.add.at(share, (rows, columns), 1 / DRAWS)
    standard_error = np.sqrt(expected * (1 - expected) / DRAWS)
    assert (np.abs(share - expected) <= 4 * standard_error + 1e-6).all()
    sides = np.array(mask.shape[::-1])
    indices = points - 0.5  # the official code puts pixel i at i, before the jitter
    assert (np.abs(indices.mean(axis=0) - case["mean_xy"]) < 0.005 * sides).all()
    # The jitter inside the pixel adds a variance of 1/12.
    deviation = np.sqrt(indices.var(axis=0) - 1 / 12)
    assert (np.abs(deviation - case["std_xy"]) < 0.005 * sides).all()


def check_pseudo_boxes(case: dict) -> None:
    boxes, kept = pseudo_boxes(
        np.array(case["points_xy"]),
        (case["width"], case["height"]),
        size=tuple(case["pseudo_wh"]),
        min_side=case["size_th"],
        min_area=case["area_th"],
    )
    # Ids count the points from 1.
    expected = {record["id"] - 1: record["bbox"] for record in case["kept"]}
    np.testing.assert_array_equal(np.flatnonzero(kept), sorted(expected))
    for index, box in expected.items():
        np.testing.assert_allclose(boxes[index], box, atol=1e-3)
