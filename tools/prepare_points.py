#!/usr/bin/env python
"""Prepares point annotations: simulated clicks and validation.

Examples:
    python tools/prepare_points.py coarse --annotations gt.json --output coarse.json --seed 0
    python tools/prepare_points.py check --annotations coarse.json --image-root images
"""

from __future__ import annotations

import argparse
import logging
import sys

from cpr_deploy.files import InputError, check_outputs, read_json, run_main


def add_coarse_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "coarse",
        help="simulate one click per object (Eq. 11)",
        description="Draws one coarse click per object from a Gaussian cut to its mask or box.",
    )
    parser.add_argument("--annotations", required=True, help="COCO JSON with boxes or masks")
    parser.add_argument("--output", required=True, help="point JSON to write")
    parser.add_argument(
        "--source",
        choices=("mask", "box", "center"),
        default="mask",
        help="mask: the mask, or the box of a record without one (default); center: no noise",
    )
    parser.add_argument(
        "--sigma",
        type=float,
        default=0.25,
        help="standard deviation in units of the box's sides (default 0.25)",
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed and id: same click")
    parser.set_defaults(run=run_coarse)


def run_coarse(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from cpr.data.coarse_points import add_coarse_points
    from cpr.data.point_json import load_points, save_points

    check_outputs([args.output], [args.annotations])
    dataset = load_points(args.annotations, require=None)
    try:
        dataset = add_coarse_points(
            dataset,
            source=args.source,
            sigma=args.sigma,
            seed=args.seed,
            progress=lambda objects: tqdm(objects, desc="clicking", unit="object", disable=None),
        )
    except InputError as error:
        raise InputError(f"{args.annotations}: {error}") from None
    save_points(args.output, dataset)
    print(f"wrote {args.output}")
    return 0


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
    from tqdm import tqdm

    from cpr.data.checks import check_dataset
    from cpr.data.pseudo_boxes import from_pseudo_boxes, has_pseudo_boxes

    dataset = read_json(args.annotations)
    if isinstance(dataset, dict) and has_pseudo_boxes(dataset):
        dataset, _ = from_pseudo_boxes(dataset)
    problems = check_dataset(
        dataset,
        args.image_root,
        require=args.require,
        same_place=args.same_place,
        progress=lambda images: tqdm(images, desc="images", unit="image", disable=None),
    )
    for problem in problems:
        print(f"{'error' if problem.is_error else 'warning'}: {problem.record}: {problem.text}")
    errors = sum(problem.is_error for problem in problems)
    counted = f"{errors} errors, {len(problems) - errors} warnings"
    if isinstance(dataset, dict):
        sizes = [
            f"{len(dataset[key])} {key}"
            for key in ("images", "annotations", "categories")
            if isinstance(dataset.get(key), list)
        ]
        counted += f" in {', '.join(sizes)}"
    print(f"{args.annotations}: {counted}")
    return 1 if errors else 0


# Each sub-command adds its parser and names the function that runs it.
COMMANDS = (add_coarse_parser, add_check_parser)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for add_parser in COMMANDS:
        add_parser(commands)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    return args.run(args)


if __name__ == "__main__":
    raise SystemExit(run_main(main))
