#!/usr/bin/env python
"""Scores predicted points against annotations: mAP at tau, or by a radius in pixels.

Needs neither a model nor torch.

Examples:
    python tools/evaluate_points.py --annotations gt.json --predictions det.json
    python tools/evaluate_points.py --annotations gt.json --predictions det.json \\
        --size-ranges tiny --paper-ignore --box-centre official --absent-classes official
    python tools/evaluate_points.py --annotations points.json --predictions det.json --radius 8
"""

from __future__ import annotations

import argparse
import logging
import math
import sys

from cpr_deploy.files import check_outputs, run_main, write_json

MAX_RESAMPLES = 100_000


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--annotations", required=True, help="point JSON or COCO JSON")
    parser.add_argument("--predictions", required=True, help="detections JSON")
    parser.add_argument("--output", help="metrics.json to write (fractions 0-1)")
    parser.add_argument(
        "--tau",
        type=float,
        nargs="+",
        default=[0.5, 1.0, 2.0],
        help="point-box distance of a match, Eq. 12 (default 0.5 1.0 2.0)",
    )
    parser.add_argument("--size-ranges", choices=("coco", "tiny"), default="coco")
    parser.add_argument(
        "--max-dets", type=int, default=1000, help="per image and class (default 1000)"
    )
    parser.add_argument(
        "--ap",
        choices=("paper", "coco"),
        default="paper",
        help="paper: no envelope, as the published tables; coco: with envelope",
    )
    parser.add_argument(
        "--paper-ignore",
        action="store_true",
        help="ignore iscrowd only, as the official code; default: ignore or iscrowd",
    )
    parser.add_argument(
        "--box-centre",
        choices=("true", "official"),
        default="true",
        help="true: x + w/2; official: x + (w - 1)/2",
    )
    parser.add_argument(
        "--several-boxes",
        choices=("free", "nearest"),
        default="free",
        help="a point near several boxes takes the nearest one that is free, as in the official"
        " code, or the nearest or none, as in the paper",
    )
    parser.add_argument(
        "--absent-classes",
        choices=("skip", "official"),
        default="skip",
        help="classes without objects: left out of the mean, or 0 or 1 as in the official code",
    )
    parser.add_argument(
        "--radius",
        type=float,
        nargs="+",
        metavar="PX",
        help="score by the distance in pixels instead (data without boxes): AP, F1, count error",
    )
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.5,
        help="with --radius: score from which a detection counts for F1 (default 0.5)",
    )
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=0,
        metavar="N",
        help="add a 95 %% interval over N resamples of the images (size range all)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--per-class", action="store_true", help="print the classes too")
    args = parser.parse_args(argv)
    if not 0 <= args.bootstrap <= MAX_RESAMPLES:
        parser.error(f"--bootstrap must be 0 to {MAX_RESAMPLES}")
    if args.seed < 0:
        parser.error("--seed must not be negative")
    if not math.isfinite(args.score_threshold):
        parser.error("--score-threshold must be a finite number")
    if args.bootstrap and args.radius:
        parser.error("--bootstrap goes with --tau, not with --radius")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)

    from cpr.data.point_json import load_detections, load_points
    from cpr.evaluation.point_ap import (
        bootstrap_interval,
        evaluate_points,
        evaluate_points_by_radius,
        format_table,
    )

    check_outputs([args.output], [args.annotations, args.predictions])
    ground_truth = load_points(args.annotations, require="any" if args.radius else "box")
    detections = load_detections(args.predictions, ground_truth)
    if args.radius:
        metrics = evaluate_points_by_radius(
            ground_truth,
            detections,
            radii=args.radius,
            score_threshold=args.score_threshold,
            max_dets=args.max_dets,
            ap=args.ap,
        )
    else:
        settings = {
            "size_ranges": args.size_ranges,
            "max_dets": args.max_dets,
            "ap": args.ap,
            "paper_ignore": args.paper_ignore,
            "box_centre": args.box_centre,
            "several_boxes": args.several_boxes,
        }
        metrics = evaluate_points(
            ground_truth,
            detections,
            taus=args.tau,
            absent_classes=args.absent_classes,
            **settings,
        )
        if args.bootstrap:
            metrics["interval"] = {
                str(tau): bootstrap_interval(
                    ground_truth,
                    detections,
                    tau=tau,
                    resamples=args.bootstrap,
                    seed=args.seed,
                    **settings,
                )
                for tau in args.tau
            }
    print(format_table(metrics, per_class=args.per_class))
    for tau, (low, high) in metrics.get("interval", {}).items():
        if low is not None:
            print(f"AP tau={tau}: 95 % interval over images {100 * low:.2f} to {100 * high:.2f}")
    if args.output:
        write_json(args.output, metrics, indent=1)
        print(f"wrote {args.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))
