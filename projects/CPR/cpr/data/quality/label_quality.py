"""Which refined points a person should look at, worst first (numpy and scipy only).

A refined point is doubtful for five reasons, the flags. Distances are px of the image; thresholds:
`Thresholds`.

class       the surroundings of the click look more like another class: `other_score` is above
            `own_score`, and at least 0.05
same-place  another object of the image, of whatever class, has its point within `same_place`
not-refined nothing of the bag was kept, or too little: the point is still the click
moved       the refined point is farther from its click than `radius`
low-score   it was refined, but with a mean score below `min_score`

Worst first: more flags before fewer; among as many, the flags that come earlier in this list before
later ones; then by doubt, the mean of 1 - `refine_score` and of the distance moved over how far the
bag reaches (each between 0 and 1; a missing score counts as 1); then by annotation id.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cpr_deploy.files import InputError

from ..point_json import MAX_COORDINATE, is_ignored

# Name -> what it says, for people. The gravest first, which decides among as many flags.
FLAGS = {
    "class": "looks like another class",
    "same-place": "two points at one place",
    "not-refined": "nothing kept",
    "moved": "moved far",
    "low-score": "low score",
}
# Without `radius` and `same_place`, these shares of how far a bag reaches.
MOVED_SHARE = 0.75
SAME_PLACE_SHARE = 0.25
# A class that scores less is no evidence, px of background do too.
MIN_OTHER_SCORE = 0.05


@dataclass(frozen=True)
class Thresholds:
    """From where on something is doubtful.

    Attributes:
        radius: px; None: three quarters of how far the object's bag reaches.
        min_score: mean score of the kept points. Algorithm 2 gives up below 0.1.
        same_place: px; None: a quarter of how far the bags of the data set reach.
    """

    radius: float | None = None
    min_score: float = 0.15
    same_place: float | None = None

    def __post_init__(self) -> None:
        for name in ("radius", "same_place"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= MAX_COORDINATE:
                raise InputError(f"{name} {value}: give a distance in px, 0 or more.")
        if not 0 <= self.min_score <= 1:
            raise InputError(f"min_score {self.min_score}: give a score between 0 and 1.")


@dataclass(frozen=True)
class ObjectQuality:
    """One refined object.

    Attributes:
        annotation: its record.
        distance: from the click to the point, px.
        reach: how far from the click its bag reaches, px; 0: not known.
        flags: names of `FLAGS`, in their order.
        partners: ids of the annotations at the same place.
        doubt: from 0 to 1.
    """

    annotation: dict[str, Any]
    distance: float
    reach: float
    flags: tuple[str, ...]
    partners: tuple[int, ...]
    doubt: float


@dataclass(frozen=True)
class LabelQuality:
    """The objects of a data set, worst first, and what was applied.

    Attributes:
        objects: the refined ones.
        thresholds: with `same_place` filled in; `radius` None: three quarters of each `reach`.
        reach: the farthest that a bag reaches, px.
        unrefined: objects without a `coarse_point`, which are left out.
    """

    objects: list[ObjectQuality]
    thresholds: Thresholds
    reach: float
    unrefined: int

    def counts(self) -> dict[str, int]:
        """Flag -> objects that have it."""
        counts = dict.fromkeys(FLAGS, 0)
        for one in self.objects:
            for flag in one.flags:
                counts[flag] += 1
        return counts


def refined_objects(dataset: dict[str, Any]) -> list[dict[str, Any]]:
    """The annotations that a refiner has seen: not ignored, with `point` and `coarse_point`."""
    return [
        annotation
        for annotation in dataset["annotations"]
        if not is_ignored(annotation)
        and annotation.get("point") is not None
        and annotation.get("coarse_point") is not None
    ]


def label_quality(dataset: dict[str, Any], thresholds: Thresholds | None = None) -> LabelQuality:
    """Finds what is doubtful in a refined data set.

    Args:
        dataset: point JSON as `point_json.load_points` returns it after a refinement. What
            `refined_points.apply_refinement` writes besides (`bag_radius`, `semantic_points`,
            `own_score`, `other_class`, `other_score`) is used where it is there.
        thresholds: default: `Thresholds()`.

    Raises:
        InputError: there is no refined object, or one of these keys is unusable.
    """
    thresholds = thresholds or Thresholds()
    annotations = refined_objects(dataset)
    if not annotations:
        raise InputError(
            "no object has a coarse_point beside its point, so nothing was refined. Give the output"
            " of tools/refine_points.py."
        )
    categories = {category["id"] for category in dataset["categories"]}
    for annotation in annotations:
        _check(annotation, categories)
    points = np.array([a["point"] for a in annotations], dtype=np.float64)
    clicks = np.array([a["coarse_point"] for a in annotations], dtype=np.float64)
    scores = _numbers(annotations, "refine_score")
    refined = np.array([bool(a.get("refined", True)) for a in annotations])
    distances = np.hypot(*(points - clicks).T)
    reaches = bag_reaches(annotations)
    farthest = float(reaches.max())
    near = thresholds.same_place
    if near is None:
        near = SAME_PLACE_SHARE * farthest
    pairs = same_place(points, [a["image_id"] for a in annotations], near)
    partners = defaultdict(list)
    for first, second in pairs:
        partners[first].append(annotations[second]["id"])
        partners[second].append(annotations[first]["id"])

    raised = {
        "class": looks_like_another(
            _numbers(annotations, "own_score"), _numbers(annotations, "other_score")
        ),
        "same-place": np.isin(np.arange(len(annotations)), list(partners)),
        "not-refined": ~refined,
        "moved": moved_far(distances, reaches, thresholds.radius),
        "low-score": scored_low(scores, refined, thresholds.min_score),
    }
    doubts = doubt(scores, distances, reaches)
    table = np.stack([raised[flag] for flag in FLAGS], axis=1)
    ids = np.array([a["id"] for a in annotations])
    objects = [
        ObjectQuality(
            annotation=annotations[index],
            distance=float(distances[index]),
            reach=float(reaches[index]),
            flags=tuple(f for f, on in zip(FLAGS, table[index], strict=True) if on),
            partners=tuple(sorted(partners[index])) if index in partners else (),
            doubt=float(doubts[index]),
        )
        for index in worst_first(table, doubts, ids).tolist()
    ]
    everything = [a for a in dataset["annotations"] if not is_ignored(a)]
    return LabelQuality(
        objects=objects,
        thresholds=Thresholds(thresholds.radius, thresholds.min_score, near),
        reach=farthest,
        unrefined=len(everything) - len(annotations),
    )


def bag_reaches(annotations: Sequence[dict[str, Any]]) -> np.ndarray:
    """(N,) how far from each click its bag reaches, px.

    That is `bag_radius` (R times the stride, in px of the image). A file without it: the farthest
    that any semantic point or refined point of the data set lies from its click.
    """
    reaches = _numbers(annotations, "bag_radius")
    known = np.isfinite(reaches)
    if not known.all():
        farthest = 0.0
        for annotation in annotations:
            seen = np.array(
                [annotation["point"], *(annotation.get("semantic_points") or [])], dtype=np.float64
            )
            offsets = seen - annotation["coarse_point"]
            farthest = max(farthest, float(np.hypot(*offsets.T).max()))
        reaches[~known] = farthest
    return reaches


def moved_far(distances: np.ndarray, reaches: np.ndarray, radius: float | None) -> np.ndarray:
    """(N,) bool: moved farther than `radius` px, or than three quarters of its reach."""
    return distances > (MOVED_SHARE * reaches if radius is None else radius)


def scored_low(scores: np.ndarray, refined: np.ndarray, min_score: float) -> np.ndarray:
    """(N,) bool: refined with a score below `min_score`; an object without a score (NaN) is not."""
    with np.errstate(invalid="ignore"):
        return refined & (scores < min_score)


def looks_like_another(own_scores: np.ndarray, other_scores: np.ndarray) -> np.ndarray:
    """(N,) bool: another class scores above the own one, and enough to be evidence (NaN: no)."""
    with np.errstate(invalid="ignore"):
        return (other_scores > own_scores) & (other_scores >= MIN_OTHER_SCORE)


def same_place(
    points: np.ndarray, image_ids: Sequence[Hashable], distance: float
) -> list[tuple[int, int]]:
    """Pairs i < j of points (N, 2) of one image that are at most `distance` px apart, sorted."""
    from scipy.spatial import cKDTree

    by_image = defaultdict(list)
    for index, image_id in enumerate(image_ids):
        by_image[image_id].append(index)
    pairs = []
    for indices in by_image.values():
        if len(indices) > 1:
            found = cKDTree(points[indices]).query_pairs(distance)
            pairs.extend((indices[i], indices[j]) for i, j in found)
    return sorted(pairs)


def doubt(scores: np.ndarray, distances: np.ndarray, reaches: np.ndarray) -> np.ndarray:
    """(N,) from 0 to 1: mean of 1 - score (NaN counts as a score of 1) and of distance / reach."""
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = np.where(distances > 0, np.minimum(distances / reaches, 1.0), 0.0)
    return (1.0 - np.clip(np.nan_to_num(scores, nan=1.0), 0.0, 1.0) + moved) / 2


def worst_first(raised: np.ndarray, doubts: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """(N,) indices: more flags, then graver flags, then more doubt, then the smaller id, first.

    Args:
        raised: (N, F) bool, the gravest flag in the first column.
        doubts, ids: (N,).
    """
    # As a number with a binary digit for each flag.
    gravity = raised @ (1 << np.arange(raised.shape[1])[::-1])
    return np.lexsort((ids, -doubts, -gravity, -raised.sum(axis=1)))


def _numbers(annotations: Sequence[dict[str, Any]], key: str) -> np.ndarray:
    """(N,) of a key; NaN where it is missing."""
    values = [annotation.get(key) for annotation in annotations]
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def _check(annotation: dict[str, Any], categories: set) -> None:
    """InputError if what a refiner may write besides, and nobody has checked yet, is unusable."""
    where = f"annotation id {annotation['id']}"
    for key, limit in (("own_score", 1.0), ("other_score", 1.0), ("bag_radius", MAX_COORDINATE)):
        value = annotation.get(key)
        if value is not None and not (_is_number(value) and 0 <= value <= limit):
            raise InputError(
                f"{where}: {key} {value!r:.60} is not a number from 0 to {limit:g}. Remove the key"
                " or refine again."
            )
    other = annotation.get("other_class")
    if other is not None and (not isinstance(other, int) or other not in categories):
        raise InputError(
            f"{where}: other_class {other!r:.60} is not among the categories. Remove the key or"
            " refine again."
        )
    points = annotation.get("semantic_points")
    if points is not None and not (
        isinstance(points, list)
        and all(
            isinstance(p, list)
            and len(p) == 2
            and all(_is_number(v) and abs(v) <= MAX_COORDINATE for v in p)
            for p in points
        )
    ):
        raise InputError(
            f"{where}: semantic_points is not a list of points [x, y]. Remove the key or refine"
            " again."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
