"""Plots of the paper's figure 6 and of result tables, as the bytes of PNG files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

# Clicks have this colour wherever they are compared with something.
CLICKS = "#2e8b57"

# Points up to this far from the centre are shown, in box widths and heights; the box reaches 0.5.
EXTENT = 0.75


def relative_position_plot(
    before: np.ndarray,
    after: np.ndarray,
    *,
    bins: int = 30,
    titles: tuple[str, str] = ("clicks", "refined points"),
) -> bytes:
    """Heat maps of relative positions (Eq. 14; figure 6), side by side on one colour scale.

    before, after: (N, 2) offsets from the box centre in box widths and heights
    (`relative_positions` of cpr.evaluation.semantic_variance).
    """
    return heat_maps(dict(zip(titles, (before, after), strict=True)), bins=bins)


def heat_maps(points: Mapping[str, np.ndarray], *, bins: int = 30, columns: int = 3) -> bytes:
    """Heat maps of relative positions by title, in rows of `columns`, on one colour scale.

    points: as in `relative_position_plot`. The white square is the object's box. Points farther out
    than EXTENT are not shown; each title says how many lie inside the box.
    """
    points = {
        title: np.asarray(values, dtype=np.float64).reshape(-1, 2)
        for title, values in points.items()
    }
    edges = np.linspace(-EXTENT, EXTENT, bins + 1)
    # Rows are y, so that the image reads as the object does. Share of all points per bin.
    maps = [
        np.histogram2d(values[:, 1], values[:, 0], bins=(edges, edges))[0] / max(len(values), 1)
        for values in points.values()
    ]
    # The scale is set by nearly the highest bin: a single full bin would hide all the rest.
    filled = np.concatenate([m[m > 0] for m in maps])
    top = float(np.quantile(filled, 0.99)) if len(filled) else 1.0

    columns = min(columns, len(points))
    rows = -(-len(points) // columns)
    figure = Figure(figsize=(3.5 * columns + 1.0, 3.75 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat[len(points) :]:
        ax.set_axis_off()
    for ax, counts, (title, values) in zip(axes.flat, maps, points.items(), strict=False):
        inside = float((np.abs(values) <= 0.5).all(1).mean()) if len(values) else 0.0
        extent = (-EXTENT, EXTENT, EXTENT, -EXTENT)
        shown = ax.imshow(
            counts, extent=extent, cmap="inferno", vmin=0, vmax=top, interpolation="nearest"
        )
        ax.add_patch(Rectangle((-0.5, -0.5), 1, 1, fill=False, edgecolor="white", linewidth=1.2))
        ax.set_title(
            f"{plain(title)}\n{len(values)} points, {inside:.0%} inside the box", fontsize=10
        )
        ax.set_xticks((-0.5, 0, 0.5))
        ax.set_yticks((-0.5, 0, 0.5))
        ax.set_xlabel("x' (box widths)")
        ax.set_ylabel("y' (box heights)")
    figure.colorbar(shown, ax=list(axes.flat), label="share of points", shrink=0.85)
    return figure_png(figure)


def rsv_curve(
    steps: Sequence[float],
    rsv: Sequence[float],
    *,
    coarse: float | None = None,
    inside: Sequence[float] | None = None,
    step_name: str = "epoch",
) -> bytes:
    """RSV of the refined points over CPRNet's training (figure 6), lower is better.

    coarse: RSV of the clicks, a dashed line. inside: share of refined points inside their box, on a
    second axis, because the RSV leaves the other points out.
    """
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    ax = figure.subplots()
    ax.plot(steps, rsv, "o-", color="#b8860b", label="refined points")
    if coarse is not None:
        ax.axhline(coarse, color="#2e8b57", linestyle="--", label="clicks")
    ax.set_xlabel(step_name)
    ax.set_ylabel("RSV")
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.25)
    handles, labels = ax.get_legend_handles_labels()
    if inside is not None:
        second = ax.twinx()
        second.plot(steps, [100 * v for v in inside], "s:", color="#555", label="inside box (%)")
        second.set_ylim(0, 102)
        second.set_ylabel("refined points inside their box (%)")
        more_handles, more_labels = second.get_legend_handles_labels()
        handles, labels = handles + more_handles, labels + more_labels
    ax.legend(handles, labels, loc="lower left", fontsize=9)
    return figure_png(figure)


def ap_bars(
    ap: Mapping[str, Mapping[str, float]],
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
) -> bytes:
    """mAP in percent as grouped bars: `ap[row][tau]` in fractions, one group per tau.

    intervals: `intervals[row][tau] = (low, high)` in fractions, drawn as error bars where given.
    """
    colours = ("#2e8b57", "#d4a017", "#4a7fb5", "#8a5fa8", "#888888")
    rows = list(ap)
    taus = list(next(iter(ap.values())))
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    ax = figure.subplots()
    width = 0.8 / len(rows)
    for index, row in enumerate(rows):
        x = np.arange(len(taus)) + (index - (len(rows) - 1) / 2) * width
        values = 100 * np.array([ap[row][tau] for tau in taus])
        ax.bar(x, values, width * 0.94, color=colours[index % len(colours)], label=plain(row))
        for position, tau, value in zip(x, taus, values, strict=True):
            interval = (intervals or {}).get(row, {}).get(tau)
            top = value
            if interval is not None:
                low, high = 100 * interval[0], 100 * interval[1]
                ax.plot([position, position], [low, high], color="#222", linewidth=1.2)
                top = max(value, high)
            ax.annotate(f"{value:.1f}", (position, top + 1.5), ha="center", fontsize=8)
    ax.set_xticks(np.arange(len(taus)), [f"tau = {tau}" for tau in taus])
    ax.set_ylabel("mAP (%)")
    ax.set_ylim(0, 108)
    ax.set_yticks(range(0, 101, 20))
    figure.legend(title="trained on", fontsize=9, ncols=len(rows), loc="outside upper center")
    return figure_png(figure)


@dataclass(frozen=True)
class Bar:
    """A bar of `grouped_bars`: its length, an interval, and single values, all in data units."""

    value: float
    interval: tuple[float, float] | None = None
    values: tuple[float, ...] = ()


def grouped_bars(
    groups: Mapping[str, Mapping[str, Bar | None]],
    *,
    colours: Mapping[str, str],
    label: str,
) -> bytes:
    """Horizontal bars: a group per entry, in it a bar per series; the names stand to the left.

    groups: `groups[group][series]`, None: no such result, which is said. Intervals are drawn as
    lines, single values as dots.
    colours: series -> colour; its order is that of the bars and of the legend.
    """
    series = list(colours)
    step = 1.0 / (len(series) + 0.9)
    inches = max(0.21 * (len(series) + 0.9), 0.32) * len(groups)
    legend_rows = -(-sum(len(name) + 5 for name in series) // 90)
    figure = Figure(figsize=(8.0, inches + 0.8 + 0.25 * legend_rows), layout="constrained")
    ax = figure.subplots()
    text = {"textcoords": "offset points", "xytext": (4, 0), "va": "center", "fontsize": 8}
    ends = []
    for position, bars in enumerate(groups.values()):
        if all(bars.get(name) is None for name in series):
            ax.annotate("no result", (0, position), color="#777", **text)
            continue
        for index, name in enumerate(series):
            y = position + (index - (len(series) - 1) / 2) * step
            bar = bars.get(name)
            if bar is None:
                ax.annotate("-", (0, y), **text)
                continue
            ax.barh(y, bar.value, 0.92 * step, color=colours[name])
            if bar.interval is not None:
                ax.plot(bar.interval, (y, y), color="#222", linewidth=1.2)
            ax.plot(bar.values, [y] * len(bar.values), "o", color="#222", markersize=2.5)
            ends.append(max([bar.value, *bar.values, *(bar.interval or ())]))
            ax.annotate(f"{bar.value:.1f}", (ends[-1], y), **text)
    # Room for the figures at the ends of the bars.
    ax.set_xlim(0, 1.1 * max(ends, default=1.0))
    ax.set_ylim(len(groups) - 0.45, -0.55)
    ax.set_yticks(range(len(groups)), [plain(name) for name in groups], fontsize=9)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(label)
    ax.grid(axis="x", alpha=0.25)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(
        handles=[Patch(color=colours[name], label=plain(name)) for name in series],
        fontsize=9,
        ncols=-(-len(series) // legend_rows),
        loc="outside upper left",
        frameon=False,
    )
    return figure_png(figure)


def training_curves(
    curves: Mapping[str, Sequence[Mapping[str, Sequence[float]]]],
    *,
    colours: Mapping[str, str],
    panels: Mapping[str, str],
    levels: Mapping[str, float] | None = None,
    level_name: str = "clicks",
    step: str = "epoch",
) -> bytes:
    """What changes over training, a panel per quantity, a line per run (figure 6, middle).

    curves: `curves[name]` holds a mapping per run: `step` and quantities -> one value each; runs of
    one name have one colour. Values that are not finite are left out.
    panels: quantity -> title of its axis. levels: quantity -> a value to compare with, dashed.
    """
    figure = Figure(figsize=(3.7 * len(panels) + 0.3, 3.9), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (quantity, title) in zip(axes, panels.items(), strict=True):
        for name, runs in curves.items():
            for run in runs:
                ax.plot(run[step], run[quantity], "o-", color=colours[name], ms=3, lw=1.3)
        if levels and levels.get(quantity) is not None:
            ax.axhline(levels[quantity], color=CLICKS, linestyle="--")
        ax.set_xlabel(step)
        ax.set_ylabel(title)
        ax.set_ylim(bottom=0)
        ax.grid(alpha=0.25)
    handles = [
        Line2D([], [], color=colours[name], marker="o", ms=3, label=plain(name)) for name in curves
    ]
    if levels:
        handles.append(Line2D([], [], color=CLICKS, linestyle="--", label=level_name))
    figure.legend(
        handles=handles,
        fontsize=9,
        ncols=min(len(handles), 3),
        loc="outside upper left",
        frameon=False,
    )
    return figure_png(figure)


def plain(text: str) -> str:
    """A name as it is: between dollar signs matplotlib would look for mathematics."""
    return text.replace("$", r"\$")


def figure_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
