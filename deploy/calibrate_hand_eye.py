#!/usr/bin/env python
"""Finds where a robot's camera is, from images of a calibration board or from touched points.

Camera on the arm (--mount hand): the board lies still, the arm moves the camera. Camera beside the
arm (--mount fixed): the arm holds the board. For each image the arm's pose (base from hand) is
needed. PICKING.md tells how to take them.

All methods are shown; the one that best predicts each image from the others is written. Nothing is
written, and the exit code is 2, if that is worse than --max-residual.
"""

from __future__ import annotations

import argparse

from cpr_deploy.files import InputError, check_outputs, run_main

KINDS = {"hand": "eye_in_hand", "fixed": "eye_to_hand"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mount", required=True, choices=KINDS, help="where the camera is")
    parser.add_argument(
        "--camera", metavar="FILE", help="its numbers: JSON, or YAML of ROS or OpenCV"
    )
    parser.add_argument("--images", metavar="DIR", help="images of the board")
    parser.add_argument("--poses", metavar="FILE.json", help="the arm's pose for each image")
    parser.add_argument(
        "--board",
        metavar="BOARD",
        help="chessboard:9x6:0.025 (inner corners, side of a square in m) or"
        " charuco:7x5:0.04:0.03:DICT_4X4_50 (squares, sides of square and marker in m)",
    )
    parser.add_argument(
        "--points", metavar="FILE.json", help="touched points, instead of images, poses and board"
    )
    parser.add_argument("--output", required=True, metavar="FILE.json", help="the result")
    parser.add_argument(
        "--max-residual",
        type=float,
        default=0.005,
        help="of the leave-one-out prediction, root mean square, m (%(default)s)",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    from_images = (args.images, args.poses, args.board)
    if bool(args.points) == any(from_images):
        raise InputError("give either --points, or --images, --poses and --board.")
    if not args.points and not (all(from_images) and args.camera):
        raise InputError("--images, --poses, --board and --camera are needed together.")
    if not 0 < args.max_residual < float("inf"):
        raise InputError(f"--max-residual {args.max_residual}: metres above 0 are needed.")
    check_outputs([args.output], [args.camera, args.poses, args.points])

    from cpr_deploy.camera import load_camera
    from cpr_deploy.picking import hand_eye, hand_eye_inputs
    from cpr_deploy.picking.board import Board

    camera = load_camera(args.camera) if args.camera else None
    kind = KINDS[args.mount]
    if args.points:
        result = hand_eye.calibrate_touched(
            *hand_eye_inputs.read_touched(args.points, camera, kind), max_residual=args.max_residual
        )
    else:
        board = Board.from_text(args.board)
        views, without = hand_eye_inputs.read_views(args.images, args.poses, camera, board)
        print(f"{len(views)} images show the board" + ("" if not without else ", these do not:"))
        print("".join(f"  {name}\n" for name in without), end="", flush=True)
        result = hand_eye.calibrate_views(views, camera, kind, max_residual=args.max_residual)
    print("\n".join(hand_eye.report_lines(result)))
    hand_eye.save_hand_eye(args.output, result)
    print(f"written to {args.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))
