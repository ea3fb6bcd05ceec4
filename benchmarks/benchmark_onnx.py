#!/usr/bin/env python
"""The localizer on the CPU at batch 1, all in one run, taking turns: eager and ONNX Runtime, the
paper's head and the realtime head, the graph with and without point NMS.

Weights are random: speed does not depend on them, but the classification bias is set so that all
1,000 candidates reach NMS. Turns make a change of the machine's speed hit all alike.

Exit code 1 if a target is missed: ONNX Runtime at least 1.5x eager with the realtime head (1.2x
with the paper's), the realtime head at least 2.5x the paper's, point NMS below 5 % of inference,
overhead around the session at most 10 %.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from cpr_deploy.files import run_main, write_json

ROOT = Path(__file__).resolve().parents[1]
CANDIDATES = 1000
BACKBONE = [
    *("MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"),
    *("MODEL.P2PNET.NUM_CLASSES", "1", "MODEL.P2PNET.PRE_NMS_TOPK", str(CANDIDATES)),
    *("MODEL.P2PNET.MAX_DETS", str(CANDIDATES), "MODEL.DEVICE", "cpu"),
]
CONFIGS = {
    "paper": "SeaPerson/p2pnet_r50_fpn_p2_6e.yaml",
    "realtime": "Realtime/p2pnet_r18_fpn128_p2_6e.yaml",
}
# Ratio -> (what it is, least value, greatest value).
TARGETS = {
    "onnx_vs_eager_paper": ("ONNX Runtime against eager, paper's head", 1.2, None),
    "onnx_vs_eager_realtime": ("ONNX Runtime against eager, realtime head", 1.5, None),
    "realtime_vs_paper": ("realtime head against the paper's, end to end", 2.5, None),
    "nms_share": (f"point NMS at {CANDIDATES:,} candidates, share of inference", None, 0.05),
    "overhead": ("around the session, share of inference", None, 0.1),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--height", type=int, default=384, help="of the frame (%(default)s)")
    parser.add_argument("--width", type=int, default=640, help="of the frame (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of both (%(default)s)")
    parser.add_argument("--output", metavar="FILE.json", help="also write the figures here")
    return parser.parse_args()


def build(head: str, folder: Path, *options: str) -> tuple:
    """(eager model, ONNX file) of a head whose every location is above the threshold."""
    import torch

    from cpr.export import export_point_localizer, load_localizer

    torch.manual_seed(0)
    model, cfg, _ = load_localizer(ROOT / "configs" / CONFIGS[head], None, [*BACKBONE, *options])
    torch.nn.init.normal_(model.head.cls_score.weight, std=0.05)
    torch.nn.init.zeros_(model.head.cls_score.bias)
    torch.nn.init.normal_(model.head.point_offset.weight, std=0.2)
    path = folder / f"{head}{'_'.join(options)}.onnx"
    # Untrained scores differ by less than the rounds of NMS can settle in the comparison.
    report = export_point_localizer(model, cfg, path, class_names=["object"], nms_iterations=8)
    print(f"{head}: {report}", flush=True)
    return model, path


def main() -> int:
    args = parse_args()

    import numpy as np
    import torch

    from cpr_deploy.timing import interleave, load, machine, stage_lines, time_models

    torch.set_num_threads(args.threads)
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (args.height, args.width, 3), dtype=np.uint8)

    def eager(model):
        def run(_: int) -> None:
            rgb = torch.from_numpy(np.ascontiguousarray(frame[..., ::-1].transpose(2, 0, 1)))
            with torch.inference_mode():
                model([{"image": rgb}])

        return run

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models, files = {}, {}
        for head in CONFIGS:
            models[head], files[head] = build(head, folder)
        files["without NMS"] = build("realtime", folder, "MODEL.P2PNET.NMS_RULE", "none")[1]
        options = {"threads": args.threads, "resize": "none"}
        candidates = {label: load(label, path, **options) for label, path in files.items()}

    def onnx(label):
        return lambda _: candidates[label].localizer(frame)

    functions = {
        "eager paper": eager(models["paper"]),
        "onnx paper": onnx("paper"),
        "eager realtime": eager(models["realtime"]),
        "onnx realtime": onnx("realtime"),
        "onnx realtime without NMS": onnx("without NMS"),
    }
    for function in functions.values():
        function(0)
    times = interleave(list(functions.values()), args.rounds)
    ms = {label: 1e3 * statistics.median(own) for label, own in zip(functions, times, strict=True)}
    # The small difference that NMS makes: more turns, of these two alone, and per pair.
    pair = [functions["onnx realtime"], functions["onnx realtime without NMS"]]
    both = interleave(pair, 5 * args.rounds)
    with_nms, without = (statistics.median(own) for own in both)
    stages = time_models([candidates["realtime"]], [frame], rounds=args.rounds, warm_up=1)
    stages = stages["realtime"]["stages"]
    ratios = {
        "onnx_vs_eager_paper": ms["eager paper"] / ms["onnx paper"],
        "onnx_vs_eager_realtime": ms["eager realtime"] / ms["onnx realtime"],
        "realtime_vs_paper": ms["onnx paper"] / ms["onnx realtime"],
        "nms_share": (with_nms - without) / with_nms,
        "overhead": (stages["preprocess"]["p50"] + stages["postprocess"]["p50"])
        / stages["infer"]["p50"],
    }
    print(f"{args.width}x{args.height}, ResNet-18, stride 4, {args.threads} thread(s), medians:")
    for label, value in ms.items():
        print(f"  {label:28}{value:10.1f} ms")
    print("\n".join(stage_lines(stages)))
    missed = []
    for key, (what, least, greatest) in TARGETS.items():
        value = ratios[key]
        good = (least is None or value >= least) and (greatest is None or value <= greatest)
        bound = f"at least {least:g}" if greatest is None else f"at most {greatest:g}"
        print(f"  {what}: {value:.3f} ({bound}: {'met' if good else 'MISSED'})")
        missed += [] if good else [what]
    if args.output:
        settings = {key: value for key, value in vars(args).items() if key != "output"}
        settings |= {"torch": torch.__version__, **machine()}
        write_json(
            args.output,
            {"ms": ms, "ratios": ratios, "stages": stages, "settings": settings},
            indent=1,
        )
    for what in missed:
        print(f"target missed: {what}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))
