"""Every configuration builds its network; those of the paper's sets hold the official values."""

from pathlib import Path

import pytest
import torch
import yaml
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from cpr.architectures import is_box_detector, num_classes
from cpr.data.dataset_mapper import build_augmentations
from cpr.engine import build_cfg
from cpr.solver import build_optimizer
from tiny_models import box_input, point_input

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
    "SeaPerson/p2pnet_r50_fpn_p2_12e.yaml": (4, 1, 8, 12),
    # Table 4e of the paper; the official code has no file of them.
    "COCO/cprnet_r101_fpn_p3_12e.yaml": (8, 80, 64, 12),
    "COCO/p2pnet_r101_fpn_p3_12e.yaml": (8, 80, 64, 12),
}
# The paper's box detectors, of which the official code has general files only: images per
# iteration, rate per 16 images, side of the pseudo boxes (px), finest stride.
BOX_DETECTORS = {
    f"{dataset}/{detector}_r50_fpn_12e.yaml": (
        16 if dataset == "COCO" else 8,
        0.02 if detector == "faster_rcnn" else 0.01,
        16.0 if dataset == "SeaPerson" else 32.0,
        4 if dataset == "SeaPerson" or detector == "faster_rcnn" else 8,
    )
    for dataset in ("COCO", "DOTA", "SeaPerson")
    for detector in ("reppoints", "retinanet", "faster_rcnn")
}
CLASSES = {"COCO": 80, "DOTA": 15, "SeaPerson": 1}
# Parameters of the head: published for one network of each kind and set; that of ResNet-101 and of
# the longer training are the same.
HEAD_PARAMETERS = {
    "COCO/cprnet_r50_fpn_p3_12e.yaml": 2_402_464,
    "COCO/p2pnet_r50_fpn_p3_12e.yaml": 4_911_698,
    "DOTA/cprnet_r50_fpn_p3_12e.yaml": 2_369_054,
    "DOTA/p2pnet_r50_fpn_p4_12e.yaml": 3_581_201,
    "SeaPerson/cprnet_r50_fpn_p2_6e.yaml": 2_361_858,
    "SeaPerson/p2pnet_r50_fpn_p2_6e.yaml": 4_729_603,
    "SeaPerson/p2pnet_r50_fpn_p2_12e.yaml": 4_729_603,
    "COCO/cprnet_r101_fpn_p3_12e.yaml": 2_402_464,
    "COCO/p2pnet_r101_fpn_p3_12e.yaml": 4_911_698,
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
    if is_box_detector(cfg):
        with EventStorage():  # Detectron2's detectors log there
            losses = model([box_input([[12.0, 4.0, 28.0, 20.0]], [0], size=(32, 64))])
    else:
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
    assert set(PAPER) == {*OFFICIAL, *BOX_DETECTORS}


@pytest.mark.parametrize("name", PAPER)
def test_schedule_is_whole_epochs(name):
    """The rate falls where the official epochs end, and the batch is the official one."""
    solver = build_cfg(CONFIGS / name).SOLVER
    if name in OFFICIAL:
        _, _, batch, epochs = OFFICIAL[name]
    else:
        batch, epochs = BOX_DETECTORS[name][0], 12
    assert batch == solver.IMS_PER_BATCH
    assert solver.MAX_ITER % epochs == 0
    epoch = solver.MAX_ITER // epochs
    assert tuple(epoch * k for k in ((8, 11) if epochs == 12 else (4, 5))) == solver.STEPS


# Images of an epoch: COCO 2017 with objects, DOTA's tiles with objects, all tiles of SeaPerson.
EPOCHS = {"COCO": 117_266, "DOTA": 9_734, "SeaPerson": 5_711 * 8}


@pytest.mark.parametrize("name", PAPER)
def test_an_epoch_is_the_images_of_the_set(name):
    solver = build_cfg(CONFIGS / name).SOLVER
    epochs = int(name.removesuffix("e.yaml").rpartition("_")[2])
    images = EPOCHS[name.split("/")[0]]
    # The last batch of an epoch is filled up.
    assert -(-images // solver.IMS_PER_BATCH) * epochs == solver.MAX_ITER


@pytest.mark.parametrize("name", BOX_DETECTORS)
def test_box_detectors_of_the_paper(name):
    """Rate in proportion to the batch, pseudo boxes, and the same data as for P2PNet."""
    cfg = build_cfg(CONFIGS / name, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    dataset = name.split("/")[0]
    batch, rate, side, stride = BOX_DETECTORS[name]
    assert pytest.approx(rate * batch / 16) == cfg.SOLVER.BASE_LR
    assert side == cfg.MODEL.PSEUDO_BOX.SIZE
    assert num_classes(cfg)[1] == CLASSES[dataset]
    assert cfg.MODEL.FPN.IN_FEATURES[0] == {4: "res2", 8: "res3"}[stride]
    localizer = next(n for n in OFFICIAL if n.startswith(f"{dataset}/p2pnet_r50"))
    other = build_cfg(CONFIGS / localizer)
    for key in ("MIN_SIZE_TRAIN", "MAX_SIZE_TRAIN", "MIN_SIZE_TEST", "MAX_SIZE_TEST", "FORMAT"):
        assert cfg.INPUT[key] == other.INPUT[key]
    assert cfg.TEST.POINTS == other.TEST.POINTS
    own = cfg.MODEL.REPPOINTS.MAX_DETS if "reppoints" in name else cfg.TEST.DETECTIONS_PER_IMAGE
    assert own == other.MODEL.P2PNET.MAX_DETS


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
    ablation = name.startswith("Ablations/")
    if name in PAPER or ablation:
        assert len(lines) < 15
    if name in NETWORKS:
        networks = ("cprnet", "p2pnet", "reppoints", "retinanet", "faster")
        assert path.name.split("_")[0] in networks
        # Ablations are named by what they change.
        backbone = path.name.removeprefix("faster_").split("_")[1]
        assert backbone.startswith("r") or ablation
