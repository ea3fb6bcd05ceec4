import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from torch import nn

import tiny_localizer
from cpr.export import (
    FORBIDDEN_OPS,
    ParityError,
    PointLocalizerGraph,
    compare_with_eager,
    export_point_localizer,
)
from cpr.export_graph import NMS_ITERATIONS
from cpr.modeling.decoding import DecodeSettings
from cpr_deploy.files import InputError
from cpr_deploy.model_spec import ModelSpec
from cpr_deploy.parity import TOLERANCES, Tolerance
from cpr_deploy.point_localizer import PointLocalizer
from cpr_deploy.point_nms import point_nms

pytestmark = pytest.mark.onnx


class PlantedMaps(nn.Module):
    """A model whose maps are given: what the graph makes of them can be worked out."""

    stride = 4
    points_per_location = 1

    def __init__(self, logits, points, **decode):
        super().__init__()
        settings = {
            "score_thresh": 0.05,
            "pre_nms_topk": 100,
            "nms_rule": "pseudo_box",
            "nms_size": 16.0,
            "nms_iou": 0.2,
            "nms_radius": 10.0,
            "max_dets": 60,
        }
        self.decode = DecodeSettings(**{**settings, **decode})
        self.logits, self.points = logits, points
        softmax = self.decode.class_loss == "cross_entropy"
        self.num_classes = logits.shape[-1] - softmax
        self.pixel_mean = torch.zeros(3, 1, 1)
        self.pixel_std = torch.ones(3, 1, 1)

    def predict_maps(self, x):
        return self.logits, self.points


def run_graph(model, height, width, scale=(1.0, 1.0), **options):
    graph = PointLocalizerGraph(model, input_format="BGR", **options)
    images = torch.zeros(len(model.logits), height, width, 3, dtype=torch.uint8)
    with torch.no_grad():
        return [part.numpy() for part in graph(images, torch.tensor([scale] * len(model.logits)))]


def planted(seed, height, width, classes, spread=1.0, batch=2):
    rng = np.random.default_rng(seed)
    locations = (height // 4) * (width // 4)
    logits = rng.normal(-1, 1.5, (batch, locations, classes)).astype(np.float32)
    points = rng.uniform(-20, 20 + spread * max(height, width), (batch, locations, 2))
    return torch.from_numpy(logits), torch.from_numpy(points.astype(np.float32))


def expected_points(model, row, height, width, scale):
    """The official decoding, by numpy and the runtime's own NMS."""
    decode = model.decode
    logits = model.logits[row].numpy().astype(np.float64)
    if decode.class_loss == "focal":
        scores = 1 / (1 + np.exp(-logits))
    else:
        scores = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[:, :-1]
    best = np.argsort(-scores.max(axis=1), kind="stable")[: decode.pre_nms_topk]
    points = np.clip(model.points[row].numpy()[best], 0, [width, height]) / scale
    rows, labels = np.nonzero(scores[best] > decode.score_thresh)
    candidates = points[rows], scores[best][rows, labels], labels
    keep = point_nms(*candidates, **decode.nms)[: decode.max_dets]
    return [part[keep] for part in candidates]


@pytest.mark.parametrize("rule", ["pseudo_box", "radius", "none"])
@pytest.mark.parametrize("class_loss", ["focal", "cross_entropy"])
@pytest.mark.parametrize("classes", [1, 3])
def test_crowd_equals_greedy_nms(rule, class_loss, classes):
    # 400 people of 16 px in 160 x 192 px: most suppress each other.
    logits, points = planted(1, 160, 192, classes + (class_loss == "cross_entropy"))
    model = PlantedMaps(logits, points, nms_rule=rule, class_loss=class_loss)
    scale = (0.8, 1.25)
    found, scores, labels, valid, flags = run_graph(
        model, 160, 192, scale, max_candidates=300, nms_iterations=20
    )
    assert flags.tolist() == [0, 0]
    for row in range(2):
        expected = expected_points(model, row, 160, 192, scale)
        count = valid[row]
        assert count == len(expected[1])
        np.testing.assert_allclose(scores[row, :count], expected[1], atol=1e-6)
        np.testing.assert_allclose(found[row, :count], expected[0], atol=1e-3)
        np.testing.assert_array_equal(labels[row, :count], expected[2])


def test_chain_longer_than_the_rounds_is_flagged():
    # Points 5 px apart in a line, falling scores, radius 6: each suppresses its neighbour if kept.
    # Round n settles the first n of them.
    count = 30
    logits = torch.full((1, 40 * 48, 1), -20.0)
    points = torch.zeros(1, 40 * 48, 2)
    logits[0, :count, 0] = torch.linspace(3, 1, count)
    points[0, :count, 0] = 5.0 * torch.arange(count)
    settings = {"nms_rule": "radius", "nms_radius": 6.0}
    model = PlantedMaps(logits, points, **settings)
    assert run_graph(model, 160, 192)[4].tolist() == [1]
    settled = run_graph(model, 160, 192, nms_iterations=count + 1)
    assert settled[4].tolist() == [0] and settled[3].tolist() == [15]
    # The part of the chain after the last output does not matter.
    short = run_graph(PlantedMaps(logits, points, max_dets=3, **settings), 160, 192)
    assert short[4].tolist() == [0]
    np.testing.assert_allclose(short[0][0, :, 0], [0, 10, 20])


def test_too_many_candidates_are_flagged():
    logits, points = planted(2, 160, 192, 3, spread=20.0, batch=1)
    model = PlantedMaps(logits + 3, points, max_dets=100)
    assert run_graph(model, 160, 192, max_candidates=100, nms_iterations=20)[4].tolist() == [2]
    assert run_graph(model, 160, 192, max_candidates=300, nms_iterations=20)[4].tolist() == [0]


def test_full_chunk_is_flagged():
    # Stride 4: 64 chunks by place in a 32 x 32 block; each passes on ceil(8 * 100 / 64) = 13.
    # All objects at the same place of their block meet in one chunk.
    rows, columns = 160 // 4, 192 // 4
    grid = torch.full((rows, columns), -20.0)
    grid[::8, ::8] = 2 + torch.rand(rows // 8, columns // 8)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    points = 4.0 * torch.stack([x, y], -1).reshape(1, -1, 2)
    flags = run_graph(PlantedMaps(grid.reshape(1, -1, 1), points), 160, 192)[4]
    assert flags.tolist() == [2]
    # Neighbours, as in a crowd, are spread over the chunks.
    grid = torch.full((rows, columns), -20.0)
    grid[10:17, 10:16] = 2 + torch.rand(7, 6)
    flags = run_graph(PlantedMaps(grid.reshape(1, -1, 1), points), 160, 192)[4]
    assert flags.tolist() == [0]


def test_grid_smaller_than_the_top_k():
    logits, points = planted(3, 32, 32, 2, spread=30.0, batch=1)
    model = PlantedMaps(logits, points, nms_size=1.0)
    found, scores, labels, valid, flags = run_graph(model, 32, 32, max_candidates=200)
    expected = expected_points(model, 0, 32, 32, (1.0, 1.0))
    assert flags[0] == 0 and valid[0] == len(expected[1]) and found.shape == (1, 60, 2)
    np.testing.assert_allclose(scores[0, : valid[0]], expected[1], atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["logits", "points"])
def test_numbers_that_are_not_finite_are_flagged(value, part):
    logits, points = planted(2, 32, 32, 1)
    {"logits": logits, "points": points}[part][1, 17] = value
    flags = run_graph(PlantedMaps(logits, points), 32, 32, nms_iterations=20)[4]
    assert flags.tolist() == [0, 4]


def test_a_network_beyond_its_range_is_not_an_empty_image():
    proto = onnx.load_model_from_string(tiny_localizer.exported_bytes())
    kernels = next(part for part in proto.graph.initializer if len(part.dims) == 4)
    values = onnx.numpy_helper.to_array(kernels).copy()
    values[0] = np.inf
    kernels.CopyFrom(onnx.numpy_helper.from_array(values, kernels.name))
    result = PointLocalizer(proto.SerializeToString())(tiny_localizer.scene(128, 160))
    assert len(result) == 0 and result.flags == 4


def test_empty_slots_are_marked():
    logits = torch.full((1, 64, 1), -200.0)  # a score of exactly 0
    logits[0, 5] = 2.0
    points = torch.full((1, 64, 2), 7.0)
    _, scores, labels, valid, flags = run_graph(PlantedMaps(logits, points), 32, 32)
    assert (valid[0], flags[0]) == (1, 0)
    assert labels[0].tolist() == [0] + [-1] * 59 and not scores[0, 1:].any()


def test_file_is_single_plain_and_describes_itself():
    data = tiny_localizer.exported_bytes()
    proto = onnx.load_model_from_string(data)
    onnx.checker.check_model(proto)
    ops = {node.op_type for node in proto.graph.node}
    assert not ops & FORBIDDEN_OPS
    assert {node.domain for node in proto.graph.node} <= {"", "ai.onnx"}
    assert [item.version for item in proto.opset_import if item.domain in ("", "ai.onnx")] == [18]
    assert not any(tensor.external_data for tensor in proto.graph.initializer)
    shapes = {
        value.name: [d.dim_value or "free" for d in value.type.tensor_type.shape.dim]
        for value in [*proto.graph.input, *proto.graph.output]
    }
    assert shapes == {
        "images": ["free", "free", "free", 3],
        "scale": ["free", 2],
        "points": ["free", 50, 2],
        "scores": ["free", 50],
        "labels": ["free", 50],
        "valid": ["free"],
        "flags": ["free"],
    }
    metadata = {item.key: item.value for item in proto.metadata_props}
    spec = ModelSpec.from_metadata(metadata, "model.onnx")
    assert spec.class_names == tiny_localizer.CLASS_NAMES and spec.category_ids == (3, 7, 9)
    assert (spec.min_size, spec.max_size, spec.stride, spec.max_dets) == (400, 667, 8, 50)
    # The config's mean in RGB is 123.675, 116.28, 103.53.
    assert spec.pad_bgr == (104, 116, 124)
    assert ModelSpec.from_metadata(spec.to_metadata(), "again") == spec
    # No paths of the machine that exported it.
    assert str(tiny_localizer.ROOT).encode() not in data


def test_a_wrong_graph_is_refused():
    model, cfg = tiny_localizer.build(tiny_localizer.options())
    data = tiny_localizer.exported_bytes()
    graph = PointLocalizerGraph(model, input_format="RGB")
    assert compare_with_eager(graph, data).passed
    # The same weights, fed in the other channel order.
    assert not compare_with_eager(PointLocalizerGraph(model, input_format="BGR"), data).passed
    # Slightly other weights.
    with torch.no_grad():
        model.head.point_offset.bias += 0.02
    report = compare_with_eager(graph, data)
    assert not report.passed and report.unmatched > 0.9 * report.points


def test_parity_failure_leaves_no_file(tmp_path, monkeypatch):
    model, cfg = tiny_localizer.build(tiny_localizer.options())
    monkeypatch.setitem(TOLERANCES, "fp32", Tolerance(-1.0, 1e-3, 0.005))
    monkeypatch.setattr(
        "cpr.export._trace",
        lambda *_: onnx.load_model_from_string(tiny_localizer.exported_bytes()),
    )
    with pytest.raises(ParityError, match="FAILED"):
        export_point_localizer(
            model, cfg, tmp_path / "m.onnx", class_names=tiny_localizer.CLASS_NAMES
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options, message",
    [
        ({"static_size": (100, 96)}, "multiples of 32"),
        ({"exporter": "magic"}, "exporter"),
        ({"opset": 11}, "opset 11"),
        ({"class_names": ["one"]}, "1 class names for a model of 3"),
    ],
    ids=["size", "exporter", "opset", "names"],
)
def test_meaningless_arguments(tmp_path, options, message):
    model, cfg = tiny_localizer.build(tiny_localizer.options())
    options = {"class_names": tiny_localizer.CLASS_NAMES, **options}
    with pytest.raises(InputError, match=message):
        export_point_localizer(model, cfg, tmp_path / "m.onnx", **options)


@pytest.mark.parametrize(
    "stride, options",
    [
        (4, {"static_size": (128, 160), "batch": 1, "opset": 20}),
        (16, {"exporter": "legacy"}),
    ],
    ids=["static stride 4", "legacy stride 16"],
)
def test_other_ways_of_export(tmp_path, stride, options):
    model, cfg = tiny_localizer.build(tiny_localizer.options(stride))
    path = tmp_path / "model.onnx"
    report = export_point_localizer(
        model, cfg, path, class_names=tiny_localizer.CLASS_NAMES, **options
    )
    assert report.passed and report.points > 30
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    fixed = "static_size" in options
    expected = [1, 128, 160, 3] if fixed else ["batch", "height", "width", 3]
    assert session.get_inputs()[0].shape == expected


def test_original_p2pnet_is_exported(tmp_path):
    """Four references a cell, softmax scores, no NMS: in the file as in the model."""
    one_to_one = tiny_localizer.ROOT / "configs" / "Base-P2PNet-OneToOne.yaml"
    options = yaml.safe_load(one_to_one.read_text(encoding="utf-8"))["MODEL"]["P2PNET"]
    pairs = [str(item) for key, value in options.items() for item in (f"MODEL.P2PNET.{key}", value)]
    model, cfg = tiny_localizer.build([*tiny_localizer.options(), *pairs])
    path = tmp_path / "model.onnx"
    report = export_point_localizer(model, cfg, path, class_names=tiny_localizer.CLASS_NAMES)
    assert report.passed and report.points > 100 and report.images_not_settled == 0
    metadata = {item.key: item.value for item in onnx.load(path).metadata_props}
    assert ModelSpec.from_metadata(metadata, "model.onnx").nms_rule == "none"

    # What a runtime gets: the best probabilities of a class, near ones of the same class as well.
    image = tiny_localizer.scene(128, 160)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {"images": image[None], "scale": np.ones((1, 2), np.float32)}
    points, scores, labels, valid, flags = session.run(None, feed)
    rgb = torch.from_numpy(image[None, ..., ::-1].copy()).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits, _ = model.predict_maps((rgb - model.pixel_mean) / model.pixel_std)
    expected = logits[0].softmax(dim=1)[:, :3].flatten().sort(descending=True).values[:50]
    assert flags.tolist() == [0] and valid.tolist() == [50]
    np.testing.assert_allclose(scores[0], expected, atol=1e-4)
    assert len(point_nms(points[0], scores[0], labels[0], rule="radius", radius=8.0)) < 50


def script(*arguments):
    return subprocess.run(
        [sys.executable, str(tiny_localizer.ROOT / "deploy" / "export_onnx.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        env=tiny_localizer.environment(),
    )


def test_random_weights_are_refused(tmp_path):
    output = tmp_path / "model.onnx"
    done = script("--config-file", str(tiny_localizer.CONFIG), "--output", str(output))
    assert done.returncode == 2 and "--weights" in done.stderr and not output.exists()


def test_script_exports_a_checkpoint(tmp_path):
    opts = tiny_localizer.options()
    model, _ = tiny_localizer.build(opts)
    weights = tiny_localizer.save(model, tmp_path / "model_final.pth")
    output = tmp_path / "out" / "model.onnx"
    done = script(
        *("--config-file", str(tiny_localizer.CONFIG), "--weights", str(weights)),
        *("--output", str(output), "--static", "128x160", "--exporter", "legacy", *opts),
    )
    assert done.returncode == 0, done.stderr
    assert "passed" in done.stdout and "wrote" in done.stdout
    assert [path.name for path in output.parent.iterdir()] == ["model.onnx"]
    metadata = {item.key: item.value for item in onnx.load(output).metadata_props}
    spec = json.loads(metadata["spec"])
    assert spec["class_names"] == list(tiny_localizer.CLASS_NAMES)
    # What the script gives when nothing is asked for is what the library does.
    assert spec["nms_iterations"] == NMS_ITERATIONS
    assert len(spec["weights_sha256"]) == 64 and len(spec["config_sha256"]) == 64
