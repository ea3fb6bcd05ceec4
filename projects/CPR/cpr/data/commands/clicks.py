"""`coarse`: simulated clicks."""

from __future__ import annotations

import argparse
import functools

from cpr_deploy.files import InputError, check_outputs

from .output import show_progress


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
    from ..coarse_points import add_coarse_points
    from ..point_json import load_points, save_points

    check_outputs([args.output], [args.annotations])
    dataset = load_points(args.annotations, require=None, drop_flat=True)
    try:
        dataset = add_coarse_points(
            dataset,
            source=args.source,
            sigma=args.sigma,
            seed=args.seed,
            progress=functools.partial(show_progress, desc="clicking", unit="object"),
        )
    except InputError as error:
        raise InputError(f"{args.annotations}: {error}") from None
    save_points(args.output, dataset)
    print(f"wrote {args.output}")
    return 0
