"""The figures of a paper table, mean and spread over the seeds (numpy only).

A mean over seeds goes with the sample standard deviation (n - 1); a single seed with a bootstrap
interval over the held-out images, which does not cover what another seed would change.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cpr_deploy.files import InputError, explain, read_json

from ..data.point_json import is_ignored, load_detections, load_points
from ..evaluation.gap_closed import gap_closed
from ..evaluation.point_ap import bootstrap_samples
from ..evaluation.semantic_variance import rsv
from .results import CENTRE, COARSE, REFINED, RowResult, RunResult, TableResult

# The paper's main distance; another is taken only where it was not evaluated.
MAIN_TAU = "1.0"
RESAMPLES = 200

# What is said about a set of points, and what of it `refinement_metrics` has in %.
_FIGURES = ("rsv", "inside", "distance")
_REFINEMENT = ("refined", "score", "moved", "kept_I", "kept_II", "kept_III", "kept")
_IN_PERCENT = {"inside", *_REFINEMENT} - {"score", "moved"}
_BOX_AP = ("AP", "AP50", "AP75")


def summarize(result: TableResult, *, resamples: int = RESAMPLES) -> dict[str, Any]:
    """The content of summary.json. Files that are missing or damaged become sentences in "notes".

    Args:
        resamples: of the held-out images, for intervals and standard errors; 0: none, and the gap
            closed is then judged by its size and the spread over seeds only.

    Returns:
        {"table", "title", "dataset", "seeds", "settings", "command", "machine", "date",
         "taus": [text], "main_tau", "held_out": {"images", "objects"} or None,
         "clicks": {"rsv", "inside", "distance"},
         "rows": [{"key", "label", "paper" (in %), "overrides",
                   "seeds": the finished ones, "missing": why there are not more, or None,
                   "AP": {tau: S}, "AP_by_size": {range: S}, "per_class": {name: S},
                   "objects": {class: number held out}, "interval": [low, high] or None,
                   "box_AP": {"AP", "AP50", "AP75": S} or {},
                   "points": {"before": F or None, "after": F or None}, "refinement": {name: S},
                   "refined_per_class": {name: S}, "seconds": {step: S}, "total_seconds": S}],
         "gap_closed": {row key: see `_summarize_gap`}, "notes": [text]}
        with S = {"mean", "std", "values": one per finished seed}, all fractions or None, and
        F = {"rsv", "inside", "distance": S} of the clicks and of the points trained on. Sizes,
        classes, the interval and the gap closed are at `main_tau`.
    """
    notes: list[str] = []
    held_out = _attempt(notes, "No intervals", lambda: load_points(result.held_out, require="box"))
    # Rows share their click files.
    figures_of = functools.cache(_point_figures)

    finished = {row.key: _finished_runs(row) for row in result.rows}
    taus = _taus(metrics for runs, _ in finished.values() for _, metrics in runs)
    main = MAIN_TAU if MAIN_TAU in taus or not taus else taus[len(taus) // 2]
    rows = [
        _summarize_row(row, *finished[row.key], taus, main, result.seeds, notes, figures_of)
        for row in result.rows
    ]

    samples = {}
    if held_out is not None and resamples:
        compared = {COARSE, CENTRE} if {COARSE, CENTRE} <= set(finished) else set()
        for key, (runs, _) in finished.items():
            if key in compared or len(runs) == 1:
                for run, metrics in runs:
                    drawn = _attempt(
                        notes,
                        f"{key}, seed {run.seed}: no interval",
                        functools.partial(_bootstrap, held_out, run, metrics, main, resamples),
                    )
                    if drawn is not None:
                        samples[key, run.seed] = drawn
    for row in rows:
        drawn = samples.get((row["key"], row["seeds"][0])) if len(row["seeds"]) == 1 else None
        row["interval"] = _interval(drawn)

    clicks = [
        _attempt(notes, f"Clicks of seed {seed}", functools.partial(figures_of, path))
        for seed, path in sorted(result.clicks.items())
        if os.path.exists(path)
    ]
    return _plain(
        {
            "table": result.table,
            "title": result.title,
            "dataset": result.dataset,
            "seeds": result.seeds,
            "settings": result.settings,
            "command": result.command,
            "machine": result.machine,
            "date": result.date,
            "taus": taus,
            "main_tau": main,
            "held_out": None if held_out is None else _count(held_out),
            "clicks": _gather(clicks, _FIGURES),
            "rows": rows,
            "gap_closed": _summarize_gaps(rows, samples, main),
            "notes": list(dict.fromkeys(notes)),
        }
    )


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """{"mean", "std": sample standard deviation (n - 1), None below two values, "values"}."""
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    known = known[np.isfinite(known)]
    return {
        "mean": float(known.mean()) if len(known) else None,
        "std": float(known.std(ddof=1)) if len(known) > 1 else None,
        "values": list(values),
    }


def _finished_runs(row: RowResult) -> tuple[list[tuple[RunResult, dict]], list[str]]:
    """The runs with a usable metrics.json, by seed; and, as far as known, why others have none."""
    finished, reasons = [], [row.missing] if row.missing else []
    for run in sorted(row.runs, key=lambda run: run.seed):
        if not os.path.exists(run.metrics):
            continue  # not run yet, which the number of finished seeds says
        metrics = _attempt(reasons, f"seed {run.seed}", functools.partial(_read_metrics, run))
        if metrics is not None:
            finished.append((run, metrics))
    return finished, reasons


def _read_metrics(run: RunResult) -> dict:
    metrics = read_json(run.metrics)
    try:
        metrics["AP"]["all"].items(), metrics["per_class"].items(), metrics["settings"].items()
    except (AttributeError, KeyError, TypeError):
        raise InputError(
            f"{run.metrics}: is no metrics.json of point mAP. Delete it and run again."
        ) from None
    return metrics


def _taus(metrics: Iterable[dict]) -> list[str]:
    return sorted({tau for one in metrics for tau in one["AP"]["all"]}, key=float)


def _summarize_row(
    row: RowResult,
    runs: list[tuple[RunResult, dict]],
    reasons: list[str],
    taus: list[str],
    main: str,
    seeds: int,
    notes: list[str],
    figures_of: Callable,
) -> dict[str, Any]:
    metrics = [one for _, one in runs]
    ranges = list(dict.fromkeys(name for one in metrics for name in one["AP"] if name != "all"))
    classes = list(dict.fromkeys(name for one in metrics for name in one["per_class"]))
    points = [
        _attempt(
            notes,
            f"{row.label}, seed {run.seed}: no figures of its training points",
            functools.partial(_training_points, run, figures_of),
        )
        or {}
        for run, _ in runs
    ]
    boxes = [
        _attempt(notes, f"{row.label}, seed {run.seed}: no box AP", functools.partial(_box_ap, run))
        for run, _ in runs
    ]
    steps = list(dict.fromkeys(step for run, _ in runs for step in run.seconds))
    missing = None
    if len(runs) < seeds:
        missing = "; ".join([f"{len(runs)} of {seeds} seeds finished", *reasons])
    return {
        "key": row.key,
        "label": row.label,
        "paper": row.paper,
        "overrides": row.overrides,
        "seeds": [run.seed for run, _ in runs],
        "missing": missing,
        "AP": {tau: spread([one["AP"]["all"].get(tau) for one in metrics]) for tau in taus},
        "AP_by_size": {
            name: spread([one["AP"].get(name, {}).get(main) for one in metrics]) for name in ranges
        },
        "per_class": {
            name: spread([_class_ap(one, name, main) for one in metrics]) for name in classes
        },
        "objects": {
            name: max(one["per_class"].get(name, {}).get("objects", 0) for one in metrics)
            for name in classes
        },
        "points": {
            when: _gather([one.get(when) for one in points], _FIGURES)
            if any(one.get(when) for one in points)
            else None
            for when in ("before", "after")
        },
        "box_AP": _gather(boxes, _BOX_AP) if any(boxes) else {},
        "refinement": _gather([one.get("refinement") for one in points], _REFINEMENT)
        if any(one.get("refinement") for one in points)
        else {},
        "refined_per_class": _gather(
            [one.get("per_class") for one in points],
            dict.fromkeys(name for one in points for name in one.get("per_class") or {}),
        ),
        "seconds": {step: spread([run.seconds.get(step) for run, _ in runs]) for step in steps},
        "total_seconds": spread(
            [sum(run.seconds.values()) if run.seconds else None for run, _ in runs]
        ),
    }


def _box_ap(run: RunResult) -> dict[str, float | None]:
    """Box AP in fractions; {} where it was not measured."""
    path = Path(run.metrics).with_name("box_metrics.json")
    metrics = read_json(path) if path.exists() else {}
    return {name: metrics[name] / 100 for name in _BOX_AP if metrics.get(name) is not None}


def _class_ap(metrics: dict, name: str, tau: str) -> float | None:
    return metrics["per_class"].get(name, {}).get("AP", {}).get("all", {}).get(tau)


def _training_points(run: RunResult, figures_of: Callable) -> dict[str, dict | None]:
    """Of clicks "before" and points trained on "after", "refinement", its share "per_class"."""
    if run.refinement is None:
        return {"before": None, "after": figures_of(run.points), "refinement": None}
    metrics = read_json(run.refinement)
    if not isinstance(metrics, dict):
        raise InputError(f"{run.refinement}: holds no figures of a refinement. Run it again.")

    def figure(name: str, suffix: str = "") -> float | None:
        value = metrics.get(name + suffix)
        return value / 100 if value is not None and name in _IN_PERCENT else value

    return {
        "before": {name: figure(name, "_coarse") for name in _FIGURES},
        "after": {name: figure(name, "_refined") for name in _FIGURES},
        "refinement": {name: figure(name) for name in _REFINEMENT},
        "per_class": {
            key.removeprefix("refined-"): value / 100
            for key, value in metrics.items()
            if key.startswith("refined-")
        },
    }


def _point_figures(path: str | os.PathLike) -> dict[str, float | None]:
    """RSV, share inside their box and mean point-box distance of the points of a file."""
    objects = [
        annotation
        for annotation in load_points(path)["annotations"]
        if not is_ignored(annotation)
        and annotation.get("bbox") is not None
        and annotation.get("point") is not None
    ]
    figures = rsv(
        np.array([annotation["point"] for annotation in objects]),
        np.array([annotation["bbox"] for annotation in objects]),
    )
    return {
        "rsv": figures["rsv"],
        "inside": figures["inside"],
        "distance": figures["mean_distance"],
    }


def _gather(figures: Sequence[Mapping | None], names: Iterable[str]) -> dict[str, dict]:
    """One `spread` per name over the runs' figures."""
    return {name: spread([(one or {}).get(name) for one in figures]) for name in names}


def _bootstrap(
    held_out: dict, run: RunResult, metrics: dict, tau: str, resamples: int
) -> np.ndarray:
    """mAP at tau on resampled held-out images, (resamples,); the same images for all runs."""
    settings = metrics["settings"]
    defaults = ("size_ranges", "max_dets", "ap", "box_centre", "several_boxes")
    return bootstrap_samples(
        held_out,
        load_detections(run.detections, held_out),
        taus=(float(tau),),
        resamples=resamples,
        paper_ignore=settings.get("ignore") == ["iscrowd"],
        **{name: settings[name] for name in defaults if name in settings},
    )[:, 0]


def _interval(samples: np.ndarray | None) -> list[float] | None:
    """The central 95 %."""
    if samples is None or not np.isfinite(samples).any():
        return None
    return [float(value) for value in np.nanquantile(samples, [0.025, 0.975])]


def _summarize_gaps(rows: list[dict], samples: dict, main: str) -> dict[str, dict]:
    """The gap closed of every refined row; {} unless the table has clicks and centres."""
    by_key = {row["key"]: row for row in rows}
    if not {COARSE, CENTRE} <= set(by_key):
        return {}
    return {
        key: _summarize_gap(by_key[COARSE], by_key[key], by_key[CENTRE], samples, main)
        for key, row in by_key.items()
        if key in REFINED or (row["refinement"] and key not in (COARSE, CENTRE))
    }


def _summarize_gap(coarse: dict, refined: dict, centre: dict, samples: dict, main: str) -> dict:
    """Gap closed over the seeds that all three rows have.

    Returns:
        {"seeds", "per_seed": [value or None: not applicable], "of_means": of the mean mAPs,
         "gap": mean mAP of centres minus clicks, "standard_error" of that,
         "gain": S, refined minus clicks, "paper": {data set: value}}

    The headline is `of_means`: a mean of ratios would leave out the seeds whose gap is too small
    and be ruled by those where it is nearly so. Its standard error holds both sources, the seeds
    and the held-out images, which all seeds share.
    """

    def ap(row: dict, seed: int) -> float | None:
        return row["AP"][main]["values"][row["seeds"].index(seed)]

    seeds = [
        seed
        for seed in coarse["seeds"]
        if all(
            seed in row["seeds"] and ap(row, seed) is not None for row in (coarse, refined, centre)
        )
    ]
    low, mid, high = (
        np.array([ap(row, seed) for seed in seeds]) for row in (coarse, refined, centre)
    )
    # (seeds with samples, resamples): the same resampled images for both rows of a difference.
    differences = {
        seed: samples[CENTRE, seed] - samples[COARSE, seed]
        for seed in seeds
        if (CENTRE, seed) in samples and (COARSE, seed) in samples
    }
    errors = [_deviation(differences.get(seed)) for seed in seeds]
    of_images = _deviation(np.mean(list(differences.values()), axis=0)) if differences else 0.0
    of_seeds = (spread((high - low).tolist())["std"] or 0.0) / math.sqrt(max(len(seeds), 1))
    error = math.hypot(of_images, of_seeds)
    paper = {
        name: gap_closed(*(row["paper"][name] / 100 for row in (coarse, refined, centre)))
        for name in coarse["paper"]
        if name in refined["paper"] and name in centre["paper"]
    }
    return {
        "seeds": seeds,
        "per_seed": [
            gap_closed(*values, standard_error=error)
            for *values, error in zip(low, mid, high, errors, strict=True)
        ],
        "of_means": gap_closed(low.mean(), mid.mean(), high.mean(), standard_error=error)
        if seeds
        else None,
        "gap": float((high - low).mean()) if seeds else None,
        "standard_error": error if seeds else None,
        "gain": spread((mid - low).tolist()),
        "paper": paper,
    }


def _deviation(samples: np.ndarray | None) -> float:
    """Standard deviation of bootstrap samples = standard error; 0 where there are none."""
    if samples is None or not np.isfinite(samples).any():
        return 0.0
    return float(np.nanstd(samples))


def _count(dataset: dict) -> dict[str, int]:
    return {
        "images": len(dataset["images"]),
        "objects": sum(not is_ignored(annotation) for annotation in dataset["annotations"]),
    }


def _attempt(notes: list[str], what: str, load: Callable[[], Any]) -> Any:
    """`load()`, or None and a sentence in `notes` if a file is missing or damaged."""
    try:
        return load()
    except (InputError, OSError) as error:
        reason = explain(error)
        if reason is None:
            raise
        notes.append(f"{what}: {reason}")
        return None


def _plain(value: Any) -> Any:
    """`value` in JSON's types; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
