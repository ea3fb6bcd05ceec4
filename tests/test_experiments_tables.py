import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from cpr.config import add_cpr_config
from cpr.engine import build_cfg
from cpr.experiments.recipes import as_options, find_recipe, settings_keys
from cpr.experiments.settings import suggest_settings
from cpr.experiments.tables import PAPER_RADII, TABLES, Standard
from test_experiments_settings import dataset
from tiny_models import point_input
from tool_runner import ROOT

SETTINGS = suggest_settings(dataset())
STANDARD = Standard.of(SETTINGS)
# Typed from the paper; mAP at tau = 1 on COCO.
COCO = {
    "1": [37.42, 38.48, 50.86, 55.46, 57.47],
    "2": [39.07, 39.45, 54.24, 51.82, 42.72, 55.46],
    "3": [32.61, 35.29, 37.42, 51.35, 53.21, 53.97],
    "4c": [45.17, 54.96, 54.25, 52.69, 55.46],
    "4d": [38.48, 55.46, 57.47],
    "4e": [None, None, 55.46, 55.80, 56.43],
    "5a": [55.46, 55.39, 54.77, 54.96],
    "5b": [55.25, 55.46, 55.36, 55.42],
    "5c": [55.46, 55.98, 56.04, 55.78, 55.19, 55.46, 55.22, 55.41],
}


@pytest.mark.parametrize("name", COCO)
def test_paper_figures(name):
    rows = TABLES[name].rows(STANDARD)
    assert [row.paper.get("COCO") for row in rows] == COCO[name]


def test_paper_figures_of_the_other_sets():
    rows = {row.key: row for row in TABLES["1"].rows(STANDARD)}
    assert rows["cpr"].paper == {"COCO": 55.46, "DOTA": 63.81, "SeaPerson": 85.86}
    assert rows["self"].paper["SeaPerson"] == 84.96
    rows = {row.key: row for row in TABLES["3"].rows(STANDARD)}
    assert rows["retinanet_cpr"].paper["DOTA"] == 63.69


@pytest.mark.parametrize("name", TABLES)
def test_rows_can_be_configured(name):
    recipe = find_recipe("SmallSets", ROOT / "configs")
    rows = TABLES[name].rows(STANDARD)
    assert len({row.key for row in rows}) == len(rows)
    for row in rows:
        for architecture, keys in (
            ("CPRNet", {**row.cprnet, **row.refine}),
            (row.localizer, row.localizer_keys),
        ):
            keys = {**settings_keys(SETTINGS, architecture), **keys}
            options = [item for pair in keys.items() for item in (pair[0], str(pair[1]))]
            cfg = build_cfg(recipe.config(architecture), [*options, "MODEL.DEVICE", "cpu"])
            assert architecture == cfg.MODEL.META_ARCHITECTURE


@pytest.mark.parametrize("name", ["2", "4c", "5a", "choices"])
def test_one_row_is_the_standard_configuration(name):
    standard = [row for row in TABLES[name].rows(STANDARD) if not row.overrides]
    assert len(standard) == 1 and standard[0].key == "cpr"
    default = get_cfg()
    add_cpr_config(default)
    for row in TABLES[name].rows(STANDARD):
        keys = {**row.cprnet, **row.refine, **row.localizer_keys}
        changed = [key for key, value in keys.items() if default_of(default, key) != value]
        assert bool(changed) == (row not in standard), row.key


def default_of(node, key):
    for part in key.split("."):
        node = node[part]
    return node


def test_radii_keep_the_paper_s_ratios():
    radii = [row.cprnet["MODEL.CPRNET.RADIUS"] for row in TABLES["4b"].rows(STANDARD)]
    # R = 3 fits objects of 20 px at stride 4; the paper's 15 of 5 ... 40 is its like.
    assert radii == [1, 2, 3, 4, 6, 8]
    # The benchmarks' recipes take the paper's own.
    rows = TABLES["4a"].rows(Standard(PAPER_RADII, 16.0))
    assert [row.cprnet["MODEL.CPRNET.RADIUS"] for row in rows] == [5, 8, 10, 15, 20, 25]
    assert rows[1].paper == {"COCO": 55.46} and all(row.level == "p3" for row in rows)


@pytest.mark.parametrize("key", ["paper", "two_towers", "realtime", "realtime_64"])
def test_heads_for_deployment_learn(key):
    """The network of each row takes a step; the realtime ones hold no norm but BatchNorm."""
    rows = {row.key: row for row in TABLES["realtime"].rows(STANDARD)}
    assert all(row.points == "cpr" and not row.cprnet and not row.refine for row in rows.values())
    recipe = find_recipe("SmallSets", ROOT / "configs")
    keys = {**settings_keys(SETTINGS, "P2PNet"), **rows[key].localizer_keys}
    options = [*as_options(keys), "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""]
    torch.manual_seed(0)
    model = build_model(build_cfg(recipe.config("P2PNet"), options))
    losses = model([point_input([[20.0, 12.0]], [0], size=(32, 64), seed=i) for i in range(2)])
    sum(losses.values()).backward()
    norms = {type(module).__name__ for module in model.head.modules()}
    folds = "BatchNorm2d" in norms and "GroupNorm" not in norms
    assert folds == key.startswith("realtime")
    for parameter in model.head.parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all()


def test_the_paper_s_head_is_that_of_the_paper_s_configurations():
    rows = {row.key: row for row in TABLES["realtime"].rows(STANDARD)}
    cfg = build_cfg(ROOT / "configs/SeaPerson/p2pnet_r50_fpn_p2_6e.yaml", ["MODEL.DEVICE", "cpu"])
    realtime = build_cfg(
        ROOT / "configs/Realtime/p2pnet_r50_fpn128_p2_6e.yaml", ["MODEL.DEVICE", "cpu"]
    )
    for name, value in rows["paper"].localizer_keys.items():
        assert default_of(cfg, name) == value
    for name, value in rows["realtime"].localizer_keys.items():
        # SyncBN is BN over the images of all GPUs.
        assert default_of(realtime, name) == (f"Sync{value}" if value == "BN" else value)
