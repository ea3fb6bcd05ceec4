"""Images that two parts of a data set, one to train on and one to test on, have in common."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..footage.near_duplicates import check_threshold, near_duplicate_pairs
from ..point_json import Problem
from .image_facts import ImageFacts

# Images whose hashes are compared with all others at a time.
_ROWS = 256
_MEND = "Leave it out of one of them, or divide anew by sequence (`prepare_points.py split`)."


def find_leaks(
    dataset: dict[str, Any],
    other: dict[str, Any],
    *,
    facts: Mapping[str, ImageFacts] | None = None,
    other_facts: Mapping[str, ImageFacts] | None = None,
    same_folder: bool = True,
    threshold: int,
) -> Iterator[Problem]:
    """Images and sequences of `dataset` that are in `other` too, each told once.

    Files of one name are the same if both parts are in one folder, and as long as no images are
    read; tiles are those of their full image. With `facts`, files with the same bytes are the same
    too (errors), and images that look nearly alike may be (warnings).

    Args:
        dataset, other: point JSONs, `other` a valid one; records of `dataset` without a usable name
            are passed over.
        facts, other_facts: file name -> facts with hashes, of the images of each; None: not read.
        same_folder: file names mean the same in both.
        threshold: near-duplicates are at most so many bits apart, see `near_duplicates`.

    Raises:
        InputError: no such threshold.
    """
    check_threshold(threshold)
    told = set()  # file names
    images = [image for image in dataset["images"] if isinstance(image.get("file_name"), str)]
    yield from _sequences(images, other["images"], told)
    if same_folder or facts is None or other_facts is None:
        theirs = {_source(image): image for image in other["images"]}
        for image in images:
            if _source(image) in theirs and image["file_name"] not in told:
                told.add(image["file_name"])
                text = f"{_source(image)!r} is an image of both parts."
                yield Problem(_record(image), f"{text} {_MEND}", rule="leak-file")
    if facts is None or other_facts is None:
        return
    first = {i["file_name"]: i for i in images if i["file_name"] not in told}
    second = {i["file_name"]: i for i in other["images"]}
    digests = {
        other_facts[name].digest: name
        for name in second
        if name in other_facts and other_facts[name].digest is not None
    }
    for name, image in first.items():
        twin = digests.get(facts[name].digest) if name in facts else None
        if twin is not None:
            told.add(name)
            text = f"{name!r} is the same file as {twin!r} of the other part."
            yield Problem(_record(image), f"{text} {_MEND}", rule="leak-file")
    ours = [n for n in first if n not in told and n in facts and facts[n].near_hash is not None]
    known = [n for n in second if n in other_facts and other_facts[n].near_hash is not None]
    for name, twin, bits in _nearest(ours, known, facts, other_facts, threshold):
        text = f"{name!r} looks like {twin!r} of the other part ({bits} of 64 bits differ)."
        yield Problem(
            _record(first[name]),
            f"{text} Look at both; if they show the same, leave one out.",
            is_error=False,
            rule="leak-near-duplicate",
        )


def are_one_folder(first: str | os.PathLike | None, second: str | os.PathLike | None) -> bool:
    """Whether names in two image folders mean the same; None: it is not known where they are."""
    return first is None or second is None or os.path.realpath(first) == os.path.realpath(second)


def _source(image: dict[str, Any]) -> str:
    """The file that an image is, or that it was cut from."""
    source = image.get("full_file_name")
    return source if isinstance(source, str) else image["file_name"]


def _record(image: dict[str, Any]) -> str:
    return f"image id {image.get('id')!r}"


def _sequences(images: list[dict], others: list[dict], told: set[str]) -> Iterator[Problem]:
    """Sequences in both parts; the names of their images go into `told`."""
    counts = [Counter(_sequence(image) for image in part) for part in (images, others)]
    both = {key for key in counts[0] if key is not None and counts[1][key]}
    told |= {image["file_name"] for image in images if _sequence(image) in both}
    for sequence, count in counts[0].items():
        if sequence not in both:
            continue
        yield Problem(
            f"sequence {sequence!r}",
            f"{count} of its images are in this part, {counts[1][sequence]} in the other: they show"
            " the same objects. Divide by sequence (`prepare_points.py split --by-sequence"
            " sequence`).",
            rule="leak-sequence",
        )


def _sequence(image: dict[str, Any]) -> int | str | None:
    sequence = image.get("sequence")
    return sequence if isinstance(sequence, (int, str)) else None


def _nearest(
    ours: list[str],
    known: list[str],
    facts: Mapping[str, ImageFacts],
    other_facts: Mapping[str, ImageFacts],
    threshold: int,
) -> Iterator[tuple[str, str, int]]:
    """Name, the name that looks most like it, and how many bits differ, where that is near."""
    theirs = np.array([other_facts[name].near_hash for name in known], np.uint64)
    # In parts: among images of open sea nearly all pairs may be near.
    for start in range(0, len(ours), _ROWS):
        part = ours[start : start + _ROWS]
        hashes = np.array([facts[name].near_hash for name in part], np.uint64)
        pairs, bits = near_duplicate_pairs(hashes, theirs, threshold)
        order = np.lexsort((pairs[:, 1], bits, pairs[:, 0]))
        rows, places = np.unique(pairs[order, 0], return_index=True)
        for row, place in zip(rows.tolist(), order[places].tolist(), strict=True):
            yield part[row], known[pairs[place, 1]], int(bits[place])
