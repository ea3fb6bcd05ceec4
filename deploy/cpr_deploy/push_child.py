"""The process that encodes and sends video for `video_push.VideoPusher`: frames on its standard
input, until that ends."""

from __future__ import annotations

import json
import signal
import sys
from fractions import Fraction
from typing import IO

import av
import numpy as np

from cpr_deploy.addresses import push_format, redact, redacted
from cpr_deploy.video_io import error_reason
from cpr_deploy.video_push import FRAME_HEADER
from cpr_deploy.video_writer import add_video_stream, fit_image

# Seconds to connect, and to send a packet.
TIMEOUT = 10.0
_CLOCK = Fraction(1, 90_000)


def read_frame(file: IO[bytes]) -> tuple[np.ndarray, float] | None:
    """The next frame and its seconds, or None at the end."""
    header = file.read(FRAME_HEADER.size)
    if len(header) < FRAME_HEADER.size:
        return None
    height, width, seconds = FRAME_HEADER.unpack(header)
    data = file.read(height * width * 3)
    if len(data) < height * width * 3:
        return None
    return np.frombuffer(data, np.uint8).reshape(height, width, 3), seconds


def send(url: str, file: IO[bytes]) -> None:
    """Sends the frames of `file` to `url` as H.264."""
    item = read_frame(file)
    if item is None:
        return
    kind = push_format(url)
    options = {"rtsp_transport": "tcp"} if kind == "rtsp" else {}
    with av.open(url, "w", format=kind, options=options, timeout=TIMEOUT) as container:
        height, width = item[0].shape[:2]
        # A key frame each second or so: whoever joins sees a picture soon.
        stream = add_video_stream(container, width, height, tune="zerolatency", g="25")
        start, last = item[1], -1
        while item is not None:
            picture = fit_image(item[0], stream.height, stream.width)
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            last = max(last + 1, round((item[1] - start) / _CLOCK))
            frame.pts, frame.time_base = last, _CLOCK
            container.mux(stream.encode(frame))
            item = read_frame(file)
        container.mux(stream.encode(None))


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    url = json.loads(sys.stdin.buffer.readline())["url"]
    try:
        send(url, sys.stdin.buffer)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = redact(error_reason(error), url)
        sys.stderr.write(f"{redacted(url)}: sending failed ({reason})\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
