"""Data sets with bad records: those are left out on request."""

from __future__ import annotations

import re
from typing import Any

from cpr_deploy.files import InputError

from .point_json import Problem, Require, find_problems

# How `find_problems` names a record: "annotation id 7 (annotation 3 from 0)", "image 2 (from 0)".
_PLACE = re.compile(r"\b(annotation|image) (\d+) \(?from 0\)$")


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
            place = _PLACE.search(problem.record)
            if place is None:
                raise InputError(f"{problem.record}: {problem.text}")
            places[place[1]].add(int(place[2]))
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
