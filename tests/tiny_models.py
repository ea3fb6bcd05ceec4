"""Small configurations and inputs on which the real networks run in milliseconds."""

import torch
from detectron2.config import get_cfg
from detectron2.structures import Boxes, Instances

from cpr.config import add_cpr_config


def tiny_cfg(meta_architecture: str, *, num_classes: int = 2, level: str = "p2", **overrides):
    """ResNet-18 without res5, FPN and head of 32 channels, GroupNorm, random weights, CPU."""
    cfg = get_cfg()
    add_cpr_config(cfg)
    stages = ["res2", "res3", "res4"]
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = meta_architecture
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_single_level_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.NORM = "GN"
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.OUT_FEATURES = stages
    cfg.MODEL.FPN.IN_FEATURES = stages[stages.index(level.replace("p", "res")) :]
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    cfg.MODEL.FPN.NORM = "GN"
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    cfg.INPUT.FORMAT = "RGB"
    for node in (cfg.MODEL.CPRNET, cfg.MODEL.P2PNET):
        node.NUM_CLASSES = num_classes
        node.IN_FEATURE = level
        node.NUM_CONVS = 1
        node.CONV_DIM = 32
    cfg.MODEL.CPRNET.RADIUS = 2
    cfg.MODEL.REPPOINTS.NUM_CLASSES = num_classes
    cfg.MODEL.REPPOINTS.IN_FEATURES = [level]
    cfg.MODEL.REPPOINTS.NUM_CONVS = 1
    cfg.MODEL.REPPOINTS.CONV_DIM = 32
    cfg.MODEL.REPPOINTS.POINT_CONV_DIM = 32
    cfg.merge_from_list([item for pair in overrides.items() for item in pair])
    return cfg


def point_input(points, labels, *, size=(64, 96), seed=0, regions=(), original=None):
    """One input dict of the networks: a random image with annotated points."""
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    instances = Instances(size)
    instances.gt_points = torch.tensor(points, dtype=torch.float32).reshape(-1, 2)
    instances.gt_classes = torch.tensor(labels, dtype=torch.long)
    instances.gt_ids = torch.arange(len(labels)) + 100 * seed + 1
    original = original or size
    return {
        "image": torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8),
        "height": original[0],
        "width": original[1],
        "image_id": seed + 1,
        "file_name": f"{seed}.png",
        "instances": instances,
        "ignore_regions": torch.tensor(regions, dtype=torch.float32).reshape(-1, 4),
    }


def box_input(boxes, labels, **settings):
    """As `point_input`, annotated with boxes (x1, y1, x2, y2) and their centres."""
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    item = point_input(((boxes[:, :2] + boxes[:, 2:]) / 2).tolist(), labels, **settings)
    item["instances"].gt_boxes = Boxes(boxes)
    return item
