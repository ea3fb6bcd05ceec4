"""`benchmark`: COCO, DOTA and SeaPerson in the form of the paper."""

from __future__ import annotations

import argparse
from pathlib import Path

from .output import show_progress, show_skipped
from .tiling import add_tiling_arguments


def add_benchmark_parser(commands: argparse._SubParsersAction) -> None:
    from ..benchmarks import BENCHMARKS

    parser = commands.add_parser(
        "benchmark",
        help="COCO, DOTA or SeaPerson in the form of the paper",
        description="Writes annotations/{train,train_coarse,val}.json and images, as"
        " run_experiments.py and MODEL_ZOO.md expect them.",
    )
    names = parser.add_subparsers(dest="benchmark", required=True, metavar="name")
    for name, help_text in BENCHMARKS.items():
        add_one_benchmark(names.add_parser(name, help=help_text, description=help_text), name)


def add_one_benchmark(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("--source", required=True, type=Path, help="folder of the data set")
    parser.add_argument(
        "--output", required=True, type=Path, help=f"folder to write, e.g. datasets/{name}"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the clicks; see `coarse`")
    parser.add_argument("--sigma", type=float, default=0.25, help="of the clicks; see `coarse`")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave bad records and images out and list them"
    )
    parser.set_defaults(run=run_benchmark)
    if name == "coco":
        return
    add_tiling_arguments(parser, *((1024, 200) if name == "dota" else (640, 100)))
    parser.add_argument(
        "--official-tiles",
        action="store_true",
        help="training tiles of the official code instead of equal ones",
    )
    parser.add_argument(
        "--cut",
        action=argparse.BooleanOptionalAction,
        default=name == "dota",
        help="write tiles to image files; else they are cropped whenever they are read"
        " (default: %(default)s)",
    )
    if name == "dota":
        parser.add_argument("--version", default="1.0", help="1.0 (default), 1.5 or 2.0")
        return
    parser.add_argument(
        "--coarse", type=Path, metavar="FILE", help="the authors' clicks instead of simulated ones"
    )
    parser.add_argument(
        "--dense",
        choices=("drop", "ignore", "keep"),
        default="drop",
        help="images flagged in_dense_image (default drop, as in the benchmark)",
    )
    parser.add_argument(
        "--keep-classes", action="store_true", help="not all classes as one, `person`"
    )


def run_benchmark(args: argparse.Namespace) -> int:
    import importlib

    from ..benchmarks.layout import Options

    module = importlib.import_module(f"cpr.data.benchmarks.{args.benchmark}")
    options = {"seed": args.seed, "sigma": args.sigma, "skip_bad": args.skip_bad}
    if args.benchmark != "coco":
        options |= {
            "tile": args.tile,
            "overlap": args.overlap,
            "official": args.official_tiles,
            "drop_empty": args.drop_empty,
            "cut": args.cut,
            "image_format": args.image_format,
            "workers": args.workers,
        }
    more = {}
    if args.benchmark == "dota":
        more = {"version": args.version}
    elif args.benchmark == "seaperson":
        more = {"coarse": args.coarse, "dense": args.dense, "one_class": not args.keep_classes}
    prepared = module.prepare(
        args.source, args.output, Options(progress=show_progress, **options), **more
    )
    show_skipped(prepared.skipped)
    for path in prepared.files:
        print(f"wrote {path}")
    print(f"{len(prepared.skipped)} skipped")
    return 0
