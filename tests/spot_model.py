"""A point localizer without a network: one point at the centre of every bright 8 x 8 px cell.

What it must find is known exactly, in any number, and it is made without torch.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
CELL = 8
MAX_POINTS = 6000


@functools.cache
def model_bytes(max_points: int = MAX_POINTS) -> bytes:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from cpr_deploy.model_spec import ModelSpec

    def constant(name, values, kind):
        return numpy_helper.from_array(np.array(values, kind), name)

    node = helper.make_node
    nodes = [
        # The mean of the blue channel over each cell, 0 to 1.
        node("Slice", ["images", "zero1", "one1", "axis3"], ["blue"]),
        node("Cast", ["blue"], ["blue_float"], to=TensorProto.FLOAT),
        node("Transpose", ["blue_float"], ["plane"], perm=[0, 3, 1, 2]),
        node("AveragePool", ["plane"], ["cells"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        node("Div", ["cells", "white"], ["brightness"]),
        node("Shape", ["brightness"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"], axis=0),
        node("Gather", ["shape", "three"], ["columns"], axis=0),
        node("Unsqueeze", ["batch", "zero1"], ["batch1"]),
        node("Concat", ["batch1", "minus1"], ["flat_shape"], axis=0),
        node("Reshape", ["brightness", "flat_shape"], ["flat"]),
        # Never fewer than K.
        node("Concat", ["batch1", "count1"], ["fill_shape"], axis=0),
        node("Expand", ["float_zero", "fill_shape"], ["fill"]),
        node("Concat", ["flat", "fill"], ["filled"], axis=1),
        node("TopK", ["filled", "count1"], ["scores", "places"], axis=1),
        node("Div", ["places", "columns"], ["row"]),
        node("Mod", ["places", "columns"], ["column"]),
        node("Unsqueeze", ["column", "two1"], ["column1"]),
        node("Unsqueeze", ["row", "two1"], ["row1"]),
        node("Concat", ["column1", "row1"], ["cell"], axis=2),
        node("Cast", ["cell"], ["cell_float"], to=TensorProto.FLOAT),
        node("Add", ["cell_float", "half"], ["centre"]),
        node("Mul", ["centre", "side"], ["network_points"]),
        node("Unsqueeze", ["scale", "one1"], ["scale1"]),
        node("Div", ["network_points", "scale1"], ["points"]),
        node("Greater", ["scores", "half"], ["bright"]),
        node("Cast", ["bright"], ["bright_int"], to=TensorProto.INT64),
        node("ReduceSum", ["bright_int", "one1"], ["valid"], keepdims=0),
        node("Mul", ["places", "zero"], ["labels"]),
        node("Mul", ["valid", "zero"], ["flags"]),
    ]
    constants = [
        *(constant(f"{name}1", [value], np.int64) for name, value in _NUMBERS.items()),
        constant("zero", 0, np.int64),
        constant("three", 3, np.int64),
        constant("axis3", [3], np.int64),
        constant("count1", [max_points], np.int64),
        constant("minus1", [-1], np.int64),
        constant("white", 255.0, np.float32),
        constant("float_zero", 0.0, np.float32),
        constant("half", 0.5, np.float32),
        constant("side", CELL, np.float32),
    ]
    value = helper.make_tensor_value_info
    inputs = [
        value("images", TensorProto.UINT8, ["n", "h", "w", 3]),
        value("scale", TensorProto.FLOAT, ["n", 2]),
    ]
    outputs = [
        value("points", TensorProto.FLOAT, ["n", max_points, 2]),
        value("scores", TensorProto.FLOAT, ["n", max_points]),
        value("labels", TensorProto.INT64, ["n", max_points]),
        value("valid", TensorProto.INT64, ["n"]),
        value("flags", TensorProto.INT64, ["n"]),
    ]
    graph = helper.make_graph(nodes, "spots", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    spec = ModelSpec(
        class_names=("spot",),
        batch=None,
        height=None,
        width=None,
        size_multiple=32,
        stride=CELL,
        pad_bgr=(0, 0, 0),
        min_size=0,
        max_size=0,
        score_thresh=0.5,
        pre_nms_topk=max_points,
        max_candidates=max_points,
        max_dets=max_points,
        nms_rule="radius",
        nms_size=0.0,
        nms_iou=0.0,
        nms_radius=4.0,
        nms_iterations=0,
    )
    helper.set_model_props(model, spec.to_metadata())
    onnx.checker.check_model(model)
    return model.SerializeToString()


_NUMBERS = {"zero": 0, "one": 1, "two": 2}


def picture(height: int, width: int, cells=(), *, noise: int | None = None) -> np.ndarray:
    """(height, width, 3) uint8 BGR: dark, with bright `cells` (column, row), and noise by seed."""
    image = np.full((height, width, 3), 40, np.uint8)
    if noise is not None:
        rng = np.random.default_rng(noise)
        image += rng.integers(0, 60, image.shape, dtype=np.uint8)
    for column, row in cells:
        image[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = 250
    return image


def centres(cells) -> set[tuple[float, float]]:
    """Where the points of `cells` are."""
    return {((column + 0.5) * CELL, (row + 0.5) * CELL) for column, row in cells}


def environment() -> dict[str, str]:
    """Environment of a script run by a test, which finds the packages as the tests do."""
    paths = [str(ROOT / "projects" / "CPR"), str(ROOT / "deploy")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
