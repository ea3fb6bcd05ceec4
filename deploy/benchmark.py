#!/usr/bin/env python
"""Times exported models side by side: providers, precisions and files in one run, taking turns.

    python deploy/benchmark.py --model model.onnx --source clip.mp4
    python deploy/benchmark.py --model fp32.onnx fp16.onnx --providers cuda tensorrt --cuda-graph

First on frames in memory: percentiles per stage, sustained rate, cold start apart. Then, with
--source, once more from the decoder on, and with --write to an annotated video.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cpr_deploy.files import InputError, check_outputs, run_main, write_json

MAX_OPTION = 1_000_000


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", required=True, nargs="+", metavar="FILE.onnx", help="exported localizers"
    )
    parser.add_argument(
        "--providers",
        nargs="+",
        default=["cpu"],
        metavar="NAME[,NAME]",
        help="each model runs once with each of these; several names: best first (default: cpu)",
    )
    parser.add_argument("--source", help="video file or folder of images (default: noise)")
    parser.add_argument(
        "--size", default="720x1280", metavar="HxW", help="of noise (default: %(default)s)"
    )
    parser.add_argument(
        "--resize", default="none", help="none, test (as the model was tested) or a factor"
    )
    parser.add_argument(
        "--rounds", type=int, default=100, metavar="N", help="timed frames (default: %(default)s)"
    )
    parser.add_argument(
        "--warm-up", type=int, default=10, metavar="N", help="frames before (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, help="of ONNX Runtime")
    parser.add_argument(
        "--cuda-graph", action="store_true", help="also each with a CUDA graph, where it can be"
    )
    parser.add_argument("--write", action="store_true", help="draw and write video, with --source")
    parser.add_argument("--output", metavar="FILE.json", help="also write all figures here")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    for option, value in (("--rounds", args.rounds), ("--warm-up", args.warm_up)):
        if not 1 <= value <= MAX_OPTION:
            raise InputError(f"{option} {value}: 1 to {MAX_OPTION} are possible.")
    if args.threads is not None and not 1 <= args.threads <= 1024:
        raise InputError(f"--threads {args.threads}: 1 to 1024 are possible.")
    if args.write and not args.source:
        raise InputError("--write needs --source: there is no decoder in front of noise.")
    height, width = _size(args.size)
    resize = args.resize if args.resize in ("none", "test") else _number(args.resize)
    check_outputs([args.output], [*args.model, args.source])
    if len({*args.model}) < len(args.model) or len({*args.providers}) < len(args.providers):
        raise InputError("--model and --providers: the same one is given twice. Give each once.")

    import numpy as np

    from cpr_deploy import timing
    from cpr_deploy.sessions import ON_GPU, full_name

    stems = [Path(model).stem for model in args.model]
    candidates = []
    for model, stem in zip(args.model, stems, strict=True):
        stem = stem if stems.count(stem) == 1 else model
        for text in args.providers:
            providers = text.split(",")
            can_record = args.cuda_graph and full_name(providers[0]) in ON_GPU
            for graph in (False, True) if can_record else (False,):
                name = f"{stem} on {text}{' with CUDA graph' if graph else ''}"
                options = {"threads": args.threads, "cuda_graph": graph, "resize": resize}
                candidates.append(timing.load(name, model, providers=providers, **options))
    if args.source:
        frames = timing.read_frames(args.source, min(args.rounds, 64))
    else:
        rng = np.random.default_rng(0)
        frames = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(4)]
    models = timing.time_models(candidates, frames, rounds=args.rounds, warm_up=args.warm_up)
    print(f"frames of {frames[0].shape[1]}x{frames[0].shape[0]} px in memory, in turn:")
    print(timing.figures_table(models), flush=True)

    pipelines = {}
    for candidate in candidates if args.source else ():
        row = timing.time_pipeline(candidate, args.source, limit=args.rounds, write=args.write)
        row["share_of_model_rate"] = row["fps"] / models[candidate.label]["fps"]
        pipelines[candidate.label] = row
        print(
            f"{candidate.label}, from the decoder on: {row['fps']:.2f} frames a second"
            f" ({row['fps_without_decode']:.2f} without decode), {row['share_of_model_rate']:.0%}"
            " of the rate above"
        )
        print("\n".join(timing.stage_lines(row["stages"])), flush=True)
    settings = {key: value for key, value in vars(args).items() if key != "output"}
    report = {
        "in_memory": models,
        "from_decoder": pipelines,
        "machine": timing.machine(),
        "settings": settings,
    }
    print("; ".join(f"{key} {value}" for key, value in report["machine"].items()))
    if args.output:
        write_json(args.output, report, indent=1)
    return 0


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in text.lower().split("x"))
    except ValueError:
        height = width = 0
    if not (1 <= height <= 1 << 14 and 1 <= width <= 1 << 14):
        raise InputError(f"--size {text}: HEIGHTxWIDTH is needed, e.g. 720x1280.")
    return height, width


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--resize {text}: test, none or a factor is needed.") from None


if __name__ == "__main__":
    raise SystemExit(run_main(main))
