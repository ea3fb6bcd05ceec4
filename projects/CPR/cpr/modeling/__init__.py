"""Registers the meta-architectures and the backbone builders with Detectron2."""

from .backbone import build_resnet_fpn_single_level_backbone
from .cprnet import CPRNet
from .p2pnet import P2PNet
from .pyramid import build_resnet_fpn_pyramid_backbone
from .reppoints import RepPoints

__all__ = [
    "CPRNet",
    "P2PNet",
    "RepPoints",
    "build_resnet_fpn_pyramid_backbone",
    "build_resnet_fpn_single_level_backbone",
]
