"""ONNX Runtime sessions: providers with the options that matter, caches, inputs on the device.

What is said of CUDA, TensorRT and OpenVINO follows the documentation of ONNX Runtime 1.31; the page
`deploy/README.md` says which of it has been run.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import fcntl
import hashlib
import importlib.util
import json
import logging
import os
import platform
import stat
import subprocess
import sys
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from cpr_deploy.files import InputError
from cpr_deploy.model_spec import ModelSpec

logger = logging.getLogger(__name__)

NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
CPU, CUDA, TENSORRT, OPENVINO = NAMES.values()
# Their sessions take inputs in GPU memory.
ON_GPU = (CUDA, TENSORRT)
# Where CUDA's runtime may be, by its name for the loader; the newest first.
CUDA_RUNTIMES = ("libcudart.so.13", "libcudart.so.12")
NUMPY_TYPES = {
    "tensor(float)": np.float32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
}

Provider = str | tuple[str, Mapping[str, object]]


class InferenceError(RuntimeError):
    """ONNX Runtime failed while it ran a model: out of memory, or a GPU that is gone.

    After an error of CUDA nothing works any more in the same process.
    """


@dataclasses.dataclass(frozen=True)
class SessionSettings:
    """How a model is run.

    Attributes:
        providers: best first; a name (cpu, cuda, tensorrt, openvino, or ONNX Runtime's full name),
            or (name, options), whose options go before ours.
        threads: within an operator; None leaves the choice to ONNX Runtime.
        device_id: number of the GPU.
        cuda_graph: record the whole graph once and replay it (CUDA and TensorRT, files of fixed
            size and batch only).
        cache_dir: folder for TensorRT's engines and OpenVINO's models; None: the user's cache.
    """

    providers: Sequence[Provider] = ("cpu",)
    threads: int | None = None
    device_id: int = 0
    cuda_graph: bool = False
    cache_dir: Path | None = None

    @property
    def names(self) -> list[str]:
        """Full names of the providers."""
        return [full_name(item if isinstance(item, str) else item[0]) for item in self.providers]


def full_name(name: str) -> str:
    """ONNX Runtime's name of a provider; short names in any case.

    >>> full_name("TensorRT")
    'TensorrtExecutionProvider'
    """
    if name.endswith("ExecutionProvider"):
        return name
    if name.lower() not in NAMES:
        raise InputError(
            f"execution provider {name!r}: {', '.join(NAMES)}, or ONNX Runtime's full name of"
            " another one."
        )
    return NAMES[name.lower()]


def provider_options(
    settings: SessionSettings, spec: ModelSpec, cache: Path | None = None
) -> list[tuple[str, dict[str, str]]]:
    """Full names and options for ONNX Runtime, in the order asked for.

    Args:
        cache: folder for what TensorRT and OpenVINO make of this model, see `cache_folder`.

    Raises:
        InputError: a choice that this model cannot be run with.
    """
    names = settings.names
    graph = settings.cuda_graph
    if graph and names[0] not in ON_GPU:
        raise InputError(f"a CUDA graph needs the provider cuda or tensorrt, not {names[0]}.")
    fixed = not spec.dynamic_size and spec.batch is not None
    if not fixed and (graph or TENSORRT in names):
        raise InputError(
            f"{'a CUDA graph' if graph else 'TensorRT'} needs a model of fixed size and batch."
            " Export it with --static HxW --batch N."
        )
    if spec.precision == "int8" and TENSORRT in names:
        raise InputError(
            "an int8 file has unsigned activations, which TensorRT refuses. Take an fp16 file."
        )
    device = str(settings.device_id)
    half = spec.precision == "fp16"
    ours: dict[str, dict[str, object]] = {
        CPU: {},
        CUDA: {
            "device_id": device,
            # The first frame of each shape takes seconds, the others are faster.
            "cudnn_conv_algo_search": "EXHAUSTIVE",
            "cudnn_conv_use_max_workspace": "1",
            "do_copy_in_default_stream": "1",
            # TF32 has the mantissa of float16; who exports fp32 wants float32.
            "use_tf32": "0",
            "enable_cuda_graph": str(int(graph)),
        },
        TENSORRT: {
            "device_id": device,
            "trt_fp16_enable": str(int(half)),
            "trt_cuda_graph_enable": str(int(graph)),
            "trt_engine_cache_enable": str(int(cache is not None)),
            "trt_timing_cache_enable": str(int(cache is not None)),
        },
        OPENVINO: {"device_type": "CPU"},
    }
    if cache is not None:
        ours[TENSORRT]["trt_engine_cache_path"] = str(cache)
        ours[TENSORRT]["trt_timing_cache_path"] = str(cache)
        ours[OPENVINO]["cache_dir"] = str(cache)
    if settings.threads is not None:
        ours[OPENVINO]["num_of_threads"] = str(settings.threads)
    result = []
    for name, item in zip(names, settings.providers, strict=True):
        own = {} if isinstance(item, str) else item[1]
        merged = {**ours.get(name, {}), **own}
        result.append((name, {key: str(value) for key, value in merged.items()}))
    return result


def cache_folder(settings: SessionSettings, spec: ModelSpec, model_sha256: str) -> Path | None:
    """The folder for compiled forms of one model, made if it is not there; None if none is needed.

    Engines hold weights and fit one GPU, driver and runtime only, so its name is a hash of all of
    these, of the model and of its shape. Nobody else may write there: engines are code.
    """
    compiled = [name for name in settings.names if name in (TENSORRT, OPENVINO)]
    if not compiled:
        return None
    import onnxruntime

    key = {
        "model": model_sha256,
        "shape": [spec.batch, spec.height, spec.width],
        "providers": compiled,
        "machine": gpu_identity(settings.device_id) if TENSORRT in compiled else platform.machine(),
        "versions": {"onnxruntime": onnxruntime.__version__, "tensorrt": _tensorrt_version()},
    }
    root = settings.cache_dir
    if root is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        root = Path(home) / "cpr_deploy"
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    folder = Path(root) / digest[:32]
    for path in (Path(root), folder):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
        if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022:
            raise InputError(
                f"{path}: belongs to, or can be written by, someone else. Compiled models are code"
                " and are only kept in a folder of one's own (chmod 700)."
            )
    return folder


def gpu_identity(device_id: int) -> str:
    """Name, driver and compute capability of a GPU; the machine's name if nobody can tell."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            [*command, f"--id={device_id}"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return f"unknown GPU of {platform.node()}"
    return done.stdout.strip()


def _tensorrt_version() -> str:
    from importlib import metadata

    for name in ("tensorrt-cu13-libs", "tensorrt-cu12-libs", "tensorrt"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return "system"


def preload_libraries(names: Sequence[str]) -> None:
    """Loads CUDA's, cuDNN's and TensorRT's libraries out of their Python packages, if needed.

    Without it, ONNX Runtime finds only those that are installed for the whole system.
    """
    if not set(names) & set(ON_GPU):
        return
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):
        # It prints what it does not find; standard output may be our records.
        with contextlib.redirect_stdout(sys.stderr):
            onnxruntime.preload_dlls()
    if TENSORRT in names and (found := importlib.util.find_spec("tensorrt_libs")):
        for folder in found.submodule_search_locations or ():
            for library in sorted(Path(folder).glob("libnv*.so.*")):
                with contextlib.suppress(OSError):
                    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def create_session(
    data: bytes,
    name: str,
    spec: ModelSpec,
    settings: SessionSettings,
    *,
    profile: Path | None = None,
):
    """An `onnxruntime.InferenceSession` of a checked model that really uses what was asked for.

    Args:
        data: the file's bytes; name: for messages.
        profile: beginning of the name of a profile to write; see `node_placement`.

    Raises:
        InputError: a provider that is not there or was not used, or a model that does not load.
    """
    import onnxruntime

    names = settings.names
    available = onnxruntime.get_available_providers()
    for provider in names:
        if provider not in available:
            raise InputError(
                f"execution provider {provider} is not in this ONNX Runtime, which has"
                f" {', '.join(available)}. Install the runtime that has it (onnxruntime-gpu for"
                " CUDAExecutionProvider, and not onnxruntime beside it), or choose another."
            )
    cache = cache_folder(settings, spec, hashlib.sha256(data).hexdigest())
    providers = provider_options(settings, spec, cache)
    preload_libraries(names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if settings.threads is not None:
        options.intra_op_num_threads = settings.threads
    if settings.cuda_graph and CPU not in names:
        # A node on the CPU would break the recording; say so now, and which one.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    try:
        with _locked(cache):
            session = onnxruntime.InferenceSession(
                data, options, providers=[(name, own) if own else name for name, own in providers]
            )
    except Exception as error:  # ONNX Runtime's exceptions share no public base class
        raise InputError(
            f"{name}: ONNX Runtime cannot load it ({str(error).strip().splitlines()[0]})."
            " Export it again with deploy/export_onnx.py."
        ) from error
    unused = [provider for provider in names if provider not in session.get_providers()]
    if unused:
        raise InputError(
            f"execution provider {unused[0]} was asked for but ONNX Runtime fell back to"
            f" {', '.join(session.get_providers())}. Check that its CUDA and cuDNN versions match"
            " those of the driver and of the onnxruntime-gpu package, or choose another provider."
        )
    logger.info("%s runs on %s", name, ", ".join(session.get_providers()))
    return session


@contextlib.contextmanager
def _locked(folder: Path | None) -> Iterator[None]:
    """One process at a time compiles into a cache; the others find the result."""
    if folder is None:
        yield
        return
    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make_runner(session, settings: SessionSettings) -> Runner | BoundRunner:
    """What runs the session: on GPUs with inputs and outputs that stay where they are."""
    if settings.names[0] in ON_GPU:
        return BoundRunner(session, "cuda", settings.device_id)
    return Runner(session)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # ONNX Runtime's exceptions share no public base class
        first = (str(error).strip() or repr(error)).splitlines()[0]
        raise InferenceError(f"the network failed: {first}") from error


class Runner:
    """Runs a session on numpy arrays."""

    copies = False  # whether `upload` is work

    def __init__(self, session):
        self._session = session
        self._outputs = [item.name for item in session.get_outputs()]

    def pin(self, array: np.ndarray) -> None:
        """Says that `array` will often be an input; nothing to do here."""

    def upload(self, feed: Mapping[str, np.ndarray]) -> None:
        """Takes the inputs of the next `run`."""
        self._feed = dict(feed)

    def run(self) -> list[np.ndarray]:
        """The outputs for what was uploaded last, in the order of the file."""
        with _explained():
            return self._session.run(self._outputs, self._feed)


class BoundRunner:
    """Runs a session whose inputs and outputs have their fixed places in the device's memory.

    Only the inputs' bytes go up and the few numbers of the outputs come down. The places are the
    same for every frame, which a CUDA graph needs.

    Args:
        device: "cuda", or "cpu" to do the same in main memory.
    """

    copies = True

    def __init__(self, session, device: str, device_id: int = 0):
        self._session = session
        self._device = (device, device_id)
        self._types = {item.name: NUMPY_TYPES[item.type] for item in session.get_inputs()}
        self._pinned = PinnedMemory() if device == "cuda" else None
        # Shapes of the inputs -> binding, inputs and outputs on the device.
        self._bindings: dict[tuple, tuple] = {}
        self._current: tuple | None = None

    def pin(self, array: np.ndarray) -> None:
        """Locks the memory of `array`, so that its uploads need no further copy."""
        if self._pinned is not None:
            self._pinned.pin(array)

    def upload(self, feed: Mapping[str, np.ndarray]) -> None:
        """Copies the inputs of the next `run` to their places on the device."""
        key = tuple(sorted((name, array.shape) for name, array in feed.items()))
        if key not in self._bindings:
            if len(self._bindings) >= 16:  # of free sizes: do not keep memory for all of them
                self._bindings.clear()
            with _explained():
                self._bindings[key] = self._bind(feed)
        self._current = self._bindings[key]
        with _explained():
            for name, array in feed.items():
                self._current[1][name].update_inplace(array)

    def run(self) -> list[np.ndarray]:
        """The outputs for what was uploaded last, in the order of the file; copies."""
        binding, _, outputs = self._current
        with _explained():
            self._session.run_with_iobinding(binding)
            return [np.array(value.numpy()) for value in outputs]

    def _bind(self, feed: Mapping[str, np.ndarray]) -> tuple:
        import onnxruntime

        def place(shape: Sequence[int], kind: type):
            return onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                list(shape), kind, *self._device
            )

        binding = self._session.io_binding()
        inputs, outputs = {}, []
        for name, array in feed.items():
            inputs[name] = place(array.shape, self._types[name])
            binding.bind_ortvalue_input(name, inputs[name])
        batch = len(next(iter(feed.values())))
        for item in self._session.get_outputs():
            # The batch comes first and may be free; all other sizes are fixed.
            outputs.append(place([batch, *item.shape[1:]], NUMPY_TYPES[item.type]))
            binding.bind_ortvalue_output(item.name, outputs[-1])
        return binding, inputs, outputs


class PinnedMemory:
    """Page-locks arrays through CUDA's runtime, until they are freed.

    Copies from such memory to the GPU are about twice as fast. If it does not work, a warning says
    so once, and copies are merely slower.
    """

    def __init__(self, runtime=None):
        self._runtime = runtime or _load_first(CUDA_RUNTIMES)
        self._warned = False

    def pin(self, array: np.ndarray) -> bool:
        """Whether the memory of `array` (contiguous) is locked now."""
        code = -1
        if self._runtime is not None:
            address = ctypes.c_void_p(array.ctypes.data)
            code = self._runtime.cudaHostRegister(address, ctypes.c_size_t(array.nbytes), 0)
            if code == 0:
                weakref.finalize(array, self._runtime.cudaHostUnregister, address)
        if code != 0 and not self._warned:
            self._warned = True
            logger.warning("host memory cannot be pinned (code %d): uploads will be slower", code)
        return code == 0


def _load_first(libraries: Sequence[str]):
    for library in libraries:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(library)
    return None


def node_placement(
    data: bytes, name: str, spec: ModelSpec, settings: SessionSettings, feed: Mapping
) -> Counter[tuple[str, str]]:
    """How many nodes of each (provider, operator) really run, by ONNX Runtime's own profile.

    "MemcpyFromHost" and "MemcpyToHost" are copies that ONNX Runtime has put between providers. CUDA
    graphs are left out, as a replayed graph has no nodes to report.
    """
    plain = dataclasses.replace(settings, cuda_graph=False)
    with tempfile.TemporaryDirectory() as folder:
        session = create_session(data, name, spec, plain, profile=Path(folder) / "profile")
        runner = make_runner(session, plain)
        runner.upload(feed)
        runner.run()
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    placement: Counter[tuple[str, str]] = Counter()
    seen = set()
    for event in events:
        arguments, node = event.get("args", {}), event.get("name", "")
        if node.endswith("_kernel_time") and node not in seen:
            seen.add(node)
            placement[arguments.get("provider", ""), arguments.get("op_name", "")] += 1
    return placement
