#!/usr/bin/env python
"""Serves picks to arms without ROS: HTTP with JSON, and a plain socket for UR and KUKA controllers.

The camera's own program sends its frames here (`cpr_deploy.picking.client`, or any HTTP client on
this machine); arms take targets, one at a time, and acknowledge or reject them (deploy/PICKING.md).
Both ports are open to this machine only unless HOST says otherwise, and have no password; frames
are taken from this machine in any case.

Exit code: 2 bad input, 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading

from cpr_deploy.files import InputError, check_outputs, read_json, run_main
from cpr_deploy.network_options import add_network_options, check_network_options, open_localizer


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, metavar="FILE.onnx", help="exported localizer")
    parser.add_argument(
        "--camera", required=True, metavar="FILE", help="width, height, k, d (JSON or YAML)"
    )
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument(
        "--transform",
        metavar="FILE.json",
        help="base_from_camera of a camera that stands still: a calibration, or a transform",
    )
    place.add_argument(
        "--hand-transform",
        metavar="FILE.json",
        help="hand_from_camera of one on the arm, likewise",
    )

    listen = parser.add_argument_group("ports")
    listen.add_argument(
        "--listen", default="8090", metavar="[HOST:]PORT", help="HTTP (default: %(default)s)"
    )
    listen.add_argument("--tcp", metavar="[HOST:]PORT", help="plain socket")
    listen.add_argument(
        "--tcp-form", choices=("ur", "kuka"), default="ur", help="of its answers (%(default)s)"
    )

    picks = parser.add_argument_group("picks")
    picks.add_argument("--settings", metavar="FILE.json", help="limits (deploy/PICKING.md)")
    picks.add_argument("--base-frame", default="base", help="its name in targets (%(default)s)")
    picks.add_argument(
        "--max-age", type=float, default=0.5, help="s; nothing is handed out of older frames"
    )
    picks.add_argument(
        "--hold-seconds", type=float, default=30.0, help="then a target is free for others"
    )
    picks.add_argument("--picks", metavar="FILE.jsonl", help="records of all frames")

    add_network_options(parser)
    return parser.parse_args(argv)


def _address(option: str, text: str) -> tuple[str, int]:
    from cpr_deploy.addresses import web_address

    try:
        return web_address(text)
    except InputError:
        raise InputError(f"{option} {text}: a port is needed, as in 8090, or HOST:PORT.") from None


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    check_network_options(args)
    inputs = [args.model, args.camera, args.transform, args.hand_transform, args.settings]
    check_outputs([args.picks], inputs)
    host, port = _address("--listen", args.listen)
    tcp = _address("--tcp", args.tcp) if args.tcp else None

    from cpr_deploy.camera import load_camera
    from cpr_deploy.picking.camera_place import load_camera_place
    from cpr_deploy.picking.pick_desk import PickDesk
    from cpr_deploy.picking.pick_frames import PickFrames
    from cpr_deploy.picking.pick_queue import PickQueue, QueueSettings
    from cpr_deploy.picking.pick_server import PickServer
    from cpr_deploy.picking.pick_socket import PickSocket
    from cpr_deploy.picking.picker import PointPicker
    from cpr_deploy.picking.settings import PickSettings
    from cpr_deploy.stream_records import open_records

    path = args.transform or args.hand_transform
    place = load_camera_place(path, on_arm=path == args.hand_transform)
    limits = PickSettings()
    if args.settings:
        limits = PickSettings.from_dict(read_json(args.settings), args.settings)
    picker = PointPicker(
        load_camera(args.camera),
        place if args.transform else None,
        limits,
        hand_from_camera=place if args.hand_transform else None,
        frame_id=args.base_frame,
    )
    localizer = open_localizer(args)
    queue = PickQueue(QueueSettings(max_age=args.max_age, hold_seconds=args.hold_seconds))
    desk = PickDesk(queue)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with contextlib.ExitStack() as stack:
        on_record = None
        if args.picks:
            on_record = stack.enter_context(open_records(args.picks, in_place=True)).write
        frames = PickFrames(localizer, picker, queue, on_record=on_record)
        server = PickServer(host, port, desk, frames)
        stack.callback(server.close)
        print(f"picks: http://{host}:{server.port}/", file=sys.stderr, flush=True)
        if tcp:
            plain = PickSocket(*tcp, desk, args.tcp_form)
            stack.callback(plain.close)
            print(f"picks: {tcp[0]}:{plain.port} ({args.tcp_form})", file=sys.stderr, flush=True)
        stop.wait()
    return 143


if __name__ == "__main__":
    raise SystemExit(run_main(main))
