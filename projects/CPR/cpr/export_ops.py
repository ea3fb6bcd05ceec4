"""What in an exported graph would make an accelerator wait for the host.

A CUDA graph can be captured only if every node runs on the GPU: no output size that depends on
data, no branch, no shape arithmetic, no operator without a CUDA kernel. ONNX Runtime runs all of
these on the CPU and puts copies ("Memcpy" nodes) around them.
"""

from __future__ import annotations

# Never in our graphs, whatever their sizes.
DATA_DEPENDENT = {
    "NonZero": "its output size depends on the data",
    "Compress": "its output size depends on the data",
    "Unique": "its output size depends on the data",
    "NonMaxSuppression": "its output size depends on the data",
    "If": "a branch is decided on the host",
    "Loop": "a loop is controlled on the host",
    "Scan": "a loop is controlled on the host",
}
# Computed on the host; graphs of free size need them, those of fixed size do not.
SHAPE_ARITHMETIC = {
    "Shape": "sizes are computed on the host",
    "Size": "sizes are computed on the host",
    "Range": "its arguments are read on the host",
}
# Inputs that CUDA kernels read on the host: harmless if constant, a copy back if computed.
HOST_INPUTS = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Pad": (1, 3),
    "ReduceMax": (1,),
    "ReduceSum": (1,),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
}
# Operators with a newer schema than the newest CUDA kernel: ONNX Runtime 1.2x has kernels for the
# schemas up to this opset only (docs/OperatorKernels.md), and nodes of a newer one run on the CPU.
NEWEST_CUDA_SCHEMA = {"ReduceMax": 18}
# CUDA kernels of these reductions; others types run on the CPU.
REDUCTION_TYPES = frozenset({"float", "float16", "double", "int32", "int64"})


def host_nodes(proto) -> list[str]:
    """A line for each node of an `onnx.ModelProto` that would run on, or wait for, the host.

    Empty for a graph that can stay on a CUDA device. It is what can be told from the file; what a
    session really does is measured on a GPU.
    """
    import onnx

    opset = max(item.version for item in proto.opset_import if item.domain in ("", "ai.onnx"))
    computed = {output for node in proto.graph.node for output in node.output}
    types = _value_types(proto)
    lines = []
    for node in proto.graph.node:
        operator = node.op_type
        reason = DATA_DEPENDENT.get(operator) or SHAPE_ARITHMETIC.get(operator)
        reasons = [reason] if reason else []
        host = [
            node.input[i]
            for i in HOST_INPUTS.get(operator, ())
            if i < len(node.input) and node.input[i] in computed
        ]
        if host:
            reasons.append(f"its input {host[0]} is computed, and read on the host")
        schema = onnx.defs.get_schema(operator, opset, "").since_version
        if schema > NEWEST_CUDA_SCHEMA.get(operator, schema):
            reasons.append(f"no CUDA kernel for its schema of opset {schema}")
        if operator in ("ReduceMax", "ReduceSum"):
            kind = types.get(node.input[0])
            if kind is not None and kind not in REDUCTION_TYPES:
                reasons.append(f"no CUDA kernel for {kind}")
        lines += [f"{operator} {node.name}: {text}" for text in reasons]
    return lines


def _value_types(proto) -> dict[str, str]:
    """Element type of each value that shape inference knows."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(proto).graph
    return {
        value.name: onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
        for value in [*inferred.value_info, *inferred.input, *inferred.output]
    }
