"""Annotated video: fragmented MP4 files, which can be played up to where writing stopped."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import cv2
import numpy as np

from cpr_deploy.files import InputError, atomic_path, set_aside

logger = logging.getLogger(__name__)

# MPEG-4 allows no finer one; a multiple of all usual frame rates.
TIME_BASE = Fraction(1, 60_000)
# No B-frames: they would delay all times, as a fragmented MP4 has no edit list to take that back.
H264_OPTIONS = {"preset": "veryfast", "crf": "21", "bf": "0"}
# A fragment is closed after so many microseconds at the latest: what a kill can lose.
FRAGMENT = 1_000_000


class VideoWriter:
    """Writes frames to a fragmented MP4: H.264 if this FFmpeg has it, else MPEG-4.

    Use through `open_video`. `file` is a Python file because its errors, such as a full disk, reach
    the caller; FFmpeg's own files swallow them. The first frame fixes the size (made even, as the
    codecs need); frames of another size are scaled to fit and padded.
    """

    def __init__(self, file: IO[bytes]):
        # Fragments make the file playable up to its last fragment if writing is interrupted.
        flags = "frag_keyframe+empty_moov+default_base_moof"
        options = {"movflags": flags, "frag_duration": str(FRAGMENT)}
        self._container = av.open(file, "w", format="mp4", container_options=options)
        self._stream = None
        # FFmpeg crashes if one thread closes what another still writes.
        self._lock = threading.Lock()
        self._broken = False
        self._closed = False
        self._last_pts = -1
        self._offset: float | None = None
        self.frames = 0

    def write(self, image: np.ndarray, pts: float | None) -> None:
        """Adds a (height, width, 3) uint8 BGR frame shown at `pts` seconds.

        Times are shifted so that the first frame is at 0; a missing or earlier time than that of
        the frame before follows it by 1/25 s.
        """
        with self._lock:
            self._write(image, pts)

    def _write(self, image: np.ndarray, pts: float | None) -> None:
        if self._closed:
            raise ValueError("the video is closed")
        if self._stream is None:
            self._stream = self._add_stream(image.shape[0], image.shape[1])
        if self._offset is None:
            self._offset = pts or 0.0
        step = int(TIME_BASE.denominator / 25)
        ticks = -1 if pts is None else round((pts - self._offset) / TIME_BASE)
        if ticks <= self._last_pts:
            ticks = 0 if self._last_pts < 0 else self._last_pts + step
        self._last_pts = ticks
        height, width = self._stream.height, self._stream.width
        frame = av.VideoFrame.from_ndarray(fit_image(image, height, width), format="bgr24")
        frame.pts, frame.time_base = ticks, TIME_BASE
        self._mux(frame)
        self.frames += 1

    def _add_stream(self, height: int, width: int):
        stream = add_video_stream(self._container, width, height)
        stream.time_base = TIME_BASE
        logger.info("writing %s video of %dx%d px", stream.name, stream.width, stream.height)
        return stream

    def _mux(self, frame: av.VideoFrame | None) -> None:
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except Exception:
            self._broken = True
            raise

    def close(self) -> None:
        """Ends the file; waits for a frame that another thread writes."""
        with self._lock:
            self._closed = True
            try:
                # FFmpeg crashes if it is given more after a write that failed.
                if self._stream is not None and not self._broken:
                    self._mux(None)
            finally:
                self._container.close()


def add_video_stream(container, width: int, height: int, **options: str):
    """An H.264 stream, or an MPEG-4 one where this FFmpeg has no encoder for that; `options` are
    for x264. Sides are made even, as both need."""
    names = [name for name in ("libx264", "h264", "libopenh264") if _can_encode(name)]
    if not names and not _can_encode("mpeg4"):
        raise InputError("this FFmpeg can write neither H.264 nor MPEG-4 video. Install PyAV.")
    name = [*names, "mpeg4"][0]
    stream = container.add_stream(
        name, rate=25, options={**H264_OPTIONS, **options} if name == "libx264" else {}
    )
    stream.width, stream.height = width + width % 2, height + height % 2
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = TIME_BASE
    if name == "mpeg4":
        stream.bit_rate = max(2_000_000, 6 * width * height)
    return stream


def _can_encode(name: str) -> bool:
    try:
        av.codec.Codec(name, "w")
    except ValueError:  # av's UnknownCodecError is one
        return False
    return True


def fit_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scales an image down or up to fit (height, width) unless it is at most one pixel short, and
    fills the rest at the right and bottom: by its last row and column, or black if scaled."""
    short = height - image.shape[0], width - image.shape[1]
    mode = cv2.BORDER_REPLICATE
    if not all(0 <= missing <= 1 for missing in short):
        factor = min(height / image.shape[0], width / image.shape[1])
        size = (
            max(1, min(width, round(image.shape[1] * factor))),
            max(1, min(height, round(image.shape[0] * factor))),
        )
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        short = height - image.shape[0], width - image.shape[1]
        mode = cv2.BORDER_CONSTANT
    if any(short):
        image = cv2.copyMakeBorder(image, 0, short[0], 0, short[1], mode)
    return np.ascontiguousarray(image)


@contextlib.contextmanager
def open_video(path: str | os.PathLike, *, in_place: bool = False) -> Iterator[VideoWriter]:
    """A `VideoWriter` whose file appears when the block ends well and a frame was written.

    `in_place`, for streams without end: the file grows under its own name and stays whatever
    happens. What an earlier run has left there is set aside.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise InputError(
            f"{path}: annotated video is written as MP4. Give a name that ends in .mp4"
        )
    if in_place:
        path.parent.mkdir(parents=True, exist_ok=True)
        set_aside(path)
        # No buffer: what was encoded is in the file even if we are killed.
        with open(path, "wb", buffering=0) as file, contextlib.closing(VideoWriter(file)) as writer:
            yield writer
        return
    with contextlib.suppress(_NothingWritten), atomic_path(path) as temporary:
        with open(temporary, "wb") as file, contextlib.closing(VideoWriter(file)) as writer:
            yield writer
        if not writer.frames:
            raise _NothingWritten


class _NothingWritten(Exception):
    pass
