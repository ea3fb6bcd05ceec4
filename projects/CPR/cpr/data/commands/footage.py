"""`frames` and `deduplicate`: videos and folders of images to data sets to annotate."""

from __future__ import annotations

import argparse
from pathlib import Path

from cpr_deploy.files import InputError, atomic_path, check_outputs, write_json

from .output import class_names, counts, show_progress, show_skipped


def _add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threshold",
        type=int,
        metavar="BITS",
        help="drop images whose perceptual hash differs in at most so many of its 64 bits from"
        " that of the last one kept of their sequence (default 4; what that does:"
        " projects/CPR/cpr/data/footage/FOOTAGE.md)",
    )
    parser.add_argument(
        "--across-sequences",
        action="store_true",
        help="compare also with all images that are kept of other sequences",
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="images or videos at a time; default: one a CPU"
    )


def add_frames_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "frames",
        help="single frames of videos, to be annotated",
        description="Writes frames of videos as images, one folder a video, without"
        " near-duplicates, and images.json: a point JSON without annotations, for `export` and"
        " `import --original`. Run again, it takes up what is complete.",
    )
    parser.add_argument(
        "--source", required=True, nargs="+", metavar="PATH", help="videos or folders of videos"
    )
    parser.add_argument("--output-dir", required=True, type=Path, help="folder to write")
    parser.add_argument(
        "--classes",
        required=True,
        type=class_names,
        metavar="A,B,C",
        help="what will be annotated: names of the classes, ids from 1",
    )
    rule = parser.add_mutually_exclusive_group()
    rule.add_argument("--every", type=int, metavar="N", help="each N-th frame (default 50)")
    rule.add_argument(
        "--every-seconds", type=float, metavar="S", help="the first frame of each S seconds"
    )
    rule.add_argument(
        "--scene-change",
        type=float,
        metavar="T",
        help="a frame whose grey values differ from those of the last one taken by this share of"
        " their range on average (0.05: the camera has moved; 0.2: a cut)",
    )
    parser.add_argument(
        "--start", type=float, default=0.0, metavar="S", help="seconds to leave out at the start"
    )
    parser.add_argument("--end", type=float, metavar="S", help="second at which to stop")
    parser.add_argument(
        "--image-format", choices=("jpg", "png"), default="jpg", help="default jpg; png: exact"
    )
    parser.add_argument("--quality", type=int, default=95, help="of JPEG images (default 95)")
    _add_common_arguments(parser)
    parser.add_argument("--keep-duplicates", action="store_true", help="drop no near-duplicates")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave damaged frames and videos out and list them"
    )
    parser.set_defaults(run=run_frames)


def run_frames(args: argparse.Namespace) -> int:
    from ..footage.extract import extract_frames
    from ..footage.folder import FootageSettings
    from ..footage.near_duplicates import THRESHOLD
    from ..footage.video_files import find_videos, open_videos
    from ..footage.video_frames import Selection

    if args.keep_duplicates and (args.threshold is not None or args.across_sequences):
        raise InputError("--keep-duplicates: leaves --threshold and --across-sequences without use")
    threshold = THRESHOLD if args.threshold is None else args.threshold
    settings = FootageSettings(
        Selection(args.every, args.every_seconds, args.scene_change, args.start, args.end),
        image_format=args.image_format,
        quality=args.quality,
        threshold=None if args.keep_duplicates else threshold,
        across=args.across_sequences,
    )
    videos, skipped = open_videos(find_videos(args.source), skip_bad=args.skip_bad)
    lengths = [video.length for video in videos]
    total = None if None in lengths else sum(lengths)
    with show_progress(None, desc="reading", total=total, unit="frame") as bar:
        footage = extract_frames(
            videos,
            args.output_dir,
            settings,
            classes=args.classes,
            workers=args.workers,
            skip_bad=args.skip_bad,
            on_frame=bar.update,
        )
    skipped += footage.skipped
    show_skipped(skipped)
    pairs = [
        (
            args.output_dir / "images" / record["duplicate_of"],
            args.output_dir / record["picture"],
            record,
        )
        for record in footage.dropped
    ]
    _write_montage(args.output_dir / "dropped.png", pairs)
    print(
        f"wrote {args.output_dir / 'images.json'}: {counts(footage.dataset)};"
        f" {len(footage.dropped)} near-duplicates dropped, {len(skipped)} problems"
    )
    return 0


def add_deduplicate_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "deduplicate",
        help="drop images that show nearly the same as another",
        description="Writes a data set without its near-duplicates, and beside it what was dropped"
        " (_dropped.json, and _dropped.png to look at). The images stay where they are.",
    )
    parser.add_argument(
        "--annotations",
        help="point JSON or COCO JSON; left out: all images of the folder, not annotated yet",
    )
    parser.add_argument("--image-root", required=True, help="image folder")
    parser.add_argument("--output", required=True, type=Path, help="point JSON to write")
    parser.add_argument(
        "--classes",
        type=class_names,
        metavar="A,B,C",
        help="without --annotations: what will be annotated",
    )
    parser.add_argument(
        "--by-sequence",
        metavar="KEY",
        help="key of the image records that names the sequence, or `folder` (default: `sequence`"
        " if the records have it, else `folder`)",
    )
    _add_common_arguments(parser)
    parser.add_argument(
        "--skip-bad", action="store_true", help="keep images that cannot be read, and list them"
    )
    parser.set_defaults(run=run_deduplicate)


def run_deduplicate(args: argparse.Namespace) -> int:
    import functools

    from ..footage.deduplication import dataset_of_folder, deduplicate
    from ..footage.near_duplicates import THRESHOLD
    from ..point_json import load_points, save_points

    if (args.annotations is None) == (args.classes is None):
        raise InputError(
            "give --annotations, or --classes to list the images of the folder without any."
        )
    record, picture = (
        args.output.with_name(f"{args.output.stem}_dropped{suffix}") for suffix in (".json", ".png")
    )
    check_outputs([args.output, record, picture], [args.annotations])
    skipped = []
    if args.annotations is None:
        where = args.image_root
        unreadable = skipped if args.skip_bad else None
        dataset = dataset_of_folder(args.image_root, args.classes, skipped=unreadable)
    else:
        where = args.annotations
        dataset = load_points(args.annotations, may_be_empty=True)
    try:
        result = deduplicate(
            dataset,
            args.image_root,
            threshold=THRESHOLD if args.threshold is None else args.threshold,
            across=args.across_sequences,
            by=args.by_sequence,
            resume=True,
            workers=args.workers,
            skip_bad=args.skip_bad,
            progress=functools.partial(show_progress, desc="hashing", unit="image"),
        )
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    skipped += result.skipped
    show_skipped(skipped, "not compared")
    root = Path(args.image_root)
    pairs = [(root / d["duplicate_of"], root / d["file_name"], d) for d in result.dropped]
    _write_montage(picture, pairs)
    write_json(record, result.dropped, indent=1)
    save_points(args.output, result.dataset)
    lost = sum(d["annotations"] for d in result.dropped)
    print(
        f"wrote {args.output}: {counts(result.dataset)}; {len(result.dropped)} near-duplicates"
        f" dropped, {lost} annotations with them"
    )
    return 0


def _write_montage(path: Path, pairs: list[tuple[Path, Path, dict]]) -> None:
    """Pairs of a kept and a dropped image file, with the record of the latter."""
    import functools

    from cpr.visualization.duplicates import DuplicatePair, duplicates_montage
    from cpr_deploy.image_files import read_rgb

    if not pairs:
        path.unlink(missing_ok=True)  # of an earlier run
        return
    content = duplicates_montage(
        [
            DuplicatePair(
                record["duplicate_of"],
                record["file_name"],
                record["distance"],
                functools.partial(read_rgb, kept),
                functools.partial(read_rgb, dropped),
            )
            for kept, dropped, record in pairs
        ]
    )
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
