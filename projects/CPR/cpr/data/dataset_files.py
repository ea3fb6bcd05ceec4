"""Data sets with bad records: those are left out on request."""

from __future__ import annotations

import re
from typing import Any

from cpr_deploy.files import InputError

from .point_json import Problem, Require, find_problems

# How `find_problems` names a record: "annotation id 7 (annotation 3 from 0)", "image 2 (from 0)".
_PLACE = re.compile(r"\b(annotation|image|category) (\d+) \(?from 0\)$")


def record_place(problem: Problem) -> tuple[str, int] | None:
    """Kind and index of the record that a problem of `find_problems` is about, if it is one."""
    place = _PLACE.search(problem.record)
    return None if place is None else (place[1], int(place[2]))


def drop_bad_records(
    dataset: Any, *, require: Require = "any", may_be_empty: bool = False
) -> tuple[dict[str, Any], list[Problem]]:
    """A copy without the images and annotations that are not valid, and what was wrong with them.

    Args:
        dataset: the parsed JSON, of any shape.
        require, may_be_empty: see `cpr.data.point_json.load_points`.

    Raises:
        InputError: what is wrong is not a single image or annotation.
    """
    dropped: list[Problem] = []
    while True:
        places: dict[str, set[int]] = {"image": set(), "annotation": set()}
        for problem in find_problems(dataset, require=require, may_be_empty=may_be_empty):
            if not problem.is_error:
                continue
            kind, index = record_place(problem) or ("", 0)
            if kind not in places:
                raise InputError(f"{problem.record}: {problem.text}")
            places[kind].add(index)
            dropped.append(problem)
        if not any(places.values()):
            return dataset, dropped
        # Once more afterwards: annotations of an image that was dropped have lost it.
        dataset = {
            **dataset,
            **{
                f"{kind}s": [
                    record
                    for index, record in enumerate(dataset[f"{kind}s"])
                    if index not in places[kind]
                ]
                for kind in places
            },
        }
