"""Point metrics as text."""

from __future__ import annotations

from typing import Any


def format_table(metrics: dict[str, Any], *, per_class: bool = False) -> str:
    """The metrics as a table in %; "-" where there is no object."""
    columns = list(next(iter(metrics["AP"].values())))
    by_radius = "radii" in metrics["settings"]
    unit = " px" if by_radius else ""
    name = "r" if by_radius else "tau"
    header = ["size"] + [f"AP {name}={c}{unit}" for c in columns]
    header += [f"max recall {name}={c}{unit}" for c in columns]
    rows = [
        [
            label,
            *map(_percent, values.values()),
            *map(_percent, metrics["max_recall"][label].values()),
        ]
        for label, values in metrics["AP"].items()
    ]
    parts = [_layout([header, *rows])]
    if by_radius:
        keys = ["F1", "precision", "recall", "best_F1"]
        extra = [[key, *map(_percent, metrics[key].values())] for key in keys]
        parts.append(_layout([["", *(f"r={c} px" for c in columns)], *extra]))
        parts.append(f"count MAE {metrics['count_MAE']:.3f}, RMSE {metrics['count_RMSE']:.3f}")
    if per_class:
        label = next(iter(metrics["AP"]))
        rows = [
            [class_name, str(entry["objects"]), *map(_percent, entry["AP"][label].values())]
            for class_name, entry in metrics["per_class"].items()
        ]
        parts.append(_layout([["class", "objects", *header[1 : 1 + len(columns)]], *rows]))
    return "\n\n".join(parts)


def official_report(metrics: dict[str, Any]) -> list[str]:
    """The lines that the official evaluator prints: sizes outer, tau inner."""
    max_dets = metrics["settings"]["max_dets"]
    return [
        f"Location eval: (AP/AR) @[ dis={tau} | area={label} | maxDets={max_dets}]"
        f" = {_four_digits(value)}/{_four_digits(metrics['max_recall'][label][tau])}"
        for label, values in metrics["AP"].items()
        for tau, value in values.items()
    ]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _four_digits(value: float | None) -> str:
    return "-1.0000" if value is None else f"{value:.4f}"


def _layout(rows: list[list[str]]) -> str:
    """Rows as text: the first column to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
