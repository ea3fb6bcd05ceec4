"""`split`: parts to train on and to hold out."""

from __future__ import annotations

import argparse
from pathlib import Path

from cpr_deploy.files import InputError, check_outputs

from .output import counts


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
    from ..point_json import load_points, save_points
    from ..split import split_dataset

    outputs = [args.output_dir / "train.json", args.output_dir / "val.json"]
    check_outputs(outputs, [args.annotations])
    dataset = load_points(args.annotations)
    try:
        parts = split_dataset(dataset, val=args.val, seed=args.seed, by=args.by_sequence)
    except InputError as error:
        raise InputError(f"{args.annotations}: {error}") from None
    for output, part in zip(outputs, parts, strict=True):
        save_points(output, part)
        print(f"wrote {output}: {counts(part)}")
    return 0
