#!/usr/bin/env python
"""ONNX Runtime against the eager model on the CPU at batch 1, and the runtime's own overhead.

Both heads are timed in one run, alternating eager and ONNX so that a change of the machine's speed
hits both: the paper's (two towers of 4 x 256 with GN) and the slim one for deployment (one shared
tower of 2 x 128 with BN, FPN of 128). Weights are random: speed does not depend on them, but the
classification bias is set so that a realistic number of points reaches NMS.

Exit code 1 if a target is missed: ONNX Runtime at least 1.2x eager, overhead at most 10 %.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from cpr_deploy.files import run_main, write_json

TARGET_SPEEDUP = 1.2
TARGET_OVERHEAD = 0.1
ROOT = Path(__file__).resolve().parents[1]
BACKBONE = [
    *("MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"),
    *("MODEL.P2PNET.NUM_CLASSES", "1", "MODEL.DEVICE", "cpu"),
]
HEADS = {
    "paper head (2 towers, 4 x 256, GN)": [],
    "slim head (shared tower, 2 x 128, BN)": [
        *("MODEL.FPN.OUT_CHANNELS", "128", "MODEL.FPN.NORM", "BN"),
        *("MODEL.P2PNET.CONV_DIM", "128", "MODEL.P2PNET.NUM_CONVS", "2"),
        *("MODEL.P2PNET.NORM", "BN", "MODEL.P2PNET.SHARED_TOWER", "True"),
    ],
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--height", type=int, default=384, help="of the input (%(default)s)")
    parser.add_argument("--width", type=int, default=640, help="of the input (%(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="timed pairs (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of both (%(default)s)")
    parser.add_argument("--output", metavar="FILE.json", help="also write the figures here")
    return parser.parse_args()


def build(options: list[str], output: Path) -> tuple:
    """(eager model, PointLocalizer's file) of a head with about 500 points above the threshold."""
    import torch

    from cpr.export import export_point_localizer, load_localizer

    torch.manual_seed(0)
    config = ROOT / "configs" / "Base-P2PNet.yaml"
    model, cfg, _ = load_localizer(config, None, [*BACKBONE, *options])
    torch.nn.init.normal_(model.head.cls_score.weight, std=0.05)
    report = export_point_localizer(model, cfg, output, class_names=["object"])
    return model, report


def median_ms(samples: list[float]) -> float:
    return 1e3 * statistics.median(samples)


def compare(options: list[str], args: argparse.Namespace, folder: Path) -> dict:
    import numpy as np
    import torch

    from cpr_deploy.latency import LatencyRecorder
    from cpr_deploy.point_localizer import PointLocalizer

    path = folder / "model.onnx"
    model, report = build(options, path)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (args.height, args.width, 3), dtype=np.uint8)
    localizer = PointLocalizer(path, threads=args.threads, resize="none")

    def eager() -> int:
        rgb = torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)))
        with torch.inference_mode():
            return len(model([{"image": rgb}])[0]["instances"])

    times: dict = {eager: [], lambda: len(localizer(image)): []}
    counts = [function() for function in times]
    for _ in range(args.repeats):
        for function, samples in times.items():
            begin = time.perf_counter()
            function()
            samples.append(time.perf_counter() - begin)
    eager_ms, onnx_ms = (median_ms(samples) for samples in times.values())

    # All around the session, at the size of the target.
    latency = LatencyRecorder()
    frame = rng.integers(0, 256, (720, 1280, 3), dtype=np.uint8)
    localizer(frame)
    for _ in range(max(2, args.repeats // 2)):
        localizer(frame, latency=latency)
    stages = {name: row["p50"] for name, row in latency.summary().items()}
    return {
        "eager_ms": eager_ms,
        "onnx_ms": onnx_ms,
        "speedup": eager_ms / onnx_ms,
        "points": counts,
        "parity_px": report.max_point_difference_px,
        "stages_720p_ms": stages,
        "overhead_720p": (stages["preprocess"] + stages["postprocess"]) / stages["infer"],
    }


def main() -> int:
    args = parse_args()

    import onnxruntime
    import torch

    torch.set_num_threads(args.threads)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, options in HEADS.items():
            row = results[name] = compare(options, args, Path(folder))
            print(
                f"{name}, ResNet-18, stride 8, {args.width}x{args.height}, batch 1,"
                f" {args.threads} thread(s): eager {row['eager_ms']:.0f} ms, ONNX Runtime"
                f" {row['onnx_ms']:.0f} ms, {row['speedup']:.2f}x; around the session at 1280x720"
                f" {100 * row['overhead_720p']:.2f} %",
                flush=True,
            )
    failed = [
        name
        for name, row in results.items()
        if row["speedup"] < TARGET_SPEEDUP or row["overhead_720p"] > TARGET_OVERHEAD
    ]
    settings = {
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        **{key: value for key, value in vars(args).items() if key != "output"},
    }
    if args.output:
        write_json(args.output, {"results": results, "settings": settings}, indent=1)
    print(json.dumps(settings))
    for name in failed:
        print(f"target missed: {name}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))
