#!/usr/bin/env python
"""Picks from 50 points at 1280x720 on one core, against the inference of a realtime model.

Frames with a sensor's noise, boxes and holes. Inference and picks take turns in one run, so that a
change of the machine's speed hits all alike; the processor's time of one thread counts. Without
--model: the realtime head on ResNet-18 with random weights (speed does not depend on them).

Exit code 1 if a target is missed: picks below 2 ms a frame, and below 10 % of the inference.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from cpr_deploy.files import run_main, write_json

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

HEIGHT, WIDTH = 720, 1280
TARGET_MS = 2.0
TARGET_SHARE = 0.1
# Frames picked from in each turn.
FRAMES = 30


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", metavar="FILE.onnx", help="measure against this one")
    parser.add_argument("--points", type=int, default=50, help="a frame (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns (%(default)s)")
    parser.add_argument("--output", metavar="FILE.json", help="also write the figures here")
    return parser.parse_args()


def depth_frames(rng) -> list:
    """uint16 mm, (720, 1280): boxes on a table, noise, missing px; four of them."""
    import numpy as np

    clean = np.full((HEIGHT, WIDTH), 900.0)
    for _ in range(60):
        row, column = rng.integers(0, HEIGHT - 100), rng.integers(0, WIDTH - 100)
        height, width = rng.integers(40, 100, 2)
        clean[row : row + height, column : column + width] = rng.uniform(700, 880)
    frames = []
    for _ in range(4):
        frame = clean + rng.normal(0, 1.5, clean.shape)
        frame[rng.random(clean.shape) < 0.02] = 0
        frames.append(frame.astype(np.uint16))
    return frames


def main() -> int:
    args = parse_args()
    import numpy as np

    from cpr_deploy.camera import CameraModel
    from cpr_deploy.picking.picker import PickSettings, PointPicker
    from cpr_deploy.point_localizer import PointLocalizer
    from cpr_deploy.timing import machine
    from cpr_deploy.transforms import Transform

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    frames = depth_frames(rng)
    points = [
        {"x": x, "y": y, "score": 0.9, "label": 0, "class_name": "object"}
        for x, y in rng.uniform([20, 20], [WIDTH - 20, HEIGHT - 20], (args.points, 2)).tolist()
    ]
    k = [[910.0, 0, 640], [0, 910, 360], [0, 0, 1]]
    cameras = {
        "plain lens": CameraModel(WIDTH, HEIGHT, k, "none"),
        "distorted lens": CameraModel(WIDTH, HEIGHT, k, "plumb_bob", [0.1, -0.2, 1e-3, 1e-3, 0.05]),
    }
    labels = [(name, "point") for name in cameras] + [("distorted lens", "interior")]
    counts = {}

    def picking(name, aim):
        picker = PointPicker(cameras[name], Transform.identity(), PickSettings(aim=aim))
        clock = iter(range(10**9))

        def run(_: int) -> None:
            for _ in range(FRAMES):
                tick = next(clock)
                stamp = 0.1 * tick
                result = picker.pick(
                    points, frames[tick % 4], stamp=stamp, now=stamp, depth_unit="mm"
                )
            counts[f"{name}, {aim}"] = (len(result.targets), len(result.refusals))

        return run

    with tempfile.TemporaryDirectory() as folder:
        model = args.model
        if model is None:
            from benchmark_onnx import build

            _, model = build("realtime", Path(folder))
        localizer = PointLocalizer(model, threads=1, resize="none")
    functions = [lambda _: localizer(image), *(picking(*label) for label in labels)]
    for function in functions:
        function(0)
    times = [[] for _ in functions]
    for _ in range(args.rounds):
        for function, own in zip(functions, times, strict=True):
            begin = time.process_time()
            function(0)
            own.append(time.process_time() - begin)
    inference = 1e3 * statistics.median(times[0])
    figures = {"inference_ms": inference, "points": args.points, "picks": {}}
    print(f"inference at {WIDTH}x{HEIGHT}, one thread: {inference:.0f} ms")
    missed = False
    for (name, aim), own in zip(labels, times[1:], strict=True):
        ms = 1e3 * statistics.median(own) / FRAMES
        share = ms / inference
        targets, refusals = counts[f"{name}, {aim}"]
        figures["picks"][f"{name}, {aim}"] = {
            "ms": ms,
            "share_of_inference": share,
            "targets": targets,
            "refusals": refusals,
        }
        print(
            f"{args.points} points, {name}, aim {aim}: {ms:.2f} ms a frame, {share:.2%} of the"
            f" inference ({targets} targets, {refusals} refusals)"
        )
        # The most interior point is an option, outside of the target of 2 ms.
        missed |= share > TARGET_SHARE or (aim == "point" and ms > TARGET_MS)
    figures["machine"] = machine()
    if args.output:
        write_json(args.output, figures, indent=1)
    if missed:
        print(f"missed: {TARGET_MS:g} ms a frame, {TARGET_SHARE:.0%} of inference", file=sys.stderr)
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(run_main(main))
