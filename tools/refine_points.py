#!/usr/bin/env python
"""Moves the clicks of a data set towards their objects, by Algorithm 2 or another refiner.

    python tools/refine_points.py --config-file F --weights model_final.pth \\
        --annotations coarse.json --image-root images --output refined.json

Refiners: cpr, a trained CPRNet (Algorithm 2); self, the mean of what a localizer trained on the
clicks predicts for each of them (self-refinement); none, the clicks as they are; and those that a
--plugin registers: see projects/CPR/cpr/refiners/README.md.

In the output each annotation has its refined `point`, the click as `coarse_point`, `refine_score`
and `refined` (false: it kept its click). RSV and point-box distance are shown if there are boxes.
"""

import argparse
import os
import sys
from pathlib import Path

from cpr.refiners import refiner_names
from cpr.refiners.registry import import_plugins
from cpr_deploy.files import check_outputs, run_main, write_json


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--refiner",
        default="cpr",
        metavar="NAME",
        help=f"{', '.join(refiner_names())}, or one of a --plugin; default %(default)s",
    )
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help="Python module that registers refiners; it is imported, so it must be trusted",
    )
    parser.add_argument(
        "--config-file", metavar="FILE", help="config of the trained network; none needs no network"
    )
    parser.add_argument("--weights", metavar="FILE", help="trained CPRNet, or localizer for self")
    parser.add_argument("--annotations", required=True, type=Path, help="point JSON with clicks")
    parser.add_argument("--image-root", required=True, type=Path, help="folder of its images")
    parser.add_argument("--output", required=True, type=Path, help="refined point JSON")
    parser.add_argument("--report", type=Path, help="also write the figures, as JSON")
    parser.add_argument(
        "--semantic-points",
        action="store_true",
        help="keep the points that each refined one is the mean of, for tools/visualize_points.py",
    )
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys to change"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    check_outputs([args.output, args.report], [args.annotations, args.weights, args.config_file])
    if args.plugin:
        sys.path.append(os.getcwd())
        import_plugins(args.plugin)

    from cpr.data.point_json import save_points
    from cpr.evaluation.evaluators import format_refinement
    from cpr.refiners.run import refine_dataset

    refined, metrics = refine_dataset(
        args.refiner,
        args.annotations,
        args.image_root,
        config_file=args.config_file,
        weights=args.weights,
        opts=args.opts,
        semantic_points=args.semantic_points,
    )
    save_points(args.output, refined)
    if args.report:
        finite = {key: value for key, value in metrics.items() if value == value}
        write_json(args.report, finite, indent=1)
    print(format_refinement(metrics))
    print(f"wrote {args.output}")


if __name__ == "__main__":
    raise SystemExit(run_main(main))
