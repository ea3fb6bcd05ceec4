"""Looks into an ONNX file before any runtime parses it, without the `onnx` package.

An ONNX file is a protocol buffer. The few fields that decide whether a file may be loaded (external
data, operator domains, nested graphs, metadata) are read here; everything else is skipped by its
length, so that weights are neither copied nor decoded. Field numbers are those of `onnx.proto`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from cpr_deploy.files import InputError

MAX_MODEL_BYTES = 2 << 30
STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
MAX_NODES = 100_000

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclasses.dataclass
class OnnxSummary:
    """What `inspect_onnx` found."""

    op_types: set[tuple[str, str]] = dataclasses.field(default_factory=set)  # (domain, op)
    node_count: int = 0
    has_external_data: bool = False
    has_subgraph: bool = False
    has_functions: bool = False
    has_graph: bool = False
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)


class _Malformed(Exception):
    pass


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise _Malformed("a number is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview | int]]:
    """(field number, wire type, value) of each field of one message."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, position = _varint(data, position)
            yield number, wire, value
            continue
        if wire == _BYTES:
            size, position = _varint(data, position)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise _Malformed(f"wire type {wire}")
        if number == 0 or position + size > len(data):
            raise _Malformed("a field is cut off")
        yield number, wire, data[position : position + size]
        position += size


def _text(value: memoryview | int) -> str:
    if isinstance(value, int):
        raise _Malformed("a number where text was expected")
    return bytes(value).decode("utf-8")


def _messages(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    return ((number, value) for number, wire, value in _fields(data) if wire == _BYTES)


def _read_tensor(data: memoryview, summary: OnnxSummary) -> None:
    for number, wire, value in _fields(data):
        # TensorProto: external_data = 13, data_location = 14 (1 = external).
        if (number == 13 and wire == _BYTES) or (number == 14 and value == 1):
            summary.has_external_data = True


def _read_attribute(data: memoryview, summary: OnnxSummary) -> None:
    for number, value in _messages(data):
        if number in (6, 11):  # AttributeProto.g, graphs
            summary.has_subgraph = True
        elif number in (5, 10):  # t, tensors
            _read_tensor(value, summary)
        elif number in (22, 23):  # sparse_tensor, sparse_tensors
            _read_sparse_tensor(value, summary)


def _read_sparse_tensor(data: memoryview, summary: OnnxSummary) -> None:
    for number, value in _messages(data):
        if number in (1, 2):  # values, indices
            _read_tensor(value, summary)


def _read_node(data: memoryview, summary: OnnxSummary) -> None:
    op_type = domain = ""
    for number, value in _messages(data):
        if number == 4:
            op_type = _text(value)
        elif number == 7:
            domain = _text(value)
        elif number == 5:
            _read_attribute(value, summary)
    summary.op_types.add((domain, op_type))
    summary.node_count += 1
    if summary.node_count > MAX_NODES:
        raise _Malformed(f"more than {MAX_NODES} nodes")


def _read_graph(data: memoryview, summary: OnnxSummary) -> None:
    summary.has_graph = True
    for number, value in _messages(data):
        if number == 1:
            _read_node(value, summary)
        elif number == 5:
            _read_tensor(value, summary)
        elif number == 15:
            _read_sparse_tensor(value, summary)


def inspect_onnx(data: bytes, name: str) -> OnnxSummary:
    """Summary of an ONNX file's bytes; InputError naming `name` if they are not an ONNX file."""
    summary = OnnxSummary()
    try:
        for number, value in _messages(memoryview(data)):
            if number == 7:
                _read_graph(value, summary)
            elif number == 25:
                summary.has_functions = True
            elif number == 14:
                entry = {key: _text(item) for key, item in _messages(value)}
                summary.metadata[entry.get(1, "")] = entry.get(2, "")
    except (_Malformed, UnicodeDecodeError) as error:
        raise InputError(
            f"{name}: is not a whole ONNX file ({error}). Copy or export it again."
        ) from None
    if not summary.has_graph:
        raise InputError(f"{name}: is not an ONNX file. Make one with deploy/export_onnx.py.")
    return summary


def check_onnx(data: bytes, name: str) -> OnnxSummary:
    """As `inspect_onnx`; InputError also if the file needs other files, custom code or branches."""
    if len(data) > MAX_MODEL_BYTES:
        raise InputError(f"{name}: {len(data)} bytes is more than an ONNX file may have.")
    summary = inspect_onnx(data, name)
    if summary.has_external_data:
        raise InputError(
            f"{name}: keeps its weights in other files (external data), which is refused. Export it"
            " again with deploy/export_onnx.py, which writes a single file."
        )
    foreign = sorted({domain for domain, _ in summary.op_types} - STANDARD_DOMAINS)
    if foreign or summary.has_functions:
        what = f"operators of {', '.join(foreign)}" if foreign else "functions of its own"
        raise InputError(
            f"{name}: uses {what}; only standard ONNX operators are loaded. Export it again with"
            " deploy/export_onnx.py."
        )
    if summary.has_subgraph:
        raise InputError(
            f"{name}: holds nested graphs (If, Loop or Scan), which our exports never have. Export"
            " it again with deploy/export_onnx.py."
        )
    return summary
