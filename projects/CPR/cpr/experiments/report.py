"""The files of a paper table: summary.json, table.md, the pictures and report.html.

A picture that cannot be drawn is left out, and the page says why.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from cpr_deploy.files import InputError, atomic_path, write_json, write_text

from ..visualization.draw import encode_image
from ..visualization.report import Report
from . import pictures
from .markdown import (
    format_gap,
    format_markdown,
    format_seconds,
    format_settings,
    format_spread,
    gap_sentences,
    plural,
    point_columns,
    result_notes,
    result_table,
    unfinished,
)
from .pictures import Picture, RefinedPoints, load_refined, reason_of
from .results import CENTRE, COARSE, REFINED, TableResult
from .summary import RESAMPLES, summarize

# A table with more columns than this is turned.
WIDE = 8
PICTURES = (
    "table.png",
    "classes.png",
    "rsv_curve.png",
    "heat_maps.png",
    "over_training.png",
    "crops.png",
    "worst.png",
)


def write_report(
    result: TableResult, folder: str | os.PathLike, *, resamples: int = RESAMPLES
) -> dict:
    """Writes summary.json, table.md, report.html and the pictures into `folder`.

    Of PICTURES those are written for which there is something to draw; those of an earlier report
    are removed.

    Returns:
        what summary.json holds, see `summarize`.
    """
    folder = Path(folder)
    for name in PICTURES:
        (folder / name).unlink(missing_ok=True)
    summary = summarize(result, resamples=resamples)
    write_json(folder / "summary.json", summary, indent=1)
    write_text(folder / "table.md", format_markdown(summary))

    report = Report(
        summary["title"], f"On {summary['dataset']}, {plural(summary['seeds'], 'seed')}."
    )
    refined = load_refined(result)
    _add_results(report, folder, summary)
    _add_classes(report, folder, summary)
    _add_refinement(report, folder, summary, result, refined)
    _add_crops(report, folder, result, refined)
    _add_method(report, summary)
    report.save(folder / "report.html")
    return summary


def _add_results(report: Report, folder: Path, summary: dict) -> None:
    cards = _cards(summary)
    if cards:
        report.cards(cards)
    report.section("Localization on the held-out part")
    # What the points were has a section of its own, and a table of all would be too wide.
    header, rows = result_table(summary, training_points=False)
    notes = " ".join(result_notes(summary, training_points=False))
    report.table(header, [[_typeset(cell) for cell in row] for row in rows], _typeset(notes))
    for headline, rest in gap_sentences(summary):
        report.paragraph(_typeset(headline + rest))
    for text in unfinished(summary) + summary["notes"]:
        report.paragraph(text)
    _add_picture(report, folder, "table.png", lambda: pictures.result_bars(summary))
    sizes = list(dict.fromkeys(name for row in summary["rows"] for name in row["AP_by_size"]))
    if sizes:
        report.section(f"By size, at tau {summary['main_tau']}")
        report.table(
            ["row", *sizes],
            [
                [row["label"], *(_percent(row["AP_by_size"].get(name)) for name in sizes)]
                for row in summary["rows"]
            ],
            "mAP in %; -: no object of that size.",
        )


def _cards(summary: dict) -> list[tuple[str, str]]:
    """The few figures that matter most, of the rows that have them."""
    cards = []
    tau = summary["main_tau"]
    by_key = {row["key"]: row for row in summary["rows"]}
    refined = next((key for key in reversed(REFINED) if key in by_key), "")
    for key in (COARSE, refined, CENTRE):
        mean = by_key[key]["AP"].get(tau, {}).get("mean") if key in by_key else None
        if mean is not None:
            cards.append((f"{100 * mean:.1f}", f"mAP at tau {tau}, {by_key[key]['label']}"))
    gap = summary["gap_closed"].get(refined, {})
    if gap.get("seeds"):
        cards.append((format_gap(gap["of_means"]), "of the gap to true centres closed"))
    points = by_key[refined]["points"] if refined else {}
    if points.get("before"):
        before, after = (points[when]["rsv"]["mean"] for when in ("before", "after"))
        if before is not None and after is not None:
            cards.append((f"{after:.4f}", f"RSV of the refined points, clicks {before:.4f}"))
    return cards


def _add_classes(report: Report, folder: Path, summary: dict) -> None:
    objects: dict[str, int] = {}
    for row in summary["rows"]:
        for name, count in row["objects"].items():
            objects[name] = max(count, objects.get(name, 0))
    classes = sorted((name for name in objects if objects[name]), key=lambda name: -objects[name])
    if len(classes) < 2:
        return
    report.section(f"By class, at tau {summary['main_tau']}")
    names = {name: f"{name} ({objects[name]:,})" for name in classes}
    table = [["row", *names.values()]]
    for row in summary["rows"]:
        table.append([row["label"], *(_percent(row["per_class"].get(name)) for name in classes)])
    if len(classes) > WIDE:
        table = [list(column) for column in zip(*table, strict=True)]
        table[0][0] = "class"
    report.table(table[0], table[1:], "AP in %, in brackets the number of held-out objects.")
    _add_picture(
        report, folder, "classes.png", lambda: pictures.class_bars(summary, classes, objects)
    )


def _add_refinement(
    report: Report,
    folder: Path,
    summary: dict,
    result: TableResult,
    refined: list[RefinedPoints],
) -> None:
    rows = [row for row in summary["rows"] if row["points"]["after"]]
    has_curve = any(run.rsv_curve for row in result.rows for run in row.runs)
    expected = any(row.key in REFINED or any(r.refinement for r in row.runs) for row in result.rows)
    if not (expected or has_curve):
        return
    report.section("Refinement of the clicks")
    if rows:
        _add_points_table(report, rows)
        _add_refined_classes(report, rows)
    _add_picture(report, folder, "rsv_curve.png", lambda: pictures.rsv_curves(summary, result))
    _add_picture(
        report, folder, "heat_maps.png", lambda: pictures.relative_positions_picture(refined)
    )
    _add_picture(report, folder, "over_training.png", lambda: pictures.over_training(result))


def _add_points_table(report: Report, rows: list[dict]) -> None:
    columns = point_columns(rows)
    columns += [
        ("refined %", [_percent(row["refinement"].get("refined")) for row in rows]),
        ("kept I, II, III %", [_kept(row["refinement"]) for row in rows]),
    ]
    report.table(
        ["row", *(name for name, _ in columns)],
        [
            [row["label"], *(_typeset(cells[place]) for _, cells in columns)]
            for place, row in enumerate(rows)
        ],
        "Points that each row was trained on; clicks → refined points. RSV covers the points inside"
        " their box only, so it is to be read together with their share. Distance: mean point-box"
        " distance. Kept: share of the bag points that pass each constraint by itself.",
    )


def _add_refined_classes(report: Report, rows: list[dict]) -> None:
    """A class that keeps its clicks is the first thing to look for where CPR gains little."""
    classes = list(dict.fromkeys(name for row in rows for name in row["refined_per_class"]))
    if len(classes) < 2:
        return
    refined = [row for row in rows if row["refined_per_class"]]
    report.table(
        ["class", *(row["label"] for row in refined)],
        [
            [name, *(_percent(row["refined_per_class"].get(name)) for row in refined)]
            for name in classes
        ],
        "Share of the objects of each class that were refined, in %.",
    )


def _kept(refinement: Mapping) -> str:
    """Shares of bag points in %; refiners without bags have none."""
    means = [refinement.get(f"kept_{name}", {}).get("mean") for name in ("I", "II", "III")]
    return "-" if None in means else ", ".join(f"{100 * mean:.1f}" for mean in means)


def _add_crops(
    report: Report, folder: Path, result: TableResult, refined: list[RefinedPoints]
) -> None:
    if not refined:
        return  # the section on the refinement says so
    source = next(
        (source for source in refined if source.row.key == "cpr"),
        next((s for s in refined if any("semantic_points" in a for a in s.objects)), refined[0]),
    )
    report.section(f"Objects: {source.label}, seed {source.seed}")
    _add_picture(report, folder, "crops.png", lambda: pictures.object_crops(result, source))
    _add_picture(report, folder, "worst.png", lambda: pictures.worst_crops(result, source))


def _add_method(report: Report, summary: dict) -> None:
    report.section("How this was made")
    if summary["settings"]:
        report.paragraph(f"Settings: {format_settings(summary['settings'])}.")
    changed = [row for row in summary["rows"] if row["overrides"]]
    if changed:
        report.paragraph("What each row changes:")
        report.code("\n".join("\n  ".join([row["label"], *row["overrides"]]) for row in changed))
    steps = list(dict.fromkeys(step for row in summary["rows"] for step in row["seconds"]))
    if steps:
        report.table(
            ["row", *steps],
            [
                [
                    row["label"],
                    *(format_seconds(row["seconds"].get(s, {}).get("mean")) for s in steps),
                ]
                for row in summary["rows"]
            ],
            "Time of each step, mean over the seeds. Rows that share a step show it each.",
        )
    report.paragraph(", ".join(text for text in (summary["machine"], summary["date"]) if text))
    report.code(summary["command"])


def _add_picture(report: Report, folder: Path, name: str, make: Callable[[], Picture]) -> None:
    """Draws a picture into `folder` and the page, or says there why it is missing."""
    path = folder / name
    try:
        picture, caption = make()
    except (InputError, OSError) as error:
        report.paragraph(f"Not drawn, {path.stem.replace('_', ' ')}: {reason_of(error)}")
        return
    data = encode_image(picture) if isinstance(picture, np.ndarray) else picture
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    report.image(picture, caption)


def _percent(value: Mapping | None) -> str:
    return _typeset(format_spread(value, scale=100))


def _typeset(text: str) -> str:
    """Plain text as HTML can show it."""
    return text.replace("+-", "±").replace("->", "→")
