"""A trained P2PNet as a single ONNX file, compared with the eager model before it is written."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import logging
import os
import platform
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import nn

from cpr_deploy.files import InputError, atomic_path
from cpr_deploy.model_spec import ModelSpec
from cpr_deploy.onnx_check import check_onnx
from cpr_deploy.parity import TOLERANCES
from cpr_deploy.point_localizer import PointLocalizer

from .engine import build_cfg, build_network
from .export_graph import NMS_ITERATIONS, SIZE_MULTIPLE, PointLocalizerGraph
from .export_int8 import CALIBRATION_IMAGES, quantize
from .export_ops import DATA_DEPENDENT, host_nodes
from .export_parity import ParityError, ParityReport, compare_with_eager, largest_activation
from .folding import fold_norms
from .inference import load_model

__all__ = [
    "ParityError",
    "ParityReport",
    "PointLocalizerGraph",
    "compare_with_eager",
    "export_point_localizer",
    "load_localizer",
]

logger = logging.getLogger(__name__)

EXPORTERS = ("dynamo", "legacy")
# ONNX Runtime's CUDA kernels know no newer schema of ReduceMax; see `export_ops`.
DEFAULT_OPSET = 18
OPSETS = range(18, 21)
# Operators whose output size or control flow depends on data.
FORBIDDEN_OPS = frozenset(DATA_DEPENDENT)
# fp16: backbone and head in half precision. int8: their convs quantised. Decoding, coordinates,
# inputs and outputs are the same in all.
PRECISIONS = ("fp32", "fp16", "int8")
LARGEST_HALF = 65504.0


def export_point_localizer(
    model: nn.Module,
    cfg: CfgNode,
    output: str | os.PathLike,
    *,
    class_names: Sequence[str],
    category_ids: Sequence[int] = (),
    static_size: tuple[int, int] | None = None,
    batch: int | None = None,
    exporter: str = "dynamo",
    opset: int = DEFAULT_OPSET,
    precision: str = "fp32",
    calibration_images: Sequence[np.ndarray] = (),
    max_candidates: int | None = None,
    nms_iterations: int = NMS_ITERATIONS,
    weights_sha256: str = "",
    parity_images: Sequence[np.ndarray] = (),
) -> ParityReport:
    """Writes `model` (a P2PNet) as a single ONNX file, after comparing it with the eager model.

    Args:
        cfg: the model's config; gives the pixel format and the recommended resize.
        class_names: one per class; category_ids: their ids in annotation files, or none.
        static_size: (height, width) of the only input size, multiples of 32; None leaves it free.
        batch: the only batch size; None leaves it free.
        exporter: "dynamo", or "legacy" (TorchScript) where dynamo fails.
        precision: one of PRECISIONS.
        calibration_images: (H, W, 3) uint8 BGR images like those that the model will see, resized
            as it recommends; needed for, and used by, "int8" only. The first CALIBRATION_IMAGES.
        max_candidates: (location, class) pairs that enter NMS; default PRE_NMS_TOPK,
            with several classes twice that if it is at most 2,000.
        nms_iterations: rounds of the unrolled NMS; more for denser crowds (flag bit 0).
        parity_images: (H, W, 3) uint8 BGR images to cut the comparison's inputs from; without them
            synthetic ones are used.

    Raises:
        InputError: meaningless arguments.
        ParityError: the graph differs from the model. No file is written.
    """
    if exporter not in EXPORTERS:
        raise InputError(f"exporter {exporter!r}: one of {', '.join(EXPORTERS)} is needed.")
    if opset not in OPSETS:
        raise InputError(f"opset {opset}: {OPSETS[0]} to {OPSETS[-1]} are supported.")
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r}: one of {', '.join(PRECISIONS)} is needed.")
    if precision == "int8" and not len(calibration_images):
        raise InputError(
            "precision int8: images for calibration are needed, some dozens like those that the"
            " model will see. Give their folder with --calibration."
        )
    if static_size is not None and (
        min(static_size) < SIZE_MULTIPLE or any(side % SIZE_MULTIPLE for side in static_size)
    ):
        raise InputError(
            f"static size {static_size[0]}x{static_size[1]}: height and width must be multiples of"
            f" {SIZE_MULTIPLE}."
        )
    if len(class_names) != model.num_classes:
        raise InputError(
            f"{len(class_names)} class names for a model of {model.num_classes} classes. Give one"
            " name per class, in the order of the category ids of the training annotations."
        )
    model = copy.deepcopy(model).to("cpu").float().eval()
    options = {
        "input_format": cfg.INPUT.FORMAT,
        "max_candidates": max_candidates,
        "nms_iterations": nms_iterations,
    }
    graph = PointLocalizerGraph(model, **options).eval()
    deployed = PointLocalizerGraph(fold_norms(copy.deepcopy(model)), **options).eval()
    if precision == "fp16":
        _check_half_range(graph, parity_images)
        deployed.half_()
    with torch.no_grad(), warnings.catch_warnings():
        # Of the exporters about themselves; what they make is compared with the model below.
        warnings.simplefilter("ignore")
        proto = _trace(deployed, static_size, batch, exporter, opset)
    spec = dataclasses.replace(
        _spec(graph, cfg, class_names, static_size, batch),
        category_ids=tuple(category_ids),
        exporter=exporter,
        opset=opset,
        weights_sha256=weights_sha256,
        precision=precision,
    )
    if precision == "int8":
        localizer = PointLocalizer(_file_bytes(proto, spec))
        feeds = [localizer.inputs(image) for image in calibration_images[:CALIBRATION_IMAGES]]
        proto = quantize(proto, feeds)
    data = _file_bytes(proto, spec)
    summary = check_onnx(data, str(output))
    forbidden = sorted({op for _, op in summary.op_types} & FORBIDDEN_OPS)
    if forbidden:
        raise RuntimeError(f"the exported graph holds {forbidden}, which accelerators cannot run")
    if static_size is not None and batch is not None:
        for line in host_nodes(proto):
            logger.warning("%s: not all of it can run on a GPU: %s", output, line)
    # What an int8 file does beyond the range of its calibration says nothing.
    images = parity_images if len(parity_images) else calibration_images
    report = compare_with_eager(graph, data, images=images, tolerance=TOLERANCES[precision])
    logger.info("%s", report)
    if not report.passed:
        raise ParityError(report)
    with atomic_path(output) as temporary:
        temporary.write_bytes(data)
    return report


def _file_bytes(proto, spec: ModelSpec) -> bytes:
    del proto.metadata_props[:]
    for key, value in spec.to_metadata().items():
        proto.metadata_props.add(key=key, value=value)
    return proto.SerializeToString()


def _check_half_range(graph: PointLocalizerGraph, images: Sequence[np.ndarray]) -> None:
    """InputError if activations of the network leave the range of half precision."""
    largest = largest_activation(graph, images)
    # Other images may go higher than those tried.
    if not largest < LARGEST_HALF / 4:
        raise InputError(
            f"precision fp16: activations of this model reach {largest:.0f}, too near to the"
            f" largest number of half precision, {LARGEST_HALF:.0f}. Export it as fp32."
        )


def load_localizer(
    config_file: str | os.PathLike, weights: str | None, opts: Sequence[str] = ()
) -> tuple[nn.Module, CfgNode, dict]:
    """The P2PNet of a config with the weights of a checkpoint, on the CPU.

    Returns the model, its config and what the checkpoint says about the classes ("class_names",
    "category_ids"; {} if nothing). Without `weights` they are random.
    """
    cfg = build_cfg(config_file, [*opts, "MODEL.DEVICE", "cpu"])
    if cfg.MODEL.META_ARCHITECTURE != "P2PNet":
        raise InputError(
            f"{config_file}: describes a {cfg.MODEL.META_ARCHITECTURE}; only P2PNet is exported."
        )
    if not weights:
        return build_network(cfg).eval(), cfg, {}
    model, metadata = load_model(cfg, weights)
    return model, cfg, metadata


def _trace(
    graph: PointLocalizerGraph,
    static_size: tuple[int, int] | None,
    batch: int | None,
    exporter: str,
    opset: int,
):
    """The graph as an `onnx.ModelProto`."""
    import onnx

    # An axis that is to be free must not be 1 in the example, nor equal another one.
    height, width = static_size or (3 * SIZE_MULTIPLE, 4 * SIZE_MULTIPLE)
    example = (
        torch.zeros(batch or 2, height, width, 3, dtype=torch.uint8),
        torch.ones(batch or 2, 2),
    )
    names = {
        "input_names": ["images", "scale"],
        "output_names": ["points", "scores", "labels", "valid", "flags"],
    }
    if exporter == "dynamo":
        axes: tuple[dict, dict] = ({}, {})
        if batch is None:
            batch_dim = torch.export.Dim("batch", min=1, max=1 << 10)
            axes[0][0] = axes[1][0] = batch_dim
        if static_size is None:
            axes[0][1] = SIZE_MULTIPLE * torch.export.Dim("rows", min=1, max=1 << 10)
            axes[0][2] = SIZE_MULTIPLE * torch.export.Dim("columns", min=1, max=1 << 10)
        program = torch.onnx.export(
            graph,
            example,
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=axes if any(axes) else None,
            external_data=False,
            verbose=False,
            **names,
        )
        proto = program.model_proto
    else:
        import io

        free: dict[str, dict[int, str]] = {name: {} for names_ in names.values() for name in names_}
        if batch is None:
            for axes_of in free.values():
                axes_of[0] = "batch"
        if static_size is None:
            free["images"].update({1: "height", 2: "width"})
        buffer = io.BytesIO()
        torch.onnx.export(
            graph,
            example,
            buffer,
            dynamo=False,
            opset_version=opset,
            dynamic_axes=free,
            do_constant_folding=True,
            **names,
        )
        proto = onnx.load_model_from_string(buffer.getvalue())
    # Traces of the source (paths, stack frames) do not belong into a file for others.
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*proto.graph.value_info, *proto.graph.input, *proto.graph.output]:
        del value.metadata_props[:]
    for tensor in proto.graph.initializer:
        del tensor.metadata_props[:]
    del proto.graph.metadata_props[:]
    del proto.metadata_props[:]
    proto.doc_string = proto.graph.doc_string = ""
    return proto


def _spec(
    graph: PointLocalizerGraph,
    cfg: CfgNode,
    class_names: Sequence[str],
    static_size: tuple[int, int] | None,
    batch: int | None,
) -> ModelSpec:
    import onnx

    model, decode = graph.model, graph.model.decode
    mean = [float(value) for value in model.pixel_mean.reshape(-1)]
    if graph.flip_channels:
        mean.reverse()
    height, width = static_size or (None, None)
    return ModelSpec(
        class_names=tuple(class_names),
        batch=batch,
        height=height,
        width=width,
        size_multiple=SIZE_MULTIPLE,
        stride=int(model.stride),
        pad_bgr=tuple(min(255, max(0, round(value))) for value in mean),
        min_size=int(cfg.INPUT.MIN_SIZE_TEST),
        max_size=int(cfg.INPUT.MAX_SIZE_TEST),
        resize_factor=float(cfg.INPUT.SCALE),
        score_thresh=float(decode.score_thresh),
        pre_nms_topk=graph.pre_nms_topk,
        max_candidates=graph.max_candidates,
        max_dets=graph.max_dets,
        nms_rule=decode.nms_rule,
        nms_size=float(decode.nms_size),
        nms_iou=float(decode.nms_iou),
        nms_radius=float(decode.nms_radius),
        nms_iterations=graph.nms_iterations,
        config_sha256=hashlib.sha256(cfg.dump().encode()).hexdigest(),
        versions={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "onnx": onnx.__version__,
        },
    )
