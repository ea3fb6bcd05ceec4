"""Registers the meta-architectures CPRNet and P2PNet and the backbone builder with Detectron2."""

from .backbone import build_resnet_fpn_single_level_backbone
from .cprnet import CPRNet
from .p2pnet import P2PNet

__all__ = ["CPRNet", "P2PNet", "build_resnet_fpn_single_level_backbone"]
