"""`tile` and `untile`: large images in parts, and the way back."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

from cpr_deploy.files import InputError, check_outputs, write_json

from .output import counts, show_progress, show_skipped


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
    from ..benchmarks.layout import Prepared, read_split
    from ..point_json import save_points
    from ..tiling.files import cut_tiles
    from ..tiling.records import is_tiled
    from ..tiling.tiles import tile_dataset

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
    print(f"wrote {args.output}: {counts(dataset)}, {len(skipped)} skipped")
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
    from ..point_json import load_detections, load_points, save_points
    from ..tiling.untile import untile_detections, untile_points

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
        print(f"wrote {args.output}: {counts(result)}")
    else:
        write_json(args.output, merged)
        print(f"wrote {args.output}: {len(merged)} points")
    return 0
