"""The summary of a paper table as text for people: mAP and shares in per cent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..evaluation.gap_closed import MIN_GAP


def format_markdown(summary: dict) -> str:
    """The table for people, with what was run, where and when."""
    header, rows = result_table(summary)
    lines = [f"## {summary['title']} ({summary['dataset']})", ""]
    lines += [_line(header), "|" + "---|" * len(header), *(_line(row) for row in rows), ""]
    lines += [" ".join(result_notes(summary)), ""]
    for headline, rest in gap_sentences(summary):
        lines += [f"**{headline}**{rest}", ""]
    problems = unfinished(summary) + summary["notes"]
    if problems:
        lines += [*(f"- {text}" for text in problems), ""]
    settings = format_settings(summary["settings"])
    if settings:
        lines += [f"Settings: {settings}.", ""]
    where = ", ".join(text for text in (summary["machine"], summary["date"]) if text)
    lines += [f"{where}.", ""] if where else []
    lines += ["```", summary["command"], "```", ""]
    return "\n".join(lines)


def result_table(
    summary: dict, *, training_points: bool = True
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table as text: mAP in %, paper, training points, time.

    Columns that no row has anything for are left out.
    """
    rows, main = summary["rows"], summary["main_tau"]
    columns: list[tuple[str, list[str]]] = [("row", [_label(row, summary) for row in rows])]
    for tau in summary["taus"] or [main]:
        cells = []
        for row in rows:
            interval = row["interval"] if tau == main else None
            cells.append(format_spread(row["AP"].get(tau), scale=100, interval=interval))
        columns.append((f"tau {tau}", cells))
    for name in dict.fromkeys(name for row in rows for name in row["paper"]):
        values = [row["paper"].get(name) for row in rows]
        columns.append((f"paper, {name}", ["-" if v is None else f"{v:.2f}" for v in values]))
    optional = [("box AP", [format_spread(row["box_AP"].get("AP"), scale=100) for row in rows])]
    optional += point_columns(rows) if training_points else []
    optional += [
        ("refined %", [format_spread(row["refinement"].get("refined"), scale=100) for row in rows]),
        ("time", [format_seconds(row["total_seconds"]["mean"]) for row in rows]),
    ]
    columns += [column for column in optional if any(cell != "-" for cell in column[1])]
    names, cells = zip(*columns, strict=True)
    return list(names), [list(row) for row in zip(*cells, strict=True)]


def point_columns(rows: Sequence[dict]) -> list[tuple[str, list[str]]]:
    """Name and cells of what is known of the points that the rows were trained on."""
    figures = (
        ("RSV", "rsv", 1, 4),
        ("inside box %", "inside", 100, 1),
        ("distance", "distance", 1, 3),
    )
    return [
        (title, [_before_after(row["points"], name, scale, digits) for row in rows])
        for title, name, scale, digits in figures
    ]


def result_notes(summary: dict, *, training_points: bool = True) -> list[str]:
    """How the table is to be read, one sentence each."""
    notes = ["mAP in % at a point-box distance of tau."]
    if summary["held_out"]:
        held_out = summary["held_out"]
        notes[0] = (
            f"mAP in % at a point-box distance of tau, on {held_out['images']:,} held-out images"
            f" with {held_out['objects']:,} objects."
        )
    rows = summary["rows"]
    if any(len(row["seeds"]) > 1 for row in rows):
        notes.append("+-: sample standard deviation over the seeds.")
    if any(row["interval"] for row in rows):
        notes.append(
            "In brackets: 95 % bootstrap interval over the held-out images, which does not cover"
            " another seed."
        )
    if training_points and any(row["points"]["after"] for row in rows):
        notes.append(
            "RSV, points inside their box and mean point-box distance: of the training points,"
            " clicks -> refined; RSV covers the points inside only."
        )
    if any(row["total_seconds"]["mean"] for row in rows):
        notes.append("Time: all steps of one seed, shared ones included.")
    return notes


def gap_sentences(summary: dict) -> list[tuple[str, str]]:
    """The gap closed of every refined row: headline and what follows it."""
    labels = {row["key"]: row["label"] for row in summary["rows"]}
    texts = []
    for key, gap in summary["gap_closed"].items():
        if not gap["seeds"]:
            text = ": unknown until clicks, centres and this row have a seed in common."
            texts.append((f"Gap closed, {labels[key]}", text))
            continue
        text = ""
        if len(gap["seeds"]) > 1:
            each = ", ".join(format_gap(value) for value in gap["per_seed"])
            text += f" (of the mean mAPs; seeds {_list(gap['seeds'])}: {each})"
        if gap["of_means"] is None:
            text += (
                f"; not applicable, centres are {100 * gap['gap']:.1f} mAP above clicks (standard"
                f" error {100 * gap['standard_error']:.1f}), and {100 * MIN_GAP:g} mAP and two"
                " standard errors are needed"
            )
        gain = format_spread(gap["gain"], scale=100)
        text += f"; refined minus clicks: {gain} mAP at tau {summary['main_tau']}"
        if gap["paper"]:
            paper = ", ".join(f"{name} {format_gap(v)}" for name, v in gap["paper"].items())
            text += f"; paper: {paper}"
        texts.append((f"Gap closed, {labels[key]}: {format_gap(gap['of_means'])}", text + "."))
    return texts


def unfinished(summary: dict) -> list[str]:
    """Rows without all their seeds, and why."""
    return [f"{row['label']}: {row['missing']}" for row in summary["rows"] if row["missing"]]


def format_spread(
    value: Mapping | None,
    *,
    scale: float = 1.0,
    digits: int = 1,
    interval: Sequence[float] | None = None,
) -> str:
    """Mean and spread, 39.7 +- 1.2; of a single seed 39.7 or 39.7 (38.4-45.3); of none -."""
    if not value or value["mean"] is None:
        return "-"
    text = f"{scale * value['mean']:.{digits}f}"
    if value["std"] is not None:
        text += f" +- {scale * value['std']:.{digits}f}"
    elif interval:
        text += f" ({scale * interval[0]:.{digits}f}-{scale * interval[1]:.{digits}f})"
    return text


def format_gap(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"


def format_seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def format_settings(settings: Mapping) -> str:
    """As in level: p2, R: 4."""
    return ", ".join(f"{key}: {_list(value)}" for key, value in settings.items())


def _list(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _label(row: dict, summary: dict) -> str:
    done = len(row["seeds"])
    if done == summary["seeds"]:
        return row["label"]
    return f"{row['label']} ({done} of {summary['seeds']} seeds)"


def _before_after(points: dict, name: str, scale: float, digits: int) -> str:
    """Before -> after of a refined row, the one figure of others; means over the seeds."""
    means = [points[when][name]["mean"] for when in ("before", "after") if points[when]]
    texts = ["-" if mean is None else f"{scale * mean:.{digits}f}" for mean in means]
    return " -> ".join(texts) if set(texts) - {"-"} else "-"


def _line(cells: Iterable[str]) -> str:
    escaped = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return "| " + " | ".join(escaped) + " |"


def plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
