"""The pictures of a paper table's report: bars, Fig. 6, and the crops of Figs. 5 and 8 to 10.

Each maker returns (PNG bytes or RGB image, caption), or raises InputError with the reason if there
is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import to_hex

from cpr_deploy.files import InputError, explain, read_json

from ..data.image_folder import read_recorded
from ..data.point_json import is_ignored, load_points
from ..evaluation.semantic_variance import relative_positions
from ..visualization.annotations import object_crop
from ..visualization.draw import montage
from ..visualization.plots import CLICKS, Bar, grouped_bars, heat_maps, training_curves
from .markdown import plural
from .results import CENTRE, COARSE, RowResult, TableResult

CROPS = 16
WORST = 8
# Objects and epochs of the lower half of Fig. 6.
TRAINED_OBJECTS, TRAINED_EPOCHS = 4, 4
MAX_HEAT_MAPS = 9
# More classes than this would make a picture that nobody reads; summary.json has all.
MAX_CLASSES = 12

_ROW_COLOURS = {COARSE: CLICKS, "self": "#8a5fa8", "cpr": "#d4a017", CENTRE: "#4a7fb5"}
_OTHER_COLOURS = (
    "#c8553d",
    "#3aa6a0",
    "#7d8b2f",
    "#b0679b",
    "#6b6b6b",
    "#5d6fc0",
    "#a97142",
    "#8fbf6f",
    "#2b4c7e",
    "#d98cb3",
)
# Quantity -> its key in rsv_curve.json, title of its axis.
_CURVES = {
    "rsv": ("rsv_refined", "RSV"),
    "inside": ("inside_refined", "inside their box (%)"),
    "refined": ("refined", "refined objects (%)"),
}
_COLOUR_KEY = "click (green), semantic points (red), refined point (yellow), box (white)"

Picture = tuple[bytes | np.ndarray, str]


@dataclass(frozen=True)
class RefinedPoints:
    """The refined points of one seed of a row."""

    row: RowResult
    label: str
    seed: int
    objects: list[dict]  # annotations with `coarse_point`
    images: dict  # image id -> record
    classes: dict[int, str]

    def of_boxes(self) -> list[dict]:
        return [annotation for annotation in self.objects if annotation.get("bbox") is not None]


def load_refined(result: TableResult) -> list[RefinedPoints]:
    """Refined points of the rows, of the first seed that has them; rows that share them are one.

    Files that are missing are passed over: `summarize` says so.
    """
    files: dict[Path, dict] = {}
    rows_of: dict[tuple[int, Path], list[RowResult]] = {}
    for row in result.rows:
        for run in sorted(row.runs, key=lambda run: run.seed):
            if run.points not in files:
                files[run.points] = _load_or_nothing(run.points)
            if any(_is_refined(annotation) for annotation in files[run.points]["annotations"]):
                rows_of.setdefault((run.seed, run.points), []).append(row)
                break
    return [
        RefinedPoints(
            row=next((row for row in rows if row.key == "cpr"), rows[0]),
            label=_shared_label(rows),
            seed=seed,
            objects=[a for a in files[path]["annotations"] if _is_refined(a)],
            images={record["id"]: record for record in files[path]["images"]},
            classes={record["id"]: record["name"] for record in files[path]["categories"]},
        )
        for (seed, path), rows in rows_of.items()
    ]


def _load_or_nothing(path: Path) -> dict:
    try:
        return load_points(path)
    except (InputError, OSError) as error:
        reason_of(error)
        return {"annotations": []}


def _is_refined(annotation: Mapping) -> bool:
    """Whether it is an object with a click and a refined point (which may be the click)."""
    has_both = annotation.get("coarse_point") is not None and annotation.get("point") is not None
    return has_both and not is_ignored(annotation)


def choose_objects(objects: Sequence[Mapping], count: int) -> list[Mapping]:
    """`count` objects spread evenly over the classes and, within each, over the sizes.

    The choice depends on nothing but the objects; by class, small ones first.
    """
    by_class: dict[int, list[Mapping]] = {}
    for annotation in sorted(objects, key=lambda a: (_size(a), a["id"])):
        by_class.setdefault(annotation["category_id"], []).append(annotation)
    quota = dict.fromkeys(sorted(by_class), 0)
    left = min(count, len(objects))
    while left:
        for label in quota:
            if left and quota[label] < len(by_class[label]):
                quota[label] += 1
                left -= 1
    chosen = []
    for label, number in quota.items():
        members = by_class[label]
        chosen += [members[int((i + 0.5) * len(members) / number)] for i in range(number)]
    return chosen


def worst_objects(objects: Sequence[Mapping], count: int) -> list[tuple[Mapping, float, float]]:
    """The objects with the largest growth of the point-box distance (Eq. 12) by refinement.

    Returns:
        (annotation, distance of the click, distance of the refined point), worst first; only
        objects whose distance grew. All need `bbox`.
    """
    if not objects:
        return []
    before = np.linalg.norm(_relative(objects, "coarse_point"), axis=1)
    after = np.linalg.norm(_relative(objects, "point"), axis=1)
    order = np.argsort(before - after, kind="stable")[:count]
    return [(objects[i], before[i], after[i]) for i in order.tolist() if after[i] > before[i]]


def result_bars(summary: dict) -> Picture:
    """mAP of every row at every tau."""
    rows, taus = summary["rows"], summary["taus"]
    if not any(row["seeds"] for row in rows):
        raise InputError("no row has a finished run yet.")
    shades = matplotlib.colormaps["Blues"](np.linspace(0.4, 0.9, len(taus)))
    names = {tau: f"tau = {tau}" for tau in taus}
    groups = {}
    for row in rows:
        intervals = {summary["main_tau"]: row["interval"]}
        groups[_unique(row["label"], groups)] = {
            names[tau]: _bar(row["AP"][tau], intervals.get(tau)) for tau in taus
        }
    picture = grouped_bars(
        groups,
        colours={names[tau]: to_hex(shade) for tau, shade in zip(taus, shades, strict=True)},
        label="mAP (%)",
    )
    return picture, "mAP of every row. " + _spread_caption(rows)


def class_bars(summary: dict, classes: list[str], objects: dict[str, int]) -> Picture:
    """AP per class and row. classes: in the order to show; objects: class -> number held out."""
    rows = [row for row in summary["rows"] if row["seeds"]]
    labels, colours = {}, {}
    for row in rows:
        labels[row["key"]] = label = _unique(row["label"], colours)
        colours[label] = _colours(summary["rows"])[row["key"]]
    groups = {
        f"{name}\n({objects[name]:,})": {
            labels[row["key"]]: _bar(row["per_class"].get(name)) for row in rows
        }
        for name in classes[:MAX_CLASSES]
    }
    left_out = len(classes) - len(groups)
    caption = "AP of each class, the most frequent first. " + _spread_caption(rows)
    if left_out > 0:
        caption += f" {plural(left_out, 'rarer class', 'rarer classes')} left out."
    tau = summary["main_tau"]
    return grouped_bars(groups, colours=colours, label=f"AP (%) at tau = {tau}"), caption


def _bar(value: Mapping | None, interval: Sequence[float] | None = None) -> Bar | None:
    """Mean over seeds with its spread and the seeds' values, or one value with its interval; %."""
    if not value or value["mean"] is None:
        return None
    values = ()
    if value["std"] is not None:
        interval = (value["mean"] - value["std"], value["mean"] + value["std"])
        values = tuple(100 * v for v in value["values"] if v is not None)
    limits = None
    if interval is not None:
        # The deviation may reach beyond what a mAP can be.
        limits = (max(0.0, 100 * interval[0]), min(100.0, 100 * interval[1]))
    return Bar(100 * value["mean"], limits, values)


def _spread_caption(rows: Sequence[Mapping]) -> str:
    if any(len(row["seeds"]) > 1 for row in rows):
        return "Lines: sample standard deviation over the seeds, dots: the seeds."
    if any(row["interval"] for row in rows):
        return "Lines: 95 % bootstrap interval over the held-out images."
    return ""


def rsv_curves(summary: dict, result: TableResult) -> Picture:
    """RSV of the refined points over CPRNet's training (Fig. 6, top), all runs."""
    # Rows that share their CPRNets have one curve.
    rows_of: dict[tuple[Path, ...], list[RowResult]] = {}
    for row in result.rows:
        paths = tuple(run.rsv_curve for run in row.runs if run.rsv_curve is not None)
        if paths:
            rows_of.setdefault(paths, []).append(row)
    curves: dict[str, list[dict]] = {}
    colours, problems = {}, []
    for paths, rows in rows_of.items():
        runs = []
        for path in filter(Path.exists, paths):
            try:
                runs.append(_read_curve(path))
            except (InputError, OSError) as error:
                problems.append(reason_of(error))
        if runs:
            name = _unique(_shared_label(rows), curves)
            curves[name] = runs
            colours[name] = _colours(summary["rows"])[rows[0].key]
    if not curves:
        raise InputError(" ".join(problems) or "no CPRNet of this table has an RSV curve yet.")
    levels = {
        name: None if value["mean"] is None else (100 if name == "inside" else 1) * value["mean"]
        for name, value in summary["clicks"].items()
    }
    panels = {name: title for name, (_, title) in _CURVES.items()}
    picture = training_curves(curves, colours=colours, panels=panels, levels=levels)
    caption = (
        "While CPRNet trains, a line per run: RSV of the refined points, their share inside their"
        " box, and the share of objects that were refined (the others keep their click)."
    )
    return picture, " ".join([caption, *problems])


def _read_curve(path: Path) -> dict[str, list[float]]:
    """Epochs and the quantities of _CURVES, for the first data set of an rsv_curve.json."""
    entries = read_json(path)
    entries = [
        entry
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and {"epoch", "dataset", "rsv_refined"} <= set(entry)
    ]
    entries = [entry for entry in entries if entry["dataset"] == entries[0]["dataset"]]
    if not entries:
        raise InputError(f"{path}: has no RSV of refined points (it needs boxes to compare with).")
    keys = {"epoch": "epoch", **{name: key for name, (key, _) in _CURVES.items()}}
    return {name: [entry.get(key, np.nan) for entry in entries] for name, key in keys.items()}


def relative_positions_picture(refined: list[RefinedPoints]) -> Picture:
    """Heat maps of the clicks and of each row's refined points (Fig. 6, top)."""
    sources = [source for source in refined if source.of_boxes()][: MAX_HEAT_MAPS - 1]
    if not refined:
        raise InputError("no row has refined points yet, so there are no crops either.")
    if not sources:
        raise InputError("the refined points have no boxes to be compared with.")
    panels = {"clicks": _relative(sources[0].of_boxes(), "coarse_point")}
    for source in sources:
        panels[_unique(source.label, panels)] = _relative(source.of_boxes(), "point")
    caption = (
        "Where the training points lie relative to their object's box (white square), seed"
        f" {sources[0].seed}."
    )
    if len(sources) < len(refined):
        caption += f" {plural(len(refined) - len(sources), 'more row')} not shown."
    return heat_maps(panels), caption


def over_training(result: TableResult) -> Picture:
    """The same objects at several epochs of CPRNet (Fig. 6, bottom)."""
    run = next((run for row in result.rows for run in row.runs if run.refined_at), None)
    if run is None:
        raise InputError(
            "the same object over the epochs of CPRNet (Fig. 6, bottom): the runs kept no refined"
            " points of earlier epochs."
        )
    epochs = sorted(run.refined_at)
    places = np.linspace(0, len(epochs) - 1, min(TRAINED_EPOCHS, len(epochs))).round().astype(int)
    epochs = [epochs[place] for place in places]
    by_epoch, images = [], {}
    for epoch in epochs:
        dataset = load_points(run.refined_at[epoch], require="point")
        images.update({record["id"]: record for record in dataset["images"]})
        by_epoch.append({a["id"]: a for a in dataset["annotations"] if "coarse_point" in a})
    common = [a for key, a in by_epoch[-1].items() if all(key in other for other in by_epoch)]
    # Objects that kept their click to the end show nothing.
    moved = [annotation for annotation in common if annotation.get("refined")] or common
    if not moved:
        raise InputError("no object was refined at all of the epochs.")
    cuts, captions = [], []
    for annotation in choose_objects(moved, TRAINED_OBJECTS):
        image = read_recorded(result.image_root, images[annotation["image_id"]])
        records = [other[annotation["id"]] for other in by_epoch]
        cuts += [object_crop(image, record, fit=records) for record in records]
        captions += [f"epoch {epoch:g}" for epoch in epochs]
    return (
        montage(cuts, captions, columns=len(epochs)),
        f"The same objects over the epochs of CPRNet, seed {run.seed}: {_COLOUR_KEY}.",
    )


def object_crops(result: TableResult, source: RefinedPoints) -> Picture:
    """Objects of all classes and sizes with their click, semantic and refined points."""
    chosen = choose_objects(source.objects, CROPS)
    captions = []
    for annotation in chosen:
        name, moved = source.classes[annotation["category_id"]], _moved(annotation)
        size = (
            "x".join(f"{side:.0f}" for side in annotation["bbox"][2:]) if _size(annotation) else ""
        )
        captions.append(f"{name} {size}".strip() + (f": {moved:.1f} px" if moved else ": kept"))
    caption = (
        f"{plural(len(chosen), 'object')}, spread evenly over classes and sizes: {_COLOUR_KEY}."
        " Below: class, box in px, and how far the refinement moved the point."
    )
    if not any(annotation.get("semantic_points") for annotation in source.objects):
        caption += " The points file holds no semantic points, so none are drawn."
    return _montage(result, source, chosen, captions), caption


def worst_crops(result: TableResult, source: RefinedPoints) -> Picture:
    """The objects whose refined point is farther from the centre than their click."""
    objects = source.of_boxes()
    if not objects:
        raise InputError("objects that got worse cannot be told without boxes.")
    worst = worst_objects(objects, WORST)
    if not worst:
        raise InputError("no object's point got farther from its centre.")
    captions = [
        f"{source.classes[annotation['category_id']]}: {before:.2f} to {after:.2f}"
        for annotation, before, after in worst
    ]
    grew = len(worst_objects(objects, len(objects)))
    return (
        _montage(result, source, [annotation for annotation, _, _ in worst], captions),
        f"The {len(worst)} objects that the refinement harmed most, by point-box distance before"
        f" and after; it grew for {grew:,} of {len(objects):,} objects.",
    )


def _montage(
    result: TableResult,
    source: RefinedPoints,
    annotations: Sequence[Mapping],
    captions: Sequence[str],
) -> np.ndarray:
    cuts = []
    for annotation in annotations:
        image = read_recorded(result.image_root, source.images[annotation["image_id"]])
        cuts.append(object_crop(image, annotation))
    return montage(cuts, captions, columns=4)


def _shared_label(rows: Sequence[RowResult]) -> str:
    more = len(rows) - 1
    return rows[0].label + (f" and {plural(more, 'more row')}" if more else "")


def _colours(rows: Sequence[Mapping]) -> dict[str, str]:
    """Row key -> colour, the same in every picture."""
    others = [row["key"] for row in rows if row["key"] not in _ROW_COLOURS]
    repeated = {
        key: _OTHER_COLOURS[index % len(_OTHER_COLOURS)] for index, key in enumerate(others)
    }
    return {**_ROW_COLOURS, **repeated}


def _unique(label: str, taken: Mapping[str, object]) -> str:
    """`label`, numbered if it is taken: two rows may have one name, two bars may not."""
    number, name = 1, label
    while name in taken:
        number += 1
        name = f"{label} ({number})"
    return name


def _relative(objects: Sequence[Mapping], key: str) -> np.ndarray:
    return relative_positions(
        np.array([annotation[key] for annotation in objects]),
        np.array([annotation["bbox"] for annotation in objects]),
    )


def _size(annotation: Mapping) -> float:
    """sqrt(w h) px; 0 without a box."""
    box = annotation.get("bbox")
    return 0.0 if box is None else float(np.sqrt(box[2] * box[3]))


def _moved(annotation: Mapping) -> float:
    return float(np.hypot(*np.subtract(annotation["point"], annotation["coarse_point"])))


def reason_of(error: Exception) -> str:
    """What to tell the user about a file; defects of the program go on as exceptions."""
    reason = explain(error)
    if reason is None:
        raise error
    return reason
