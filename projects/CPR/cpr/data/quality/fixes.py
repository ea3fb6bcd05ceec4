"""What of a data set can be mended without a look at it (`tools/prepare_points.py check --fix`).

Mended is what has one answer: records that are there twice, objects at the place of another of
their class, ids that are none, points a rounding error outside their image, and what nothing can be
learned from (objects of no image, without a usable place, or on images that cannot be read).
Everything else is left: flags, classes, sizes, boxes over the border, likely double clicks, leaks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from cpr_deploy.files import InputError

from ..dataset_files import record_place
from ..point_json import MAX_ID, Problem, Require, find_problems
from .checks import boxes_outside, placed_objects
from .same_place import repeats

# Points that are at most so far outside their image are moved to its border, px.
ROUNDING = 1.0
# So many of one kind, if they are more than half, are no slips: perhaps the folder is the wrong
# one, or the image has another size. They are left.
TOO_MANY = 3
# Rules of `checks` whose errors are gone afterwards, but for those that are too many.
FIXED_RULES = {"image-id", "box", "point", "out-of-image", "box-outside", "coarse-point"}
FIXED_RULES |= {"refine-score", "same-place", "unreadable-image"}


class Change(NamedTuple):
    """What was done to a record.

    Attributes:
        record: which one, e.g. "annotation id 7".
        rule: of `cpr.data.quality.checks.RULES`, that it broke.
        action: "removed" or "changed".
        before: the record, or of a changed one the entries that changed, as they were.
        after: those entries as they are now; None of a removed record.
    """

    record: str
    rule: str
    action: str
    before: dict[str, Any]
    after: dict[str, Any] | None


@dataclass
class Fixed:
    """A data set and what was done to it.

    Attributes:
        dataset: the mended copy.
        changes: in the order in which they were made.
        left: what was left because it is too much of one kind.
    """

    dataset: dict[str, Any]
    changes: list[Change] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def fix_dataset(
    dataset: dict[str, Any],
    *,
    require: Require = "any",
    same_place: float = 0.5,
    unreadable: Collection[str] = (),
    other_size: Collection[str] = (),
) -> Fixed:
    """A copy of a data set in which what has one answer is mended.

    Args:
        dataset: a COCO-like dict; it is not changed.
        require, same_place: see `cpr.data.quality.checks.check_dataset`.
        unreadable: file names of images that cannot be read.
        other_size: file names of images whose files have another size than `dataset` says, so that
            nobody knows which of their objects lie outside.

    Raises:
        InputError: it is not of the shape of a data set.
    """
    fixed = Fixed(dataset)
    while True:
        # Once more after every change: it may have made others necessary, or possible.
        problems = list(find_problems(fixed.dataset, require=require, may_be_empty=True))
        if any(problem.rule == "structure" for problem in problems):
            raise InputError(f"{problems[0].record}: {problems[0].text}")
        fixed.left.clear()
        step = _Step(fixed, problems, other_size)
        step.remove_unreadable(unreadable)
        step.mend_ids()
        step.mend_annotations()
        if not step.has_changes():
            step.remove_repeats(same_place)
        if not step.has_changes():
            return fixed
        fixed.dataset = step.changed()


class _Step:
    """Changes to a data set that are made together."""

    def __init__(
        self, fixed: Fixed, problems: Iterable[Problem], other_size: Collection[str]
    ) -> None:
        self._fixed = fixed
        self._other_size = other_size
        self._dataset = fixed.dataset
        self._problems = list(problems)
        self._rules: dict[tuple[str, int], set[str]] = {}
        for problem in self._problems:
            place = record_place(problem)
            if place is not None:
                self._rules.setdefault(place, set()).add(problem.rule)
        self.objects = placed_objects(self._dataset, self._problems)
        # Place -> the record as it shall be, or None.
        self._new: dict[tuple[str, int], dict[str, Any] | None] = {}

    def remove_unreadable(self, names: Collection[str]) -> None:
        images = self._dataset["images"]
        bad = {n for n, image in enumerate(images) if _text(image.get("file_name")) in names}
        if self._too_many("unreadable-image", len(bad), len(images), "images"):
            return
        kept = {_key(image.get("id")) for n, image in enumerate(images) if n not in bad}
        gone = {_key(images[n].get("id")) for n in bad} - kept
        for n in sorted(bad):
            self._remove("image", n, "unreadable-image")
        if gone:
            for n, annotation in enumerate(self._dataset["annotations"]):
                if _key(annotation.get("image_id")) in gone:
                    self._remove("annotation", n, "unreadable-image")

    def mend_ids(self) -> None:
        """Records that are there twice go; objects with the id of another get one of their own."""
        with_bad_ids = {kind for (kind, _), rules in self._rules.items() if "id" in rules}
        for kind, key in _LISTS.items():
            if kind not in with_bad_ids:
                continue
            ids = [record["id"] for record in self._dataset[key] if _is_whole(record.get("id"))]
            unused = max([0, *(number for number in ids if number < MAX_ID // 2)])
            first: dict[Any, dict] = {}
            for n, record in enumerate(self._dataset[key]):
                if "id" not in self._rules.get((kind, n), ()):
                    first.setdefault(_key(record.get("id")), record)
                elif _is_same(first.get(_key(record.get("id"))), record):
                    self._remove(kind, n, "id")
                elif kind == "annotation":
                    unused += 1
                    self._change(kind, n, "id", {"id": unused})

    def mend_annotations(self) -> None:
        images, annotations = self._dataset["images"], self._dataset["annotations"]
        objects = self.objects
        for index in objects.index[boxes_outside(self._dataset, objects)[0]].tolist():
            self._rules.setdefault(("annotation", index), set()).add("box-outside")
        wrong = sorted(n for kind, n in self._rules if kind == "annotation")
        if not wrong:
            return
        by_id = {_key(image.get("id")): n for n, image in enumerate(images)}
        image_of = [by_id.get(_key(a.get("image_id"))) for a in annotations]
        rules_of = {n: self._rules["annotation", n] for n in wrong}
        orphans = sum("image-id" in rules for rules in rules_of.values())
        keep_orphans = self._too_many("image-id", orphans, len(annotations), "annotations")
        shifted = self._shifted(rules_of, image_of)
        for n, rules in rules_of.items():
            if "image-id" not in rules:
                left = {rule for rule in rules if (rule, image_of[n]) in shifted}
                self._mend_annotation(n, rules - left, images[image_of[n]])
            elif keep_orphans:
                self._mend_annotation(n, rules, {})
            else:
                self._remove("annotation", n, "image-id")

    def _shifted(
        self, rules_of: dict[int, set[str]], image_of: list[int | None]
    ) -> set[tuple[str, int]]:
        """Rules and images that so many objects lie outside of that the image must be another."""
        images = self._dataset["images"]
        outside = Counter(
            (rule, image_of[n])
            for n, rules in rules_of.items()
            for rule in ("out-of-image", "box-outside")
            if rule in rules and "image-id" not in rules
        )
        objects_in = Counter(image_of) if outside else Counter()
        shifted = set()
        for (rule, place), count in outside.items():
            record = f"image id {images[place].get('id')!r}"
            if "size" in self._rules.get(("image", place), ()):
                self._fixed.left.append(f"{rule}: the size of {record} is not known.")
            elif _text(images[place].get("file_name")) in self._other_size:
                text = f"{rule}: {count} objects of {record}, whose file has another size."
                self._fixed.left.append(text)
            elif not self._too_many(rule, count, objects_in[place], f"objects of {record}"):
                continue
            shifted.add((rule, place))
        return shifted

    def _mend_annotation(self, n: int, rules: set[str], image: dict[str, Any]) -> None:
        annotation = self._dataset["annotations"][n]
        for key, rule in (("coarse_point", "coarse-point"), ("refine_score", "refine-score")):
            if rule in rules:
                self._change("annotation", n, rule, {key: _GONE})
        point = annotation.get("point")
        if "out-of-image" in rules:
            sides = image["width"], image["height"]
            moved = [min(max(v, 0), side) for v, side in zip(point, sides, strict=True)]
            if max(abs(a - b) for a, b in zip(point, moved, strict=True)) <= ROUNDING:
                self._change("annotation", n, "out-of-image", {"point": moved})
                rules = rules - {"out-of-image"}
        bad_point = rules & {"point", "out-of-image"}
        bad_box = rules & {"box", "box-outside"}
        has_point = point is not None and not bad_point
        has_box = annotation.get("bbox") is not None and not bad_box
        for key, bad, other in (("point", bad_point, has_box), ("bbox", bad_box, has_point)):
            if bad and other:
                self._change("annotation", n, min(bad), {key: _GONE})
            elif bad:
                self._remove("annotation", n, min(bad))
        if "no-position" in rules and point is None and annotation.get("bbox") is None:
            self._remove("annotation", n, "no-position")

    def remove_repeats(self, distance: float) -> None:
        objects = self.objects.take(~self.objects.regions)
        groups = objects.images * max(1, len(self._dataset["categories"])) + objects.classes
        first = repeats(groups, objects.points, objects.boxes, distance)
        for row in np.flatnonzero(first != np.arange(len(first))).tolist():
            self._remove("annotation", int(objects.index[row]), "same-place")

    def has_changes(self) -> bool:
        return bool(self._new)

    def changed(self) -> dict[str, Any]:
        """The data set with the changes."""
        lists = {}
        for kind, key in _LISTS.items():
            records = (self._new.get((kind, n), r) for n, r in enumerate(self._dataset[key]))
            lists[key] = [record for record in records if record is not None]
        return {**self._dataset, **lists}

    def _too_many(self, rule: str, count: int, total: int, what: str) -> bool:
        if count < TOO_MANY or 2 * count <= total:
            return False
        self._fixed.left.append(f"{rule}: {count} of {total} {what} are too many to be slips.")
        return True

    def _remove(self, kind: str, n: int, rule: str) -> None:
        if self._new.get((kind, n), _GONE) is None:
            return
        record = self._dataset[_LISTS[kind]][n]
        self._new[kind, n] = None
        self._fixed.changes.append(Change(_record(kind, n, record), rule, "removed", record, None))

    def _change(self, kind: str, n: int, rule: str, values: dict[str, Any]) -> None:
        record = self._new.get((kind, n), self._dataset[_LISTS[kind]][n])
        if record is None:
            return
        before = {key: record[key] for key in values if key in record}
        after = {key: value for key, value in values.items() if value is not _GONE}
        record = {k: v for k, v in record.items() if k not in values} | after
        name = _record(kind, n, self._dataset[_LISTS[kind]][n])
        self._new[kind, n] = record
        self._fixed.changes.append(Change(name, rule, "changed", before, after))


_LISTS = {"image": "images", "annotation": "annotations", "category": "categories"}
_GONE: Any = object()


def _record(kind: str, n: int, record: dict) -> str:
    if "id" in record:
        return f"{kind} id {record['id']!r} ({kind} {n} from 0)"
    return f"{kind} {n} (from 0)"


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _key(value: Any) -> Any:
    """An id that can be looked up; whatever is none becomes text that is no id."""
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        return value
    return ("no id", repr(value))


def _is_same(first: dict | None, second: dict) -> bool:
    """Whether two records say the same, where 1, 1.0 and true are three things."""
    return first is not None and repr(sorted(first.items())) == repr(sorted(second.items()))
