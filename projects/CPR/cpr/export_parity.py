"""The proof that an exported graph equals the eager model: both run on the same inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from cpr_deploy.model_spec import ModelSpec
from cpr_deploy.onnx_check import check_onnx
from cpr_deploy.parity import TOLERANCES, Tolerance, match_points

from .export_graph import PointLocalizerGraph
from .modeling.class_scores import class_scores

# The comparison goes down to as many candidates of an image, or to fewer where NMS does not settle.
COMPARED_CANDIDATES = (300, 100, 30)


@dataclasses.dataclass(frozen=True)
class ParityReport:
    """How far ONNX Runtime is from the eager model over all cases."""

    cases: tuple[str, ...]
    points: int
    unmatched: int
    images_not_settled: int
    max_point_difference_px: float
    max_score_difference: float
    tolerance: Tolerance = TOLERANCES["fp32"]

    @property
    def passed(self) -> bool:
        return self.points > 0 and self.unmatched <= int(self.tolerance.unmatched * self.points)

    def __str__(self) -> str:
        return (
            f"parity of eager and ONNX: {self.points} points in {len(self.cases)} cases"
            f" ({', '.join(self.cases)}), {self.unmatched} unmatched,"
            f" {self.images_not_settled} images left out because NMS did not settle; largest"
            f" difference {self.max_point_difference_px:.2e} px and"
            f" {self.max_score_difference:.2e} in score (tolerances {self.tolerance.point_px} px,"
            f" {self.tolerance.score}, {self.tolerance.unmatched:.1%} unmatched):"
            f" {'passed' if self.passed else 'FAILED'}"
        )


class ParityError(Exception):
    """The exported graph differs from the eager model; carries the report."""

    def __init__(self, report: ParityReport):
        super().__init__(str(report))
        self.report = report


def compare_with_eager(
    graph: PointLocalizerGraph,
    data: bytes,
    *,
    images: Sequence[np.ndarray] = (),
    seed: int = 0,
    tolerance: Tolerance = TOLERANCES["fp32"],
) -> ParityReport:
    """Runs the eager model of `graph` and its ONNX file `data` on the same inputs.

    Sizes and batch sizes vary as far as the file allows. So that a model with few detections is
    compared as well, the comparison goes down to 300 candidates an image, below the threshold.
    Images on which the graph's NMS does not settle (untrained models, mostly) are not compared, but
    counted: there the file says by its flag that it is not exact.
    """
    import onnxruntime

    spec = ModelSpec.from_metadata(check_onnx(data, "exported graph").metadata, "exported graph")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(seed)
    totals = np.zeros(3, dtype=int)  # points, unmatched, images not settled
    differences = np.zeros(2)  # px, score
    cases = []
    for batch, height, width, scale in _parity_cases(spec):
        inputs = np.stack([_parity_image(images, height, width, rng) for _ in range(batch)])
        cases.append(f"{batch}x{height}x{width} at scale {scale:g}")
        scales = np.full((batch, 2), scale, np.float32)
        thresh, settled = _comparison_threshold(graph, inputs, scales)
        outputs = session.run(None, {"images": inputs, "scale": scales})
        eager = _run_eager(graph, inputs, scale, thresh)
        for row in range(batch):
            if not settled[row]:
                totals[2] += 1
                continue
            points, scores, labels = (output[row] for output in outputs[:3])
            above = scores > thresh
            points_here, unmatched, *differences_here = match_points(
                eager[row],
                (points[above], scores[above], labels[above]),
                borderline=(thresh, float(scores[-1])),
                tolerance=tolerance,
            )
            totals[:2] += points_here, unmatched
            differences = np.maximum(differences, differences_here)
    return ParityReport(tuple(cases), *totals.tolist(), *differences.tolist(), tolerance)


@torch.no_grad()
def largest_activation(graph: PointLocalizerGraph, images: Sequence[np.ndarray] = ()) -> float:
    """The largest absolute output of any layer of the network on a few inputs; NaN if one is."""
    largest = torch.zeros(())

    def note(_module: nn.Module, _inputs: tuple, output: object) -> None:
        nonlocal largest
        if isinstance(output, torch.Tensor):
            largest = torch.maximum(largest, output.abs().max())

    model = graph.model
    hooks = [module.register_forward_hook(note) for module in model.modules()]
    rng = np.random.default_rng(0)
    try:
        for _ in range(max(1, min(4, len(images)))):
            image = _parity_image(images, 256, 320, rng)
            model.predict_maps(graph.normalize(torch.from_numpy(image[None])))
    finally:
        for hook in hooks:
            hook.remove()
    return float(largest)


def _parity_cases(spec: ModelSpec) -> Iterator[tuple[int, int, int, float]]:
    """(batch, height, width, network px per original px)."""
    sizes = [(256, 320), (192, 416), (384, 224)]
    if not spec.dynamic_size:
        sizes = [(spec.height, spec.width)]
    batches = [1, 2, 3] if spec.batch is None else [spec.batch]
    for index in range(max(len(sizes), len(batches))):
        height, width = sizes[index % len(sizes)]
        yield batches[index % len(batches)], height, width, (1.0, 0.5, 2.0)[index % 3]


def _parity_image(
    images: Sequence[np.ndarray], height: int, width: int, rng: np.random.Generator
) -> np.ndarray:
    """(height, width, 3) uint8: a cut of one of `images`, repeated if too small, or blobs."""
    if len(images):
        image = images[rng.integers(len(images))]
        y = rng.integers(max(1, image.shape[0] - height + 1))
        x = rng.integers(max(1, image.shape[1] - width + 1))
        cut = image[y : y + height, x : x + width]
        missing = ((0, height - cut.shape[0]), (0, width - cut.shape[1]), (0, 0))
        return np.pad(cut, missing, mode="wrap")
    ys, xs = np.mgrid[:height, :width]
    image = np.full((height, width, 3), rng.uniform(60, 180, 3))
    for _ in range(25):
        x, y, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(3, 15)
        blob = np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * radius**2))
        image += blob[..., None] * rng.uniform(-120, 120, 3)
    image += rng.normal(0, 8, image.shape)
    return image.clip(0, 255).astype(np.uint8)


@contextmanager
def _score_threshold(model: nn.Module, value: float) -> Iterator[None]:
    configured = model.decode
    model.decode = dataclasses.replace(configured, score_thresh=value)
    try:
        yield
    finally:
        model.decode = configured


@torch.no_grad()
def _comparison_threshold(
    graph: PointLocalizerGraph, images: np.ndarray, scales: np.ndarray
) -> tuple[float, np.ndarray]:
    """The threshold to compare down to, and per image whether its NMS settles above that, (B,).

    It lets the most of COMPARED_CANDIDATES pass on which NMS settles in every image, and at least
    those above the real threshold.
    """
    model = graph.model
    inputs = torch.from_numpy(images), torch.from_numpy(scales)
    logits, _ = model.predict_maps(graph.normalize(inputs[0]))
    scores = class_scores(logits, model.decode.class_loss).flatten(1)
    for count in (*COMPARED_CANDIDATES, 0):
        thresh = model.decode.score_thresh
        if count:
            count = min(count, scores.shape[1], graph.max_candidates)
            thresh = min(thresh, float(scores.topk(count, dim=1).values[:, -1].max()))
        with _score_threshold(model, thresh):
            flags = graph(*inputs)[-1]
        if not flags.any():
            break
    return thresh, (flags == 0).numpy()


@torch.no_grad()
def _run_eager(
    graph: PointLocalizerGraph, images: np.ndarray, scale: float, score_thresh: float
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Points (n, 2) original px, scores and labels of the model's own inference path."""
    if graph.flip_channels:
        images = images[..., ::-1]
    tensors = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    height, width = (round(side / scale) for side in images.shape[1:3])
    batch = [{"image": tensor, "height": height, "width": width} for tensor in tensors]
    with _score_threshold(graph.model, score_thresh):
        outputs = [output["instances"] for output in graph.model(batch)]
    return [
        (found.pred_points.numpy(), found.scores.numpy(), found.pred_classes.numpy())
        for found in outputs
    ]
