"""What the plumbing must know of a network: whether it learns boxes, and how many classes."""

from __future__ import annotations

from detectron2.config import CfgNode

from cpr_deploy.files import InputError

# The networks of the paper; they read points. Every other meta-architecture is taken for a box
# detector, so that another one of Detectron2's needs a config only.
REFINER = "CPRNet"
POINT_NETWORKS = (REFINER, "P2PNet")
# Where the config node is not called as the meta-architecture.
NODES = {"GeneralizedRCNN": "ROI_HEADS"}


def is_box_detector(cfg: CfgNode) -> bool:
    """Whether the network learns boxes, whose centres are its points (Table 3 of the paper)."""
    return cfg.MODEL.META_ARCHITECTURE not in POINT_NETWORKS


def check_localizer(cfg: CfgNode) -> None:
    """InputError if the network refines points instead of predicting them."""
    if cfg.MODEL.META_ARCHITECTURE == REFINER:
        raise InputError(
            f"MODEL.META_ARCHITECTURE is {REFINER}, which predicts no points; a localizer is needed"
            " (P2PNet, RetinaNet, GeneralizedRCNN, RepPoints). Give its config file."
        )


def classes_key(architecture: str) -> str:
    """The key of a network's number of classes."""
    return f"MODEL.{NODES.get(architecture, architecture.upper())}.NUM_CLASSES"


def num_classes(cfg: CfgNode) -> tuple[str, int | None]:
    """The key of the network's number of classes, and its value; None if there is no such key."""
    key = classes_key(cfg.MODEL.META_ARCHITECTURE)
    return key, cfg.MODEL.get(key.split(".")[1], {}).get("NUM_CLASSES")
