#!/usr/bin/env python
"""Prepares point annotations: simulated clicks, clicks of other tools, validation, division.

Examples:
    python tools/prepare_points.py coarse --annotations gt.json --output coarse.json --seed 0
    python tools/prepare_points.py import --format csv --input clicks.csv --image-root images \\
        --output clicks.json
    python tools/prepare_points.py check --annotations coarse.json --image-root images
    python tools/prepare_points.py split --annotations clicks.json --output-dir annotations
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

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
    dataset = load_points(args.annotations, require=None, drop_flat=True)
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


def add_import_parser(commands: argparse._SubParsersAction) -> None:
    from cpr.data.importers import FORMATS

    parser = commands.add_parser(
        "import",
        help="clicks of another tool to point JSON",
        description="Writes the clicks of another tool, and all images of a folder, as point JSON.",
    )
    parser.add_argument(
        "--format",
        required=True,
        choices=sorted(FORMATS),
        help="; ".join(f"{name}: {FORMATS[name].help}" for name in sorted(FORMATS)),
    )
    parser.add_argument("--input", required=True, metavar="FILE", help="the file to read")
    parser.add_argument("--image-root", required=True, help="image folder")
    parser.add_argument("--output", required=True, help="point JSON to write")
    parser.add_argument(
        "--origin",
        choices=("corner", "centre"),
        default="corner",
        help="corner: 0 is the edge of the image (default); centre: coordinates are pixel indices,"
        " 0 is the centre of the first pixel",
    )
    parser.add_argument(
        "--one-based", action="store_true", help="the first pixel is number 1, not 0"
    )
    parser.add_argument(
        "--classes",
        type=lambda text: [name.strip() for name in text.split(",")],
        metavar="A,B,C",
        help="names of the classes in the order of their ids (default: those found, sorted)",
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave bad records out and list them"
    )
    parser.set_defaults(run=run_import)


def run_import(args: argparse.Namespace) -> int:
    from cpr.data.importers.import_points import Conventions, import_points
    from cpr.data.point_json import save_points

    check_outputs([args.output], [args.input])
    imported = import_points(
        args.input,
        args.image_root,
        file_format=args.format,
        conventions=Conventions(args.origin, args.one_based),
        classes=args.classes,
        skip_bad=args.skip_bad,
    )
    save_points(args.output, imported.dataset)
    for problem in imported.skipped:
        print(f"skipped: {problem.record}: {problem.text}")
    print(f"wrote {args.output}: {_counts(imported.dataset)}, {len(imported.skipped)} skipped")
    return 0


def add_split_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "split",
        help="divide a data set into train.json and val.json",
        description="Holds out a share of the images. Same names and seed: same division.",
    )
    parser.add_argument("--annotations", required=True, help="point JSON or COCO JSON")
    parser.add_argument(
        "--output-dir", required=True, type=Path, help="folder for train.json and val.json"
    )
    parser.add_argument(
        "--val", type=float, default=0.2, help="share of the images to hold out (default 0.2)"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, another division")
    parser.add_argument(
        "--by-sequence",
        metavar="KEY",
        help="keep the images of one sequence together: a key of the image records, or `folder`:"
        " the folder of their files",
    )
    parser.set_defaults(run=run_split)


def run_split(args: argparse.Namespace) -> int:
    from cpr.data.point_json import load_points, save_points
    from cpr.data.split import split_dataset

    outputs = [args.output_dir / "train.json", args.output_dir / "val.json"]
    check_outputs(outputs, [args.annotations])
    dataset = load_points(args.annotations)
    try:
        parts = split_dataset(dataset, val=args.val, seed=args.seed, by=args.by_sequence)
    except InputError as error:
        raise InputError(f"{args.annotations}: {error}") from None
    for output, part in zip(outputs, parts, strict=True):
        save_points(output, part)
        print(f"wrote {output}: {_counts(part)}")
    return 0


def _counts(dataset: dict) -> str:
    return ", ".join(
        f"{len(dataset[key])} {key}" for key in ("images", "annotations", "categories")
    )


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
COMMANDS = (add_coarse_parser, add_import_parser, add_check_parser, add_split_parser)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for add_parser in COMMANDS:
        add_parser(commands)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    return args.run(args)


if __name__ == "__main__":
    raise SystemExit(run_main(main))
