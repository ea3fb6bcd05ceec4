#!/usr/bin/env python
"""Moves the clicks of a data set to the refined points of a trained CPRNet (Algorithm 2).

    python tools/refine_points.py --config-file F --weights model_final.pth \\
        --annotations coarse.json --image-root images --output refined.json

In the output each annotation has its refined `point`, the click as `coarse_point`, `refine_score`
and `refined` (false: it kept its click). RSV and point-box distance are shown if there are boxes.
"""

import argparse
from pathlib import Path

from cpr_deploy.files import check_outputs, run_main, write_json


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config of CPRNet")
    parser.add_argument("--weights", required=True, metavar="FILE", help="trained CPRNet")
    parser.add_argument("--annotations", required=True, type=Path, help="point JSON with clicks")
    parser.add_argument("--image-root", required=True, type=Path, help="folder of its images")
    parser.add_argument("--output", required=True, type=Path, help="refined point JSON")
    parser.add_argument("--report", type=Path, help="also write the figures, as JSON")
    parser.add_argument(
        "--semantic-points",
        action="store_true",
        help="keep the semantic points of each object, for tools/visualize_points.py",
    )
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys to change"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    check_outputs([args.output, args.report], [args.annotations, args.weights, args.config_file])

    from cpr.data.datasets import load_dataset
    from cpr.data.point_json import save_points
    from cpr.data.refined_points import apply_refinement
    from cpr.engine import build_cfg, check_classes
    from cpr.evaluation.evaluators import format_refinement, refinement_metrics
    from cpr.inference import dataset_dicts, load_model, refine

    cfg = build_cfg(args.config_file, args.opts)
    images, classes = dataset_dicts(cfg, args.annotations, args.image_root)
    model, trained = load_model(cfg, args.weights, architecture="CPRNet")
    check_classes(trained, classes, args.annotations)
    records = refine(model, cfg, images, semantic_points=args.semantic_points)

    dataset = load_dataset(args.annotations)
    metrics = refinement_metrics(dataset, records)
    save_points(args.output, apply_refinement(dataset, records))
    if args.report:
        finite = {key: value for key, value in metrics.items() if value == value}
        write_json(args.report, finite, indent=1)
    print(format_refinement(metrics))
    print(f"wrote {args.output}")


if __name__ == "__main__":
    raise SystemExit(run_main(main))
