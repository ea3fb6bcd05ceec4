"""Every configuration builds its network; those of the paper's sets hold the official values."""

from pathlib import Path

import pytest
import torch
import yaml
from detectron2.modeling import build_model

from cpr.data.dataset_mapper import build_augmentations
from cpr.engine import build_cfg
from cpr.solver import build_optimizer
from tiny_models import point_input

CONFIGS = Path(__file__).parents[1] / "configs"
ALL = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml"))
NETWORKS = [name for name in ALL if not Path(name).name.startswith("Base-")]
PAPER = [name for name in NETWORKS if name.startswith(("COCO/", "DOTA/", "SeaPerson/"))]
# Of the official code: stride, classes, images per iteration, epochs.
OFFICIAL = {
    "COCO/cprnet_r50_fpn_p3_12e.yaml": (8, 80, 64, 12),
    "COCO/p2pnet_r50_fpn_p3_12e.yaml": (8, 80, 64, 12),
    "DOTA/cprnet_r50_fpn_p3_12e.yaml": (8, 15, 4, 12),
    "DOTA/p2pnet_r50_fpn_p4_12e.yaml": (16, 15, 8, 12),
    "SeaPerson/cprnet_r50_fpn_p2_6e.yaml": (4, 1, 8, 6),
    "SeaPerson/p2pnet_r50_fpn_p2_6e.yaml": (4, 1, 8, 6),
}
# Parameters of the head: published for one network of each kind and set.
HEAD_PARAMETERS = {
    "COCO/cprnet_r50_fpn_p3_12e.yaml": 2_402_464,
    "COCO/p2pnet_r50_fpn_p3_12e.yaml": 4_911_698,
    "DOTA/cprnet_r50_fpn_p3_12e.yaml": 2_369_054,
    "DOTA/p2pnet_r50_fpn_p4_12e.yaml": 3_581_201,
    "SeaPerson/cprnet_r50_fpn_p2_6e.yaml": 2_361_858,
    "SeaPerson/p2pnet_r50_fpn_p2_6e.yaml": 4_729_603,
}
NECK_PARAMETERS = {4: 1_575_424, 8: 1_509_376, 16: 1_377_792}


def parameters(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_network_builds_and_takes_a_step(name):
    cfg = build_cfg(CONFIGS / name, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    torch.manual_seed(0)
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    losses = model([point_input([[20.0, 12.0]], [0], size=(32, 64))])
    total = sum(losses.values())
    total.backward()
    optimizer.step()
    assert torch.isfinite(total) and total > 0
    assert build_augmentations(cfg, is_train=True) and build_augmentations(cfg, is_train=False)
    if name in OFFICIAL:
        stride, classes, _, _ = OFFICIAL[name]
        assert (model.stride, model.num_classes) == (stride, classes)
        assert parameters(model.head) == HEAD_PARAMETERS[name]
        neck = [model.backbone.lateral_convs, model.backbone.output_conv]
        assert sum(map(parameters, neck)) == NECK_PARAMETERS[stride]


def test_the_paper_has_a_network_of_each_kind_for_each_set():
    assert set(PAPER) == set(OFFICIAL)


@pytest.mark.parametrize("name", PAPER)
def test_schedule_is_whole_epochs(name):
    """The rate falls where the official epochs end, and the batch is the official one."""
    solver = build_cfg(CONFIGS / name).SOLVER
    _, _, batch, epochs = OFFICIAL[name]
    assert batch == solver.IMS_PER_BATCH
    assert solver.MAX_ITER % epochs == 0
    epoch = solver.MAX_ITER // epochs
    assert tuple(epoch * k for k in ((8, 11) if epochs == 12 else (4, 5))) == solver.STEPS


@pytest.mark.parametrize(
    "name, key, value",
    [
        ("COCO/cprnet_r50_fpn_p3_12e.yaml", "MODEL.CPRNET.RADIUS", 8),
        ("DOTA/cprnet_r50_fpn_p3_12e.yaml", "MODEL.CPRNET.RADIUS", 7),
        ("SeaPerson/cprnet_r50_fpn_p2_6e.yaml", "MODEL.CPRNET.RADIUS", 5),
        ("COCO/cprnet_r50_fpn_p3_12e.yaml", "MODEL.CPRNET.ALPHA_ANN", 0.5),
        ("DOTA/cprnet_r50_fpn_p3_12e.yaml", "MODEL.CPRNET.ALPHA_ANN", 0.5),
        ("SeaPerson/cprnet_r50_fpn_p2_6e.yaml", "MODEL.CPRNET.ALPHA_ANN", 1.0),
        ("COCO/cprnet_r50_fpn_p3_12e.yaml", "SOLVER.CLIP_GRADIENTS.ENABLED", False),
        ("SeaPerson/cprnet_r50_fpn_p2_6e.yaml", "SOLVER.CLIP_GRADIENTS.ENABLED", True),
        ("SeaPerson/cprnet_r50_fpn_p2_6e.yaml", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 35.0),
        ("SeaPerson/cprnet_r50_fpn_p2_6e.yaml", "SOLVER.BASE_LR", 0.05),
        ("COCO/cprnet_r50_fpn_p3_12e.yaml", "SOLVER.BASE_LR", 0.01),
        ("COCO/p2pnet_r50_fpn_p3_12e.yaml", "INPUT.MIN_SIZE_TEST", 400),
        ("COCO/p2pnet_r50_fpn_p3_12e.yaml", "INPUT.MAX_SIZE_TRAIN", 667),
        ("DOTA/p2pnet_r50_fpn_p4_12e.yaml", "INPUT.MAX_SIZE_TEST", 1024),
        ("DOTA/cprnet_r50_fpn_p3_12e.yaml", "INPUT.MIN_SIZE_TRAIN", (0,)),
        ("SeaPerson/p2pnet_r50_fpn_p2_6e.yaml", "INPUT.MIN_SIZE_TEST", 0),
        ("SeaPerson/p2pnet_r50_fpn_p2_6e.yaml", "MODEL.P2PNET.NMS_SIZE", 16.0),
        ("SeaPerson/p2pnet_r50_fpn_p2_6e.yaml", "MODEL.P2PNET.PRE_NMS_TOPK", 2000),
        ("DOTA/p2pnet_r50_fpn_p4_12e.yaml", "MODEL.P2PNET.NMS_IOU", 0.2),
        ("COCO/p2pnet_r50_fpn_p3_12e.yaml", "MODEL.P2PNET.NMS_IOU", 0.01),
        ("COCO/p2pnet_r50_fpn_p3_12e.yaml", "TEST.POINTS.MAX_DETS", 100),
        ("DOTA/p2pnet_r50_fpn_p4_12e.yaml", "MODEL.P2PNET.MAX_DETS", 1000),
        ("SeaPerson/p2pnet_r50_fpn_p2_6e.yaml", "TEST.POINTS.SIZE_RANGES", "tiny"),
    ],
)
def test_value_of_the_official_configuration(name, key, value):
    node = build_cfg(CONFIGS / name)
    for part in key.split("."):
        node = node[part]
    assert node == value


@pytest.mark.parametrize("name", ALL)
def test_leaves_are_short_and_named_by_architecture_backbone_neck(name):
    path = CONFIGS / name
    lines = path.read_text(encoding="utf-8").splitlines()
    assert yaml.safe_load("\n".join(lines))
    if name in PAPER:
        assert len(lines) < 15
    if name in NETWORKS:
        assert path.name.split("_")[0] in ("cprnet", "p2pnet")
        assert path.name.split("_")[1].startswith("r")
