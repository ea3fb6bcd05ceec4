#!/usr/bin/env python
"""The whole path on real aerial images: clicks, CPRNet, refined points, P2PNet on clicks, refined
points and box centres, mAP on a held-out image, ONNX, points on a video.

    python tools/demo.py --output output/demo

Writes summary.json, report.html, model.onnx, points.mp4 and points.jsonl. A run that was stopped
goes on where it was when it is started again; what is done and did not change is kept.
"""

import argparse
import logging
import shutil
import sys
import time
from pathlib import Path

from cpr_deploy.files import InputError, read_json, run_main, write_json

ROOT = Path(__file__).resolve().parents[1]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("output/demo"), help="folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="a few iterations, to see it work")
    parser.add_argument("--fresh", action="store_true", help="start over: drop what is done")
    parser.add_argument("--cache", type=Path, help="folder that keeps the downloaded data")
    args = parser.parse_args()
    if args.seed < 0:
        parser.error("--seed must not be negative")
    return args


def main() -> int:
    args = parse_args()
    began = time.monotonic()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    from cpr.demo.pipeline import DemoSettings, run_steps
    from cpr.demo.summary import build_summary, format_summary, write_report, write_summary
    from cpr.launch import choose_device
    from cpr.scheduler import StepFailed

    settings = DemoSettings(
        root=ROOT,
        output=args.output.resolve(),
        seed=args.seed,
        device=choose_device(args.device),
        quick=args.quick,
        cache=args.cache.resolve() if args.cache else None,
    )
    if args.fresh:
        remove_earlier_run(settings.output)
    clock = settings.output / "steps" / "wall.json"
    earlier = earlier_seconds(clock)
    try:
        seconds = run_steps(settings)
        wall = earlier + time.monotonic() - began
        summary = build_summary(settings, seconds, wall)
        write_summary(settings, summary)
        write_report(settings, summary)
    except StepFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if clock.parent.is_dir():
            write_json(clock, {"seconds": earlier + time.monotonic() - began})
    print(format_summary(summary))
    print(f"report: {settings.show(settings.files.report)}")
    return 0


def earlier_seconds(clock: Path) -> float:
    """How long earlier runs took; 0 if there was none, or if the file is damaged."""
    try:
        return float(read_json(clock)["seconds"])
    except (InputError, KeyError, TypeError, ValueError):
        return 0.0


def remove_earlier_run(output: Path) -> None:
    """Removes a demo's output folder; InputError if the folder is not a demo's."""
    if not output.exists():
        return
    if not (output / "steps").is_dir():
        raise InputError(f"{output}: is not the output of a demo, so --fresh leaves it alone.")
    shutil.rmtree(output)


if __name__ == "__main__":
    raise SystemExit(run_main(main))
