"""Static quantisation of an exported graph: convs of the network in 8 bits, all else as it was."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

# Enough for the ranges of activations to settle; more only take time.
CALIBRATION_IMAGES = 64


def trunk_convs(proto) -> list[str]:
    """Names of the graph's convs but the first and those that make the maps of scores and offsets.

    The outputs of the last ones are the scores and coordinates themselves; the first sees the image
    in all its range. They take a few per cent of the time, and cost most of the accuracy.
    """
    producer = {output: node for node in proto.graph.node for output in node.output}
    convs = [node for node in proto.graph.node if node.op_type == "Conv"]
    behind: set[str] = set()  # nodes that some conv reads, directly or not
    todo = [node.input[0] for node in convs]
    while todo:
        node = producer.get(todo.pop())
        if node is not None and node.name not in behind:
            behind.add(node.name)
            todo += node.input
    return [node.name for node in convs if node.name in behind][1:]


def quantize(proto, feeds: Sequence[dict[str, np.ndarray]]):
    """A copy of the `onnx.ModelProto` with 8-bit convs.

    Weights are int8 with a scale per channel, activations uint8 with the range that they had on
    `feeds`: the fast kernels of CPUs. The graph stays plain ONNX (QuantizeLinear and
    DequantizeLinear around each conv), its inputs and outputs stay as they are.

    Args:
        proto: an exported graph with named nodes; not changed.
        feeds: inputs of the graph for calibration, one dict each.
    """
    import onnx
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self, items: Iterable[dict[str, np.ndarray]]):
            self._items = iter(items)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._items, None)

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    # It advises its own pre-processing (folding, shapes), which the export has done already.
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.onnx"
            quantization.quantize_static(
                copy,
                path,
                Reader(feeds),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                nodes_to_quantize=trunk_convs(proto),
                per_channel=True,
                weight_type=quantization.QuantType.QInt8,
                activation_type=quantization.QuantType.QUInt8,
            )
            result = onnx.load(path)
    finally:
        logger.setLevel(level)
    del result.metadata_props[:]
    return result
