#!/usr/bin/env python
"""Finds points in a video, a folder of images or a camera: annotated MP4 and JSON lines out.

Exit code: 0 all frames were processed, 1 the source failed on the way (what was read is kept, with
an error record), 2 bad input.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time

from cpr_deploy.files import InputError, check_outputs, run_main

MAX_THREADS = 1024


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, metavar="FILE.onnx", help="exported localizer")
    parser.add_argument(
        "--source", required=True, help="video file, folder of images, stream URL or camera number"
    )
    parser.add_argument("--output", metavar="FILE.mp4", help="annotated video")
    parser.add_argument("--points", metavar="FILE.jsonl", help="records; - for standard output")
    parser.add_argument(
        "--providers",
        nargs="+",
        default=["CPUExecutionProvider"],
        metavar="NAME",
        help="ONNX Runtime execution providers, all of which must be used (default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, help="threads of ONNX Runtime")
    parser.add_argument(
        "--score-thresh", type=float, help="not below the exported threshold (default: that)"
    )
    parser.add_argument(
        "--resize",
        default="test",
        help="test (as the model was tested), none, or a factor (default: %(default)s)",
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every Nth frame only")
    parser.add_argument("--max-frames", type=int, metavar="N", help="stop after N processed frames")
    parser.add_argument(
        "--fps", type=float, default=5.0, help="of a folder of images (default: %(default)s)"
    )
    parser.add_argument("--no-scores", action="store_true", help="do not write scores into frames")
    return parser.parse_args(argv)


def _resize(text: str) -> str | float:
    if text in ("test", "none"):
        return text
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--resize {text}: test, none or a factor is needed.") from None


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if not args.output and not args.points:
        raise InputError("nothing to write: give --output FILE.mp4, --points FILE.jsonl or both.")
    for name, value in (("--every", args.every), ("--max-frames", args.max_frames)):
        if value is not None and value < 1:
            raise InputError(f"{name} {value}: at least 1 is needed.")
    if args.threads is not None and not 1 <= args.threads <= MAX_THREADS:
        raise InputError(f"--threads {args.threads}: 1 to {MAX_THREADS} are possible.")
    points = None if args.points == "-" else args.points
    check_outputs([args.output, points], [args.model, args.source])

    from cpr_deploy.point_localizer import PointLocalizer
    from cpr_deploy.stream import run_stream
    from cpr_deploy.stream_records import open_records
    from cpr_deploy.video_io import open_source, open_video

    localizer = PointLocalizer(
        args.model,
        providers=args.providers,
        threads=args.threads,
        score_thresh=args.score_thresh,
        resize=_resize(args.resize),
    )
    source = open_source(args.source, fps=args.fps)
    begin = time.perf_counter()
    with contextlib.ExitStack() as outputs:
        video = outputs.enter_context(open_video(args.output)) if args.output else None
        records = outputs.enter_context(open_records(args.points)) if args.points else None
        summary = run_stream(
            localizer,
            source,
            video=video,
            records=records,
            every=args.every,
            max_frames=args.max_frames,
            show_scores=not args.no_scores,
        )
    seconds = time.perf_counter() - begin
    print(summary.latency.table(), file=sys.stderr)
    print(
        f"{summary.frames} frames in {seconds:.1f} s ({summary.frames / seconds:.1f} a second),"
        f" {summary.points} points, {summary.flagged} frames with flags, {summary.dropped} dropped;"
        f" {', '.join(localizer.providers)}",
        file=sys.stderr,
    )
    for path, what in ((args.output, "video"), (args.points, "points")):
        if path and path != "-" and (summary.frames or what == "points"):
            print(f"wrote {what}: {path}", file=sys.stderr)
    for message in summary.errors:
        print(f"error: {message}", file=sys.stderr)
    if summary.interrupted:
        return 130
    return 1 if summary.errors or not summary.frames else 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))
