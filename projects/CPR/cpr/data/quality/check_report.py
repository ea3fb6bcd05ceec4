"""What a check found, as JSON and as counts by rule."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ..point_json import Problem
from .checks import RULES, images_without_objects
from .fixes import Fixed


def by_rule(
    problems: list[Problem], fixed: Fixed | None = None, left: list[Problem] | None = None
) -> dict[str, dict[str, Any]]:
    """Rule -> {"level", "found"}, and with a mended copy "changes" and what is "left" in it.

    Args:
        problems: of the data set.
        fixed, left: the mended copy and its problems.
    """
    left = left or []
    levels = {p.rule: "error" if p.is_error else "warning" for p in [*problems, *left]}
    found, remain = Counter(p.rule for p in problems), Counter(p.rule for p in left)
    changed = Counter(change.rule for change in fixed.changes) if fixed else Counter()
    table = {}
    for rule in RULES:
        if found[rule] or remain[rule] or changed[rule]:
            row = {"level": levels.get(rule, "error"), "found": found[rule]}
            table[rule] = row | ({"changes": changed[rule], "left": remain[rule]} if fixed else {})
    return table


def check_report(
    dataset: Any,
    problems: list[Problem],
    fixed: Fixed | None = None,
    left: list[Problem] | None = None,
) -> dict[str, Any]:
    """All that `check` prints.

    Args:
        dataset: the parsed JSON, of any shape.
        problems: what is wrong with it.
        fixed, left: the mended copy and its problems, if there is one.
    """
    report: dict[str, Any] = {}
    if isinstance(dataset, dict):
        keys = ("images", "annotations", "categories")
        report = {key: len(dataset[key]) for key in keys if isinstance(dataset.get(key), list)}
        report["images_without_objects"] = images_without_objects(dataset)
    errors = sum(problem.is_error for problem in problems)
    report |= {"errors": errors, "warnings": len(problems) - errors}
    report |= {"rules": by_rule(problems, fixed, left), "problems": _listed(problems)}
    if fixed is not None:
        report["changes"] = len(fixed.changes)
        report |= {"left": fixed.left, "problems_left": _listed(left or [])}
    return report


def fix_log(annotations: str, output: str, fixed: Fixed, left: list[Problem]) -> dict[str, Any]:
    """Every record that was changed or removed, with the rule and as it was, and what is left."""
    return {
        "annotations": annotations,
        "output": output,
        "changes": [change._asdict() for change in fixed.changes],
        "left": fixed.left,
        "problems_left": _listed(left),
    }


def _listed(problems: list[Problem]) -> list[dict[str, Any]]:
    return [
        {
            "level": "error" if problem.is_error else "warning",
            "rule": problem.rule,
            "record": problem.record,
            "text": problem.text,
        }
        for problem in problems
    ]
