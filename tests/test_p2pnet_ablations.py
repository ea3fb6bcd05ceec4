"""configs/Ablations/p2pnet_*: each file is what its options say; the original P2PNet's settings."""

import re
import shlex
from pathlib import Path

import pytest
from detectron2.config import CfgNode

from cpr.engine import build_cfg

ABLATIONS = Path(__file__).parents[1] / "configs" / "Ablations"
COCO = "../COCO/p2pnet_r50_fpn_p3_12e.yaml"
ROWS = re.findall(
    r"^\| ([^|]+) \| (?:`(.+)`|see the file) \| (?:`(\S+)`)? ?\|$",
    (ABLATIONS / "P2PNet.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)
# Published: ICCV 2021, its released code.
ORIGINAL = {
    "MODEL.P2PNET.POINTS_PER_LOCATION": 4,
    "MODEL.P2PNET.OFFSET_SCALE": 100.0,
    "MODEL.P2PNET.ASSIGNER": "hungarian",
    "MODEL.P2PNET.TOPK": 1,
    "MODEL.P2PNET.COST_RULE": "probability",
    "MODEL.P2PNET.COST_CLASS": 1.0,
    "MODEL.P2PNET.COST_DISTANCE": "l2",
    "MODEL.P2PNET.COST_POINT": 0.05,
    "MODEL.P2PNET.CLASS_LOSS": "cross_entropy",
    "MODEL.P2PNET.NO_OBJECT_WEIGHT": 0.5,
    "MODEL.P2PNET.POINT_LOSS": "l2",
    "MODEL.P2PNET.POINT_LOSS_WEIGHT": 2e-4,
    "MODEL.P2PNET.NMS_RULE": "none",
    "SOLVER.OPTIMIZER": "Adam",
    "SOLVER.BASE_LR": 1e-4,
    "SOLVER.BACKBONE_MULTIPLIER": 0.1,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 0.1,
}


def flat(cfg: CfgNode, prefix: str = "") -> dict:
    values = {}
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = value
    return values


def load(file: str, options: list[str] | tuple = ()) -> dict:
    return flat(build_cfg(ABLATIONS / file, options))


@pytest.mark.parametrize("row, options, file", [row for row in ROWS if row[1]])
def test_row_is_what_its_options_say(row, options, file):
    words = shlex.split(options)
    plain, changed = load(COCO), load(COCO, words)
    assert {key for key in plain if plain[key] != changed[key]} == set(words[::2])
    if file:
        assert load(file) == changed


def test_every_file_is_a_row():
    assert sorted(row[2] for row in ROWS if row[2].startswith("p2pnet")) == sorted(
        path.name for path in ABLATIONS.glob("p2pnet_*.yaml")
    )


def test_original_p2pnet_holds_the_published_settings_and_changes_nothing_else():
    plain, original = load(COCO), load("p2pnet_one_to_one.yaml")
    assert {key: original[key] for key in ORIGINAL} == ORIGINAL
    assert {key for key in plain if plain[key] != original[key]} <= ORIGINAL.keys()
