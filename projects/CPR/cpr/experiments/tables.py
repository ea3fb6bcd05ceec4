"""The rows of the paper's tables, and of a few of our own.

A row says what the localizer is trained on and what differs from the standard configuration;
`plan.py` makes commands of it. Paper figures are mAP at tau = 1 in %.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .settings import Settings, radius_for

Keys = Mapping[str, object]
PAPER_SETS = ("COCO", "DOTA", "SeaPerson")
STRIDES = {"p2": 4, "p3": 8, "p4": 16}
# R that fits COCO's objects, of Tables 4a and 4b.
PAPER_RADII = {"p3": 8, "p2": 15}


@dataclass(frozen=True)
class Standard:
    """What rows vary: R that fits the objects, by level, and the side of pseudo boxes (px)."""

    radii: Mapping[str, int]
    pseudo_box: float

    @classmethod
    def of(cls, settings: Settings) -> Standard:
        size = settings.object_size * settings.scale
        radii = {level: radius_for(size, stride) for level, stride in STRIDES.items()}
        return cls(radii, settings.pseudo_box)


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        key: name of the row within its table.
        label: as people read it.
        points: what the localizer is trained on: "coarse" (clicks), "centre", "boxes" (the true
            boxes, for box detectors only), or the name of a refiner: "self", "cpr", or any other
            that is registered.
        localizer: its meta-architecture.
        cprnet: keys that differ in CPRNet's training.
        refine: keys that differ in the refinement; rows that differ in nothing else share a CPRNet.
        localizer_keys: keys that differ in the localizer's training.
        levels: FPN level of CPRNet, if it is not that of the settings.
        depths: of the ResNets of CPRNet and of the localizer, if they are not the standard one.
        paper: figures of the paper, by its data sets.
        refiner_config: config file of a refiner other than "self" and "cpr"; if the refiner needs a
            network, it is trained on the clicks with this file.
    """

    key: str
    label: str
    points: str
    localizer: str = "P2PNet"
    cprnet: Keys = field(default_factory=dict)
    refine: Keys = field(default_factory=dict)
    localizer_keys: Keys = field(default_factory=dict)
    level: str | None = None
    depths: tuple[int, int] | None = None
    paper: Mapping[str, float] = field(default_factory=dict)
    refiner_config: Path | None = None

    @property
    def overrides(self) -> list[str]:
        """The keys that differ, for people."""
        keys = {**self.cprnet, **self.refine, **self.localizer_keys}
        return [f"{key} {value}" for key, value in keys.items()]


@dataclass(frozen=True)
class Table:
    """A table: its title, its rows, and whether box AP is part of it."""

    title: str
    rows: Callable[[Standard], list[Row]]
    box_ap: bool = False


def _paper(*values: float) -> dict[str, float]:
    """Figures in the order of PAPER_SETS; a single one is COCO's."""
    return dict(zip(PAPER_SETS, values, strict=False))


COARSE = Row("coarse", "P2PNet on clicks", "coarse", paper=_paper(38.48, 48.34, 76.52))
SELF = Row("self", "self-refinement + P2PNet", "self", paper=_paper(50.86, 60.39, 84.96))
CPR = Row("cpr", "CPR + P2PNet", "cpr", paper=_paper(55.46, 63.81, 85.86))
CENTRE = Row("centre", "P2PNet on true centres", "centre", paper=_paper(57.47))
DETECTORS = {"RetinaNet": "RetinaNet", "GeneralizedRCNN": "Faster R-CNN", "RepPoints": "RepPoints"}


def _cpr_row(key: str, label: str, paper: float | None = None, **changes: object) -> Row:
    return Row(key, label, "cpr", paper={} if paper is None else _paper(paper), **changes)


def _table_1(standard: Standard) -> list[Row]:
    reppoints = Row(
        "reppoints",
        "RepPoints on pseudo boxes",
        "coarse",
        localizer="RepPoints",
        paper=_paper(37.42, 47.22, 47.72),
    )
    # The paper gives the true centres in Table 4d; beside these rows they bound what can be won.
    return [reppoints, COARSE, SELF, CPR, CENTRE]


def _table_2(standard: Standard) -> list[Row]:
    def terms(mil: float, ann: float, neg: float, pos: float = 0.0) -> dict[str, float]:
        values = {"ALPHA_MIL": mil, "ALPHA_ANN": ann, "ALPHA_NEG": neg, "ALPHA_POS": pos}
        standard = {"ALPHA_MIL": 1.0, "ALPHA_ANN": 0.5, "ALPHA_NEG": 3.0, "ALPHA_POS": 0.0}
        return {f"MODEL.CPRNET.{k}": v for k, v in values.items() if v != standard[k]}

    return [
        _cpr_row("mil", "MIL", 39.07, cprnet=terms(1.0, 0.0, 0.0)),
        _cpr_row("mil_ann", "MIL + ann", 39.45, cprnet=terms(1.0, 0.5, 0.0)),
        _cpr_row("mil_neg", "MIL + neg", 54.24, cprnet=terms(1.0, 0.0, 3.0)),
        _cpr_row("ann_neg", "ann + neg", 51.82, cprnet=terms(0.0, 0.5, 3.0)),
        _cpr_row("pos_ann_neg", "pos + ann + neg", 42.72, cprnet=terms(0.0, 0.5, 3.0, 1.0)),
        _cpr_row("cpr", "MIL + ann + neg", 55.46),
    ]


def _table_3(standard: Standard) -> list[Row]:
    paper = {
        "RetinaNet": ((32.61, 51.53, 48.50), (51.35, 63.69, 77.90)),
        "GeneralizedRCNN": ((35.29, 51.15, 47.93), (53.21, 63.00, 77.80)),
        "RepPoints": ((37.42, 47.26, 47.72), (53.97, 60.37, 78.94)),
    }
    rows = [
        Row(
            f"{name.lower()}_{points}",
            f"{label}{' + CPR' if points == 'cpr' else ''}",
            points,
            localizer=name,
            paper=_paper(*paper[name][points == "cpr"]),
        )
        for points in ("coarse", "cpr")
        for name, label in DETECTORS.items()
    ]
    return rows


def _radii(level: str, paper: Mapping[int, float]) -> Callable[[Standard], list[Row]]:
    """Tables 4a and 4b: the paper's radii, relative to the one that fits the objects."""
    own = PAPER_RADII[level]

    def rows(standard: Standard) -> list[Row]:
        fitting = standard.radii[level]
        radii = {max(1, round(radius * fitting / own)): None for radius in paper}
        return [
            _cpr_row(
                f"{level}_r{radius}",
                f"{level.upper()}, R = {radius}",
                # Only where the radius is the paper's own.
                paper.get(radius) if fitting == own else None,
                cprnet={"MODEL.CPRNET.RADIUS": radius},
                level=level,
            )
            for radius in radii
        ]

    return rows


def _table_4c(standard: Standard) -> list[Row]:
    def refine(**values: object) -> dict[str, object]:
        return {f"MODEL.CPRNET.REFINE.{key}": value for key, value in values.items()}

    return [
        _cpr_row("delta1_0", "delta1 = 0", 45.17, refine=refine(DELTA1=0.0)),
        _cpr_row("delta2_0", "delta2 = 0", 54.96, refine=refine(DELTA2=0.0)),
        _cpr_row("without_ii", "without II", 54.25, refine=refine(CONSTRAINT_II=False)),
        _cpr_row("without_iii", "without III", 52.69, refine=refine(CONSTRAINT_III=False)),
        _cpr_row("cpr", "all constraints", 55.46),
    ]


def _table_4d(standard: Standard) -> list[Row]:
    return [COARSE, CPR, CENTRE]


def _table_4e(standard: Standard) -> list[Row]:
    figures = {(50, 50): 55.46, (50, 101): 55.80, (101, 101): 56.43}
    pairs = [(18, 18), (34, 34), *figures]
    return [
        _cpr_row(f"r{a}_r{b}", f"R-{a} / R-{b}", figures.get((a, b)), depths=(a, b))
        for a, b in pairs
    ]


def _table_5a(standard: Standard) -> list[Row]:
    def region(aspect: float) -> dict[str, object]:
        return {"MODEL.CPRNET.REGION": "rectangle", "MODEL.CPRNET.REGION_ASPECT": aspect}

    return [
        _cpr_row("cpr", "circle", 55.46),
        _cpr_row("rect_1_1", "rectangle 1:1", 55.39, cprnet=region(1.0)),
        _cpr_row("rect_2_1", "rectangle 2:1", 54.77, cprnet=region(2.0)),
        _cpr_row("rect_1_2", "rectangle 1:2", 54.96, cprnet=region(0.5)),
    ]


def _table_5b(standard: Standard) -> list[Row]:
    figures = {12: 55.25, 8: 55.46, 6: 55.36, 4: 55.42}
    return [
        _cpr_row(f"u0_{u0}", f"u0 = {u0}", figure, cprnet={"MODEL.CPRNET.U0": u0})
        for u0, figure in figures.items()
    ]


def _table_5c(standard: Standard) -> list[Row]:
    delta1 = {0.10: 55.46, 0.15: 55.98, 0.20: 56.04, 0.25: 55.78}
    delta2 = {0.25: 55.19, 0.50: 55.46, 0.75: 55.22, 1.00: 55.41}
    return [
        _cpr_row(
            f"{name.lower()}_{value:.2f}",
            f"{name.lower()} = {value:.2f}",
            figure,
            refine={f"MODEL.CPRNET.REFINE.{name}": value},
        )
        for name, figures in (("DELTA1", delta1), ("DELTA2", delta2))
        for value, figure in figures.items()
    ]


def _choices(standard: Standard) -> list[Row]:
    """Where paper and official code differ, or both from us: one change a row."""
    half = "MODEL.CPRNET.SAMPLE_OFFSET"
    reference = "MODEL.P2PNET.REFERENCE_OFFSET"
    return [
        _cpr_row("cpr", "default"),
        _cpr_row("sample_0", "bags sampled half a cell off (official)", cprnet={half: 0.0}),
        _cpr_row(
            "reference_0", "references at cell corners (official)", localizer_keys={reference: 0.0}
        ),
        _cpr_row(
            "both_0",
            "both (official)",
            cprnet={half: 0.0},
            localizer_keys={reference: 0.0},
        ),
        _cpr_row(
            "forced",
            "click always kept (paper)",
            refine={"MODEL.CPRNET.REFINE.ANNOTATED_POINT": "forced"},
        ),
        _cpr_row(
            "not_in_bag",
            "click not in its bag (paper)",
            cprnet={"MODEL.CPRNET.ANNOTATED_POINT_IN_BAG": False},
        ),
        _cpr_row(
            "hungarian",
            "five Hungarian rounds (official)",
            localizer_keys={"MODEL.P2PNET.ASSIGNER": "hungarian"},
        ),
    ]


def _pseudo_boxes(standard: Standard) -> list[Row]:
    """Side of the pseudo boxes, which the paper does not give."""
    rows = []
    for share in (0.5, 0.75, 1.0, 1.5):
        size = round(share * standard.pseudo_box, 1)
        rows.append(
            Row(
                f"size_{share}",
                f"RepPoints, pseudo boxes of {share} object sizes ({size} px)",
                "coarse",
                localizer="RepPoints",
                localizer_keys={"MODEL.PSEUDO_BOX.SIZE": size} if share != 1.0 else {},
            )
        )
    return rows


def _detectors(standard: Standard) -> list[Row]:
    """The detectors on true boxes: is RepPoints a fair baseline?"""
    return [
        Row(f"{name.lower()}_boxes", f"{label} on true boxes", "boxes", localizer=name)
        for name, label in DETECTORS.items()
    ]


def _realtime(standard: Standard) -> list[Row]:
    """The paper's head against the slim ones for deployment, all on the same refined points."""

    def head(width: int, convs: int, norm: str, shared: bool) -> dict[str, object]:
        return {
            "MODEL.FPN.OUT_CHANNELS": width,
            "MODEL.FPN.NORM": norm,
            "MODEL.P2PNET.CONV_DIM": width,
            "MODEL.P2PNET.NUM_CONVS": convs,
            "MODEL.P2PNET.NORM": norm,
            "MODEL.P2PNET.SHARED_TOWER": shared,
        }

    heads = {
        "paper": ("paper's head: two towers of 4 x 256, GN", head(256, 4, "GN", False)),
        "two_towers": ("two towers of 2 x 128, GN", head(128, 2, "GN", False)),
        "realtime": ("realtime head: one tower of 2 x 128, BN", head(128, 2, "BN", True)),
        "realtime_64": ("realtime head: one tower of 2 x 64, BN", head(64, 2, "BN", True)),
    }
    return [_cpr_row(key, label, localizer_keys=keys) for key, (label, keys) in heads.items()]


TABLES: dict[str, Table] = {
    "1": Table("Table 1: the systems compared", _table_1),
    "2": Table("Table 2: loss terms of CPRNet", _table_2),
    "3": Table("Table 3: box detectors, with and without CPR", _table_3),
    "4a": Table(
        "Table 4a: radius on P3",
        _radii("p3", {5: 53.32, 8: 55.46, 10: 55.19, 15: 55.38, 20: 55.04, 25: 53.85}),
    ),
    "4b": Table(
        "Table 4b: radius on P2",
        _radii("p2", {5: 48.64, 10: 53.76, 15: 54.26, 20: 54.64, 30: 54.24, 40: 53.11}),
    ),
    "4c": Table("Table 4c: constraints of the refinement", _table_4c),
    "4d": Table("Table 4d: clicks, refined points, true centres", _table_4d),
    "4e": Table("Table 4e: backbones of CPRNet / P2PNet", _table_4e),
    "5a": Table("Table 5a: shape of the sampling region", _table_5a),
    "5b": Table("Table 5b: points per circle, u0", _table_5b),
    "5c": Table("Table 5c: thresholds of constraint I", _table_5c),
    "choices": Table("Choices in which paper and official code differ", _choices),
    "pseudo": Table("Size of the pseudo boxes", _pseudo_boxes),
    "detectors": Table("Box detectors on true boxes", _detectors, box_ap=True),
    "realtime": Table("Heads for deployment beside the paper's", _realtime),
}
