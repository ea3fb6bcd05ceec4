"""What the sub-commands share: words they take, progress and counts as they show them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..point_json import Problem


def show_progress(
    iterable: Iterable, *, desc: str, total: int | None = None, unit: str = "it"
) -> Iterable:
    from tqdm import tqdm

    return tqdm(iterable, desc=desc, total=total, unit=unit, disable=None)


def show_skipped(problems: Iterable[Problem], what: str = "skipped") -> None:
    for problem in problems:
        print(f"{what}: {problem.record}: {problem.text}")


def counts(dataset: dict) -> str:
    """ "2 images, 5 annotations, 1 categories", of the lists that are there."""
    keys = ("images", "annotations", "categories")
    return ", ".join(
        f"{len(dataset[key])} {key}" for key in keys if isinstance(dataset.get(key), list)
    )


def class_names(text: str) -> list[str]:
    """ "A, B" as ["A", "B"]."""
    return [name.strip() for name in text.split(",") if name.strip()]
