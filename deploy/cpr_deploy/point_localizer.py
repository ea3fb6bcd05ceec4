"""Finds the points of objects in images with an exported model: numpy and onnxruntime only.

Coordinates are continuous pixels of the image given: x right, y down, origin at its top-left
corner, centre of the first pixel at (0.5, 0.5).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cpr_deploy.files import InputError
from cpr_deploy.latency import LatencyRecorder
from cpr_deploy.model_spec import FLAG_NOT_FINITE, ModelSpec
from cpr_deploy.onnx_check import MAX_MODEL_BYTES, check_onnx
from cpr_deploy.sessions import (
    InferenceError,
    Provider,
    SessionSettings,
    create_session,
    make_runner,
)

logger = logging.getLogger(__name__)

INPUTS = {"images": "tensor(uint8)", "scale": "tensor(float)"}
OUTPUTS = {
    "points": "tensor(float)",
    "scores": "tensor(float)",
    "labels": "tensor(int64)",
    "valid": "tensor(int64)",
    "flags": "tensor(int64)",
}
# Images of equal network size that are run together.
MAX_BATCH = 8
# Larger images are refused: most likely a damaged header.
MAX_PIXELS = 200_000_000
# A point on the right or bottom border may be beyond it by rounding, px.
BORDER_TOLERANCE = 1e-2

Resize = str | float | tuple[int, int]


@dataclasses.dataclass(frozen=True)
class PointResult:
    """Points of one image, best first.

    points (n, 2) float32 px of the image, scores (n,) float32, labels (n,) int64 (index into
    `PointLocalizer.class_names`); `flags`: bit 0 NMS not converged, bit 1 candidates overflowed,
    bit 2 the network gave numbers that are not finite: nothing is known of the image.
    """

    points: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    flags: int

    def __len__(self) -> int:
        return len(self.scores)


class PointLocalizer:
    """Runs an ONNX file made by `deploy/export_onnx.py`.

    Args:
        model: path or bytes of the file. It is checked before it is loaded, and loaded from memory.
        providers: ONNX Runtime execution providers, best first: cpu, cuda, tensorrt, openvino or
            full names, or (name, options). Each one must really be used: a silent fall-back to
            another one is an error.
        threads: threads within an operator; None leaves the choice to ONNX Runtime.
        device_id, cuda_graph, cache_dir: see `sessions.SessionSettings`.
        score_thresh: drops points with a score at or below it; not less than the exported one.
        resize: "test" (the model's recommendation: shorter side, then longer side), "none", a
            factor, or (shorter side, longest longer side) in px.

    Raises:
        InputError: the file is not ours or not safe, or a provider cannot be used.

    Not thread-safe: the input buffer is reused. Use one localizer per thread.
    """

    def __init__(
        self,
        model: str | os.PathLike | bytes,
        *,
        providers: Sequence[Provider] = ("CPUExecutionProvider",),
        threads: int | None = None,
        device_id: int = 0,
        cuda_graph: bool = False,
        cache_dir: str | os.PathLike | None = None,
        score_thresh: float | None = None,
        resize: Resize = "test",
    ):
        data, self.name = _read_model(model)
        self.spec = ModelSpec.from_metadata(check_onnx(data, self.name).metadata, self.name)
        self.class_names = self.spec.class_names
        if score_thresh is not None and not self.spec.score_thresh <= score_thresh <= 1:
            raise InputError(
                f"{self.name}: score threshold {score_thresh} is not between the exported"
                f" {self.spec.score_thresh} and 1. Export again with a lower"
                " MODEL.P2PNET.SCORE_THRESH to see weaker points."
            )
        self.score_thresh = self.spec.score_thresh if score_thresh is None else score_thresh
        self.resize = _checked_resize(resize)
        settings = SessionSettings(
            providers=tuple(providers),
            threads=threads,
            device_id=device_id,
            cuda_graph=cuda_graph,
            cache_dir=None if cache_dir is None else Path(cache_dir),
        )
        session = create_session(data, self.name, self.spec, settings)
        self.providers = tuple(session.get_providers())
        _check_signature(session, self.name)
        self._runner = make_runner(session, settings)
        # Images of equal network size that are run together, at most.
        self._batch = self.spec.batch or MAX_BATCH
        # (batch, height, width) -> the buffer and the frame size each of its slots is filled for.
        self._buffers: dict[tuple[int, int, int], tuple[np.ndarray, list]] = {}

    def __call__(
        self,
        images: np.ndarray | Sequence[np.ndarray],
        *,
        latency: LatencyRecorder | None = None,
    ) -> PointResult | list[PointResult]:
        """Points of one image (height, width, 3) uint8 BGR, or of each of a list of them.

        An image's result does not depend on the others: only images of equal network size share a
        batch. `latency` gets the stages preprocess, upload (to a GPU only), infer and postprocess.

        Raises:
            InferenceError: ONNX Runtime failed, with a single image too.
        """
        if isinstance(images, np.ndarray) and images.ndim == 3:
            return self._detect([images], latency)[0]
        return self._detect(list(images), latency)

    def inputs(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """The graph's inputs for one image (height, width, 3) uint8 BGR: name -> array.

        A graph of a fixed batch size gets the image in its first slot, padding in the others.
        """
        _check_image(image, 0)
        size = self.network_size(*image.shape[:2])
        feed = self._prepare([image], [size], self._padded_size(*size))
        return {name: array.copy() for name, array in feed.items()}

    def network_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of an image after the resize and before padding, network px."""
        shorter, longer = min(height, width), max(height, width)
        factor = 1.0
        if isinstance(self.resize, float):
            factor = self.resize
        elif self.resize == "test" and self.spec.resize_factor > 0:
            factor = self.spec.resize_factor
        elif self.resize != "none":
            sides = (self.spec.min_size, self.spec.max_size)
            min_size, max_size = sides if self.resize == "test" else self.resize
            if min_size > 0:
                factor = min_size / shorter
                if max_size > 0:
                    factor = min(factor, max_size / longer)
        if not self.spec.dynamic_size:
            factor = min(factor, self.spec.height / height, self.spec.width / width)
        return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))

    def _padded_size(self, height: int, width: int) -> tuple[int, int]:
        if not self.spec.dynamic_size:
            return self.spec.height, self.spec.width
        multiple = self.spec.size_multiple
        return -(-height // multiple) * multiple, -(-width // multiple) * multiple

    def _detect(
        self, images: list[np.ndarray], latency: LatencyRecorder | None
    ) -> list[PointResult]:
        for index, image in enumerate(images):
            _check_image(image, index)
        groups: dict[tuple[int, int], list[int]] = {}
        sizes = [self.network_size(*image.shape[:2]) for image in images]
        for index, size in enumerate(sizes):
            groups.setdefault(self._padded_size(*size), []).append(index)
        results: list[PointResult | None] = [None] * len(images)
        for padded, members in groups.items():
            while members:
                chunk = members[: self._batch]
                part = [images[i] for i in chunk]
                try:
                    found = self._run(part, [sizes[i] for i in chunk], padded, latency)
                except InferenceError as error:
                    if len(chunk) == 1 or self.spec.batch:
                        raise
                    # Most likely out of memory. What is sticky fails again at once.
                    logger.warning("%s: %s; from here on one image at a time", self.name, error)
                    self._batch = 1
                    self._buffers.clear()
                    continue
                for index, result in zip(chunk, found, strict=True):
                    results[index] = result
                members = members[len(chunk) :]
        return results

    def _run(
        self,
        images: list[np.ndarray],
        sizes: list[tuple[int, int]],
        padded: tuple[int, int],
        latency: LatencyRecorder | None,
    ) -> list[PointResult]:
        """One batch."""
        with _stage(latency, "preprocess"):
            feed = self._prepare(images, sizes, padded)
        with _stage(latency if self._runner.copies else None, "upload"):
            self._runner.upload(feed)
        with _stage(latency, "infer"):
            outputs = self._runner.run()
        with _stage(latency, "postprocess"):
            return [
                self._collect([output[row] for output in outputs], image.shape[:2])
                for row, image in enumerate(images)
            ]

    def _prepare(
        self,
        images: list[np.ndarray],
        sizes: list[tuple[int, int]],
        padded: tuple[int, int],
    ) -> dict[str, np.ndarray]:
        """The graph's inputs: resized images at the top left of the padded network input."""
        batch = self.spec.batch or len(images)
        key = (batch, *padded)
        if key not in self._buffers:
            if len(self._buffers) >= 2 * MAX_BATCH:
                self._buffers.clear()
            buffer = np.empty((batch, *padded, 3), np.uint8)
            buffer[:] = self.spec.pad_bgr
            self._runner.pin(buffer)
            self._buffers[key] = (buffer, [None] * batch)
        buffer, filled = self._buffers[key]
        scale = np.ones((batch, 2), np.float32)
        for slot, (image, (height, width)) in enumerate(zip(images, sizes, strict=True)):
            if filled[slot] != (height, width):
                # The last image in this slot had another size: restore the padding.
                buffer[slot] = self.spec.pad_bgr
                filled[slot] = (height, width)
            buffer[slot, :height, :width] = _resize(image, height, width)
            scale[slot] = width / image.shape[1], height / image.shape[0]
        return {"images": buffer, "scale": scale}

    def _collect(self, outputs: list[np.ndarray], frame: tuple[int, int]) -> PointResult:
        points, scores, labels, valid, flags = outputs
        count = int(valid)
        # Files from before this flag: broken scores come first or are not counted as valid.
        broken = not (np.isfinite(scores).all() and np.isfinite(points[:count]).all())
        flags = int(flags) | FLAG_NOT_FINITE * broken
        points, scores, labels = points[:count], scores[:count], labels[:count]
        height, width = frame
        # Points in the padding, and those below a raised threshold, are dropped. Comparisons with
        # NaN are false, so broken values never leave.
        corner = np.array([width, height], np.float32)
        keep = (scores > self.score_thresh) & (points >= 0).all(axis=1)
        keep &= (points <= corner + BORDER_TOLERANCE).all(axis=1)
        points = np.minimum(points[keep], corner)
        return PointResult(points, scores[keep], labels[keep], flags)


def _stage(latency: LatencyRecorder | None, name: str):
    return contextlib.nullcontext() if latency is None else latency.stage(name)


def _read_model(model: str | os.PathLike | bytes) -> tuple[bytes, str]:
    if isinstance(model, bytes):
        return model, "model in memory"
    path = Path(model)
    if not path.is_file():
        raise InputError(f"{path}: no such file. Make one with deploy/export_onnx.py.")
    if path.stat().st_size > MAX_MODEL_BYTES:
        raise InputError(f"{path}: {path.stat().st_size} bytes is more than an ONNX file may have.")
    return path.read_bytes(), str(path)


def _checked_resize(resize: Resize) -> Resize:
    if resize in ("test", "none"):
        return resize
    if isinstance(resize, (int, float)) and not isinstance(resize, bool) and 0 < resize <= 16:
        return float(resize)
    if isinstance(resize, (tuple, list)) and len(resize) == 2 and min(resize) > 0:
        return tuple(resize)
    raise InputError(
        f"resize {resize!r}: 'test', 'none', a factor above 0 and up to 16, or (shorter side,"
        " longest longer side) is needed."
    )


def _check_signature(session, name: str) -> None:
    for kind, expected, found in (
        ("inputs", INPUTS, {item.name: item.type for item in session.get_inputs()}),
        ("outputs", OUTPUTS, {item.name: item.type for item in session.get_outputs()}),
    ):
        if found != expected:
            raise InputError(
                f"{name}: its {kind} are {found}, a point localizer has {expected}. Export it again"
                " with deploy/export_onnx.py."
            )


def _check_image(image: np.ndarray, index: int) -> None:
    if (
        not isinstance(image, np.ndarray)
        or image.dtype != np.uint8
        or image.ndim != 3
        or image.shape[2] != 3
    ):
        what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else f"{type(image)}"
        raise InputError(f"image {index}: is {what}; a uint8 array (height, width, 3) is needed.")
    height, width = image.shape[:2]
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise InputError(
            f"image {index}: {width} x {height} px; between 1 and {MAX_PIXELS} pixels are needed."
        )


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    # Pillow's bilinear filter averages when it shrinks, as in training; OpenCV's does not.
    from PIL import Image

    resized = Image.fromarray(np.ascontiguousarray(image)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    return np.asarray(resized)
