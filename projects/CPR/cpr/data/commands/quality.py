"""`check`: what is wrong with a data set."""

from __future__ import annotations

import argparse
import functools

from .output import counts, show_progress


def add_check_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "check",
        help="report what is wrong with a data set, record by record",
        description="Reports every problem of a point JSON and its images; exits with 1 if any.",
    )
    parser.add_argument("--annotations", required=True, help="point JSON or COCO JSON")
    parser.add_argument("--image-root", help="image folder; without it images are not opened")
    parser.add_argument(
        "--require",
        choices=("point", "box", "any"),
        default="any",
        help="what every object must have (default: any of the two)",
    )
    parser.add_argument(
        "--same-place",
        type=float,
        default=0.5,
        metavar="PX",
        help="report objects of an image that are this close to each other (default 0.5)",
    )
    parser.set_defaults(run=run_check)


def run_check(args: argparse.Namespace) -> int:
    from ..checks import check_dataset
    from ..point_json import read_unchecked

    dataset, _ = read_unchecked(args.annotations)
    problems = check_dataset(
        dataset,
        args.image_root,
        require=args.require,
        same_place=args.same_place,
        progress=functools.partial(show_progress, desc="images", unit="image"),
    )
    for problem in problems:
        print(f"{'error' if problem.is_error else 'warning'}: {problem.record}: {problem.text}")
    errors = sum(problem.is_error for problem in problems)
    counted = f"{errors} errors, {len(problems) - errors} warnings"
    if isinstance(dataset, dict):
        counted += f" in {counts(dataset)}"
    print(f"{args.annotations}: {counted}")
    return 1 if errors else 0
