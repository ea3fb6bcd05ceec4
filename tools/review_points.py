#!/usr/bin/env python
"""Makes a page to review refined points on: one HTML file, worst first, for any web browser.

    python tools/review_points.py --annotations refined.json --image-root images \\
        --output review.html

Flagged are objects that look like another class, two points at one place, objects that kept their
click, points that moved far, and low scores. In the page each object is accepted, rejected or
flagged with a key; the decisions, exported as JSON or CSV, are carried out by

    python tools/prepare_points.py apply-review --annotations refined.json \\
        --decisions decisions.json --output reviewed.json

Refine with --semantic-points to see what each refined point is the mean of.
"""

import argparse
from pathlib import Path

from cpr_deploy.files import InputError, check_outputs, run_main


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--annotations", type=Path, required=True, help="point JSON of tools/refine_points.py"
    )
    parser.add_argument("--image-root", type=Path, required=True, help="folder of its images")
    parser.add_argument("--output", type=Path, required=True, help="HTML file to write")
    parser.add_argument("--title", help="heading of the page; default: the annotations' name")
    parser.add_argument(
        "--radius",
        type=float,
        metavar="PX",
        help="flag points that moved farther; default: three quarters of how far the object's bag"
        " reaches (R x stride / scale)",
    )
    parser.add_argument(
        "--min-score",
        type=float,
        default=0.15,
        metavar="S",
        help="flag refined points with a lower score (default 0.15; below 0.1 clicks are kept)",
    )
    parser.add_argument(
        "--same-place",
        type=float,
        metavar="PX",
        help="flag points of an image that are so close; default: a quarter of how far bags reach",
    )
    parser.add_argument(
        "--max-mb",
        type=float,
        default=50.0,
        metavar="MB",
        help="size of the page at most (default 50); pictures get smaller to keep it",
    )
    parser.add_argument(
        "--max-objects", type=int, metavar="N", help="only the N worst; default: all"
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="go on after images that cannot be read; list them"
    )
    args = parser.parse_args()
    if args.max_objects is not None and args.max_objects < 1:
        parser.error("--max-objects must be at least 1")
    if not 0 < args.max_mb <= 2000:
        parser.error("--max-mb must be above 0 and at most 2000")
    return args


def main() -> int:
    args = parse_args()
    check_outputs([args.output], [args.annotations])

    from tqdm import tqdm

    from cpr.data.point_json import load_points
    from cpr.data.quality.label_quality import FLAGS, Thresholds, label_quality
    from cpr.visualization.review.page import write_review

    dataset = load_points(args.annotations, may_be_empty=True)
    try:
        thresholds = Thresholds(args.radius, args.min_score, args.same_place)
    except InputError as error:
        raise InputError(f"--{str(error).replace('_', '-')}") from None
    try:
        quality = label_quality(dataset, thresholds)
    except InputError as error:
        raise InputError(f"{args.annotations}: {error}") from None
    objects = quality.objects[: args.max_objects]
    images = len({one.annotation["image_id"] for one in objects})
    summary = write_review(
        args.output,
        dataset,
        quality,
        args.image_root,
        title=args.title or f"Review of {args.annotations.name}",
        max_bytes=args.max_mb * 1e6,
        max_objects=args.max_objects,
        skip_bad=args.skip_bad,
        progress=lambda records: tqdm(
            records, desc="cutting", total=images, unit="image", disable=None
        ),
    )
    for image_id, text in summary.problems.items():
        print(f"not shown: image id {image_id!r}: {text}")
    flagged = sum(bool(one.flags) for one in quality.objects)
    print(f"{len(quality.objects)} objects, {flagged} of them flagged:")
    for flag, number in quality.counts().items():
        print(f"  {number:6} {flag}: {FLAGS[flag]}")
    if quality.unrefined:
        print(f"{quality.unrefined} objects without a coarse_point are left out")
    if summary.shown < len(quality.objects):
        print(f"only the {summary.shown} worst are in the page (--max-objects)")
    if summary.without_room:
        print(f"no room for the pictures of the last {summary.without_room} objects (--max-mb)")
    sizes = ", ".join(f"{number} of {name}" for name, number in summary.levels.items())
    print(f"pictures: {sizes or 'none'}")
    print(f"wrote {args.output}: {summary.bytes / 1e6:.1f} MB, data set {summary.data_set}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))
