import ctypes
import hashlib
import json
import os
import stat

import numpy as np
import onnx
import onnxruntime
import pytest

import tiny_localizer
from cpr_deploy import sessions
from cpr_deploy.files import InputError
from cpr_deploy.model_spec import ModelSpec
from cpr_deploy.onnx_check import check_onnx
from cpr_deploy.parity import TOLERANCES, match_points
from cpr_deploy.point_localizer import PointLocalizer
from cpr_deploy.sessions import (
    BoundRunner,
    PinnedMemory,
    Runner,
    SessionSettings,
    cache_folder,
    full_name,
    gpu_identity,
    node_placement,
    preload_libraries,
    provider_options,
)

pytestmark = pytest.mark.onnx


def spec_of(**changes):
    metadata = check_onnx(tiny_localizer.exported_bytes(), "model").metadata
    values = json.loads(metadata["spec"])
    fixed = {"batch": 1, "height": 128, "width": 160}
    return ModelSpec.from_metadata(
        {**metadata, "spec": json.dumps({**values, **fixed, **changes})}, "m"
    )


FREE = {"batch": None, "height": None, "width": None}


def options_of(*providers, spec=None, cache=None, **settings):
    return provider_options(
        SessionSettings(providers=providers, **settings), spec or spec_of(), cache
    )


def test_names():
    assert [full_name(name) for name in ("cpu", "CUDA", "TensorRT", "openvino")] == [
        "CPUExecutionProvider",
        "CUDAExecutionProvider",
        "TensorrtExecutionProvider",
        "OpenVINOExecutionProvider",
    ]
    assert full_name("DmlExecutionProvider") == "DmlExecutionProvider"
    with pytest.raises(InputError, match="'gpu': cpu, cuda, tensorrt, openvino"):
        full_name("gpu")


def test_options_of_the_cpu_are_none():
    assert options_of("cpu") == [("CPUExecutionProvider", {})]


def test_options_of_cuda():
    ((name, options),) = options_of("cuda", device_id=2)
    assert name == "CUDAExecutionProvider"
    assert options == {
        "device_id": "2",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "cudnn_conv_use_max_workspace": "1",
        "do_copy_in_default_stream": "1",
        "use_tf32": "0",
        "enable_cuda_graph": "0",
    }
    ((_, options),) = options_of("cuda", cuda_graph=True)
    assert options["enable_cuda_graph"] == "1"


def test_own_options_go_first_and_become_text():
    ((_, options),) = options_of(("cuda", {"use_tf32": 1, "prefer_nhwc": 1}))
    assert (options["use_tf32"], options["prefer_nhwc"]) == ("1", "1")
    assert options["device_id"] == "0"


def test_options_of_tensorrt(tmp_path):
    (name, options), (second, _) = options_of(
        "tensorrt", "cuda", spec=spec_of(precision="fp16"), cache=tmp_path, cuda_graph=True
    )
    assert (name, second) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert options == {
        "device_id": "0",
        "trt_fp16_enable": "1",
        "trt_cuda_graph_enable": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(tmp_path),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(tmp_path),
    }
    # A model exported as fp32 is not made half by the way.
    ((_, options),) = options_of("tensorrt")
    assert options["trt_fp16_enable"] == "0" and options["trt_engine_cache_enable"] == "0"


def test_options_of_openvino(tmp_path):
    ((_, options),) = options_of("openvino", threads=3, cache=tmp_path)
    assert options == {"device_type": "CPU", "num_of_threads": "3", "cache_dir": str(tmp_path)}


@pytest.mark.parametrize(
    "providers, settings, changes, message",
    [
        (["cpu"], {"cuda_graph": True}, {}, "needs the provider cuda or tensorrt"),
        (["cuda"], {"cuda_graph": True}, FREE, "a CUDA graph needs a model of fixed size"),
        (["cuda"], {"cuda_graph": True}, {"batch": None}, "--static HxW --batch N"),
        (["tensorrt"], {}, FREE, "TensorRT needs a model of fixed size"),
        (["tensorrt"], {}, {"precision": "int8"}, "unsigned activations"),
    ],
)
def test_choices_that_cannot_be(providers, settings, changes, message):
    with pytest.raises(InputError, match=message):
        options_of(*providers, spec=spec_of(**changes), **settings)


# --- the cache of compiled models ---


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """A made-up nvidia-smi whose answer the test chooses."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def install(answer, code=0):
        program = folder / "nvidia-smi"
        program.write_text(f"#!/bin/sh\necho '{answer}'\nexit {code}\n")
        program.chmod(0o755)

    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    install("NVIDIA X, 600.1, 9.0")
    return install


def test_cache_is_ones_own_and_depends_on_all_that_an_engine_fits(tmp_path, gpu):
    def folder(sha="a", spec=None, **settings):
        settings = {"providers": ("tensorrt",), "cache_dir": tmp_path / "cache", **settings}
        return cache_folder(SessionSettings(**settings), spec or spec_of(), sha)

    first = folder()
    assert first == folder() and first.parent == tmp_path / "cache"
    for path in (first, first.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    others = [
        folder(sha="b"),
        folder(spec=spec_of(height=256)),
        folder(spec=spec_of(batch=2)),
        folder(providers=("tensorrt", "openvino")),
    ]
    gpu("NVIDIA X, 601.0, 9.0")
    others.append(folder())
    assert len({first, *others}) == 6
    assert folder(providers=("cuda", "cpu")) is None


def test_a_cache_that_others_can_write_is_refused(tmp_path, gpu):
    tmp_path.chmod(0o777)
    with pytest.raises(InputError, match="someone else"):
        cache_folder(SessionSettings(("tensorrt",), cache_dir=tmp_path), spec_of(), "a")


def test_identity_of_a_gpu(gpu):
    assert gpu_identity(0) == "NVIDIA X, 600.1, 9.0"
    gpu("no device", code=6)
    assert gpu_identity(0).startswith("unknown GPU of ")


def test_libraries_are_loaded_for_gpus_only_and_print_nothing(monkeypatch, capsys):
    calls = []

    def preload():
        calls.append(1)
        print("Failed to load libcudart")

    monkeypatch.setattr(onnxruntime, "preload_dlls", preload)
    preload_libraries(["CPUExecutionProvider"])
    assert calls == []
    preload_libraries(["CUDAExecutionProvider", "CPUExecutionProvider"])
    captured = capsys.readouterr()
    assert calls == [1] and captured.out == "" and "libcudart" in captured.err


# --- running ---


def session_of(data):
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


def feed_of(height, width, batch=1, seed=0):
    images = np.stack([tiny_localizer.scene(height, width, seed + i) for i in range(batch)])
    return {"images": images, "scale": np.ones((batch, 2), np.float32)}


def test_bound_inputs_and_outputs_give_the_same():
    """The way of GPUs, with all buffers in main memory."""
    session = session_of(tiny_localizer.exported_bytes())
    plain, bound = Runner(session), BoundRunner(session, "cpu")
    # Back to a size seen before: its buffers are used again.
    for height, width, batch, seed in ((64, 96, 1, 0), (96, 64, 2, 1), (64, 96, 1, 5)):
        feed = feed_of(height, width, batch, seed)
        results = []
        for runner in (plain, bound):
            runner.upload(feed)
            results.append(runner.run())
        for one, other in zip(*results, strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
    assert len(bound._bindings) == 2


def test_results_survive_the_next_frame():
    bound = BoundRunner(session_of(tiny_localizer.exported_bytes()), "cpu")
    bound.upload(feed_of(64, 96))
    first = bound.run()
    kept = [part.copy() for part in first]
    bound.upload(feed_of(64, 96, seed=7))
    assert not np.array_equal(bound.run()[0], kept[0])
    for one, other in zip(first, kept, strict=True):
        np.testing.assert_array_equal(one, other)


class FakeRuntime:
    """CUDA's runtime, which notes what it is told."""

    def __init__(self, code=0):
        self.code, self.locked, self.freed = code, [], []

    def cudaHostRegister(self, address, size, flags):
        assert isinstance(address, ctypes.c_void_p) and flags == 0
        self.locked.append((address.value, size.value))
        return self.code

    def cudaHostUnregister(self, address):
        self.freed.append(address.value)
        return 0


def test_memory_is_locked_until_it_is_freed():
    runtime = FakeRuntime()
    array = np.zeros((2, 32, 32, 3), np.uint8)
    address = array.ctypes.data
    assert PinnedMemory(runtime).pin(array)
    assert runtime.locked == [(address, 2 * 32 * 32 * 3)] and runtime.freed == []
    del array
    assert runtime.freed == [address]


def test_memory_that_cannot_be_locked_is_warned_of_once(caplog):
    runtime = FakeRuntime(code=2)
    memory = PinnedMemory(runtime)
    assert not memory.pin(np.zeros(3)) and not memory.pin(np.zeros(3))
    assert runtime.freed == []
    assert [record.message for record in caplog.records] == [
        "host memory cannot be pinned (code 2): uploads will be slower"
    ]


def test_without_cuda_nothing_is_locked(monkeypatch):
    monkeypatch.setattr(sessions, "CUDA_RUNTIMES", ("libnothing_of_that_name.so",))
    assert not PinnedMemory().pin(np.zeros(3))


def test_placement_counts_what_runs_where():
    data = tiny_localizer.exported_bytes()
    placement = node_placement(data, "model", spec_of(**FREE), SessionSettings(), feed_of(64, 96))
    assert {provider for provider, _ in placement} == {"CPUExecutionProvider"}
    proto = onnx.load_from_string(data)
    topk = sum(node.op_type == "TopK" for node in proto.graph.node)
    assert placement["CPUExecutionProvider", "TopK"] == topk
    assert not any(operator.startswith("Memcpy") for _, operator in placement)


def test_a_localizer_takes_short_names():
    localizer = PointLocalizer(tiny_localizer.exported_bytes(), providers=["cpu"], threads=1)
    assert localizer.providers == ("CPUExecutionProvider",)
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(InputError, match="CUDAExecutionProvider is not in this ONNX Runtime"):
            PointLocalizer(tiny_localizer.exported_bytes(), providers=["cuda"])
    with pytest.raises(InputError, match="CUDA graph"):
        PointLocalizer(tiny_localizer.exported_bytes(), cuda_graph=True)


# --- on a GPU ---


def need_cuda():
    sessions.preload_libraries(["CUDAExecutionProvider"])
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA provider (onnxruntime-gpu)")


@pytest.fixture(scope="module")
def fixed_files(tmp_path_factory):
    """Precision -> bytes of a file of fixed size."""
    from cpr.export import export_point_localizer

    model, cfg = tiny_localizer.build(
        [
            *tiny_localizer.options(4),
            *("MODEL.FPN.NORM", "BN", "MODEL.P2PNET.NORM", "BN"),
        ]
    )
    files = {}
    for precision in ("fp32", "fp16"):
        path = tmp_path_factory.mktemp("gpu") / "model.onnx"
        export_point_localizer(
            *(model, cfg, path),
            class_names=tiny_localizer.CLASS_NAMES,
            static_size=(128, 160),
            batch=1,
            precision=precision,
        )
        files[precision] = path.read_bytes()
    return files


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_everything_runs_on_the_gpu(fixed_files, precision):
    need_cuda()
    data = fixed_files[precision]
    spec = ModelSpec.from_metadata(check_onnx(data, "m").metadata, "m")
    placement = node_placement(data, "m", spec, SessionSettings(("cuda",)), feed_of(128, 160))
    assert {provider for provider, _ in placement} == {"CUDAExecutionProvider"}
    assert not any(operator.startswith("Memcpy") for _, operator in placement)


@pytest.mark.gpu
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_gpu_finds_the_points_of_the_cpu(fixed_files, precision, graph):
    need_cuda()
    cpu = PointLocalizer(fixed_files["fp32"], resize="none")
    gpu = PointLocalizer(
        fixed_files[precision], providers=["cuda"], cuda_graph=graph, resize="none"
    )
    tolerance, total, missing = TOLERANCES[precision], 0, 0
    for seed in range(8):  # the graph is recorded on the first and replayed on the others
        image = tiny_localizer.scene(128, 160, seed)
        lists = [(found.points, found.scores, found.labels) for found in (cpu(image), gpu(image))]
        last = (float(lists[0][1][-1]),) if len(lists[0][1]) else ()
        points, unmatched, *_ = match_points(*lists, borderline=last, tolerance=tolerance)
        total, missing = total + points, missing + unmatched
    assert total > 20 and missing <= max(1, tolerance.unmatched * total)


def test_model_hash_is_that_of_the_bytes(monkeypatch):
    """The cache of a session is keyed by what is loaded, not by a file name."""
    seen = []
    monkeypatch.setattr(sessions, "cache_folder", lambda *a: seen.append(a[2]))
    data = tiny_localizer.exported_bytes()
    PointLocalizer(data, providers=["cpu"])
    assert seen == [hashlib.sha256(data).hexdigest()]
