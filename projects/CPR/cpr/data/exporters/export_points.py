"""What the exporters of all formats share: reading, what is left out, writing atomically."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from pathlib import Path

from cpr_deploy.files import InputError, atomic_path, find_non_finite

from ..point_json import Problem, is_ignored, load_points
from . import FORMATS


@dataclass(frozen=True)
class Exported:
    """What `export_points` wrote.

    Attributes:
        images, annotations: how many.
        left_out: annotations that the format cannot hold, with the reason.
    """

    images: int
    annotations: int
    left_out: list[Problem]


def export_points(
    annotations: str | os.PathLike,
    path: str | os.PathLike,
    *,
    file_format: str,
    prefix: str = "",
    skip_bad: bool = False,
) -> Exported:
    """Writes a point JSON as a file of another tool.

    Args:
        annotations: the point JSON.
        path: the file to write.
        file_format: one of `FORMATS`.
        prefix: what to put before the name of each image, for formats with such a setting.
        skip_bad: leave out objects that the format cannot hold instead of stopping at the first.

    Returns:
        the numbers of what was written, and what was left out: regions that the format cannot
        hold, and with `skip_bad` objects too.

    Raises:
        InputError: naming file, record, rule and fix; nothing is written then.
    """
    if file_format not in FORMATS:
        raise InputError(f"format {file_format!r}: use one of {', '.join(FORMATS)}.")
    entry = FORMATS[file_format]
    if prefix and not entry.prefix:
        raise InputError(f"format {file_format}: names images without a prefix. Leave it out.")
    dataset = load_points(annotations, require="any", may_be_empty=True)
    left_out: list[Problem] = []
    if not entry.boxes:
        kept = []
        for annotation in dataset["annotations"]:
            if annotation.get("point") is not None and not is_ignored(annotation):
                kept.append(annotation)
                continue
            record = f"annotation id {annotation['id']}"
            if is_ignored(annotation):
                left_out.append(Problem(record, f"{file_format} holds no regions.", is_error=False))
                continue
            text = f"has no point, and {file_format} holds no boxes. Click it, or use `coarse`."
            if not skip_bad:
                raise InputError(f"{annotations}: {record}: {text}")
            left_out.append(Problem(record, text))
        dataset = {**dataset, "annotations": kept}
    module = importlib.import_module(f"{__package__}.{entry.module}")
    try:
        # newline="": the csv module ends its lines itself; elsewhere "\n" on every system.
        with (
            atomic_path(Path(path)) as temporary,
            open(temporary, "w", encoding="utf-8", newline="") as file,
        ):
            module.write(file, dataset, prefix)
    except InputError as error:
        raise InputError(f"{annotations}: {error}") from None
    except ValueError as error:  # from json, which carries through what nobody has read
        where = find_non_finite(dataset)
        if where is None:
            raise
        raise InputError(
            f"{annotations}: {where} is NaN or infinite ({error}). Correct or remove it."
        ) from None
    return Exported(len(dataset["images"]), len(dataset["annotations"]), left_out)
