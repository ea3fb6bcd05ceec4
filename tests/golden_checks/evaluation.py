"""Golden vectors of the point evaluator and its matcher."""

import numpy as np

from cpr.evaluation.point_ap import evaluate_points, match_points, official_report

OFFICIAL = {"box_centre": "official", "absent_classes": "official", "ap": "paper"}


def _evaluate(case: dict, **settings) -> dict:
    return evaluate_points(
        case["gt"],
        case["detections"],
        taus=case["taus"],
        size_ranges=case["size_ranges"],
        max_dets=case["max_dets"],
        **OFFICIAL,
        **settings,
    )


def _assert_results(ap_tables: dict, recall_tables: dict, expected: list[dict]) -> None:
    for result in expected:
        area, tau = result["area"], str(float(result["tau"]))
        recall = result["ar"] if "ar" in result else result["max_recall"]
        where = f"area {area}, tau {tau}"
        np.testing.assert_allclose(ap_tables[area][tau], result["ap"], atol=1e-6, err_msg=where)
        np.testing.assert_allclose(recall_tables[area][tau], recall, atol=1e-6, err_msg=where)


def check_evaluator(case: dict) -> None:
    metrics = _evaluate(case, paper_ignore=True)
    if case["tie_sensitive"]:
        # Over input orders, the official result varies between lo and hi.
        values = [
            metrics["AP"][result["area"]][str(float(result["tau"]))]
            for result in case["expected"]["mean"]
        ]
        assert (np.array(values) >= np.array(case["tie_range"]["lo"]) - 1e-6).all()
        assert (np.array(values) <= np.array(case["tie_range"]["hi"]) + 1e-6).all()
        return
    _assert_results(metrics["AP"], metrics["max_recall"], case["expected"]["mean"])
    classes = {entry["category_id"]: entry for entry in metrics["per_class"].values()}
    for expected in case["expected"].get("per_class", []):
        entry = classes[expected["category_id"]]
        _assert_results(entry["AP"], entry["max_recall"], expected["results"])
    if "printed" in case["expected"]:
        assert official_report(metrics) == case["expected"]["printed"]
    revision = case.get("expected_rev_2021", {})
    if "mean" in revision:
        metrics = _evaluate(case, ignore_keys=("ignore",))
        _assert_results(metrics["AP"], metrics["max_recall"], revision["mean"])


def check_matcher(case: dict) -> None:
    boxes = np.array(case["gt_cxcywh"] + case["ignore_cxcywh"], dtype=float).reshape(-1, 4)
    ignored = np.arange(len(boxes)) >= len(case["gt_cxcywh"])
    matched, det_ignored = match_points(
        np.array(case["det_xy"]),
        np.array(case["det_score_sorted"]),
        boxes[:, :2],
        boxes[:, 2:],
        ignored,
        case["tau"],
    )
    np.testing.assert_array_equal(matched, case["matched"])
    np.testing.assert_array_equal(det_ignored.astype(int), case["det_ignored"])
