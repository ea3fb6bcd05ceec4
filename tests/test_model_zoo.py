"""MODEL_ZOO.md: figures are the paper's; configurations, keys and commands exist and fit."""

import importlib.util
import re
import shlex
import sys
from collections import Counter

import pytest

from cpr.engine import build_cfg
from cpr.experiments.tables import PAPER_RADII, TABLES, Standard
from tool_runner import ROOT

PAGE = (ROOT / "MODEL_ZOO.md").read_text(encoding="utf-8")
NOT_RUN = "not run here: needs the data"
CPRNET = ROOT / "configs/COCO/cprnet_r50_fpn_p3_12e.yaml"
CPRNET_P2 = ROOT / "configs/Ablations/cprnet_p2_r15.yaml"

# Typed from the paper: table -> the figures of its rows, in the order of the page.
PAPER = {
    "1": [
        (37.42, 47.22, 47.72),  # RepPoints
        (38.48, 48.34, 76.52),  # clicks
        (50.86, 60.39, 84.96),  # self-refinement
        (55.46, 63.81, 85.86),  # CPR
    ],
    "2": [
        (39.07, 28.37, 46.90),  # MIL
        (39.45, 28.22, 47.42),  # MIL ann
        (54.24, 46.56, 58.94),  # MIL neg
        (51.82, 46.24, 55.67),  # ann neg
        (42.72, 33.07, 48.81),  # pos ann neg
        (55.46, 50.23, 59.49),  # MIL ann neg
    ],
    "3": [
        (32.61, 51.53, 48.50),  # RetinaNet
        (35.29, 51.15, 47.93),  # Faster R-CNN
        (37.42, 47.26, 47.72),  # RepPoints
        (51.35, 63.69, 77.90),  # RetinaNet CPR
        (53.21, 63.00, 77.80),  # Faster R-CNN CPR
        (53.97, 60.37, 78.94),  # RepPoints CPR
    ],
    "4a": [(53.32,), (55.46,), (55.19,), (55.38,), (55.04,), (53.85,)],
    "4b": [(48.64,), (53.76,), (54.26,), (54.64,), (54.24,), (53.11,)],
    "4c": [(45.17,), (54.96,), (54.25,), (52.69,), (55.46,)],
    "4d": [(38.48,), (55.46,), (57.47,)],
    "4e": [(55.46,), (55.80,), (56.43,)],
    "5a": [(55.46,), (55.39,), (54.77,), (54.96,)],
    "5b": [(55.25,), (55.46,), (55.36,), (55.42,)],
    "5c": [(55.46,), (55.98,), (56.04,), (55.78,), (55.19,), (55.46,), (55.22,), (55.41,)],
}
# The first words of its rows.
ROWS = {
    "1": ["RepPoints", "P2PNet on clicks", "self-refinement", "CPR"],
    "2": ["MIL", "MIL + ann", "MIL + neg", "ann + neg", "pos + ann + neg", "MIL + ann + neg"],
    "3": ["RetinaNet", "Faster", "RepPoints", "RetinaNet + C", "Faster R-CNN + C", "RepPoints + C"],
    "4a": ["5", "8", "10", "15", "20", "25"],
    "4b": ["5", "10", "15", "20", "30", "40"],
    "4c": ["0", "0.1", "0.1", "0.1", "0.1"],
    "4d": ["clicks", "points refined", "true centres"],
    "4e": ["ResNet-50", "ResNet-50", "ResNet-101"],
    "5a": ["circle", "rectangle 1:1", "rectangle 2:1", "rectangle 1:2"],
    "5b": ["12", "8", "6", "4"],
    "5c": [f"delta1 = {v}" for v in ("0.10", "0.15", "0.20", "0.25")]
    + [f"delta2 = {v}" for v in ("0.25", "0.50", "0.75", "1.00")],
}


def section(table: str) -> str:
    """The text under the heading of a table."""
    return re.split(rf"^## Table {table}: .*$", PAGE, flags=re.MULTILINE)[1].split("\n## ")[0]


def rows(table: str) -> list[list[str]]:
    """The cells of the rows of a table, without its head."""
    lines = [line for line in section(table).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def keys(cell: str) -> list[str]:
    """The words of the KEY VALUE pairs of a cell."""
    return [word for code in re.findall(r"`([^`]+)`", cell) for word in code.split()]


def commands() -> list[list[str]]:
    """The words of each command of the page, without `python`."""
    text = PAGE.replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in re.findall(r"^ {4}(python .*)$", text, re.MULTILINE)]


@pytest.mark.parametrize("table", PAPER)
def test_figures_are_the_papers(table):
    figures = [
        tuple(float(cell) for cell in row if re.fullmatch(r"\d\d\.\d\d", cell))
        for row in rows(table)
    ]
    assert figures == PAPER[table]
    for row, begin in zip(rows(table), ROWS[table], strict=True):
        assert row[0].startswith(begin)


@pytest.mark.parametrize("table", PAPER)
def test_every_row_says_what_ours_is(table):
    """A figure of ours stands here only if RESULTS.md has it, which is linked."""
    for row in rows(table):
        own = row[-1] if table in ("1", "3", "4d") else row[-2]
        assert own == NOT_RUN or re.match(r"\d+\.\d+ .*RESULTS\.md", own)


@pytest.mark.parametrize("table", PAPER)
def test_every_table_has_its_command(table):
    named = [words for words in commands() if words[0] == "tools/run_experiments.py"]
    assert any(table in words[words.index("--table") + 1 :] for words in named)
    assert f"--table {table} " in section(table)


def terms(node) -> str:
    """The losses that have a weight."""
    names = {"MIL": "ALPHA_MIL", "pos": "ALPHA_POS", "ann": "ALPHA_ANN", "neg": "ALPHA_NEG"}
    return " + ".join(name for name, key in names.items() if node[key] > 0)


def constraints(refine) -> list[str]:
    """delta1, delta2, II and III."""
    switches = ("yes" if on else "no" for on in (refine.CONSTRAINT_II, refine.CONSTRAINT_III))
    return [f"{refine.DELTA1:g}", f"{refine.DELTA2:g}", *switches]


def region(node) -> str:
    """The shape that bags are sampled from."""
    if node.REGION == "circle":
        return "circle"
    return f"{node.REGION} " + {1.0: "1:1", 2.0: "2:1", 0.5: "1:2"}[node.REGION_ASPECT]


# Table -> the first cells of a row, from the configuration that its keys make.
LABELS = {
    "2": lambda node: [terms(node)],
    "4a": lambda node: [str(node.RADIUS)],
    "4b": lambda node: [str(node.RADIUS)],
    "4c": lambda node: constraints(node.REFINE),
    "5a": lambda node: [region(node)],
    "5b": lambda node: [str(node.U0)],
}


@pytest.mark.parametrize("table", LABELS)
def test_keys_of_a_row_make_what_it_is_called(table):
    for row in rows(table):
        node = build_cfg(CPRNET_P2 if table == "4b" else CPRNET, keys(row[-1])).MODEL.CPRNET
        label = LABELS[table](node)
        assert row[: len(label)] == label
        assert (row[-1] == "none") == (not keys(row[-1]))


def test_keys_of_the_thresholds():
    for row in rows("5c"):
        refine = build_cfg(CPRNET, keys(row[-1])).MODEL.CPRNET.REFINE
        changed = {"delta1": refine.DELTA1, "delta2": refine.DELTA2}
        name, _, value = row[0].partition(" = ")
        assert changed == {"delta1": 0.1, "delta2": 0.5} | {name: float(value)}


# Rows of Tables 4a and 4b depend on them, the others do not.
# Those of the benchmarks.
STANDARD = Standard(PAPER_RADII, 32.0)


@pytest.mark.parametrize("table", sorted(set(PAPER) - {"4a", "4b"}))
def test_the_experiments_have_the_papers_figures(table):
    """What run_experiments puts beside its results, against the figures typed here."""
    expected = Counter(row[0] for row in PAPER[table])
    found = Counter(row.paper["COCO"] for row in TABLES[table].rows(STANDARD) if row.paper)
    assert not expected - found
    # Table 1 has the true centres of Table 4d beside it.
    assert set(found - expected) <= {57.47}
    if table in ("1", "3"):
        rows_ = [row.paper for row in TABLES[table].rows(STANDARD) if len(row.paper) == 3]
        assert sorted(tuple(paper.values()) for paper in rows_) == sorted(PAPER[table])


@pytest.mark.parametrize("table", ["2", "4c", "5a", "5b", "5c"])
def test_the_experiments_have_the_keys_of_the_page(table):
    page = [(paper[0], keys(row[-1])) for paper, row in zip(PAPER[table], rows(table), strict=True)]
    # A row may name the standard's own value, for which the page has "none".
    standard = {"MODEL.CPRNET.U0 8", "MODEL.CPRNET.REFINE.DELTA1 0.1"}
    standard |= {"MODEL.CPRNET.REFINE.DELTA2 0.5"}
    found = [
        (row.paper["COCO"], [w for o in row.overrides if o not in standard for w in o.split()])
        for row in TABLES[table].rows(STANDARD)
    ]
    assert found == page


@pytest.mark.parametrize("name", sorted(set(re.findall(r"configs/[\w/.-]+\.yaml", PAGE))))
def test_configurations_exist_and_parse(name):
    assert build_cfg(ROOT / name).MODEL.META_ARCHITECTURE


def test_all_configurations_of_the_papers_sets_are_named():
    for folder in ("COCO", "DOTA", "SeaPerson"):
        for path in (ROOT / "configs" / folder).glob("[!B]*.yaml"):
            assert f"configs/{folder}/{path.name}" in PAGE


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_fit_their_scripts(words, monkeypatch):
    """The script's own parser takes the words, and the configuration its keys."""
    path = ROOT / words[0]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", words)
    args = module.parse_args()
    if getattr(args, "config_file", None):
        cfg = build_cfg(ROOT / args.config_file, args.opts)
        refiner = getattr(args, "refiner", None)
        if refiner:
            assert (cfg.MODEL.META_ARCHITECTURE == "CPRNet") == (refiner == "cpr")


def test_a_command_reads_what_another_has_written():
    """By hand: points and weights that a command needs come from one before it."""
    made: set[str] = set()
    for words in commands():
        written = {
            word
            for before, word in zip(words, words[1:], strict=False)
            if before in ("--output", "OUTPUT_DIR")
        }
        for word in set(words) - written:
            for name in re.findall(r"output/\w+/\w+(?:\.json)?", word):
                assert name in made, name
        made |= written
