"""configs/Ablations: each row of the tables is what its options say, and no row is missing."""

import re
import shlex
from pathlib import Path

import pytest
from detectron2.config import CfgNode

from cpr.engine import build_cfg, build_network

ABLATIONS = Path(__file__).parents[1] / "configs" / "Ablations"
PAGE = (ABLATIONS / "README.md").read_text(encoding="utf-8")
FILES = sorted(path.name for path in ABLATIONS.glob("cprnet_*.yaml"))
# Rows of each table of the paper.
TABLES = {"2": 6, "4a": 6, "4b": 6, "4c": 5, "5a": 4, "5b": 4, "5c": 7}


def rows() -> list[tuple[str, str, str, str, str]]:
    """(section, its config, row, options, file) of each row of the page."""
    found = []
    for section in PAGE.split("\n## ")[1:]:
        title = section.splitlines()[0]
        base = re.search(r"^On `([^`]+\.yaml)`", section, re.MULTILINE)[1]
        for line in section.splitlines():
            cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
            if line.startswith("|") and cells[0] != "row" and not line.startswith("|---"):
                row, _, options, file = cells
                found.append((title, base, row, "" if options == "default" else options, file))
    return found


def flat(cfg: CfgNode, prefix: str = "") -> dict:
    values = {}
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = value
    return values


def named(row) -> str:
    return f"{row[0].split(':')[0]}, {row[2]}"


@pytest.mark.parametrize("row", rows(), ids=named)
def test_row_is_what_its_options_say(row):
    _, base, _, options, file = row
    plain, changed = (
        flat(build_cfg(ABLATIONS / base, opts)) for opts in ([], shlex.split(options))
    )
    # Options say what is so anyway for the aspect 1:1 only.
    said = dict(zip(*[iter(shlex.split(options))] * 2, strict=True))
    if said.get("MODEL.CPRNET.REGION_ASPECT") == "1.0":
        del said["MODEL.CPRNET.REGION_ASPECT"]
    assert {key for key in plain if plain[key] != changed[key]} == said.keys()
    if file:
        assert flat(build_cfg(ABLATIONS / file)) == changed


def test_every_row_of_the_paper_and_every_file_is_there():
    titles = [row[0] for row in rows()]
    for table, count in TABLES.items():
        assert sum(title.startswith(f"Table {table}:") for title in titles) == count
    assert sorted(row[4] for row in rows() if row[4]) == FILES


def test_p2_is_the_coco_config_on_another_level():
    one, other = (
        flat(build_cfg(ABLATIONS / name))
        for name in ("../COCO/cprnet_r50_fpn_p3_12e.yaml", "cprnet_p2_r15.yaml")
    )
    assert {key for key in one if one[key] != other[key]} == {
        "MODEL.RESNETS.OUT_FEATURES",
        "MODEL.FPN.IN_FEATURES",
        "MODEL.CPRNET.IN_FEATURE",
        "MODEL.CPRNET.RADIUS",
    }
    model = build_network(
        build_cfg(ABLATIONS / "cprnet_p2_r15.yaml", ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    )
    assert (model.stride, model.radius, len(model.offsets)) == (4, 15, 961)
