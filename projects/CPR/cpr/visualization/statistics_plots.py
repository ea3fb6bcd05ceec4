"""Plots of the statistics of a data set (cpr.data.statistics), as the bytes of PNG files."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from cpr.data.statistics.measure import Measures
from cpr.visualization.plots import figure_png, plain

# One a part.
COLOURS = ("#2e8b57", "#d4a017", "#4a7fb5", "#8a5fa8", "#888888")
_BINS = 40


def size_plots(parts: Mapping[str, Measures]) -> bytes:
    """Histograms of absolute size, relative size, aspect ratio and objects per image, by part.

    A panel is left out if no object has a box. The parts' shares are shown, not their counts, so
    that a small part can be seen beside a large one; dashed: the mean.
    """
    panels = [
        ("absolute_size", "absolute size: sqrt(w h) in px"),
        ("relative_size", "relative size: sqrt(w h / (W H))"),
        ("aspect_ratio", "aspect ratio: w / h"),
    ]
    values = {
        title: {name: _finite(part.quantity(key)) for name, part in parts.items()}
        for key, title in panels
    }
    values = {title: rows for title, rows in values.items() if any(map(len, rows.values()))}
    values["objects per image"] = {
        name: part.per_image.astype(np.float64) for name, part in parts.items()
    }
    columns = min(len(values), 2)
    rows = -(-len(values) // columns)
    figure = Figure(figsize=(4.6 * columns + 0.2, 3.1 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax, (title, by_part) in zip(axes.flat, values.items(), strict=True):
        # Sizes and ratios differ by factors; numbers of objects may be 0.
        _histograms(ax, title, by_part, logarithmic=title != "objects per image")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, ncols=len(parts), fontsize=9, loc="outside upper left", frameon=False
    )
    return figure_png(figure)


def _histograms(ax, title: str, by_part: Mapping[str, np.ndarray], *, logarithmic: bool) -> None:
    filled = [values for values in by_part.values() if len(values)]
    low, high = min(v.min() for v in filled), max(v.max() for v in filled)
    if logarithmic:
        edges = np.geomspace(low / 1.05, high * 1.05, _BINS + 1)
        ax.set_xscale("log")
        # 1, 2, 5, 10 ...; fewer where sizes differ by more than a factor of 100.
        steps = (1, 2, 5) if high < 100 * low else (1,)
        ax.xaxis.set_major_locator(LogLocator(subs=steps, numticks=20))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
    elif high - low <= _BINS:
        edges = np.arange(low - 0.5, high + 1)
    else:
        edges = np.linspace(low - 0.5, high + 0.5, _BINS + 1)
    for (name, values), colour in zip(by_part.items(), _colours(len(by_part)), strict=True):
        share = np.histogram(values, edges)[0] / max(len(values), 1)
        ax.stairs(100 * share, edges, color=colour, fill=True, alpha=0.22)
        ax.stairs(100 * share, edges, color=colour, linewidth=1.4, label=plain(name))
        if len(values):
            ax.axvline(values.mean(), color=colour, linestyle="--", linewidth=1.1)
    ax.set_xlabel(title, fontsize=9)
    ax.set_ylabel("share (%)", fontsize=9)
    ax.tick_params(labelsize=8)
    ax.grid(alpha=0.25)
    ax.set_axisbelow(True)


def position_plots(parts: Mapping[str, Measures], *, bins: int = 32) -> bytes:
    """Heat maps of where the objects are in their images, a panel a part, on one colour scale.

    Positions are shares of the image's width and height, whatever its shape; points outside of
    their image are not shown. 1.0 is the density of objects that are spread evenly.
    """
    edges = np.linspace(0, 1, bins + 1)
    maps = {}
    for name, part in parts.items():
        x, y = part.positions[~np.isnan(part.positions).any(1)].T
        # Rows are y, so that the map reads as an image does.
        counts = np.histogram2d(y, x, bins=(edges, edges))[0]
        maps[name] = counts * bins**2 / max(len(x), 1), len(x)
    filled = np.concatenate([m[m > 0] for m, _ in maps.values()])
    # The scale is set by nearly the highest bin: a single full bin would hide all the rest.
    top = float(np.quantile(filled, 0.99)) if len(filled) else 1.0
    columns = min(len(maps), 3)
    rows = -(-len(maps) // columns)
    figure = Figure(figsize=(3.3 * columns + 1.0, 3.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat[len(maps) :]:
        ax.set_axis_off()
    for ax, (name, (density, count)) in zip(axes.flat, maps.items(), strict=False):
        shown = ax.imshow(
            density,
            extent=(0, 1, 1, 0),
            cmap="inferno",
            vmin=0,
            vmax=top,
            interpolation="nearest",
        )
        ax.set_title(f"{plain(name)}: {count:,} objects", fontsize=10)
        ax.set_xticks((0, 0.5, 1))
        ax.set_yticks((0, 0.5, 1))
        ax.set_xlabel("x / W", fontsize=9)
        ax.set_ylabel("y / H", fontsize=9)
    figure.colorbar(shown, ax=list(axes.flat), label="density (even: 1)", shrink=0.85)
    return figure_png(figure)


def _finite(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)]


def _colours(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]
