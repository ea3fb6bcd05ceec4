"""Crowd-counting sets in MATLAB files: one file an image, one point a head.

ShanghaiTech: `GT_IMG_1.mat` holds `image_info{1}.location` for `IMG_1.jpg`; UCF: `annPoints`. The
points were clicked in MATLAB, which counts from 1: the centre of the first pixel is (1, 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cpr_deploy.files import InputError

from ..point_json import Problem
from .mat_file import read_variables
from .names import ImageNames, annotation_files, reason
from .records import Click, Conventions, Image

LABEL = "person"


def read(
    path: Path, images: Mapping[str, dict], conventions: Conventions
) -> Iterator[Click | Image | Problem]:
    """The heads in MATLAB files, file by file; see `cpr.data.importers`.

    Raises:
        InputError: no such file or folder, or no MAT-file in it.
    """
    names = ImageNames(images)
    for file in annotation_files(path, (".mat",)):
        if isinstance(file, Problem):
            yield file
            continue
        stem = file.path.stem
        name = names.of_file(file.name, also=(stem.removeprefix("GT_"), stem.removesuffix("_ann")))
        if isinstance(name, Problem):
            yield name
            continue
        try:
            points = _points(read_variables(file.path))
        except InputError as error:
            yield Problem(repr(file.name), reason(error, file.path))
            continue
        if points is None:
            yield Problem(
                repr(file.name),
                "holds neither image_info.location nor annPoints of two columns. Remove it.",
            )
            continue
        yield Image(repr(file.name), name)
        for index, (x, y) in enumerate(points.tolist(), start=1):
            point = (conventions.to_continuous(x), conventions.to_continuous(y))
            yield Click(f"{file.name!r}, point {index}", name, point, LABEL)


def _points(variables: dict[str, Any]) -> np.ndarray | None:
    """(N, 2) x, y as the file counts them; None if there are none of that form."""
    value = variables.get("annPoints", variables.get("image_info"))
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        value = value.get("location")
    if not isinstance(value, np.ndarray):
        return None
    if value.size == 0:
        return np.zeros((0, 2))
    return value if value.ndim == 2 and value.shape[1] == 2 else None
