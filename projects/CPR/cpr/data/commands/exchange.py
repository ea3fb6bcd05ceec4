"""`import` and `export`: the formats of other tools."""

from __future__ import annotations

import argparse

from cpr_deploy.files import check_outputs

from .output import counts, show_skipped


def add_import_parser(commands: argparse._SubParsersAction) -> None:
    from ..importers import FORMATS

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
        "--annotated-only",
        action="store_true",
        help="leave out images that are not in the input, or not annotated there yet (default: they"
        " count as free of objects)",
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave bad records out and list them"
    )
    parser.set_defaults(run=run_import)


def run_import(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from ..importers.import_points import default_conventions, import_points
    from ..point_json import save_points

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
        annotated_only=args.annotated_only,
        skip_bad=args.skip_bad,
    )
    save_points(args.output, imported.dataset)
    show_skipped(imported.skipped)
    print(f"wrote {args.output}: {counts(imported.dataset)}, {len(imported.skipped)} skipped")
    return 0


def add_export_parser(commands: argparse._SubParsersAction) -> None:
    from ..exporters import FORMATS

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
    from ..exporters.export_points import export_points

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
