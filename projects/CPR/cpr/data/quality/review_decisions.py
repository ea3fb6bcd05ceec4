"""What a person has decided about refined points, into a point JSON (no dependencies).

The review page (`tools/review_points.py`) writes decisions as JSON:

    {"kind": "review-decisions", "version": 1, "data_set": "ds-0123456789abcdef",
     "decisions": [{"id": 17, "decision": "accept"}, ...]}

or as CSV with the columns version, data_set, annotation_id, decision (and image, class, for people;
they are not read). A decision is accept, reject or flag. `data_set` is `data_set_key` of the
annotations that were reviewed, so that no decision meets a point that nobody has looked at.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from cpr_deploy.files import InputError, read_json

from .label_quality import refined_objects

KIND = "review-decisions"
VERSION = 1
# Decision -> what `review` of the annotation then says.
DECISIONS = {"accept": "accepted", "reject": "rejected", "flag": "flagged"}
Rejected = Literal["click", "drop", "ignore"]
MAX_CSV_BYTES = 1 << 28
_COLUMNS = ("version", "data_set", "annotation_id", "decision")


@dataclass(frozen=True)
class Decisions:
    """A decisions file: the key of its data set, and annotation id -> decision."""

    data_set: str
    by_id: dict[int, str]


def data_set_key(dataset: dict[str, Any]) -> str:
    """The name of what is reviewed: "ds-" and 16 hexadecimal digits.

    It follows ids, images' file names, classes, clicks and points of the refined objects, in
    whatever order and whether numbers are written 8 or 8.0; nothing else changes it.
    """
    files = {image["id"]: image["file_name"] for image in dataset["images"]}
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    digest = hashlib.sha256()
    for annotation in sorted(refined_objects(dataset), key=lambda a: a["id"]):
        numbers = [float(v) for key in ("coarse_point", "point") for v in annotation[key]]
        image, category = files[annotation["image_id"]], names[annotation["category_id"]]
        record = (annotation["id"], image, category, *numbers)
        digest.update(f"{record!r}\n".encode())
    return f"ds-{digest.hexdigest()[:16]}"


def read_decisions(path: str | os.PathLike) -> Decisions:
    """Reads a decisions file; one called .csv or .tsv is a table, any other JSON.

    Raises:
        InputError: naming file, record or line, rule and fix.
    """
    path = Path(path)
    is_table = path.suffix.lower() in (".csv", ".tsv")
    data_set, by_id = None, {}
    for where, version, key, number, decision in _rows(path) if is_table else _records(path):
        if version != VERSION:
            raise InputError(
                f"{path}: {where}: version {version!r:.40} is not {VERSION}, which this program"
                " reads. Export the decisions again from a page made by this version."
            )
        if data_set is not None and key != data_set:
            raise InputError(
                f"{path}: {where}: belongs to data set {key!r:.40}, the lines above to"
                f" {data_set!r}. Apply the decisions of one data set at a time."
            )
        data_set = key
        if number is None:
            continue
        if decision not in DECISIONS:
            raise InputError(
                f"{path}: {where}: decision {decision!r:.40} is none of {', '.join(DECISIONS)}."
                " Correct it or remove the record."
            )
        if number in by_id:
            raise InputError(
                f"{path}: {where}: annotation id {number} is decided twice. Remove one of the two."
            )
        by_id[number] = decision
    if data_set is None:
        raise InputError(f"{path}: holds no decision. Export it again from the review page.")
    return Decisions(data_set, by_id)


def apply_decisions(
    dataset: dict[str, Any], decisions: Decisions, *, rejected: Rejected = "click"
) -> tuple[dict[str, Any], Counter]:
    """A copy of a refined data set in which the decisions are carried out.

    accept keeps the refined point; reject does what `rejected` says; flag leaves the object as it
    is, for somebody to look at again. Each decided annotation says so in `review`: accepted,
    rejected or flagged. Objects without a decision stay as they are.

    Args:
        dataset: the point JSON that was reviewed; not changed.
        decisions: of `read_decisions`.
        rejected: "click": the object gets its click back, `refined` is false; "drop": it is left
            out; "ignore": it becomes an ignored one, whose box, if it has one, is a region that
            counts neither as object nor as background.

    Returns:
        the data set, and decision -> number, with "undecided".

    Raises:
        InputError: the decisions are of another data set, or name an object that it does not have.
    """
    if rejected not in get_args(Rejected):
        raise ValueError(f"rejected must be one of {get_args(Rejected)}, not {rejected!r}")
    key = data_set_key(dataset)
    if decisions.data_set != key:
        raise InputError(
            f"the decisions are of data set {decisions.data_set!r:.40}, these annotations are"
            f" {key!r}: a point, click or class has changed, or it is another file. Give the"
            " annotations that the review page was made from."
        )
    left = dict(decisions.by_id)
    objects = {annotation["id"] for annotation in refined_objects(dataset)}
    unknown = [number for number in left if number not in objects]
    if unknown:
        raise InputError(
            f"annotation id {unknown[0]} is decided, but is no refined object of these annotations"
            f" ({len(unknown)} such). Remove the record, or give the annotations that the review"
            " page was made from."
        )
    counts = Counter(dict.fromkeys((*DECISIONS, "undecided"), 0))
    annotations = []
    for annotation in dataset["annotations"]:
        if annotation["id"] not in objects:
            annotations.append(annotation)
            continue
        decision = left.pop(annotation["id"], None)
        counts[decision or "undecided"] += 1
        if decision:
            annotation = {**annotation, "review": DECISIONS[decision]}
        if decision == "reject":
            if rejected == "drop":
                continue
            if rejected == "ignore":
                annotation["ignore"] = 1
            else:
                annotation["point"] = [float(v) for v in annotation["coarse_point"]]
                annotation["refined"] = False
                # The points that the rejected one was the mean of.
                annotation.pop("semantic_points", None)
        annotations.append(annotation)
    return {**dataset, "annotations": annotations}, counts


Row = tuple[str, Any, str, int | None, Any]


def _records(path: Path) -> Iterator[Row]:
    """Where, version, data set, annotation id and decision of each record of a JSON file.

    A file without decisions gives one row without an id: its version and data set count.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise InputError(
            f"{path}: is no decisions file (an object whose kind is {KIND!r}). Export it from the"
            " review page."
        )
    decisions, key = content.get("decisions"), content.get("data_set")
    if not isinstance(decisions, list):
        raise InputError(f"{path}: has no list 'decisions'. Export it again.")
    if not isinstance(key, str):
        raise InputError(f"{path}: data_set {key!r:.40} is not a text. Export it again.")
    version = content.get("version")
    if isinstance(version, bool):
        version = str(version)
    yield "version", version, key, None, None
    for index, record in enumerate(decisions):
        where = f"decision {index} (from 0)"
        if not isinstance(record, dict):
            raise InputError(f"{path}: {where}: is no object with id and decision. Remove it.")
        number, decision = record.get("id"), record.get("decision")
        if not isinstance(number, int) or isinstance(number, bool):
            raise InputError(f"{path}: {where}: id {number!r:.40} is not a whole number.")
        yield where, version, key, number, decision if isinstance(decision, str) else str(decision)


def _rows(path: Path) -> Iterator[Row]:
    """The same of each line of a table."""
    try:
        if path.stat().st_size > MAX_CSV_BYTES:
            raise InputError(f"{path}: is larger than {MAX_CSV_BYTES} bytes. Is it the right file?")
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file. Check the path.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error}). Save it as UTF-8.") from None
    if "\0" in text:
        raise InputError(f"{path}: holds a NUL byte. Export it again.")
    head = text.split("\n", 1)[0]
    # A spreadsheet saves with what its country uses.
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        missing = [name for name in _COLUMNS if name not in header]
        if missing:
            raise InputError(
                f"{path}: line 1: has no column {missing[0]!r}. Export the table again, and keep"
                " its first line."
            )
        places = [header.index(name) for name in _COLUMNS]
        for row in reader:
            where = f"line {reader.line_num}"
            if not any(cell.strip() for cell in row):
                continue
            if len(row) <= max(places):
                raise InputError(f"{path}: {where}: has {len(row)} cells, too few. Correct it.")
            version, key, number, decision = (row[place].strip() for place in places)
            if not (number.isascii() and number.removeprefix("-").isdigit() and len(number) < 20):
                raise InputError(
                    f"{path}: {where}: annotation_id {number!r:.40} is not a whole number."
                )
            yield where, _version(version), key, int(number), decision
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: {error}. Export it again.") from None


def _version(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 4 else text
