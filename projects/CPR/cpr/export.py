"""P2PNet as one tensor-in, tensor-out ONNX graph, and the proof that it equals the eager model.

The graph holds everything from the uint8 image to the points: normalisation, network, decoding
(official code, section "decode": the best locations, then every class above the threshold) and
exact class-wise point NMS, with outputs of fixed size and without data-dependent control flow.

Shape shorthand: B images, L locations (x points per location), K classes, N = PRE_NMS_TOPK
locations, M candidates (location, class), D = MAX_DETS outputs.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import logging
import math
import os
import platform
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from cpr_deploy.files import InputError, atomic_path
from cpr_deploy.model_spec import (
    FLAG_CANDIDATES_OVERFLOWED,
    FLAG_NMS_NOT_CONVERGED,
    ModelSpec,
)
from cpr_deploy.onnx_check import check_onnx

from .checkpoint import PointCheckpointer
from .engine import build_cfg

logger = logging.getLogger(__name__)

EXPORTERS = ("dynamo", "legacy")
DEFAULT_OPSET = 20
OPSETS = range(18, 21)
SIZE_MULTIPLE = 32
# Greedy NMS is the fixed point of "kept = not suppressed by a kept, better one". As many rounds
# settle every chain of suppressions up to this length; crowds were seen to need six.
NMS_ITERATIONS = 8
# A chunk of locations may hold this many times its even share of the N best ones.
CHUNK_ALLOWANCE = 8
# Operators whose output size or control flow depends on data.
FORBIDDEN_OPS = frozenset({"NonZero", "NonMaxSuppression", "If", "Loop", "Scan", "Compress"})
# A point of eager and ONNX is the same one if class, place and score agree to this.
POINT_TOLERANCE_PX = 0.05
SCORE_TOLERANCE = 1e-3
# Points with equal scores may suppress each other in either order: this share may differ.
UNMATCHED_SHARE = 0.005


class PointLocalizerGraph(nn.Module):
    """`P2PNet` from uint8 images to a fixed number of points; what is exported.

    forward: images (B, H, W, 3) uint8 BGR, H and W multiples of 32; scale (B, 2) float32, network
    px per original px in x and y. Returns, best first:
        points (B, D, 2) float32 original px, scores (B, D) float32, labels (B, D) int64,
        valid (B,) int64: how many have a score above the threshold; the slots after them hold
            weaker points (score 0 and label -1 where there are none),
        flags (B,) int64: bit 0: NMS not converged, bit 1: more candidates than the graph can hold;
            both speak of points above the threshold that reach the output.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        input_format: str,
        max_candidates: int | None = None,
        nms_iterations: int = NMS_ITERATIONS,
    ):
        super().__init__()
        if input_format not in ("BGR", "RGB"):
            raise ValueError(f"INPUT.FORMAT {input_format!r}: BGR or RGB is needed")
        self.model = model
        self.flip_channels = input_format == "RGB"
        self.num_classes = int(model.num_classes)
        self.pre_nms_topk = int(model.pre_nms_topk)
        most = self.pre_nms_topk * self.num_classes
        # With several classes a location may pass with more than one. NMS takes M x M comparisons.
        room = max(self.pre_nms_topk, min(2 * self.pre_nms_topk, 2000))
        self.max_candidates = min(most, max_candidates or room)
        self.max_dets = min(int(model.max_dets), self.max_candidates)
        self.nms_iterations = nms_iterations

    def forward(self, images: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, ...]:
        height, width = images.shape[1], images.shape[2]
        logits, points = self.model.predict_maps(self._normalize(images))
        chosen, exists, hidden = self._best_locations(logits, height, width)
        logits = torch.gather(logits, 1, chosen[..., None].expand(-1, -1, self.num_classes))
        points = torch.gather(points, 1, chosen[..., None].expand(-1, -1, 2))
        # A size as a tensor: traced exports would freeze a plain number.
        far = torch.stack([torch.full((), side, dtype=points.dtype) for side in (width, height)])
        points = torch.minimum(points.clamp(min=0), far)
        points = points / scale[:, None]
        scores = logits.float().sigmoid() * exists[..., None]

        points, scores, labels, too_many = self._candidates(points, scores)
        keep, changed = self._nms(points, labels)
        best, order = torch.topk(scores * keep, self.max_dets, dim=1)
        last, threshold = best[:, -1], self.model.score_thresh
        # What precedes the first change is final: changes after the last output do not matter, nor
        # do candidates left out that are weaker than it.
        matters = (scores > threshold) & (scores >= last[:, None])
        unsettled = (changed & matters).any(dim=1)
        overflow = ((hidden > threshold) & (hidden >= last)) | (too_many & (last <= threshold))
        points = torch.gather(points, 1, order[..., None].expand(-1, -1, 2))
        labels = torch.where(best > 0, torch.gather(labels, 1, order), -1)
        valid = (best > threshold).long().sum(dim=1)
        flags = (
            FLAG_NMS_NOT_CONVERGED * unsettled.long() + FLAG_CANDIDATES_OVERFLOWED * overflow.long()
        )
        return points, best, labels, valid, flags

    def _normalize(self, images: torch.Tensor) -> torch.Tensor:
        x = images.permute(0, 3, 1, 2)
        if self.flip_channels:
            x = torch.cat([x[:, 2:3], x[:, 1:2], x[:, 0:1]], dim=1)
        mean = self.model.pixel_mean.reshape(1, 3, 1, 1)
        std = self.model.pixel_std.reshape(1, 3, 1, 1)
        return (x.float() - mean) / std

    def _best_locations(
        self, logits: torch.Tensor, height: int, width: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The N locations with the best class score, in two steps.

        One top-k over all locations is slow on accelerators. Locations are dealt out to chunks by
        their place within blocks of 32 x 32 px, so that neighbours lie in different chunks; the
        best of each chunk meet in a second, small top-k.

        Returns location numbers (B, N) int64, float32 1 where there is one (grids may be smaller
        than N) else 0, and a bound (B,) of the scores that a full chunk could not pass on, or 0.
        """
        batch, count = logits.shape[0], self.pre_nms_topk
        cells = SIZE_MULTIPLE // self.model.stride
        rows, columns = height // SIZE_MULTIPLE, width // SIZE_MULTIPLE
        per_location = int(self.model.points_per_location)
        chunks = cells * cells * per_location
        from_chunk = min(count, math.ceil(CHUNK_ALLOWANCE * count / chunks))

        def deal(x: torch.Tensor) -> torch.Tensor:
            blocks = x.reshape(-1, rows, cells, columns, cells, per_location)
            return blocks.permute(0, 2, 4, 5, 1, 3).reshape(-1, chunks, rows * columns)

        best = deal(logits.float().amax(dim=-1))
        numbers = deal(torch.arange(logits.shape[1], device=logits.device)[None])
        # Small grids have fewer locations than are asked for: fill up with non-existing ones.
        best = torch.cat([best, best.new_full((batch, chunks, from_chunk), -torch.inf)], dim=2)
        numbers = torch.cat([numbers, numbers.new_zeros((1, chunks, from_chunk))], dim=2)
        passed, place = torch.topk(best, from_chunk, dim=2)
        numbers = torch.gather(numbers.expand(batch, -1, -1), 2, place)
        top, place = torch.topk(passed.reshape(batch, -1), count, dim=1)
        chosen = torch.gather(numbers.reshape(batch, -1), 1, place)
        # A chunk whose weakest passed location is better than the weakest of the N may hide more.
        weakest = passed[:, :, -1]
        hidden = torch.where(weakest > top[:, -1:], weakest.sigmoid(), 0).amax(dim=1)
        return chosen, (top > -torch.inf).float(), hidden

    def _candidates(
        self, points: torch.Tensor, scores: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The M best (location, class) pairs: points (B, M, 2), scores (B, M), labels (B, M), and
        whether more than M are above the threshold."""
        passing = (scores > self.model.score_thresh).long().sum(dim=(1, 2))
        pair_scores, pair = torch.topk(scores.flatten(1), self.max_candidates, dim=1)
        location = torch.div(pair, self.num_classes, rounding_mode="floor")
        points = torch.gather(points, 1, location[..., None].expand(-1, -1, 2))
        labels = pair - location * self.num_classes
        return points, pair_scores, labels, passing > self.max_candidates

    def _nms(self, points: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Greedy class-wise point NMS of sorted candidates as an unrolled fixed point.

        Returns keep (B, M) float32 0/1, and what the last round still changed (B, M) bool.
        """
        dx = (points[:, :, None, 0] - points[:, None, :, 0]).abs()
        dy = (points[:, :, None, 1] - points[:, None, :, 1]).abs()
        if self.model.nms_rule == "pseudo_box":
            size, iou = float(self.model.nms_size), float(self.model.nms_iou)
            # IoU > t of two squares of side a: (a - |dx|)(a - |dy|) > 2 a^2 t / (1 + t).
            overlap = (size - dx).clamp(min=0) * (size - dy).clamp(min=0)
            conflict = overlap > 2 * size**2 * iou / (1 + iou)
        elif self.model.nms_rule == "radius":
            conflict = dx * dx + dy * dy < float(self.model.nms_radius) ** 2
        else:
            raise ValueError(f"unknown NMS rule {self.model.nms_rule!r}")
        rank = torch.arange(self.max_candidates, device=points.device)
        conflict = conflict & (labels[:, :, None] == labels[:, None, :])
        suppresses = (conflict & (rank[:, None] < rank)).float()
        keep = previous = torch.ones_like(points[:, None, :, 0])
        for _ in range(self.nms_iterations):
            previous = keep
            keep = (torch.matmul(keep, suppresses) < 0.5).float()
        return keep[:, 0], (keep != previous)[:, 0]


@dataclasses.dataclass(frozen=True)
class ParityReport:
    """How far ONNX Runtime is from the eager model over all cases."""

    cases: tuple[str, ...]
    points: int
    unmatched: int
    images_not_settled: int
    max_point_difference_px: float
    max_score_difference: float

    @property
    def passed(self) -> bool:
        return self.points > 0 and self.unmatched <= int(UNMATCHED_SHARE * self.points)

    def __str__(self) -> str:
        return (
            f"parity of eager and ONNX: {self.points} points in {len(self.cases)} cases"
            f" ({', '.join(self.cases)}), {self.unmatched} unmatched,"
            f" {self.images_not_settled} images left out because NMS did not settle; largest"
            f" difference {self.max_point_difference_px:.2e} px and"
            f" {self.max_score_difference:.2e} in score (tolerances {POINT_TOLERANCE_PX} px,"
            f" {SCORE_TOLERANCE}, {UNMATCHED_SHARE:.1%} unmatched):"
            f" {'passed' if self.passed else 'FAILED'}"
        )


class ParityError(Exception):
    """The exported graph differs from the eager model; carries the report."""

    def __init__(self, report: ParityReport):
        super().__init__(str(report))
        self.report = report


def export_point_localizer(
    model: nn.Module,
    cfg: CfgNode,
    output: str | os.PathLike,
    *,
    class_names: Sequence[str],
    category_ids: Sequence[int] = (),
    static_size: tuple[int, int] | None = None,
    batch: int | None = None,
    exporter: str = "dynamo",
    opset: int = DEFAULT_OPSET,
    max_candidates: int | None = None,
    nms_iterations: int = NMS_ITERATIONS,
    weights_sha256: str = "",
    parity_images: Sequence[np.ndarray] = (),
) -> ParityReport:
    """Writes `model` (a P2PNet) as a single ONNX file, after comparing it with the eager model.

    Args:
        cfg: the model's config; gives the pixel format and the recommended resize.
        class_names: one per class; category_ids: their ids in annotation files, or none.
        static_size: (height, width) of the only input size, multiples of 32; None leaves it free.
        batch: the only batch size; None leaves it free.
        exporter: "dynamo", or "legacy" (TorchScript) where dynamo fails.
        max_candidates: (location, class) pairs that enter NMS; default PRE_NMS_TOPK,
            with several classes twice that if it is at most 2,000.
        nms_iterations: rounds of the unrolled NMS; more for denser crowds (flag bit 0).
        parity_images: (H, W, 3) uint8 BGR images to cut the comparison's inputs from; without them
            synthetic ones are used.

    Raises:
        InputError: meaningless arguments.
        ParityError: the graph differs from the model. No file is written.
    """
    if exporter not in EXPORTERS:
        raise InputError(f"exporter {exporter!r}: one of {', '.join(EXPORTERS)} is needed.")
    if opset not in OPSETS:
        raise InputError(f"opset {opset}: {OPSETS[0]} to {OPSETS[-1]} are supported.")
    if static_size is not None and (
        min(static_size) < SIZE_MULTIPLE or any(side % SIZE_MULTIPLE for side in static_size)
    ):
        raise InputError(
            f"static size {static_size[0]}x{static_size[1]}: height and width must be multiples of"
            f" {SIZE_MULTIPLE}."
        )
    if len(class_names) != model.num_classes:
        raise InputError(
            f"{len(class_names)} class names for a model of {model.num_classes} classes. Give one"
            " name per class, in the order of the category ids of the training annotations."
        )
    model = copy.deepcopy(model).to("cpu").float().eval()
    graph = PointLocalizerGraph(
        model,
        input_format=cfg.INPUT.FORMAT,
        max_candidates=max_candidates,
        nms_iterations=nms_iterations,
    ).eval()
    with torch.no_grad(), warnings.catch_warnings():
        # Of the exporters about themselves; what they make is compared with the model below.
        warnings.simplefilter("ignore")
        proto = _trace(graph, static_size, batch, exporter, opset)
    spec = dataclasses.replace(
        _spec(graph, cfg, class_names, static_size, batch),
        category_ids=tuple(category_ids),
        exporter=exporter,
        opset=opset,
        weights_sha256=weights_sha256,
    )
    for key, value in spec.to_metadata().items():
        proto.metadata_props.add(key=key, value=value)
    data = proto.SerializeToString()
    summary = check_onnx(data, str(output))
    forbidden = sorted({op for _, op in summary.op_types} & FORBIDDEN_OPS)
    if forbidden:
        raise RuntimeError(f"the exported graph holds {forbidden}, which accelerators cannot run")
    report = compare_with_eager(graph, data, images=parity_images)
    logger.info("%s", report)
    if not report.passed:
        raise ParityError(report)
    with atomic_path(output) as temporary:
        temporary.write_bytes(data)
    return report


def load_localizer(
    config_file: str | os.PathLike, weights: str | None, opts: Sequence[str] = ()
) -> tuple[nn.Module, CfgNode, dict]:
    """The P2PNet of a config with the weights of a checkpoint, on the CPU.

    Returns the model, its config and what the checkpoint says about the classes ("class_names",
    "category_ids"; {} if nothing). Without `weights` they are random.
    """
    cfg = build_cfg(config_file, [*opts, "MODEL.DEVICE", "cpu"])
    if cfg.MODEL.META_ARCHITECTURE != "P2PNet":
        raise InputError(
            f"{config_file}: describes a {cfg.MODEL.META_ARCHITECTURE}; only P2PNet is exported."
        )
    model = build_model(cfg).eval()
    metadata = {}
    if weights:
        checkpoint = PointCheckpointer(model, require_all=True).load(str(weights))
        metadata = checkpoint.get("metadata") or {}
    return model, cfg, metadata


def _trace(
    graph: PointLocalizerGraph,
    static_size: tuple[int, int] | None,
    batch: int | None,
    exporter: str,
    opset: int,
):
    """The graph as an `onnx.ModelProto`."""
    import onnx

    # An axis that is to be free must not be 1 in the example, nor equal another one.
    height, width = static_size or (3 * SIZE_MULTIPLE, 4 * SIZE_MULTIPLE)
    example = (
        torch.zeros(batch or 2, height, width, 3, dtype=torch.uint8),
        torch.ones(batch or 2, 2),
    )
    names = {
        "input_names": ["images", "scale"],
        "output_names": ["points", "scores", "labels", "valid", "flags"],
    }
    if exporter == "dynamo":
        axes: tuple[dict, dict] = ({}, {})
        if batch is None:
            batch_dim = torch.export.Dim("batch", min=1, max=1 << 10)
            axes[0][0] = axes[1][0] = batch_dim
        if static_size is None:
            axes[0][1] = SIZE_MULTIPLE * torch.export.Dim("rows", min=1, max=1 << 10)
            axes[0][2] = SIZE_MULTIPLE * torch.export.Dim("columns", min=1, max=1 << 10)
        program = torch.onnx.export(
            graph,
            example,
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=axes if any(axes) else None,
            external_data=False,
            verbose=False,
            **names,
        )
        proto = program.model_proto
    else:
        import io

        free: dict[str, dict[int, str]] = {name: {} for names_ in names.values() for name in names_}
        if batch is None:
            for axes_of in free.values():
                axes_of[0] = "batch"
        if static_size is None:
            free["images"].update({1: "height", 2: "width"})
        buffer = io.BytesIO()
        torch.onnx.export(
            graph,
            example,
            buffer,
            dynamo=False,
            opset_version=opset,
            dynamic_axes=free,
            do_constant_folding=True,
            **names,
        )
        proto = onnx.load_model_from_string(buffer.getvalue())
    # Traces of the source (paths, stack frames) do not belong into a file for others.
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*proto.graph.value_info, *proto.graph.input, *proto.graph.output]:
        del value.metadata_props[:]
    for tensor in proto.graph.initializer:
        del tensor.metadata_props[:]
    del proto.graph.metadata_props[:]
    del proto.metadata_props[:]
    proto.doc_string = proto.graph.doc_string = ""
    return proto


def _spec(
    graph: PointLocalizerGraph,
    cfg: CfgNode,
    class_names: Sequence[str],
    static_size: tuple[int, int] | None,
    batch: int | None,
) -> ModelSpec:
    import onnx

    model = graph.model
    mean = [float(value) for value in model.pixel_mean.reshape(-1)]
    if graph.flip_channels:
        mean.reverse()
    height, width = static_size or (None, None)
    return ModelSpec(
        class_names=tuple(class_names),
        batch=batch,
        height=height,
        width=width,
        size_multiple=SIZE_MULTIPLE,
        stride=int(model.stride),
        pad_bgr=tuple(min(255, max(0, round(value))) for value in mean),
        min_size=int(cfg.INPUT.MIN_SIZE_TEST),
        max_size=int(cfg.INPUT.MAX_SIZE_TEST),
        score_thresh=float(model.score_thresh),
        pre_nms_topk=graph.pre_nms_topk,
        max_candidates=graph.max_candidates,
        max_dets=graph.max_dets,
        nms_rule=str(model.nms_rule),
        nms_size=float(model.nms_size),
        nms_iou=float(model.nms_iou),
        nms_radius=float(model.nms_radius),
        nms_iterations=graph.nms_iterations,
        config_sha256=hashlib.sha256(cfg.dump().encode()).hexdigest(),
        versions={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "onnx": onnx.__version__,
        },
    )


def compare_with_eager(
    graph: PointLocalizerGraph,
    data: bytes,
    *,
    images: Sequence[np.ndarray] = (),
    seed: int = 0,
) -> ParityReport:
    """Runs the eager model of `graph` and its ONNX file `data` on the same inputs.

    Sizes and batch sizes vary as far as the file allows. So that a model with few detections is
    compared as well, the comparison goes down to the 300 strongest candidates, below the threshold.
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
            points_here, unmatched, *differences_here = _match(
                eager[row],
                (points[above], scores[above], labels[above]),
                borderline=(thresh, float(scores[-1])),
            )
            totals[:2] += points_here, unmatched
            differences = np.maximum(differences, differences_here)
    return ParityReport(tuple(cases), *totals.tolist(), *differences.tolist())


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


def _eager_tensor(input_format: str, images: np.ndarray) -> torch.Tensor:
    """(B, H, W, 3) uint8 BGR -> (B, 3, H, W) uint8 in the model's channel order."""
    if input_format == "RGB":
        images = images[..., ::-1]
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


@contextmanager
def _score_threshold(model: nn.Module, value: float) -> Iterator[None]:
    configured = model.score_thresh
    model.score_thresh = value
    try:
        yield
    finally:
        model.score_thresh = configured


@torch.no_grad()
def _comparison_threshold(
    graph: PointLocalizerGraph, images: np.ndarray, scales: np.ndarray
) -> tuple[float, np.ndarray]:
    """The threshold to compare down to, and per image whether its NMS settles above that, (B,).

    It lets 300 candidates of each image pass, or fewer where NMS would not settle on so many, but
    at least those above the real threshold.
    """
    model = graph.model
    inputs = torch.from_numpy(images), torch.from_numpy(scales)
    scores = model.predict_maps(graph._normalize(inputs[0]))[0].float().sigmoid().flatten(1)
    for count in (300, 100, 30, 0):
        thresh = float(model.score_thresh)
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


def _match(
    first: tuple[np.ndarray, np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    borderline: tuple[float, ...],
) -> tuple[int, int, float, float]:
    """Matches two sets of (points, scores, labels) one to one.

    Returns the number of points in the larger set, how many found no partner (points at the score
    of a cut, `borderline`, are excused), and the largest differences of place and score.
    """
    points, scores, labels = second
    free = np.ones(len(scores), dtype=bool)
    unmatched = 0
    point_difference = score_difference = 0.0

    def excused(score: float) -> bool:
        return any(abs(score - cut) <= SCORE_TOLERANCE * max(cut, 1e-3) for cut in borderline)

    for point, score, label in zip(*first, strict=True):
        distance = np.abs(points - point).max(axis=1, initial=0)
        same = free & (labels == label) & (distance <= POINT_TOLERANCE_PX)
        same &= np.abs(scores - score) <= SCORE_TOLERANCE
        if not same.any():
            unmatched += not excused(score)
            continue
        partner = int(np.flatnonzero(same)[np.argmin(distance[same])])
        free[partner] = False
        point_difference = max(point_difference, float(distance[partner]))
        score_difference = max(score_difference, float(abs(scores[partner] - score)))
    unmatched += sum(not excused(score) for score in scores[free])
    return max(len(first[1]), len(scores)), unmatched, point_difference, score_difference


def file_sha256(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(Path(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
