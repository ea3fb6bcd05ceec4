"""Exported files of fixed size and of other precisions: what is in them, and what they find."""

import collections
import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import tiny_localizer
from cpr.export import export_point_localizer
from cpr.export_int8 import trunk_convs
from cpr.export_ops import host_nodes
from cpr_deploy.files import InputError
from cpr_deploy.model_spec import ModelSpec
from cpr_deploy.parity import TOLERANCES, match_points
from cpr_deploy.point_localizer import PointLocalizer

pytestmark = pytest.mark.onnx
SIZE = (128, 160)
# The realtime head in small: every norm folds.
BN_HEAD = ["MODEL.FPN.NORM", "BN", "MODEL.P2PNET.NORM", "BN", "MODEL.P2PNET.SHARED_TOWER", "True"]


def build():
    """(model, cfg) with scores that vary as after a training, though BatchNorm saw no image."""
    model, cfg = tiny_localizer.build([*tiny_localizer.options(4), *BN_HEAD])
    torch.nn.init.constant_(model.head.cls_score.bias, -2.0)
    return model, cfg


def make(folder, name, **options):
    """(model, parity report, bytes of the file)."""
    model, cfg = build()
    path = folder / name
    report = export_point_localizer(
        model, cfg, path, class_names=tiny_localizer.CLASS_NAMES, **options
    )
    return model, report, path.read_bytes()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Precision -> (report, bytes), all of one fixed size, of the same model."""
    folder = tmp_path_factory.mktemp("files")
    images = [tiny_localizer.scene(*SIZE, seed) for seed in range(4)]
    fixed = {"static_size": SIZE, "batch": 1}
    return {
        precision: make(folder, f"{precision}.onnx", precision=precision, **fixed, **options)[1:]
        for precision, options in (
            ("fp32", {}),
            ("fp16", {}),
            ("int8", {"calibration_images": images}),
        )
    }


def operators(data):
    return collections.Counter(node.op_type for node in onnx.load_from_string(data).graph.node)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_file_of_fixed_size_can_stay_on_the_device(files, precision):
    report, data = files[precision]
    assert report.passed and report.points > 20
    proto = onnx.load_from_string(data)
    onnx.checker.check_model(proto, full_check=True)
    assert host_nodes(proto) == []
    found = operators(data)
    for name in ("Shape", "Size", "Range", "If", "Loop", "Scan", "NonZero", "NonMaxSuppression"):
        assert name not in found
    # The norms are in the convs.
    assert found["Conv"] and "BatchNormalization" not in found
    assert "InstanceNormalization" not in found
    shapes = {
        value.name: [d.dim_value or "free" for d in value.type.tensor_type.shape.dim]
        for value in [*proto.graph.input, *proto.graph.output]
    }
    assert shapes == {
        "images": [1, *SIZE, 3],
        "scale": [1, 2],
        "points": [1, 50, 2],
        "scores": [1, 50],
        "labels": [1, 50],
        "valid": [1],
        "flags": [1],
    }
    types = {
        v.name: v.type.tensor_type.elem_type for v in [*proto.graph.input, *proto.graph.output]
    }
    assert types == {
        "images": TensorProto.UINT8,
        **dict.fromkeys(("scale", "points", "scores"), TensorProto.FLOAT),
        **dict.fromkeys(("labels", "valid", "flags"), TensorProto.INT64),
    }
    assert {node.domain for node in proto.graph.node} == {""}
    assert [(item.domain, item.version) for item in proto.opset_import] == [("", 18)]
    assert not any(tensor.external_data for tensor in proto.graph.initializer)
    metadata = {item.key: item.value for item in proto.metadata_props}
    spec = ModelSpec.from_metadata(metadata, "model.onnx")
    assert (spec.precision, spec.opset, spec.batch) == (precision, 18, 1)
    assert (spec.height, spec.width) == SIZE


def test_half_precision_is_the_network_and_nothing_else(files):
    proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(files["fp16"][1]))
    types = {v.name: v.type.tensor_type.elem_type for v in proto.graph.value_info}
    types |= {t.name: t.data_type for t in proto.graph.initializer}
    convs = [node for node in proto.graph.node if node.op_type == "Conv"]
    for node in convs:
        assert {types[name] for name in node.input} == {TensorProto.FLOAT16}
    half = [
        node.op_type
        for node in proto.graph.node
        if any(types.get(name) == TensorProto.FLOAT16 for name in node.output)
    ]
    # The cast at the entrance; nothing of the decoding.
    assert set(half) == {"Cast", "Conv", "Relu", "MaxPool", "Add", "Resize"}
    assert half.count("Cast") == 1
    assert len(files["fp16"][1]) < 0.6 * len(files["fp32"][1])


def test_int8_quantises_the_convs_but_the_outputs(files):
    proto = onnx.load_from_string(files["int8"][1])
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    producer = {output: node for node in proto.graph.node for output in node.output}
    plain = []
    for node in proto.graph.node:
        if node.op_type != "Conv":
            continue
        source = producer.get(node.input[1])
        if source is None:
            plain.append(weights[node.input[1]].dims[0])
        else:
            assert source.op_type == "DequantizeLinear"
            assert weights[source.input[0]].data_type == TensorProto.INT8
    # 3 classes, x and y, and the 64 channels of the stem.
    assert sorted(plain) == [2, 3, 64]
    full = onnx.load_from_string(files["fp32"][1])
    assert len(trunk_convs(full)) == operators(files["fp32"][1])["Conv"] - 3
    assert len(files["int8"][1]) < 0.35 * len(files["fp32"][1])


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_other_precisions_find_the_same_points(files, precision):
    full = PointLocalizer(files["fp32"][1], threads=1, resize="none")
    other = PointLocalizer(files[precision][1], threads=1, resize="none")
    tolerance = TOLERANCES[precision]
    total = missing = 0
    for seed in range(10, 16):
        image = tiny_localizer.scene(*SIZE, seed)
        first, second = (
            (found.points, found.scores, found.labels) for found in (full(image), other(image))
        )
        points, unmatched, distance, _ = match_points(
            first, second, borderline=(float(first[1][-1]),), tolerance=tolerance
        )
        total, missing = total + points, missing + unmatched
        assert distance <= tolerance.point_px
    assert total > 100 and missing <= tolerance.unmatched * total
    # It is another network, not the same file again.
    assert not np.array_equal(full(image).scores, other(image).scores)


def test_exports_are_equal_byte_for_byte(files, tmp_path):
    images = [tiny_localizer.scene(*SIZE, seed) for seed in range(4)]
    again = make(
        *(tmp_path, "again.onnx"),
        static_size=SIZE,
        batch=1,
        precision="int8",
        calibration_images=images,
    )[2]
    assert again == files["int8"][1]
    assert make(tmp_path, "full.onnx", static_size=SIZE, batch=1)[2] == files["fp32"][1]


def test_activations_beyond_half_precision_are_refused(tmp_path):
    model, cfg = build()
    with torch.no_grad():
        model.backbone.output_conv.norm.weight *= 1e6
    with pytest.raises(InputError, match="fp16: activations of this model reach .* Export it as"):
        export_point_localizer(
            *(model, cfg, tmp_path / "m.onnx"),
            class_names=tiny_localizer.CLASS_NAMES,
            precision="fp16",
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options, message",
    [
        ({"precision": "int4"}, "one of fp32, fp16, int8"),
        ({"precision": "int8"}, "--calibration"),
    ],
)
def test_meaningless_precisions(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        make(tmp_path, "m.onnx", **options)


# --- what waits for the host ---


def graph_of(*nodes, opset=18, inputs=(), initializers=()):
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 6]), *inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        initializer=list(initializers),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def constant(name, values):
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


def node(operator, *names, output="y", **attributes):
    return helper.make_node(operator, list(names), [output], name=f"my_{operator}", **attributes)


def test_constant_shapes_do_not_wait():
    shape = constant("s", [3, 4])
    assert host_nodes(graph_of(node("Reshape", "x", "s"), initializers=[shape])) == []


@pytest.mark.parametrize(
    "nodes, reason",
    [
        ([node("NonZero", "x")], "NonZero my_NonZero: its output size depends on the data"),
        ([node("Shape", "x", output="s"), node("Reshape", "x", "s")], "Shape my_Shape: sizes"),
        (
            [node("Cast", "t", output="s", to=TensorProto.INT64), node("Reshape", "x", "s")],
            "Reshape my_Reshape: its input s is computed",
        ),
        (
            [
                node("Cast", "x", output="b", to=TensorProto.UINT8),
                node("ReduceMax", "b", "a"),
            ],
            "ReduceMax my_ReduceMax: no CUDA kernel for uint8",
        ),
    ],
    ids=["data dependent", "shape", "computed shape", "type"],
)
def test_what_waits_is_named_with_its_reason(nodes, reason):
    more = [helper.make_tensor_value_info("t", TensorProto.FLOAT, [2])]
    lines = host_nodes(graph_of(*nodes, inputs=more, initializers=[constant("a", [1])]))
    assert any(line.startswith(reason) for line in lines), lines


def test_a_schema_without_a_cuda_kernel_is_named():
    axes = constant("a", [1])
    old, new = (
        host_nodes(graph_of(node("ReduceMax", "x", "a"), initializers=[axes], opset=opset))
        for opset in (18, 20)
    )
    assert old == [] and new == [
        "ReduceMax my_ReduceMax: no CUDA kernel for its schema of opset 20"
    ]


def test_a_file_of_free_size_waits_for_its_sizes_only():
    proto = onnx.load_from_string(tiny_localizer.exported_bytes())
    lines = host_nodes(proto)
    assert lines and all(
        "sizes are computed" in line or "read on the host" in line for line in lines
    )


# --- the script ---


def test_script_reports_the_accuracy_of_int8_by_size(tmp_path):
    from PIL import Image

    opts = [*tiny_localizer.options(4), *BN_HEAD]
    model, _ = build()
    weights = tiny_localizer.save(model, tmp_path / "model_final.pth")
    images, records, boxes = tmp_path / "images", [], []
    images.mkdir()
    for index in range(3):
        scene = tiny_localizer.scene(*SIZE, index)
        Image.fromarray(scene[..., ::-1]).save(images / f"{index}.png")
        records.append(
            {"id": index + 1, "file_name": f"{index}.png", "width": SIZE[1], "height": SIZE[0]}
        )
        for k in range(6):
            boxes.append(
                {
                    "id": 10 * index + k + 1,
                    "image_id": index + 1,
                    "category_id": 1 + k % 3,
                    "bbox": [20 * k, 15 * k, 24, 20],
                    "area": 480,
                    "iscrowd": 0,
                }
            )
    names = [{"id": i + 1, "name": name} for i, name in enumerate(tiny_localizer.CLASS_NAMES)]
    annotations = tmp_path / "gt.json"
    annotations.write_text(
        json.dumps({"images": records, "annotations": boxes, "categories": names})
    )
    output = tmp_path / "int8.onnx"
    command = [
        *(sys.executable, str(tiny_localizer.ROOT / "deploy" / "export_onnx.py")),
        *("--config-file", str(tiny_localizer.CONFIG), "--weights", str(weights)),
        *("--output", str(output), "--static", "128x160", "--batch", "1", "--precision", "int8"),
    ]

    def run(*more):
        return subprocess.run(
            [*command, *more, *opts],
            capture_output=True,
            text=True,
            timeout=250,
            env=tiny_localizer.environment(),
        )

    done = run("--calibration", str(images), "--annotations", str(annotations))
    assert done.returncode == 2 and "--image-root" in done.stderr
    done = run()
    assert done.returncode == 2 and "--calibration" in done.stderr and not output.exists()
    given = ["--calibration", str(images), "--annotations", str(annotations)]
    done = run(*given, "--image-root", str(images))
    assert done.returncode == 0, done.stderr
    table = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert "small" in table["mAP,"] and {"fp32", "int8"} <= set(table)
    assert PointLocalizer(output).spec.precision == "int8"
