#!/usr/bin/env python
"""All checks of deployment that need a GPU, in one command on a machine with CUDA.

    python benchmarks/gpu_checks.py --output gpu_checks.json
    python benchmarks/gpu_checks.py --config-file F --weights model_final.pth --images DIR \\
        --output gpu_checks.json

Exports the paper's and the realtime localizer (random weights, or --weights for the latter) at a
fixed size in fp32 and fp16, and checks on them: every node on the GPU and no copy between
providers; the points of the CPU found again, with and without CUDA graph; the latency of a whole
frame in memory; its rate beside that of the model alone; point NMS's share of it. Needs torch,
Detectron2 and onnx for the export (what is in --models is not exported again, so it can be done
elsewhere: --export-only) and onnxruntime-gpu for the rest. `--provider cpu --size 128x160`
rehearses it without a GPU; then targets of speed are printed, not judged.

Exit code 1 if a check fails.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

from cpr_deploy.files import InputError, run_main, write_json

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {
    "realtime": ROOT / "configs/Realtime/p2pnet_r50_fpn128_p2_6e.yaml",
    "paper": ROOT / "configs/SeaPerson/p2pnet_r50_fpn_p2_6e.yaml",
}
# (head, precision, point NMS in the graph)
FILES = [
    ("realtime", "fp32", True),
    ("realtime", "fp16", True),
    ("realtime", "fp16", False),
    ("paper", "fp32", True),
    ("paper", "fp16", True),
]
P95_MS = 4.0
SHARE_OF_MODEL_RATE = 0.9
NMS_SHARE = 0.05
PARITY_FRAMES = 8


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, default=Path("output/gpu_checks"), metavar="DIR")
    parser.add_argument("--export-only", action="store_true", help="make the files, check nothing")
    parser.add_argument("--config-file", type=Path, help="of the realtime localizer")
    parser.add_argument("--weights", type=Path, help="a trained one (default: random)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="frames (default: made up)")
    parser.add_argument("--provider", default="cuda", help="cuda, tensorrt or cpu (%(default)s)")
    parser.add_argument("--size", default="1088x1920", metavar="HxW", help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=300, help="timed frames (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="all figures")
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config keys")
    return parser.parse_args()


def file_of(args: argparse.Namespace, head: str, precision: str, nms: bool) -> Path:
    return args.models / args.size / f"{head}_{precision}{'' if nms else '_without_nms'}.onnx"


def export(args: argparse.Namespace, size: tuple[int, int]) -> None:
    """Makes the files that are not there."""
    missing = [key for key in FILES if not file_of(args, *key).is_file()]
    if not missing:
        return
    import torch

    from cpr.export import export_point_localizer, load_localizer

    for head, precision, nms in missing:
        own = head == "realtime"
        config = args.config_file if own and args.config_file else CONFIGS[head]
        weights = str(args.weights) if own and args.weights else None
        opts = [*args.opts, *([] if nms else ["MODEL.P2PNET.NMS_RULE", "none"])]
        torch.manual_seed(0)
        model, cfg, metadata = load_localizer(config, weights, opts)
        if weights is None:
            _liven(model, made_up_frame(0, size))
        names = metadata.get("class_names") or [f"class_{i}" for i in range(model.num_classes)]
        report = export_point_localizer(
            *(model, cfg, file_of(args, head, precision, nms)),
            class_names=names,
            static_size=size,
            batch=1,
            precision=precision,
        )
        print(f"{head} {precision}: {report}", flush=True)


def _liven(model, frame) -> None:
    """Some hundred points that differ, as of a trained network."""
    import torch

    torch.nn.init.normal_(model.head.cls_score.weight, std=0.15)
    torch.nn.init.normal_(model.head.point_offset.weight, std=0.05)
    pixels = torch.from_numpy(frame.transpose(2, 0, 1)[None].copy()).float()
    with torch.no_grad():
        logits, _ = model.predict_maps((pixels - model.pixel_mean) / model.pixel_std)
        wanted = logits.flatten().topk(min(600, logits.numel() // 8)).values[-1]
        thresh = torch.tensor(model.decode.score_thresh)
        model.head.cls_score.bias += thresh.logit() - wanted


def made_up_frame(seed: int, size: tuple[int, int]):
    """(H, W, 3) uint8: noise of several scales."""
    import numpy as np

    rng = np.random.default_rng(seed)
    frame = np.zeros((*size, 3))
    for step in (4, 16, 32):
        small = rng.uniform(0, 255 / 3, (size[0] // step, size[1] // step, 3))
        frame += small.repeat(step, axis=0).repeat(step, axis=1)
    return frame.astype(np.uint8)


def read_frames(args: argparse.Namespace, size: tuple[int, int]) -> list:
    """PARITY_FRAMES frames (H, W, 3) uint8 BGR of the size of the files."""
    if args.images is None:
        return [made_up_frame(seed, size) for seed in range(PARITY_FRAMES)]
    from cpr_deploy.image_files import read_bgr

    paths = sorted(p for p in args.images.iterdir() if p.suffix.lower() in (".jpg", ".png"))
    if not paths:
        raise InputError(f"{args.images}: holds no .jpg or .png image. Give another --images.")
    return [read_bgr(path) for path in paths[:PARITY_FRAMES]]


class Checks:
    """What was checked, printed as it comes."""

    def __init__(self):
        self.rows: list[dict] = []

    def add(self, name: str, value: object, target: str, passed: bool | None) -> None:
        """`passed` None: of a rehearsal, not judged."""
        self.rows.append({"name": name, "value": value, "target": target, "passed": passed})
        word = {True: "passed", False: "FAILED", None: "not judged"}[passed]
        print(f"{name}: {value} ({target}): {word}", flush=True)


def check_placement(checks: Checks, args: argparse.Namespace, size: tuple[int, int]) -> None:
    """Every node on the provider asked for, no copies between providers."""
    from cpr_deploy.model_spec import ModelSpec
    from cpr_deploy.onnx_check import check_onnx
    from cpr_deploy.sessions import TENSORRT, SessionSettings, node_placement

    settings = SessionSettings((args.provider,))
    (wanted,) = settings.names
    for key in FILES:
        path = file_of(args, *key)
        data = path.read_bytes()
        spec = ModelSpec.from_metadata(check_onnx(data, path.name).metadata, path.name)
        placement = node_placement(data, path.name, spec, settings, make_feed(size))
        copies = sum(n for (_, operator), n in placement.items() if operator.startswith("Memcpy"))
        elsewhere = {
            f"{operator} on {provider}": count
            for (provider, operator), count in placement.items()
            if provider != wanted
        }
        checks.add(f"{path.stem}: copies between providers", copies, "0", copies == 0)
        # TensorRT may leave some nodes to the others.
        good = None if wanted == TENSORRT else not elsewhere
        checks.add(f"{path.stem}: nodes elsewhere", elsewhere, "none", good)


def make_feed(size: tuple[int, int]) -> dict:
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    return {"images": images, "scale": np.ones((1, 2), np.float32)}


def check_parity(checks: Checks, args: argparse.Namespace, frames: list, graphs: list) -> None:
    """The points of the CPU in float32, found again."""
    from cpr_deploy.parity import TOLERANCES, match_points
    from cpr_deploy.point_localizer import PointLocalizer

    for head in CONFIGS:
        cpu = PointLocalizer(file_of(args, head, "fp32", True))
        expected = [cpu(frame) for frame in frames]
        for precision in ("fp32", "fp16"):
            for graph in graphs:
                path = file_of(args, head, precision, True)
                device = PointLocalizer(path, providers=[args.provider], cuda_graph=graph)
                total = missing = skipped = 0
                furthest = 0.0
                for frame, reference in zip(frames, expected, strict=True):
                    found = device(frame)
                    if reference.flags or found.flags:
                        skipped += 1  # not exact by its own word
                        continue
                    count, unmatched, distance, _ = match_points(
                        (reference.points, reference.scores, reference.labels),
                        (found.points, found.scores, found.labels),
                        borderline=tuple(r.scores[-1] for r in (reference, found) if len(r)),
                        tolerance=TOLERANCES[precision],
                    )
                    total, missing = total + count, missing + unmatched
                    furthest = max(furthest, distance)
                limit = TOLERANCES[precision].unmatched
                name = f"{path.stem}{' with CUDA graph' if graph else ''}: points as on the CPU"
                value = f"{missing} of {total} unmatched, {furthest:.3f} px, {skipped} flagged"
                good = total > 0 and missing <= max(1, limit * total)
                checks.add(name, value, f"at most {limit:.1%} unmatched", good)


def check_speed(
    checks: Checks, args: argparse.Namespace, frames: list, size: tuple[int, int], graphs: list
) -> dict:
    """Latency of a frame in memory, its rate beside the model's own, the share of NMS."""
    from cpr_deploy.timing import figures_table, interleave, load, time_models

    judged = args.provider != "cpu"
    candidates = {}
    for key in FILES:
        if key[1] == "fp16" or not judged:
            for graph in graphs:
                path = file_of(args, *key)
                label = f"{path.stem}{' with CUDA graph' if graph else ''}"
                options = {"providers": [args.provider], "cuda_graph": graph}
                candidates[label] = load(label, path, **options)
    figures = time_models(
        list(candidates.values()), frames, rounds=args.rounds, warm_up=min(50, args.rounds)
    )
    print(figures_table(figures), flush=True)

    best = "realtime_fp16 with CUDA graph" if True in graphs else "realtime_fp16"
    p95 = figures[best]["stages"]["total"]["p95"]
    good = p95 <= P95_MS if judged else None
    checks.add(f"{best}: p95 of a frame, ms", p95, f"at most {P95_MS}", good)

    # The model alone: nothing goes up, the same input again and again.
    runner = candidates[best].localizer._runner
    runner.upload(make_feed(size))
    seconds = []
    for _ in range(args.rounds):
        begin = time.perf_counter()
        runner.run()
        seconds.append(time.perf_counter() - begin)
    share = figures[best]["fps"] * sum(seconds) / len(seconds)
    target = f"at least {SHARE_OF_MODEL_RATE}"
    checks.add(
        f"{best}: rate of whole frames / of the model alone",
        share,
        target,
        share >= SHARE_OF_MODEL_RATE if judged else None,
    )

    suffix = " with CUDA graph" if True in graphs else ""
    labels = [f"realtime_fp16{part}{suffix}" for part in ("", "_without_nms")]
    pair = [candidates[label].localizer for label in labels]
    times = interleave(
        [lambda n, own=own: own(frames[n % len(frames)]) for own in pair], args.rounds
    )
    with_nms, without = (statistics.median(own) for own in times)
    share = 1 - without / with_nms
    good = share <= NMS_SHARE if judged else None
    checks.add("point NMS, share of a frame", share, f"at most {NMS_SHARE}", good)
    return figures


def main() -> int:
    args = parse_args()
    try:
        size = tuple(int(side) for side in args.size.lower().split("x"))
        if len(size) != 2 or min(size) < 32 or any(side % 32 for side in size):
            raise ValueError
    except ValueError:
        raise InputError(f"--size {args.size}: HxW in multiples of 32 is needed.") from None
    if args.rounds < 2:
        raise InputError(f"--rounds {args.rounds}: at least 2 are needed.")
    export(args, size)
    if args.export_only:
        return 0

    from cpr_deploy.timing import machine

    frames = read_frames(args, size)
    graphs = [False] if args.provider == "cpu" else [False, True]
    checks = Checks()
    check_placement(checks, args, size)
    check_parity(checks, args, frames, graphs)
    figures = check_speed(checks, args, frames, size, graphs)
    report = {"checks": checks.rows, "figures": figures, "machine": machine()}
    if args.output:
        write_json(args.output, report, indent=1)
    failed = [row["name"] for row in checks.rows if row["passed"] is False]
    for name in failed:
        print(f"failed: {name}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))
