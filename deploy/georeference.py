#!/usr/bin/env python
"""Puts points on the map: latitude, longitude and uncertainty of what a drone's camera sees.

    python deploy/georeference.py --points out.jsonl --telemetry DJI_0042.SRT \\
        --camera camera.json --ground takeoff --output finds.geojson finds.kml finds.html
    python deploy/video.py ... --points - | python deploy/georeference.py --points - ... \\
        --cot udp://239.2.3.1:6969
    python deploy/georeference.py --images stills --points stills.jsonl --camera camera.json \\
        --ground elevation.tif --output finds.html

Points come from stream records (deploy/STREAMS.md) or from predictions on stills; poses from the
flight's telemetry or the stills' own metadata. deploy/POSITIONS.md tells what is read, how angles
and altitudes count, and what the uncertainty holds.

Exit code: 0, 1 if there were points and none got a position, 2 bad input, 130 after Ctrl-C and 143
after SIGTERM (what is done is kept).
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from pathlib import Path

from cpr_deploy.files import InputError, check_outputs, run_main

SUFFIXES = (".geojson", ".kml", ".gpx", ".csv", ".html", ".cot", ".jsonl")
# Files are written anew so often while points come from standard input, seconds.
RENEW = 5.0


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    points = parser.add_argument_group("points")
    points.add_argument("--points", metavar="FILE.jsonl", help="stream records; - as they come")
    points.add_argument(
        "--stream", type=int, metavar="N", help="of --points of several: the source that flew"
    )
    points.add_argument("--images", metavar="DIR", help="stills, with positions in their metadata")
    points.add_argument("--predictions", metavar="FILE.json", help="detections on --images")
    points.add_argument(
        "--annotations", metavar="FILE.json", help="names of images and classes of --predictions"
    )
    points.add_argument("--min-score", type=float, default=0.0, help="leaves weaker points out")
    points.add_argument("--camera", required=True, metavar="FILE", help="JSON or YAML, calibrated")

    flight = parser.add_argument_group("flight")
    flight.add_argument(
        "--telemetry", metavar="FILE", help=".srt (DJI), .csv, .klv (MISB), or a video with tracks"
    )
    flight.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="FIELD=NAME",
        help="of a .csv, where they differ",
    )
    flight.add_argument(
        "--time-unit", choices=("s", "ms", "us"), default="s", help="of a .csv (%(default)s)"
    )
    flight.add_argument(
        "--offset", type=float, default=0.0, metavar="S", help="frame time + this = telemetry time"
    )
    flight.add_argument(
        "--start", metavar="TIME", help="UTC of the video's first frame, as 2026-06-01T09:30:00Z"
    )
    flight.add_argument(
        "--max-gap", type=float, default=2.0, metavar="S", help="between samples (%(default)s)"
    )
    flight.add_argument(
        "--gimbal",
        choices=("absolute", "relative"),
        help="its angles are against north and the horizon, or against the platform (default: by"
        " the kind of telemetry)",
    )
    for axis in ("yaw", "pitch", "roll"):
        flight.add_argument(
            f"--gimbal-{axis}", type=float, metavar="DEG", help="instead of the telemetry's"
        )

    heights = parser.add_argument_group("altitudes (m)")
    heights.add_argument(
        "--ground",
        required=True,
        metavar="WHAT",
        help="takeoff (level with the take-off point), sea, an altitude, or an elevation model"
        " (.tif)",
    )
    heights.add_argument(
        "--ground-datum",
        choices=("msl", "ellipsoid"),
        default="msl",
        help="what --ground's altitude or model counts from (%(default)s)",
    )
    heights.add_argument(
        "--altitude",
        choices=("takeoff", "msl", "ellipsoid"),
        help="which of the telemetry's altitudes is used",
    )
    heights.add_argument(
        "--takeoff-altitude", type=float, metavar="M", help="of the take-off point, above sea level"
    )
    heights.add_argument(
        "--geoid", metavar="M", help="its height above the ellipsoid there, or a grid of it (.tif)"
    )

    limits = parser.add_argument_group("uncertainty and limits")
    limits.add_argument(
        "--sigma",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="standard deviations: horizontal, altitude, ground (m), tilt, heading (degrees),"
        " pixel (px)",
    )
    limits.add_argument("--max-range", type=float, default=5000.0, help="m (%(default)s)")
    limits.add_argument(
        "--merge", type=float, metavar="M", help="joins positions of a class within so many metres"
    )

    out = parser.add_argument_group("outputs")
    out.add_argument(
        "--output", nargs="+", default=[], metavar="FILE", help=f"{', '.join(SUFFIXES)}"
    )
    out.add_argument("--cot", metavar="udp://HOST:PORT", help="sends finds as they come")
    out.add_argument("--title", help="of the map and files")
    return parser.parse_args(argv)


def _pairs(option: str, words: list[str]) -> dict[str, str]:
    pairs = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key or not value:
            raise InputError(f"{option} {word}: NAME=VALUE is needed.")
        pairs[key] = value
    return pairs


def _check(args: argparse.Namespace) -> None:
    if (args.points is None) == (args.predictions is None):
        raise InputError("give either --points, or --predictions with --images.")
    if (args.telemetry is None) == (args.images is None):
        raise InputError("give either --telemetry of a flight, or --images with their metadata.")
    if args.predictions is not None and args.images is None:
        raise InputError("--predictions need --images, the folder of the stills.")
    if not args.output and not args.cot:
        raise InputError("nothing to write: give --output FILE or --cot udp://HOST:PORT.")
    for path in args.output:
        if Path(path).suffix.lower() not in SUFFIXES:
            raise InputError(f"--output {path}: must end in one of {', '.join(SUFFIXES)}.")
    inputs = [args.predictions, args.annotations, args.camera, args.telemetry]
    check_outputs(args.output, [*inputs, None if args.points == "-" else args.points])


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{option} {text}: a number is needed.") from None


def _ground(args: argparse.Namespace):
    from cpr_deploy.geo.ground import ElevationModel, LevelGround

    if args.ground == "takeoff":
        return LevelGround(0.0, "takeoff")
    if args.ground == "sea":
        return LevelGround(0.0, "msl")
    if Path(args.ground).suffix:
        try:
            return LevelGround(float(args.ground), args.ground_datum)
        except ValueError:
            return ElevationModel(args.ground, args.ground_datum)
    try:
        return LevelGround(float(args.ground), args.ground_datum)
    except ValueError:
        raise InputError(
            f"--ground {args.ground}: takeoff, sea, an altitude in m or a .tif is needed."
        ) from None


def _undulation(args: argparse.Namespace, places) -> float | None:
    """The geoid's height above the ellipsoid where the flight began, m."""
    if args.geoid is None:
        return None
    if Path(args.geoid).suffix.lower() not in (".tif", ".tiff", ".gtx"):
        return _number("--geoid", args.geoid)
    from cpr_deploy.geo.ground import ElevationModel

    value = float(ElevationModel(args.geoid).altitude(*places)[0])
    if value != value:
        raise InputError(f"--geoid {args.geoid}: has no value where the flight began.")
    return value


def _poses(args: argparse.Namespace, reference: str):
    """Where frames get their poses from, and how altitudes are converted."""
    from cpr_deploy.geo.flight_path import FlightPath, Heights, PathSettings
    from cpr_deploy.geo.load import CSV_SUFFIXES, load_stills, load_telemetry
    from cpr_deploy.geo.poses import FlightPoses, LivePoses, StillPoses
    from cpr_deploy.geo.telemetry_csv import CsvTelemetry, parse_utc

    fixed = {
        f"gimbal_{axis}": getattr(args, f"gimbal_{axis}")
        for axis in ("yaw", "pitch", "roll")
        if getattr(args, f"gimbal_{axis}") is not None
    }
    table = None
    if args.images is not None:
        stills = load_stills(args.images)
        telemetry = stills.telemetry
    else:
        columns = _pairs("--columns", args.columns)
        path = Path(args.telemetry)
        if args.points == "-" and path.suffix.lower() in CSV_SUFFIXES and path.is_file():
            table = CsvTelemetry(path, columns, args.time_unit)
            telemetry = table.telemetry()
        else:
            telemetry = load_telemetry(args.telemetry, columns, args.time_unit)
        if telemetry.damaged:
            print(
                f"{args.telemetry}: {telemetry.damaged} damaged samples are left out",
                file=sys.stderr,
            )
    known = ~(telemetry.columns["latitude"] != telemetry.columns["latitude"])
    first = [telemetry.columns[field][known][:1] for field in ("latitude", "longitude")]
    heights = Heights(args.altitude, args.takeoff_altitude, _undulation(args, first))
    if args.images is not None:
        return StillPoses(stills, reference, heights, fixed), heights
    settings = PathSettings(args.max_gap, args.gimbal, fixed)
    start = None
    if args.start is not None:
        try:
            start = parse_utc(args.start)
        except ValueError as error:
            raise InputError(f"--start {args.start}: {error}.") from None

    def make_path(samples):
        return FlightPath(samples, reference, heights, settings)

    if table is not None:
        return LivePoses(table, make_path, args.offset, start), heights
    return FlightPoses(make_path(telemetry), args.offset, start), heights


def _all_records(args: argparse.Namespace):
    from cpr_deploy.geo.records import prediction_records, read_records

    if args.predictions is not None:
        yield from prediction_records(args.predictions, args.annotations, args.images)
    elif args.points == "-":
        yield from read_records(sys.stdin, "standard input")
    elif not Path(args.points).is_file():
        raise InputError(f"{args.points}: no such file. Check the path.")
    else:
        with open(args.points, encoding="utf-8") as lines:
            yield from read_records(lines, args.points)


def _of_one_stream(args: argparse.Namespace):
    """Records of one stream: another has another camera, and flies elsewhere."""
    stream = args.stream
    for record in _all_records(args):
        number = record.get("stream", 1)
        stream = number if stream is None else stream
        if number == stream:
            yield record
        elif args.stream is None:
            raise InputError(
                f"{args.points}: holds several streams. Give --stream N, the number of the source"
                " that this camera and telemetry belong to."
            )


def _records(args: argparse.Namespace, poses):
    told = False
    for record in _of_one_stream(args):
        if args.images is not None and record.get("type") == "frame":
            size = poses.size(record.get("file"))
            if size is not None:
                record["width"], record["height"] = size
        if not told and record.get("type") == "frame" and "width" not in record:
            told = True
            print(
                f"{args.points or args.predictions}: does not tell the size of its frames; it is"
                " taken for the camera's.",
                file=sys.stderr,
            )
        if "points" in record:
            record["points"] = [p for p in record["points"] if p["score"] >= args.min_score]
        yield record


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    _check(args)

    from cpr_deploy.camera import load_camera
    from cpr_deploy.geo import survey
    from cpr_deploy.geo.finds import FindBook
    from cpr_deploy.geo.georeferencer import GeoReferencer, sigmas_of
    from cpr_deploy.geo.writers import cot
    from cpr_deploy.stream_records import open_records

    ground = _ground(args)
    poses, heights = _poses(args, ground.reference)
    referencer = GeoReferencer(
        load_camera(args.camera),
        ground,
        heights,
        sigmas_of({key: _number("--sigma", v) for key, v in _pairs("--sigma", args.sigma).items()}),
        args.max_range,
    )
    work = survey.Survey(referencer, poses, FindBook(args.merge))
    run = cot.new_run()
    live = args.points == "-"
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(open_records(path, in_place=live))
            for path in args.output
            if Path(path).suffix.lower() == ".jsonl"
        ]
        sink = None
        if args.cot:
            sink = stack.enter_context(contextlib.closing(cot.CotSink(args.cot, run)))
        renewed, changed = time.monotonic(), False
        with _Signals() as signals:
            for record in signals.until_one_comes(_records(args, poses)):
                for found, find in work.add(record):
                    changed = True
                    for writer in writers:
                        writer.write(found)
                    if sink and find:
                        sink.send(find)
                if live and changed and time.monotonic() - renewed > RENEW:
                    _write(args, work, run)
                    renewed, changed = time.monotonic(), False
        _write(args, work, run)
    _tell(args, work, sink)
    refused = sum(work.refusals.values())
    if signals.number:
        return 128 + signals.number
    return 1 if refused and not work.positions else 0


class _Signals:
    """Ctrl-C and SIGTERM end the work between two records, and a wait for the next one at once."""

    def __init__(self):
        self.number = 0
        self._waiting = False

    def __enter__(self):
        both = (signal.SIGINT, signal.SIGTERM)
        self._before = {number: signal.signal(number, self._handle) for number in both}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number, _):
        self.number = number
        if self._waiting:
            raise KeyboardInterrupt

    def until_one_comes(self, records):
        while not self.number:
            try:
                self._waiting = True
                record = next(records, None)
                self._waiting = False
            except KeyboardInterrupt:
                return
            if record is None:
                return
            yield record


def _write(args: argparse.Namespace, work, run: str) -> None:
    from cpr_deploy.geo.finds import clean
    from cpr_deploy.geo.writers import cot, geojson, gpx, html_map, kml, table
    from cpr_deploy.geo.writers.report import Report, flight_lines

    line = work.poses.line()
    source = Path(args.points).name if args.points not in (None, "-") else "a flight"
    report = Report(
        title=clean(args.title or f"Finds of {source}"),
        finds=work.finds.finds,
        lines=flight_lines(line, args.max_gap) if args.images is None else [line],
        line_utc=args.images is not None or work.poses.path.clock == "utc",
        reference=work.referencer.ground.reference,
        footprints=work.footprints,
        refusals=dict(work.refusals),
        frames=work.frames,
        positions=work.positions,
    )
    writers = {
        ".geojson": geojson.write_geojson,
        ".kml": kml.write_kml,
        ".gpx": gpx.write_gpx,
        ".csv": table.write_csv,
        ".html": html_map.write_html,
        ".cot": lambda path, report: cot.write_cot(path, report, run),
    }
    for path in args.output:
        suffix = Path(path).suffix.lower()
        if suffix in writers:
            writers[suffix](path, report)


def _tell(args: argparse.Namespace, work, sink) -> None:
    refused = ", ".join(f"{code} {count}" for code, count in work.refusals.most_common())
    print(
        f"{work.frames} frames, {work.positions} positions, {len(work.finds.finds)} finds;"
        f" refused: {refused or 'none'}",
        file=sys.stderr,
    )
    if sink:
        trouble = f", {sink.failed} failed ({sink.error})" if sink.failed else ""
        print(f"{sink.sent} events sent to {args.cot}{trouble}", file=sys.stderr)
    for path in args.output:
        print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(run_main(main))
