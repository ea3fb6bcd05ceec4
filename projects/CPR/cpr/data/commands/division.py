"""`split`: parts to train on and to hold out."""

from __future__ import annotations

import argparse
from pathlib import Path

from cpr_deploy.files import InputError, check_outputs

from .output import counts

# With --ratio; with --val there are the first and one of its own name.
PARTS = ("train", "valid", "test")


def _ratio(text: str) -> tuple[float, ...]:
    numbers = tuple(float(number) for number in text.split(":"))
    if len(numbers) != len(PARTS):
        raise ValueError
    return numbers


_ratio.__name__ = "ratio, such as 10:1:10,"  # argparse: "invalid ratio, such as 10:1:10, value"


def add_split_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "split",
        help="divide a data set into train.json and val.json, or into three parts",
        description="Holds out a share of the images (--val), or divides them into train.json,"
        " valid.json and test.json (--ratio). Images of one sequence stay together if the records"
        " say which it is. Same names and seed: same division.",
    )
    parser.add_argument("--annotations", required=True, help="point JSON or COCO JSON")
    parser.add_argument(
        "--output-dir", required=True, type=Path, help="folder for the parts, one JSON each"
    )
    share = parser.add_mutually_exclusive_group()
    share.add_argument(
        "--val", type=float, default=0.2, help="share of the images to hold out (default 0.2)"
    )
    share.add_argument(
        "--ratio",
        type=_ratio,
        metavar="A:B:C",
        help="instead: images to train on, to choose settings with and to test on (the paper:"
        " 10:1:10)",
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, another division")
    parser.add_argument(
        "--by-sequence",
        metavar="KEY",
        help="keep the images of one sequence together: a key of the image records, or `folder`:"
        " the folder of their files, or `image`: each file for itself (default: `sequence` if the"
        " records have it, as those of `frames` do, else `image`)",
    )
    parser.set_defaults(run=run_split)


def run_split(args: argparse.Namespace) -> int:
    from ..point_json import load_points, save_points
    from ..split import split_by_ratio, split_dataset

    names = ("train", "val") if args.ratio is None else PARTS
    outputs = [args.output_dir / f"{name}.json" for name in names]
    check_outputs(outputs, [args.annotations])
    # Footage may be divided before it is annotated.
    dataset = load_points(args.annotations, may_be_empty=args.ratio is not None)
    try:
        if args.ratio is None:
            parts = split_dataset(dataset, val=args.val, seed=args.seed, by=args.by_sequence)
        else:
            parts = split_by_ratio(dataset, args.ratio, seed=args.seed, by=args.by_sequence)
    except InputError as error:
        raise InputError(f"{args.annotations}: {error}") from None
    for output, part in zip(outputs, parts, strict=True):
        save_points(output, part)
        print(f"wrote {output}: {counts(part)}")
    return 0
