#!/usr/bin/env python
"""Finds points in video: files, folders of images, cameras and network streams, several at once.

Out come annotated MP4, JSON lines, CSV, video to an address, a window or a web page; with --track
objects keep a number, and can be counted (deploy/TRACKS.md). A live source that fails is opened
again for ever; what happened is told by records (deploy/STREAMS.md).

Exit code: 0 all frames were processed, 1 a source failed on the way (what was read is kept, with an
error record), 2 bad input, 3 the network failed (out of memory, or a GPU that is gone: start it
again), 130 after Ctrl-C and 143 after SIGTERM (what is done is kept).
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time

from cpr_deploy.addresses import push_format, web_address
from cpr_deploy.files import InputError, check_output_folder, check_outputs, run_main, write_json
from cpr_deploy.network_options import add_network_options, check_network_options, open_localizer


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, metavar="FILE.onnx", help="exported localizer")
    parser.add_argument(
        "--source",
        required=True,
        action="append",
        help="video file, folder of images, stream URL, camera number, or - for raw frames on"
        " standard input; may be given several times",
    )

    out = parser.add_argument_group("outputs")
    out.add_argument(
        "--output", metavar="FILE.mp4", help="annotated video; with several sources out-{n}.mp4"
    )
    out.add_argument("--points", metavar="FILE.jsonl", help="records; - for standard output")
    out.add_argument("--csv", metavar="FILE.csv", help="points as a table; - for standard output")
    out.add_argument(
        "--push", metavar="URL", help="annotated video to rtmp://, rtsp://, udp:// or srt://"
    )
    out.add_argument("--summary", metavar="FILE.json", help="counts and latencies at the end")
    out.add_argument(
        "--metrics", metavar="FILE.prom", help="counters for Prometheus, renewed each second"
    )
    out.add_argument("--view", action="store_true", help="a window; q or Esc ends")
    out.add_argument(
        "--web",
        metavar="[HOST:]PORT",
        help="a web page with picture, counts and health; on this machine only unless HOST says"
        " otherwise, and without a password",
    )
    out.add_argument("--no-scores", action="store_true", help="do not write scores into frames")

    net = add_network_options(parser)
    net.add_argument(
        "--resize",
        default="test",
        help="test (as the model was tested), none, or a factor (default: %(default)s)",
    )
    net.add_argument("--tile", type=int, metavar="PX", help="cut frames into tiles of this side")
    net.add_argument(
        "--overlap", type=int, default=100, metavar="PX", help="of tiles (%(default)s)"
    )
    net.add_argument("--roi", metavar="X,Y,W,H", help="search in this part of the frame only, px")

    frames = parser.add_argument_group("frames")
    frames.add_argument(
        "--mode",
        choices=("every", "latest"),
        help="every: lose none, the source waits; latest: the newest, older ones are dropped"
        " (default: latest for live sources; a file then plays at its own speed)",
    )
    frames.add_argument("--every", type=int, default=1, metavar="N", help="every Nth frame only")
    frames.add_argument("--max-frames", type=int, metavar="N", help="stop after N processed frames")
    frames.add_argument(
        "--fps",
        type=float,
        default=5.0,
        help="of a folder of images, or of raw frames (default: %(default)s)",
    )
    frames.add_argument("--raw-size", metavar="WxH", help="of frames on standard input")
    frames.add_argument(
        "--raw-format", default="bgr24", help="of frames on standard input (default: %(default)s)"
    )

    track = parser.add_argument_group("tracks and counts (deploy/TRACKS.md)")
    track.add_argument("--track", action="store_true", help="numbers for objects (track_id)")
    track.add_argument(
        "--track-size",
        type=float,
        metavar="PX",
        help="width of an object (default: what the model's point NMS supposes)",
    )
    track.add_argument(
        "--track-keep",
        type=float,
        default=1.5,
        metavar="S",
        help="seconds that a track lives on unseen (default: %(default)s)",
    )
    track.add_argument(
        "--track-score", type=float, default=0.5, help="weaker points begin no track (%(default)s)"
    )
    track.add_argument(
        "--still-camera", action="store_true", help="do not look for motion of the camera"
    )
    track.add_argument(
        "--zones",
        metavar="FILE.json",
        help="zones, lines and alarm rules; with several sources it may hold {n}",
    )
    track.add_argument(
        "--counts", metavar="FOLDER", help="counts, events, density; with several sources with {n}"
    )
    track.add_argument(
        "--alarms", metavar="URL", help="send alarms to http(s)://host/path or mqtt(s)://host/topic"
    )
    track.add_argument(
        "--dead-letters",
        default="dead_letters.jsonl",
        metavar="FILE.jsonl",
        help="alarms that could not be sent; they are sent from there later (%(default)s)",
    )

    live = parser.add_argument_group("live sources (seconds)")
    live.add_argument(
        "--max-age-ms", type=float, default=500.0, help="older results are stale (%(default)s)"
    )
    live.add_argument(
        "--stale-after", type=float, default=5.0, help="of silence: a record, again and again"
    )
    live.add_argument("--restart-after", type=float, default=20.0, help="of silence: open anew")
    live.add_argument("--frozen-after", type=float, default=10.0, help="of the very same picture")
    live.add_argument(
        "--max-fps", type=float, default=100.0, help="more are out of order: open anew"
    )
    live.add_argument(
        "--reconnect-attempts", type=int, metavar="N", help="in a row (default: for ever)"
    )
    live.add_argument(
        "--reconnect-wait", type=float, default=1.0, help="before the first; doubles up to 30"
    )
    return parser.parse_args(argv)


def _resize(text: str) -> str | float:
    if text in ("test", "none"):
        return text
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--resize {text}: test, none or a factor is needed.") from None


def _numbers(option: str, text: str, separator: str, count: int, example: str) -> list[int]:
    parts = text.lower().split(separator)
    if len(parts) != count or not all(part.strip().isdecimal() for part in parts):
        raise InputError(f"{option} {text}: {count} whole numbers are needed, as in {example}.")
    return [int(part) for part in parts]


def _check(args: argparse.Namespace) -> None:
    files = (args.output, args.points, args.csv, args.metrics, args.counts)
    if not any((*files, args.push, args.view, args.web, args.alarms)):
        raise InputError(
            "nothing to write: give --output FILE.mp4, --points FILE.jsonl, --csv FILE.csv, --push"
            " URL, --web PORT, --view, --counts FOLDER or --alarms URL, or several of them."
        )
    for name, value in (("--every", args.every), ("--max-frames", args.max_frames)):
        if value is not None and value < 1:
            raise InputError(f"{name} {value}: at least 1 is needed.")
    check_network_options(args)
    if args.points == args.csv == "-":
        raise InputError("--points - and --csv -: only one of them can have standard output.")
    of_each = (("--output", args.output), ("--push", args.push), ("--counts", args.counts))
    for name, value in of_each:
        if value and len(args.source) > 1 and "{n}" not in value:
            raise InputError(
                f"{name} {value}: with several sources the name must hold {{n}}, their number."
            )
    if args.push:
        push_format(args.push)
    if args.web:
        web_address(args.web)
    if args.alarms and not args.zones:
        raise InputError("--alarms: their rules are in the file of --zones. Give one.")
    files = [*_videos(args), args.points, args.csv, args.summary, args.metrics]
    files += [args.dead_letters] if args.alarms else []
    inputs = [args.model, *args.source, *_numbered(args.zones, args)]
    check_outputs([None if path == "-" else path for path in files], inputs)
    for folder in _numbered(args.counts, args):
        check_output_folder(folder, inputs)


def _numbered(name: str | None, args: argparse.Namespace) -> list[str]:
    """A name per source, or none."""
    if not name:
        return []
    return [name.replace("{n}", str(n)) for n in range(1, len(args.source) + 1)]


def _videos(args: argparse.Namespace) -> list[str]:
    return _numbered(args.output, args)


def _tracking(args: argparse.Namespace, spec):
    """Settings of the tracker, or None."""
    if not (args.track or args.zones or args.counts):
        return None
    from cpr_deploy.tracking.settings import TrackSettings, object_size

    size = args.track_size or object_size(spec)
    if size is None:
        raise InputError("--track: this model knows no size of its objects: give --track-size PX.")
    return TrackSettings(
        size=size,
        keep=args.track_keep,
        high_score=args.track_score,
        camera=not args.still_camera,
    )


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    _check(args)

    from cpr_deploy.feed import FeedSettings
    from cpr_deploy.feed_group import FeedGroup
    from cpr_deploy.regions import Region, RegionLocalizer
    from cpr_deploy.sources import SourceSpec
    from cpr_deploy.stream import StreamOutputs, run_streams
    from cpr_deploy.stream_health import HealthSettings

    raw_size = _numbers("--raw-size", args.raw_size, "x", 2, "640x480") if args.raw_size else None
    roi = _numbers("--roi", args.roi, ",", 4, "0,200,1280,520") if args.roi else None
    specs = [
        SourceSpec(
            source,
            fps=args.fps,
            every=args.every,
            raw_size=tuple(raw_size) if raw_size else None,
            raw_format=args.raw_format,
            paced=args.mode == "latest" and SourceSpec(source).kind == "file",
        )
        for source in args.source
    ]
    settings = FeedSettings(
        mode=args.mode,
        attempts=args.reconnect_attempts,
        first_wait=args.reconnect_wait,
        health=HealthSettings(
            stale_after=args.stale_after,
            restart_after=args.restart_after,
            frozen_after=args.frozen_after,
            max_fps=args.max_fps,
        ),
    )
    localizer = model = open_localizer(args, resize=_resize(args.resize))
    if roi or args.tile:
        localizer = RegionLocalizer(
            model, roi=Region(*roi) if roi else None, tile=args.tile, overlap=args.overlap
        )
    tracking = _tracking(args, model.spec)
    begin = time.perf_counter()
    group = FeedGroup(specs, settings)
    with _stopped_by_signals(group.stop) as signals, group, contextlib.ExitStack() as stack:
        outputs = StreamOutputs()
        if tracking is not None:
            _open_counts(args, group, model.class_names, stack, outputs)
        _open_outputs(args, group, stack, outputs)
        summary = run_streams(
            localizer,
            group,
            outputs,
            max_frames=args.max_frames,
            max_age_ms=args.max_age_ms,
            show_scores=not args.no_scores,
            tracking=tracking,
        )
    code = _report(args, summary, time.perf_counter() - begin, model.providers)
    if signals or summary.interrupted:
        return 143 if signal.SIGTERM in signals else 130
    return code


@contextlib.contextmanager
def _stopped_by_signals(stop):
    """SIGTERM and Ctrl-C call `stop`, a second Ctrl-C interrupts; yields the list of the signals.

    An interrupt may come anywhere, also where a lock is held; a stop waits for its place.
    """
    signals = []

    def handle(number, _):
        if number == signal.SIGINT and signal.SIGINT in signals:
            raise KeyboardInterrupt
        signals.append(number)
        if len(signals) == 1:  # one that comes within the first must not wait for its lock
            stop()

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield signals
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _open_counts(args, group, class_names, stack: contextlib.ExitStack, outputs) -> None:
    from cpr_deploy.tracking.count_files import CountWriter
    from cpr_deploy.tracking.zones import load_zones

    outputs.zones = [load_zones(path, class_names) for path in _numbered(args.zones, args)]
    on_alarm = None
    if args.alarms:
        from cpr_deploy.tracking.alarm_sinks import open_sink
        from cpr_deploy.tracking.alarms import AlarmSender, DeadLetters

        sender = AlarmSender(open_sink(args.alarms), DeadLetters(args.dead_letters))
        on_alarm = stack.enter_context(contextlib.closing(sender)).send
    if not args.counts and on_alarm is None:
        return
    folders = _numbered(args.counts, args) or [None] * len(args.source)
    zones = outputs.zones or [None] * len(args.source)
    for number, (folder, drawn) in enumerate(zip(folders, zones, strict=True), 1):
        writer = CountWriter(
            folder, drawn, stream=number, on_alarm=on_alarm, in_place=_endless(group)
        )
        outputs.records.append(stack.enter_context(contextlib.closing(writer)))
        outputs.raw_frames.append(writer.keep_frame)


def _endless(group) -> bool:
    """What has no end must be there while it grows."""
    return any(feed.live or feed.spec.kind == "stdin" for feed in group.feeds)


def _open_outputs(args, group, stack: contextlib.ExitStack, outputs) -> None:
    from cpr_deploy.stream_records import open_csv, open_records
    from cpr_deploy.video_writer import open_video

    in_place = _endless(group)
    outputs.frames = [[] for _ in group.feeds]
    outputs.draw_in_thread = not args.view  # windows belong to the main thread
    for path, open_writer in ((args.points, open_records), (args.csv, open_csv)):
        if path:
            outputs.records.append(stack.enter_context(open_writer(path, in_place=in_place)))
    for path, writers in zip(_videos(args), outputs.frames, strict=False):
        writers.append(stack.enter_context(open_video(path, in_place=in_place)))
    for number, writers in enumerate(outputs.frames, 1):
        if args.push:
            from cpr_deploy.video_push import VideoPusher

            pusher = VideoPusher(args.push.replace("{n}", str(number)))
            writers.append(stack.enter_context(contextlib.closing(pusher)))
        if args.view:
            from cpr_deploy.window import Window

            title = f"{number}: {group.feeds[number - 1].name}"
            writers.append(stack.enter_context(contextlib.closing(Window(title, group.stop))))
    if args.metrics:
        from cpr_deploy.metrics_text import MetricsFile

        outputs.on_status.append(MetricsFile(args.metrics))
    if args.web:
        from cpr_deploy.web.server import WebPage

        host, port = web_address(args.web)
        page = stack.enter_context(contextlib.closing(WebPage(host, port, len(group.feeds))))
        outputs.on_status.append(page)
        for writers, picture in zip(outputs.frames, page.pictures, strict=True):
            writers.append(picture)
        print(f"web page: http://{host}:{page.port}/", file=sys.stderr)


def _report(args, summary, seconds: float, providers: tuple[str, ...]) -> int:
    print(summary.latency.table(), file=sys.stderr)
    print(
        f"{summary.frames} frames in {seconds:.1f} s ({summary.frames / seconds:.1f} a second),"
        f" {summary.points} points, {summary.flagged} frames with flags, {summary.dropped} dropped;"
        f" {', '.join(providers)}",
        file=sys.stderr,
    )
    if args.summary:
        write_json(
            args.summary,
            {
                "seconds": round(seconds, 3),
                "streams": [status.snapshot() for status in summary.streams],
                "latency_ms": summary.latency.summary(),
                "providers": list(providers),
                "undrawn": summary.undrawn,
                "errors": summary.errors,
            },
            indent=1,
        )
    written = [(path, "video") for path in _videos(args) if summary.frames]
    written += [(args.points, "points"), (args.csv, "table"), (args.summary, "summary")]
    written += [(folder, "counts") for folder in _numbered(args.counts, args)]
    for path, what in written:
        if path and path != "-":
            print(f"wrote {what}: {path}", file=sys.stderr)
    for message in summary.errors:
        print(f"error: {message}", file=sys.stderr)
    if summary.failed:
        return 3
    return 1 if summary.errors or not summary.frames else 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))
