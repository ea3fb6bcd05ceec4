"""The options by which scripts choose how a model is run."""

from __future__ import annotations

import argparse
from typing import Any

from cpr_deploy.files import InputError

MAX_THREADS = 1024


def add_network_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds --providers, --threads and --score-thresh; the group that they are in."""
    group = parser.add_argument_group("network")
    group.add_argument(
        "--providers",
        nargs="+",
        default=["CPUExecutionProvider"],
        metavar="NAME",
        help="ONNX Runtime execution providers, all of which must be used (default: %(default)s)",
    )
    group.add_argument("--threads", type=int, help="threads of ONNX Runtime")
    group.add_argument(
        "--score-thresh", type=float, help="not below the exported threshold (default: that)"
    )
    return group


def check_network_options(args: argparse.Namespace) -> None:
    """InputError if a number is out of range."""
    if args.threads is not None and not 1 <= args.threads <= MAX_THREADS:
        raise InputError(f"--threads {args.threads}: 1 to {MAX_THREADS} are possible.")


def open_localizer(args: argparse.Namespace, **options: Any):
    """The `PointLocalizer` of `args.model`; `options` are for it."""
    from cpr_deploy.point_localizer import PointLocalizer

    return PointLocalizer(
        args.model,
        providers=args.providers,
        threads=args.threads,
        score_thresh=args.score_thresh,
        **options,
    )
