"""Large data sets in and out: written record by record, bad records left out on request."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

from cpr_deploy.files import InputError, atomic_path, find_non_finite

from .point_json import Problem, Require, find_problems

# How `find_problems` names a record: "annotation id 7 (annotation 3 from 0)", "image 2 (from 0)".
_PLACE = re.compile(r"\b(annotation|image) (\d+) \(?from 0\)$")
# Records that are encoded at a time: few calls, and little text in memory.
_CHUNK = 1000


def write_dataset(path: str | os.PathLike, dataset: dict[str, Any]) -> None:
    """Writes a COCO-like dict as JSON, atomically, without ever holding the whole text.

    Raises:
        InputError: a number in it is NaN or infinite.
    """
    try:
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.writelines(_pieces(dataset))
    except ValueError as error:
        where = find_non_finite(dataset) or error
        raise InputError(
            f"{path}: not written, because {where} is NaN or infinite. Correct or remove it."
        ) from None


def _pieces(dataset: dict[str, Any]) -> Iterator[str]:
    # A whole value is encoded in C; json.dump to a file is three times as slow.
    encode = json.JSONEncoder(allow_nan=False).encode
    separator = "{"
    for key, value in dataset.items():
        yield f"{separator}{encode(key)}: "
        separator = ",\n"
        if not isinstance(value, list):
            yield encode(value)
            continue
        yield "["
        for start in range(0, len(value), _CHUNK):
            yield (",\n" if start else "") + encode(value[start : start + _CHUNK])[1:-1]
        yield "]"
    yield "{}\n" if separator == "{" else "}\n"


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
