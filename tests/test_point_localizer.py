import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tiny_localizer
from cpr_deploy.files import InputError
from cpr_deploy.latency import LatencyRecorder
from cpr_deploy.point_localizer import PointLocalizer
from cpr_deploy.sessions import InferenceError

pytestmark = pytest.mark.onnx


@pytest.fixture(scope="module")
def model_bytes():
    return tiny_localizer.exported_bytes()


@pytest.fixture(scope="module")
def localizer(model_bytes):
    return PointLocalizer(model_bytes, threads=1, resize="none")


def assert_equal(first, second):
    np.testing.assert_allclose(first.points, second.points, atol=1e-3)
    np.testing.assert_allclose(first.scores, second.scores, atol=1e-5)
    np.testing.assert_array_equal(first.labels, second.labels)


def test_result_of_one_image(localizer):
    result = localizer(tiny_localizer.scene(128, 160))
    assert len(result) > 20 and result.points.shape == (len(result), 2)
    assert (result.points.dtype, result.scores.dtype) == (np.float32, np.float32)
    assert result.labels.dtype == np.int64 and isinstance(result.flags, int)
    assert (np.diff(result.scores) <= 0).all() and (result.scores > 0.05).all()
    assert (result.points >= 0).all() and (result.points <= [160, 128]).all()


def test_a_list_gives_the_results_of_the_singles(localizer):
    sizes = [(128, 160), (100, 150), (64, 96), (121, 155), (128, 160)]
    images = [tiny_localizer.scene(*size, seed) for seed, size in enumerate(sizes)]
    together = localizer(images)
    for image, result in zip(images, together, strict=True):
        assert_equal(result, localizer(image))
    assert localizer([]) == []


def test_padding_is_restored_after_a_larger_image(model_bytes, localizer):
    small = tiny_localizer.scene(100, 130, seed=3)
    localizer(tiny_localizer.scene(128, 160))
    fresh = PointLocalizer(model_bytes, threads=1, resize="none")
    assert_equal(localizer(small), fresh(small))


def eager_points(image, resized, opts):
    """The eager model as Detectron2 runs it: padding after normalisation, its own decoding."""
    import torch

    model, _ = tiny_localizer.build(opts)
    with torch.no_grad():
        rgb = np.ascontiguousarray(resized[..., ::-1].transpose(2, 0, 1))
        found = model(
            [
                {
                    "image": torch.from_numpy(rgb),
                    "height": image.shape[0],
                    "width": image.shape[1],
                }
            ]
        )[0]["instances"]
    return found.pred_points.numpy(), found.scores.numpy(), found.pred_classes.numpy()


@pytest.mark.parametrize("resize", ["none", "test"])
def test_equals_eager_on_odd_sizes_away_from_the_padding(model_bytes, resize):
    """The eager model moves points of the padding onto the border, where they take part in NMS; the
    runtime drops them. Away from the right and bottom border both agree."""
    from PIL import Image

    image = tiny_localizer.scene(150, 205, seed=5)
    localizer = PointLocalizer(model_bytes, threads=1, resize=resize)
    height, width = localizer.network_size(150, 205)
    assert (height, width) == ((150, 205) if resize == "none" else (400, 547))
    resized = image
    if resize == "test":
        # What Detectron2's ResizeTransform does.
        resized = np.asarray(Image.fromarray(image).resize((width, height), Image.BILINEAR))
    points, scores, labels = eager_points(image, resized, tiny_localizer.options())
    ours = localizer(image)
    reach = 2 * 16
    compared = 0
    # Both lists end at max_dets; what one holds beyond the other's last score is not compared.
    last = max(scores[-1], ours.scores[-1]) + 0.02
    for point, score, label in zip(points, scores, labels, strict=True):
        if (point > np.array([205, 150]) - reach).any() or score < last:
            continue
        near = np.abs(ours.points - point).max(axis=1) < 0.5
        near &= (ours.labels == label) & (np.abs(ours.scores - score) < 0.02)
        assert near.sum() == 1, (point, score, label)
        compared += 1
    assert compared >= 8


def test_resize_rules(model_bytes):
    def size(resize, height, width):
        return PointLocalizer(model_bytes, resize=resize).network_size(height, width)

    # Shorter side 400, longer side at most 667, as Detectron2's ResizeShortestEdge.
    assert size("test", 720, 1280) == (375, 667)
    assert size("test", 500, 500) == (400, 400)
    assert size((300, 1000), 600, 800) == (300, 400)
    assert size(0.5, 101, 200) == (51, 100)
    for bad in ("half", 0, -1.0, (3,), True):
        with pytest.raises(InputError, match="resize"):
            PointLocalizer(model_bytes, resize=bad)


def test_a_resize_factor_goes_before_the_sizes(model_bytes):
    model = onnx.load_from_string(model_bytes)
    for entry in model.metadata_props:
        if entry.key == "spec":
            entry.value = json.dumps({**json.loads(entry.value), "resize_factor": 0.75})
        # A runtime that does not know the factor must refuse the file, not resize otherwise.
        if entry.key == "format_version":
            assert entry.value == "1"
            entry.value = "2"
    localizer = PointLocalizer(model.SerializeToString())
    assert localizer.spec.min_size == 400
    assert localizer.spec.to_metadata()["format_version"] == "2"
    assert localizer.network_size(720, 1280) == (540, 960)
    # As training rounds: half a pixel up.
    assert localizer.network_size(90, 1000) == (68, 750)


def test_points_are_in_original_pixels(model_bytes):
    import cv2

    # The same network input from an image of twice the size: all points twice as far out.
    small = tiny_localizer.scene(64, 96, seed=9)
    large = cv2.resize(small, (192, 128), interpolation=cv2.INTER_NEAREST)
    at_half = PointLocalizer(model_bytes, threads=1, resize=0.5)(large)
    # Pillow's filter blurs a little: compare the strongest point only.
    plain = PointLocalizer(model_bytes, threads=1, resize="none")(small)
    distances = np.abs(at_half.points - 2 * plain.points[0]).max(axis=1)
    assert distances.min() < 4


def test_score_threshold(model_bytes, localizer):
    image = tiny_localizer.scene(128, 160)
    every = localizer(image)
    middle = float(every.scores[len(every) // 2])
    strict = PointLocalizer(model_bytes, threads=1, resize="none", score_thresh=middle)(image)
    np.testing.assert_array_equal(strict.scores, every.scores[every.scores > np.float32(middle)])
    assert 0 < len(strict) < len(every)
    with pytest.raises(InputError, match="between the exported 0.05"):
        PointLocalizer(model_bytes, score_thresh=0.01)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((10, 10, 3), np.float32),
        np.zeros((0, 10, 3), np.uint8),
        "image.jpg",
    ],
    ids=["grey", "alpha", "float", "empty", "path"],
)
def test_bad_images(localizer, image):
    with pytest.raises(InputError, match="image 0"):
        localizer([image])


def test_latency_stages(localizer):
    latency = LatencyRecorder()
    for _ in range(3):
        localizer(tiny_localizer.scene(64, 64), latency=latency)
    summary = latency.summary()
    assert list(summary) == ["preprocess", "infer", "postprocess"]
    assert all(row["count"] == 3 and row["p50"] <= row["p99"] for row in summary.values())


def test_percentiles_worked_by_hand():
    latency = LatencyRecorder(window=101)
    for ms in range(-100, 101):  # only the newest 101 stay: 0 .. 100 ms
        latency.add("infer", ms / 1e3)
    row = latency.summary()["infer"]
    assert row["count"] == 201
    assert [row[key] for key in ("p50", "p95", "p99", "max")] == pytest.approx([50, 95, 99, 100])
    assert "infer" in latency.table() and latency.last_ms() == {"infer": 100.0}


# --- files that must not be loaded ------------------------------------------------------------


def refuse(data, message):
    with pytest.raises(InputError, match=message):
        PointLocalizer(data)


def changed(model_bytes, change):
    proto = onnx.load_model_from_string(model_bytes)
    change(proto)
    return proto.SerializeToString()


def test_not_an_onnx_file(tmp_path, model_bytes):
    refuse(b"not an onnx file at all", "not a whole ONNX file|not an ONNX file")
    refuse(b"", "not an ONNX file")
    refuse(model_bytes[: len(model_bytes) // 2], "not a whole ONNX file|not an ONNX file")
    refuse(str(tmp_path / "none.onnx"), "no such file")
    rng = np.random.default_rng(0)
    for _ in range(50):
        refuse(rng.bytes(200), "ONNX file")


def test_a_foreign_onnx_file():
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    refuse(helper.make_model(graph).SerializeToString(), "not a point localizer of this project")


def test_external_data(model_bytes, tmp_path):
    proto = onnx.load_model_from_string(model_bytes)
    path = tmp_path / "model.onnx"
    onnx.save_model(
        proto, path, save_as_external_data=True, location="weights.bin", size_threshold=100
    )
    refuse(str(path), "external data")


def test_custom_operators_and_branches(model_bytes):
    def custom(proto):
        proto.graph.node[0].domain = "evil.ops"

    refuse(changed(model_bytes, custom), "operators of evil.ops")

    def branch(proto):
        body = helper.make_graph([], "body", [], [])
        proto.graph.node.append(
            helper.make_node("If", ["c"], ["d"], then_branch=body, else_branch=body)
        )

    refuse(changed(model_bytes, branch), "nested graphs")


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("format_version", "99", "format version 99"),
        ("spec", "{}", "metadata is damaged"),
        ("spec", "[1, 2", "metadata is damaged"),
        ("format", "other", "not a point localizer"),
    ],
)
def test_damaged_metadata(model_bytes, key, value, message):
    def change(proto):
        for item in proto.metadata_props:
            if item.key == key:
                item.value = value

    refuse(changed(model_bytes, change), message)


def test_other_inputs(model_bytes):
    def rename(proto):
        for node in proto.graph.node:
            node.input[:] = ["picture" if name == "images" else name for name in node.input]
        proto.graph.input[0].name = "picture"

    refuse(changed(model_bytes, rename), "its inputs are")


def test_a_provider_that_is_not_there(model_bytes):
    with pytest.raises(InputError, match="MadeUpExecutionProvider is not in this ONNX Runtime"):
        PointLocalizer(model_bytes, providers=["MadeUpExecutionProvider"])


def test_a_silent_fall_back_is_an_error(model_bytes, monkeypatch):
    import onnxruntime

    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "get_available_providers",
        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda data, options, providers: real(data, options, providers=["CPUExecutionProvider"]),
    )
    with pytest.raises(InputError, match="CUDAExecutionProvider was asked for but"):
        PointLocalizer(model_bytes, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])


def test_runtime_without_torch_and_onnx(model_bytes, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(model_bytes)
    program = f"""
import sys
for name in ("torch", "onnx", "detectron2", "cpr"):
    sys.modules[name] = None
import numpy as np
from cpr_deploy.point_localizer import PointLocalizer
result = PointLocalizer({str(path)!r}, threads=1)(np.zeros((64, 64, 3), np.uint8))
import cpr_deploy.stream, cpr_deploy.overlay, cpr_deploy.tiling
assert not any(name.split(".")[0] in ("torchvision", "torch") and module for name, module in
               sys.modules.items())
print(len(result))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env=tiny_localizer.environment(),
    )
    assert done.returncode == 0, done.stderr


class ShortOfMemory:
    """A runner that fails for more than `most` images."""

    def __init__(self, runner, most):
        self._runner, self._most = runner, most
        self.copies, self.pin = runner.copies, runner.pin
        self.batches = []

    def upload(self, feed):
        self._runner.upload(feed)
        self.batches.append(len(feed["images"]))

    def run(self):
        if self.batches[-1] > self._most:
            raise InferenceError("the network failed: out of memory")
        return self._runner.run()


def test_short_memory_means_one_image_at_a_time(model_bytes):
    localizer = PointLocalizer(model_bytes, threads=1, resize="none")
    images = [tiny_localizer.scene(96, 128, seed) for seed in range(3)]
    expected = localizer(images)
    localizer._runner = ShortOfMemory(localizer._runner, 1)
    for _ in range(2):
        for first, second in zip(localizer(images), expected, strict=True):
            assert_equal(first, second)
    assert localizer._runner.batches == [3, 1, 1, 1, 1, 1, 1]
    localizer._runner = ShortOfMemory(localizer._runner, 0)
    with pytest.raises(InferenceError):
        localizer(images)
    assert localizer._runner.batches == [1]


def test_an_error_of_the_runtime_is_an_inference_error(model_bytes):
    localizer = PointLocalizer(model_bytes, threads=1)
    feed = localizer.inputs(tiny_localizer.scene(96, 128))
    localizer._runner.upload({**feed, "scale": np.ones((1, 3), np.float32)})
    with pytest.raises(InferenceError, match=r"^the network failed: [^\n]*scale"):
        localizer._runner.run()
