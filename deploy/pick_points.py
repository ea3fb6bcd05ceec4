#!/usr/bin/env python
"""Finds picks in a recorded bag of ROS 2 (rosbag2 or MCAP), as the node would have, without ROS.

In: colour image, depth aligned to it, its camera info, transforms. Out: a bag with the points, the
picks and why other points are none, to be looked at in Foxglove, and the same as JSON lines
(deploy/PICKING.md).

Exit code: 0 the whole bag was read, 1 it breaks off (what is before is kept, with an error record),
2 bad input, 130 after Ctrl-C (what is done is kept).
"""

from __future__ import annotations

import argparse
import contextlib
import sys

from cpr_deploy.files import InputError, check_outputs, read_json, run_main
from cpr_deploy.network_options import add_network_options, check_network_options, open_localizer


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, metavar="FILE.onnx", help="exported localizer")
    parser.add_argument(
        "--bag", required=True, metavar="BAG", help="folder of rosbag2, .mcap or .db3"
    )

    out = parser.add_argument_group("outputs")
    out.add_argument(
        "--output",
        metavar="FILE.mcap",
        help="bag with the results; .mcap, .db3, or a new folder",
    )
    out.add_argument("--picks", metavar="FILE.jsonl", help="records; - for standard output")
    out.add_argument(
        "--with-input",
        action="store_true",
        help="copy the messages that were read into --output, for Foxglove",
    )
    out.add_argument(
        "--prefix", default="/picking", help="of the topics written (default: %(default)s)"
    )

    topics = parser.add_argument_group("topics")
    topics.add_argument("--image", default="/camera/color/image_raw", help="(%(default)s)")
    topics.add_argument(
        "--depth",
        default="/camera/aligned_depth_to_color/image_raw",
        help="aligned to the image (%(default)s)",
    )
    topics.add_argument("--info", default="/camera/color/camera_info", help="(%(default)s)")
    topics.add_argument("--rectified", action="store_true", help="the image is (image_rect)")
    topics.add_argument(
        "--slop", type=float, default=0.02, help="seconds that times may differ (%(default)s)"
    )

    topics.add_argument(
        "--clock",
        choices=("recorded", "stamp"),
        default="recorded",
        help="by which the age of images is told; stamp: where the recorder's clock was another"
        " than the camera's (default: %(default)s)",
    )

    frames = parser.add_argument_group("frames of reference")
    frames.add_argument("--base-frame", default="base_link", help="of the picks (%(default)s)")
    frames.add_argument(
        "--camera-frame", default="", help="instead of the one in the image's header"
    )
    frames.add_argument(
        "--transform",
        metavar="FILE.json",
        help="where the camera is in the base frame, or with --hand-frame in that: a hand-eye"
        " calibration, or a transform; without it, /tf and /tf_static tell",
    )
    frames.add_argument("--hand-frame", default="", help="of a camera on the arm with --transform")

    picks = parser.add_argument_group("picks")
    picks.add_argument("--settings", metavar="FILE.json", help="limits (deploy/PICKING.md)")
    picks.add_argument("--max-frames", type=int, metavar="N", help="stop after N images")

    add_network_options(parser)
    return parser.parse_args(argv)


def _check(args: argparse.Namespace) -> None:
    check_network_options(args)
    if not args.output and not args.picks:
        raise InputError(
            "nothing to write: give --output FILE.mcap, --picks FILE.jsonl, or both of them."
        )
    if args.with_input and not args.output:
        raise InputError("--with-input: needs --output FILE.mcap.")
    if args.max_frames is not None and args.max_frames < 1:
        raise InputError(f"--max-frames {args.max_frames}: at least 1 is needed.")
    files = [args.output, None if args.picks == "-" else args.picks]
    check_outputs(files, [args.model, args.bag, args.transform, args.settings])


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    _check(args)

    from cpr_deploy.picking.camera_place import load_camera_place
    from cpr_deploy.picking.settings import PickSettings
    from cpr_deploy.ros.bags import BagReader, BagWriter
    from cpr_deploy.ros.pick_pipeline import PickPipeline, PipelineSettings
    from cpr_deploy.ros.run_bag import bag_topics, run_bag
    from cpr_deploy.stream_records import open_records

    place = None
    if args.transform:
        place = load_camera_place(args.transform, on_arm=bool(args.hand_frame))
    limits = PickSettings()
    if args.settings:
        limits = PickSettings.from_dict(read_json(args.settings), args.settings)
    settings = PipelineSettings(
        base_frame=args.base_frame,
        camera_frame=args.camera_frame,
        camera_place=place,
        hand_frame=args.hand_frame,
        rectified=args.rectified,
        slop=args.slop,
    )
    wanted = {"image": args.image, "depth": args.depth, "info": args.info}
    wanted |= {"tf": "/tf", "tf_static": "/tf_static"}
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(BagReader(args.bag))
        topics = bag_topics(reader, wanted, need_tf=place is None or bool(args.hand_frame))
        localizer = open_localizer(args)
        summary = run_bag(
            reader,
            topics,
            PickPipeline(localizer, settings, limits),
            records=stack.enter_context(open_records(args.picks)) if args.picks else None,
            bag=stack.enter_context(BagWriter(args.output)) if args.output else None,
            prefix=args.prefix,
            with_input=args.with_input,
            max_frames=args.max_frames,
            clock=args.clock,
        )
    print(
        f"{summary.images} images, {summary.frames} looked at, {summary.refused} of them refused as"
        f" a whole, {summary.found} targets, {summary.faults} damaged messages",
        file=sys.stderr,
    )
    if summary.refusals:
        told = ", ".join(f"{code} {count}" for code, count in summary.refusals.most_common())
        print(f"refusals: {told} (deploy/PICKING.md; --picks has the reasons)", file=sys.stderr)
    for path in (args.output, args.picks):
        if path and path != "-":
            print(f"wrote {path}", file=sys.stderr)
    for message in summary.errors:
        print(f"error: {message}", file=sys.stderr)
    if summary.interrupted:
        return 130
    return 1 if summary.errors else 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))
