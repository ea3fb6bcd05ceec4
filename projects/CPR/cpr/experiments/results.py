"""What a finished, or half finished, paper table consists of: files of the runs, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# Keys of the rows that the gap closed compares: trained on clicks, on true centres, on refined
# points (these two, and every other row with a refiner). All use the same localizer and schedule.
COARSE, CENTRE = "coarse", "centre"
REFINED = ("self", "cpr")


@dataclass(frozen=True)
class RunResult:
    """One row of a table with one seed; unfinished as long as there is no metrics.json."""

    seed: int
    # metrics.json and detections.json of the localizer on the held-out part; beside them
    # box_metrics.json with TEST.BOX_AP.
    metrics: Path
    detections: Path
    # Point JSON that the localizer was trained on; refined points have `coarse_point`, `refined`
    # and, for pictures, `semantic_points`.
    points: Path
    # JSON of `evaluators.refinement_metrics`; None for rows without a refiner.
    refinement: Path | None = None
    # rsv_curve.json of `hooks.RSVCurve`; runs that share a CPRNet name the same file.
    rsv_curve: Path | None = None
    # Step -> seconds, steps shared with other rows included.
    seconds: Mapping[str, float] = field(default_factory=dict)
    # Epoch of CPRNet -> point JSON refined at that time, for the lower half of Fig. 6.
    refined_at: Mapping[float, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class RowResult:
    """One row of a table with all its seeds."""

    key: str  # "cpr"; see COARSE, CENTRE, REFINED
    label: str  # "CPR + P2PNet"
    paper: Mapping[str, float]  # data set -> mAP in %, {"COCO": 55.46}; may be empty
    overrides: list[str]  # config keys of the row, for people
    runs: list[RunResult]  # may be fewer than asked for
    missing: str = ""  # why runs are missing, for people


@dataclass(frozen=True)
class TableResult:
    """One table of the paper on one data set."""

    table: str  # "1", "4c"
    title: str  # "Table 1: all systems"
    dataset: str
    seeds: int  # asked for
    rows: list[RowResult]
    held_out: Path  # ground truth of the held-out part
    clicks: Mapping[int, Path]  # seed -> point JSON of the clicks
    image_root: Path  # training images
    settings: Mapping  # level, R, sizes, schedule; for people
    command: str
    machine: str
    date: str

    def __post_init__(self) -> None:
        keys = [row.key for row in self.rows]
        if len(set(keys)) < len(keys):
            raise ValueError(f"two rows of table {self.table} have one key: {keys}")
