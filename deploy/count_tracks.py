#!/usr/bin/env python
"""Counts the objects in records of an earlier run: in all, per class, per zone, across lines.

    python deploy/count_tracks.py --points out.jsonl --zones zones.json --output counts

The same code as `deploy/video.py --zones zones.json --counts FOLDER`, so that zones can be tried on
one recording again and again. Records without tracks are tracked first. deploy/TRACKS.md shows the
files. With --replay it sends alarms that could not be sent, and does nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys

from cpr_deploy.files import InputError, check_output_folder, check_outputs, run_main


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", metavar="FILE.jsonl", help="records of deploy/video.py")
    parser.add_argument("--zones", metavar="FILE.json", help="zones, lines and alarm rules")
    parser.add_argument("--output", metavar="FOLDER", help="for the counts")
    parser.add_argument(
        "--stream", type=int, default=1, metavar="N", help="of several (default: %(default)s)"
    )
    parser.add_argument(
        "--source",
        metavar="FILE",
        help="the video or folder of the records: its first frame is the ground of density.png, and"
        " new tracks are freed of the motion of the camera",
    )
    again = parser.add_argument_group("tracking (of records without tracks, or with --again)")
    again.add_argument("--again", action="store_true", help="do not use the tracks of the records")
    again.add_argument("--track-size", type=float, metavar="PX", help="width of an object")
    again.add_argument("--track-keep", type=float, default=1.5, metavar="S", help="(%(default)s)")
    again.add_argument("--track-score", type=float, default=0.5, help="(%(default)s)")
    alarms = parser.add_argument_group("alarms")
    alarms.add_argument("--alarms", metavar="URL", help="send them, as deploy/video.py would")
    alarms.add_argument("--dead-letters", default="dead_letters.jsonl", metavar="FILE.jsonl")
    alarms.add_argument(
        "--replay",
        action="store_true",
        help="only send the dead letters, those too that were refused",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if args.replay:
        return _replay(args)
    if not args.points or not args.output:
        raise InputError("--points FILE.jsonl and --output FOLDER are needed (or --replay).")
    if args.alarms and not args.zones:
        raise InputError("--alarms: their rules are in the file of --zones. Give one.")
    inputs = [args.points, args.zones, args.source]
    check_output_folder(args.output, inputs)
    if args.alarms:
        check_outputs([args.dead_letters], inputs)

    from cpr_deploy.tracking.count_files import CountWriter
    from cpr_deploy.tracking.track_files import class_names_of, read_records
    from cpr_deploy.tracking.zones import load_zones

    class_names = class_names_of(read_records(args.points, stream=args.stream))
    zones = load_zones(args.zones) if args.zones else None
    _tell_absent_classes(zones, class_names)
    with contextlib.ExitStack() as stack:
        on_alarm = None
        if args.alarms:
            from cpr_deploy.tracking.alarm_sinks import open_sink
            from cpr_deploy.tracking.alarms import AlarmSender, DeadLetters

            sender = AlarmSender(open_sink(args.alarms), DeadLetters(args.dead_letters))
            on_alarm = stack.enter_context(contextlib.closing(sender)).send
        writer = CountWriter(args.output, zones, stream=args.stream, on_alarm=on_alarm)
        stack.enter_context(contextlib.closing(writer))
        for record in _records(args, class_names, zones, writer):
            writer.write(record)
        summary = writer.counter.summary()
    if not summary["frames"]:
        raise InputError(f"{args.points}: holds no frames of stream {args.stream}.")
    print(json.dumps(summary, indent=1))
    return 0


def _tell_absent_classes(zones, class_names) -> None:
    """Records do not tell all classes of the model: a name that is not there may be misspelt."""
    for rule in zones.alarms if zones is not None else ():
        absent = sorted(set(rule.classes).difference(class_names))
        if absent:
            print(
                f"alarm {rule.name!r}: no point of the records has the class {', '.join(absent)};"
                f" they have {', '.join(class_names) or 'none'}.",
                file=sys.stderr,
            )


def _records(args, class_names, zones, writer):
    """Records with tracks; `writer` gets the background."""
    from cpr_deploy.tracking.settings import TrackSettings
    from cpr_deploy.tracking.track_files import read_records, track_again

    records = read_records(args.points, stream=args.stream)
    images = _images(args.source) if args.source else iter(())
    first = next(images, None)
    if first is not None:
        writer.keep_frame(first[1])
    if not args.again and _have_tracks(args):
        return records
    if args.track_size is None:
        raise InputError(
            f"{args.points}: its frames are to be tracked: give --track-size PX, the width of an"
            " object. (Or run deploy/video.py with --track.)"
        )
    if first is not None:
        size = first[1].shape[1], first[1].shape[0]
    elif zones is not None:
        size = zones.width, zones.height
    else:
        size = None
    settings = TrackSettings(args.track_size, keep=args.track_keep, high_score=args.track_score)
    again = _images(args.source) if args.source else ()
    return track_again(records, settings, class_names, size, again)


def _have_tracks(args) -> bool:
    from cpr_deploy.tracking.track_files import read_records

    records = read_records(args.points, stream=args.stream)
    return any(record["type"] == "frame" and "tracks" in record for record in records)


def _images(source: str):
    """(index, image) of each frame of a file."""
    from cpr_deploy.sources import Frame, open_source

    with contextlib.closing(open_source(source)) as frames:
        for item in frames:
            if isinstance(item, Frame):
                yield item.index, item.image


def _replay(args) -> int:
    if not args.alarms:
        raise InputError("--replay: give --alarms URL, where the dead letters are to go.")
    from cpr_deploy.tracking.alarm_sinks import open_sink
    from cpr_deploy.tracking.alarms import DeadLetters

    letters = DeadLetters(args.dead_letters)
    count, reason = letters.replay(open_sink(args.alarms).deliver, refused=True)
    left = len(letters)
    print(
        f"{count} alarms sent, {left} left in {args.dead_letters}"
        + (f": {reason}" if reason else "")
    )
    return 1 if left else 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))
