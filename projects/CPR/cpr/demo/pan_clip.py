"""A video made of one large image: a window that moves over it, as a camera in the air would."""

from __future__ import annotations

import argparse
import logging
from fractions import Fraction
from pathlib import Path

import numpy as np

from cpr_deploy.files import InputError, atomic_path, run_main
from cpr_deploy.image_files import read_rgb

logger = logging.getLogger(__name__)


def pan_path(
    image_size: tuple[int, int], window: tuple[int, int], frames: int
) -> list[tuple[int, int]]:
    """Top-left corners of the window (px) for each frame: once around the image and back.

    image_size, window: (width, height). The way goes along the rectangle of possible corners at
    constant speed; it ends where it began, so that the clip can loop.
    """
    room_x, room_y = image_size[0] - window[0], image_size[1] - window[1]
    if room_x < 0 or room_y < 0:
        raise ValueError(f"a window of {window} does not fit into an image of {image_size}")
    length = 2 * (room_x + room_y)
    corners = []
    for frame in range(frames):
        way = length * frame / max(frames, 1)
        if way < room_x:
            x, y = way, 0.0
        elif way < room_x + room_y:
            x, y = room_x, way - room_x
        elif way < 2 * room_x + room_y:
            x, y = 2 * room_x + room_y - way, room_y
        else:
            x, y = 0.0, length - way
        corners.append((round(x), round(y)))
    return corners


def write_pan(
    image: np.ndarray, output: Path, *, window: tuple[int, int], frames: int, fps: int
) -> None:
    """Writes the clip as an H.264 MP4. `image` is RGB uint8; the window shrinks to fit into it."""
    import av

    height, width = image.shape[:2]
    # yuv420p needs even sides.
    window = (min(window[0], width) // 2 * 2, min(window[1], height) // 2 * 2)
    with atomic_path(output) as temporary, av.open(str(temporary), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "18"})
        stream.width, stream.height = window
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, fps)
        for index, (x, y) in enumerate(pan_path((width, height), window, frames)):
            cut = np.ascontiguousarray(image[y : y + window[1], x : x + window[0]])
            frame = av.VideoFrame.from_ndarray(cut, format="rgb24")
            frame.pts = index
            frame.time_base = Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cpr.demo.pan_clip", description="Makes a video that pans over an image."
    )
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="MP4 file")
    parser.add_argument("--width", type=int, default=640, help="of the frames, px")
    parser.add_argument("--height", type=int, default=480, help="of the frames, px")
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--fps", type=int, default=15)
    args = parser.parse_args()
    if min(args.width, args.height) < 2 or args.frames < 1 or args.fps < 1:
        raise InputError("width and height must be at least 2, frames and fps at least 1.")
    window = (args.width, args.height)
    write_pan(read_rgb(args.image), args.output, window=window, frames=args.frames, fps=args.fps)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logger.info("wrote %s: %d frames", args.output, args.frames)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))
