#!/usr/bin/env python
"""Prepares point annotations: simulated clicks, other tools' formats, validation, division.

Examples:
    python tools/prepare_points.py coarse --annotations gt.json --output coarse.json --seed 0
    python tools/prepare_points.py import --format csv --input clicks.csv --image-root images \\
        --output clicks.json
    python tools/prepare_points.py export --format cvat --annotations refined.json \\
        --output annotations.xml
    python tools/prepare_points.py check --annotations coarse.json --image-root images
    python tools/prepare_points.py split --annotations clicks.json --output-dir annotations
    python tools/prepare_points.py tile --annotations coarse.json --output tiles.json
    python tools/prepare_points.py untile --annotations coarse.json --tiles refined_tiles.json \\
        --output refined.json
    python tools/prepare_points.py benchmark dota --source DOTA --output datasets/dota
"""

from __future__ import annotations

import argparse
import functools
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from cpr_deploy.files import InputError, check_outputs, run_main, write_json

if TYPE_CHECKING:
    from cpr.data.point_json import Problem


def show_progress(
    iterable: Iterable, *, desc: str, total: int | None = None, unit: str = "it"
) -> Iterable:
    from tqdm import tqdm

    return tqdm(iterable, desc=desc, total=total, unit=unit, disable=None)


def show_skipped(problems: Iterable[Problem], what: str = "skipped") -> None:
    for problem in problems:
        print(f"{what}: {problem.record}: {problem.text}")


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
            progress=functools.partial(show_progress, desc="clicking", unit="object"),
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
        help="annotations of another tool to point JSON",
        description="Writes the annotations of another tool, and all images of a folder, as point"
        " JSON. projects/CPR/cpr/data/FORMATS.md describes the formats.",
    )
    parser.add_argument(
        "--format",
        required=True,
        choices=list(FORMATS),
        help="; ".join(f"{name}: {entry.help}" for name, entry in FORMATS.items()),
    )
    parser.add_argument("--input", required=True, metavar="PATH", help="file or folder to read")
    parser.add_argument(
        "--image-root",
        help="image folder; may be left out where the files tell the sizes of their images ("
        + ", ".join(name for name, entry in FORMATS.items() if entry.has_sizes)
        + "), or with --original",
    )
    parser.add_argument("--output", required=True, help="point JSON to write")
    parser.add_argument(
        "--origin",
        choices=("corner", "centre"),
        help="corner: 0 is the edge of the image; centre: coordinates are pixel indices, 0 is the"
        " centre of the first pixel (default: as is usual for the format, most often corner)",
    )
    parser.add_argument(
        "--one-based",
        action=argparse.BooleanOptionalAction,
        help="the first pixel is number 1, not 0 (default: crowd-mat only)",
    )
    parser.add_argument(
        "--keypoint",
        metavar="NAME",
        help="coco, several keypoints an object: the one that is the click, or `mean`",
    )
    parser.add_argument(
        "--classes",
        type=lambda text: [name.strip() for name in text.split(",")],
        metavar="A,B,C",
        help="names of the classes in the order of their ids (default: those found)",
    )
    parser.add_argument(
        "--original",
        metavar="FILE",
        help="the point JSON that was exported and now comes back: keeps its ids, its classes and"
        " what else it says",
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave bad records out and list them"
    )
    parser.set_defaults(run=run_import)


def run_import(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from cpr.data.importers.import_points import default_conventions, import_points
    from cpr.data.point_json import save_points

    check_outputs([args.output], [args.input, args.original])
    given = {key: getattr(args, key) for key in ("origin", "one_based", "keypoint")}
    given = {key: value for key, value in given.items() if value is not None}
    imported = import_points(
        args.input,
        args.image_root,
        file_format=args.format,
        conventions=replace(default_conventions(args.format), **given),
        classes=args.classes,
        original=args.original,
        skip_bad=args.skip_bad,
    )
    save_points(args.output, imported.dataset)
    show_skipped(imported.skipped)
    print(f"wrote {args.output}: {_counts(imported.dataset)}, {len(imported.skipped)} skipped")
    return 0


def add_export_parser(commands: argparse._SubParsersAction) -> None:
    from cpr.data.exporters import FORMATS

    parser = commands.add_parser(
        "export",
        help="point JSON to the format of another tool",
        description="Writes a point JSON for another tool, for example to review refined points."
        " `import` with --original brings it back.",
    )
    parser.add_argument(
        "--format",
        required=True,
        choices=list(FORMATS),
        help="; ".join(f"{name}: {entry.help}" for name, entry in FORMATS.items()),
    )
    parser.add_argument("--annotations", required=True, help="point JSON to read")
    parser.add_argument("--output", required=True, help="file to write")
    parser.add_argument(
        "--image-prefix",
        default="",
        help="put before the names of images ("
        + ", ".join(name for name, entry in FORMATS.items() if entry.prefix)
        + "), for example /data/local-files/?d=images/",
    )
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave objects out that the format cannot hold, and list them",
    )
    parser.set_defaults(run=run_export)


def run_export(args: argparse.Namespace) -> int:
    from cpr.data.exporters.export_points import export_points

    check_outputs([args.output], [args.annotations])
    exported = export_points(
        args.annotations,
        args.output,
        file_format=args.format,
        prefix=args.image_prefix,
        skip_bad=args.skip_bad,
    )
    show_skipped(exported.left_out, "left out")
    print(
        f"wrote {args.output}: {exported.images} images, {exported.annotations} annotations,"
        f" {len(exported.left_out)} left out"
    )
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
    """ "2 images, 5 annotations, 1 categories", of the lists that are there."""
    keys = ("images", "annotations", "categories")
    return ", ".join(
        f"{len(dataset[key])} {key}" for key in keys if isinstance(dataset.get(key), list)
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
    from cpr.data.checks import check_dataset
    from cpr.data.point_json import read_unchecked

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
        counted += f" in {_counts(dataset)}"
    print(f"{args.annotations}: {counted}")
    return 1 if errors else 0


def add_tiling_arguments(parser: argparse.ArgumentParser, tile: int, overlap: int) -> None:
    parser.add_argument(
        "--tile", type=int, default=tile, metavar="PX", help=f"side of a tile (default {tile})"
    )
    parser.add_argument(
        "--overlap",
        type=int,
        default=overlap,
        metavar="PX",
        help=f"neighbours share at least so much (default {overlap})",
    )
    parser.add_argument(
        "--drop-empty", action="store_true", help="leave out (training) tiles without objects"
    )
    parser.add_argument(
        "--image-format",
        choices=("keep", "png", "jpg"),
        default="keep",
        help="of cut tiles: keep: JPEG of JPEG images, PNG of others (default); png: exact",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes; default: one a CPU")


def add_tile_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "tile",
        help="divide large images into overlapping tiles",
        description="Writes one record a tile. Tiles are cropped when they are read, or cut to"
        " files (--cut), which trains faster. `untile` is the way back.",
    )
    parser.add_argument("--annotations", required=True, help="point JSON or COCO JSON")
    parser.add_argument("--output", required=True, help="point JSON of the tiles")
    parser.add_argument(
        "--grid",
        choices=("even", "official", "official-test"),
        default="even",
        help="even: equal tiles, each object in the one that sees it most centrally (default);"
        " official: training tiles and rules of the official code; official-test: its test tiles",
    )
    parser.add_argument(
        "--copies",
        action="store_true",
        help="objects go to every tile that sees them, for scoring single tiles",
    )
    add_tiling_arguments(parser, 640, 100)
    parser.add_argument("--image-root", help="image folder, for --cut")
    parser.add_argument(
        "--cut",
        metavar="DIR",
        help="write each tile to an image file below DIR; also of annotations that are tiled",
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave bad records and images out and list them"
    )
    parser.set_defaults(run=run_tile)


def run_tile(args: argparse.Namespace) -> int:
    from cpr.data.benchmarks.layout import Prepared, read_split
    from cpr.data.point_json import save_points
    from cpr.data.tile_files import cut_tiles
    from cpr.data.tile_records import is_tiled
    from cpr.data.tiles import tile_dataset

    if (args.cut is None) != (args.image_root is None):
        raise InputError("--cut and --image-root: give both or none of them.")
    check_outputs([args.output], [args.annotations])
    prepared = Prepared()
    dataset = read_split(
        Path(args.annotations),
        prepared,
        skip_bad=args.skip_bad,
        require="any",
        may_be_empty=True,
    )
    skipped = prepared.skipped
    try:
        if not (args.cut and is_tiled(dataset)):
            dataset = tile_dataset(
                dataset,
                tile=args.tile,
                overlap=args.overlap,
                grid=args.grid,
                copies=args.copies,
                drop_empty=args.drop_empty,
            )
        if args.cut:
            dataset, bad_images = cut_tiles(
                dataset,
                args.image_root,
                args.cut,
                image_format=args.image_format,
                workers=args.workers,
                skip_bad=args.skip_bad,
                progress=functools.partial(show_progress, desc="cutting"),
            )
            skipped += bad_images
    except InputError as error:
        raise InputError(f"{args.annotations}: {error}") from None
    save_points(args.output, dataset)
    show_skipped(skipped)
    print(f"wrote {args.output}: {_counts(dataset)}, {len(skipped)} skipped")
    return 0


def add_untile_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "untile",
        help="refined points or detections of tiles back to the full images",
        description="Maps points of tiles back to the full images: annotations by their ids,"
        " predictions with a point NMS, so that what several tiles saw counts once.",
    )
    parser.add_argument("--annotations", required=True, help="point JSON of the full images")
    parser.add_argument("--tiles", required=True, help="point JSON of the tiles, e.g. refined")
    parser.add_argument("--predictions", help="detections JSON of the tiles: map these instead")
    parser.add_argument("--output", required=True, help="point JSON or detections JSON to write")
    parser.add_argument(
        "--nms-size",
        type=float,
        default=16.0,
        metavar="PX",
        help="side of the pseudo boxes of --predictions (default 16; official: DOTA 32)",
    )
    parser.add_argument(
        "--nms-iou", type=float, default=0.2, help="above this they are one (default 0.2)"
    )
    parser.add_argument(
        "--nms-radius", type=float, metavar="PX", help="instead: points closer than this are one"
    )
    parser.add_argument(
        "--max-dets", type=int, default=1000, help="points of an image (default 1000)"
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=0.0,
        metavar="PX",
        help="ignore predictions so near to where a tile cuts the image (default 0: official)",
    )
    parser.set_defaults(run=run_untile)


def run_untile(args: argparse.Namespace) -> int:
    from cpr.data.point_json import load_detections, load_points, save_points
    from cpr.data.untile import untile_detections, untile_points

    check_outputs([args.output], [args.annotations, args.tiles, args.predictions])
    full = load_points(args.annotations, require=None, drop_flat=True)
    tiles = load_points(args.tiles, require=None)
    try:
        if args.predictions is None:
            result = untile_points(full, tiles)
        else:
            merged = untile_detections(
                full,
                tiles,
                load_detections(args.predictions, tiles),
                size=args.nms_size,
                iou=args.nms_iou,
                radius=args.nms_radius,
                max_dets=args.max_dets,
                margin=args.margin,
            )
    except InputError as error:
        raise InputError(f"{args.tiles}: {error}") from None
    if args.predictions is None:
        save_points(args.output, result)
        print(f"wrote {args.output}: {_counts(result)}")
    else:
        write_json(args.output, merged)
        print(f"wrote {args.output}: {len(merged)} points")
    return 0


def add_benchmark_parser(commands: argparse._SubParsersAction) -> None:
    from cpr.data.benchmarks import BENCHMARKS

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

    from cpr.data.benchmarks.layout import Options

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


# Each sub-command adds its parser and names the function that runs it.
COMMANDS = (
    add_coarse_parser,
    add_import_parser,
    add_export_parser,
    add_check_parser,
    add_split_parser,
    add_tile_parser,
    add_untile_parser,
    add_benchmark_parser,
)


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
