"""Plots of the paper's figure 6 and of result tables, as the bytes of PNG files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

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
    (`relative_positions` of cpr.evaluation.semantic_variance). The white square is the object's
    box. Points farther out than EXTENT are not shown; each title says how many lie inside the box.
    """
    edges = np.linspace(-EXTENT, EXTENT, bins + 1)
    maps = []
    for points in (before, after):
        points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
        # Rows are y, so that the image reads as the object does. Share of all points per bin.
        counts = np.histogram2d(points[:, 1], points[:, 0], bins=(edges, edges))[0]
        maps.append(counts / max(len(points), 1))
    # The scale is set by nearly the highest bin: a single full bin would hide all the rest.
    filled = np.concatenate([m[m > 0] for m in maps])
    top = float(np.quantile(filled, 0.99)) if len(filled) else 1.0

    figure = Figure(figsize=(8.4, 4.0), layout="constrained")
    axes = figure.subplots(1, 2)
    for ax, counts, points, title in zip(axes, maps, (before, after), titles, strict=True):
        points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
        inside = float((np.abs(points) <= 0.5).all(1).mean()) if len(points) else 0.0
        extent = (-EXTENT, EXTENT, EXTENT, -EXTENT)
        shown = ax.imshow(
            counts, extent=extent, cmap="inferno", vmin=0, vmax=top, interpolation="nearest"
        )
        ax.add_patch(Rectangle((-0.5, -0.5), 1, 1, fill=False, edgecolor="white", linewidth=1.2))
        ax.set_title(f"{title}: {len(points)} points, {inside:.0%} inside the box", fontsize=10)
        ax.set_xlabel("x' (box widths)")
        ax.set_ylabel("y' (box heights)")
    figure.colorbar(shown, ax=list(axes), label="share of points", shrink=0.85)
    return _png(figure)


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
    return _png(figure)


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
        ax.bar(x, values, width * 0.94, color=colours[index % len(colours)], label=row)
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
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
