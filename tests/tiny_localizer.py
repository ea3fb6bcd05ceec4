"""A small P2PNet with random but lively weights, its config and its checkpoint, for tests."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "Base-P2PNet.yaml"
CLASS_NAMES = ("car", "person", "seal")


def options(stride: int = 8, classes: int = 3, max_dets: int = 50) -> list[str]:
    """KEY VALUE options: ResNet-18, FPN of 32 channels with GN."""
    first = {4: 2, 8: 3, 16: 4}[stride]
    stages = [f"res{index}" for index in range(first, 6 if stride > 4 else 5)]
    return [
        *("MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"),
        *("MODEL.RESNETS.OUT_FEATURES", str(stages), "MODEL.FPN.IN_FEATURES", str(stages)),
        *("MODEL.FPN.OUT_CHANNELS", "32", "MODEL.P2PNET.CONV_DIM", "32"),
        *("MODEL.P2PNET.NUM_CONVS", "1", "MODEL.P2PNET.NUM_CLASSES", str(classes)),
        *("MODEL.P2PNET.IN_FEATURE", f"p{first}", "MODEL.P2PNET.MAX_DETS", str(max_dets)),
        *("MODEL.P2PNET.PRE_NMS_TOPK", "200", "MODEL.P2PNET.NMS_SIZE", "16.0"),
        *("MODEL.P2PNET.NMS_IOU", "0.2", "MODEL.DEVICE", "cpu"),
    ]


def build(opts: list[str], seed: int = 0):
    """(model, cfg) on the CPU in eval mode, with outputs that vary over the image."""
    import torch
    from detectron2.modeling import build_model

    from cpr.engine import build_cfg

    torch.manual_seed(seed)
    cfg = build_cfg(str(CONFIG), opts)
    model = build_model(cfg).eval()
    torch.nn.init.normal_(model.head.cls_score.weight, std=0.15)
    torch.nn.init.normal_(model.head.point_offset.weight, std=0.05)
    return model, cfg


def save(model, path: Path) -> Path:
    """Writes a checkpoint as training does."""
    import torch

    metadata = {"class_names": list(CLASS_NAMES), "category_ids": [3, 7, 9]}
    torch.save({"model": model.state_dict(), "metadata": metadata}, path)
    return path


@functools.cache
def exported_bytes(stride: int = 8) -> bytes:
    """The ONNX file of such a model, of free size and batch; made once per test run."""
    from cpr.export import export_point_localizer

    model, cfg = build(options(stride))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        report = export_point_localizer(
            model, cfg, path, class_names=CLASS_NAMES, category_ids=[3, 7, 9]
        )
        assert report.passed and report.points > 100
        return path.read_bytes()


def scene(height: int, width: int, seed: int = 0):
    """(height, width, 3) uint8 BGR: noise of several scales."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.float32)
    for step in (4, 16, 64):
        small = rng.uniform(0, 255, (-(-height // step), -(-width // step), 3)).astype(np.float32)
        image += cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR) / 3
    return image.astype(np.uint8)


def environment() -> dict[str, str]:
    """Environment of a script run by a test, which finds the packages as the tests do."""
    paths = [str(ROOT / "projects" / "CPR"), str(ROOT / "deploy")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
