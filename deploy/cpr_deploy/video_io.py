"""Frames from video files, streams, folders of images and cameras; annotated video out.

Frames are (height, width, 3) uint8 BGR. Times come from the container (pts), so that sources with a
variable frame rate keep their timing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, Protocol

import av
import cv2
import numpy as np

from cpr_deploy.files import InputError, atomic_path
from cpr_deploy.image_files import read_bgr

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
STREAM_PREFIXES = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://", "srt://")
# Larger frames are refused: most likely a damaged header.
MAX_PIXELS = 200_000_000
# Seconds without data after which opening or reading a network stream fails.
STREAM_TIMEOUT = (10.0, 20.0)
# Seconds without a frame of a live source that count as a gap.
GAP_SECONDS = 1.0
# MPEG-4 allows no finer one; a multiple of all usual frame rates.
TIME_BASE = Fraction(1, 60_000)
# No B-frames: they would delay all times, as a fragmented MP4 has no edit list to take that back.
H264_OPTIONS = {"preset": "veryfast", "crf": "21", "bf": "0"}


@dataclasses.dataclass
class Frame:
    """index: number from 0; pts: seconds from the container or None; captured_at: seconds since
    1970 when it was read."""

    index: int
    image: np.ndarray
    pts: float | None
    captured_at: float
    name: str = ""


@dataclasses.dataclass
class SourceError:
    """The source failed after `index` frames; what was read before is good."""

    index: int
    message: str


class FrameSource(Protocol):
    """A source of frames. `live`: it does not wait for us. `length`: frames expected, or None."""

    name: str
    live: bool
    length: int | None

    def __iter__(self) -> Iterator[Frame | SourceError]: ...

    def close(self) -> None: ...


def open_source(source: str, *, fps: float = 5.0) -> FrameSource:
    """A folder of images (shown at `fps`), a camera number, a network stream or a video file."""
    if source.startswith(STREAM_PREFIXES):
        return VideoSource(source, live=True)
    path = Path(source)
    if path.is_dir():
        return FolderSource(path, fps=fps)
    if path.is_file():
        return VideoSource(str(path))
    if source.isdecimal():
        return CameraSource(int(source))
    raise InputError(
        f"{source}: no such file or folder. Give a video file, a folder of images, a stream URL"
        " (rtsp://...) or the number of a camera (0)."
    )


def _redacted(url: str) -> str:
    """A URL without its user name and password."""
    return re.sub(r"//[^/@]*@", "//", url)


def open_container(
    path: str, *, live: bool = False
) -> tuple[av.container.InputContainer, av.VideoStream]:
    """A video file or network stream and its first video stream, which can be decoded.

    Raises:
        InputError: it cannot be opened, holds no video, or frames of an absurd size.
    """
    name = _redacted(path)
    # A file may be a playlist in disguise: it must not make us open addresses.
    options = {} if live else {"protocol_whitelist": "file"}
    if path.startswith("rtsp"):
        options = {"rtsp_transport": "tcp"}
    try:
        container = av.open(
            path,
            options=options,
            timeout=STREAM_TIMEOUT if live else None,
            metadata_errors="replace",  # titles in any encoding, or damaged, do not matter
        )
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(
            f"{name}: cannot be opened as video ({error_reason(error)}). "
            + (
                "Check the address and the network."
                if live
                else "If the file was cut off while it was written, copy or record it again."
            )
        ) from None
    if not container.streams.video:
        container.close()
        raise InputError(
            f"{name}: holds no video stream. The file may have been cut off: copy or"
            " record it again, or give another."
        )
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    context = stream.codec_context
    if context is None or not context.width:
        container.close()
        raise InputError(
            f"{name}: its video stream cannot be decoded. The file may have been cut off;"
            " copy or record it again."
        )
    if context.width * context.height > MAX_PIXELS:
        container.close()
        raise InputError(f"{name}: frames of {context.width}x{context.height} px.")
    return container, stream


def upright(frame: av.VideoFrame, pixel_format: str) -> np.ndarray:
    """The pixels of a decoded frame, (H, W, 3) uint8 of format "bgr24" or "rgb24", turned as the
    file says: phones store the picture as the sensor saw it, with the turn beside it."""
    image = frame.to_ndarray(format=pixel_format)
    turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def seconds_of(frame: av.VideoFrame) -> float | None:
    """The time of a decoded frame in its file."""
    return None if frame.pts is None else float(frame.pts * frame.time_base)


class VideoSource:
    """A video file or network stream, through FFmpeg."""

    def __init__(self, path: str, *, live: bool = False):
        self.name = _redacted(path)
        self.live = live
        self._container, self._stream = open_container(path, live=live)
        self.length = self._stream.frames or None

    def __iter__(self) -> Iterator[Frame | SourceError]:
        index = packets = 0
        problem = ""
        try:
            for packet in self._container.demux(self._stream):
                packets += packet.size > 0
                if packet.is_corrupt:
                    problem = problem or "a packet is damaged or cut off"
                try:
                    decoded = packet.decode()
                except av.error.InvalidDataError as error:
                    problem = problem or f"a frame cannot be decoded ({error_reason(error)})"
                    continue
                for frame in decoded:
                    if frame.is_corrupt:
                        problem = problem or "a frame is damaged or cut off"
                        continue
                    yield self._frame(frame, index)
                    index += 1
        except (av.error.FFmpegError, OSError) as error:
            problem = problem or f"reading failed ({error_reason(error)})"
        if not self.live and not problem and self.length and packets < self.length:
            problem = f"it ends after {packets} of {self.length} frames"
        if problem:
            yield SourceError(index, f"{self.name}: {problem}. The file may have been cut off.")

    def _frame(self, frame: av.VideoFrame, index: int) -> Frame:
        return Frame(index, upright(frame, "bgr24"), seconds_of(frame), time.time())

    def close(self) -> None:
        self._container.close()


def error_reason(error: Exception) -> str:
    """What FFmpeg or the operating system says."""
    return str(getattr(error, "strerror", None) or error).strip()


def _natural_key(path: Path) -> list:
    """Sorts frame2 before frame10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name.lower())]


def list_images(folder: str | os.PathLike) -> list[Path]:
    """Image files of a folder in natural order; InputError if there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Check the path.")
    paths = sorted(
        (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES),
        key=_natural_key,
    )
    if not paths:
        raise InputError(f"{folder}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    return paths


def read_image_folder(folder: str | os.PathLike, *, limit: int) -> list[np.ndarray]:
    """The first `limit` images of a folder."""
    return [read_bgr(path) for path in list_images(folder)[:limit]]


class FolderSource:
    """Images of a folder in natural order; pts as if they were a video of `fps`."""

    live = False

    def __init__(self, folder: Path, *, fps: float):
        if not 0 < fps <= 1000:
            raise InputError(f"{fps} frames per second: a number above 0 is needed.")
        self.name = str(folder)
        self._paths = list_images(folder)
        self._fps = fps
        self.length = len(self._paths)

    def __iter__(self) -> Iterator[Frame | SourceError]:
        for index, path in enumerate(self._paths):
            try:
                image = read_bgr(path)
            except InputError as error:
                yield SourceError(index, str(error))
                continue
            yield Frame(index, image, index / self._fps, time.time(), name=path.name)

    def close(self) -> None:
        pass


class CameraSource:
    """A camera, through OpenCV; pts are seconds since the first frame."""

    live = True
    length = None

    def __init__(self, number: int):
        self.name = f"camera {number}"
        self._capture = cv2.VideoCapture(number)
        if not self._capture.isOpened():
            raise InputError(f"{self.name}: cannot be opened. Check that it is there and free.")

    def __iter__(self) -> Iterator[Frame | SourceError]:
        index, begin = 0, None
        while True:
            found, image = self._capture.read()
            if not found:
                yield SourceError(index, f"{self.name}: gives no more frames.")
                return
            now = time.time()
            begin = now if begin is None else begin
            yield Frame(index, image, now - begin, now)
            index += 1

    def close(self) -> None:
        self._capture.release()


@dataclasses.dataclass
class Delivery:
    """What the reader hands over: a frame or an error, the seconds it took to decode, and the
    number of frames dropped before it."""

    item: Frame | SourceError
    decode_seconds: float
    dropped: int = 0


class FrameReader:
    """Reads a source in a thread of its own, into a bounded queue.

    A file waits for the consumer; of a live source the oldest waiting frame is dropped, so that
    results never lag behind by more than the queue. Use as a context manager and iterate.
    """

    def __init__(self, source: FrameSource, *, capacity: int = 4, every: int = 1):
        self._source = source
        self._every = every
        self._queue: queue.Queue[Delivery | None] = queue.Queue(maxsize=capacity)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="frame reader", daemon=True)

    def __enter__(self) -> FrameReader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5)
        if self._thread.is_alive():
            logger.warning("%s: the reader is stuck and left behind", self._source.name)
        else:
            self._source.close()

    def __iter__(self) -> Iterator[Delivery]:
        while (delivery := self._queue.get()) is not None:
            yield delivery

    def _read(self) -> None:
        begin = time.perf_counter()
        try:
            for item in self._source:
                seconds = time.perf_counter() - begin
                if self._stop.is_set():
                    return
                wanted = isinstance(item, SourceError) or item.index % self._every == 0
                if wanted and not self._put(Delivery(item, seconds)):
                    return
                begin = time.perf_counter()
        except Exception as error:  # a defect in this thread must reach the consumer
            logger.exception("%s: the reader failed", self._source.name)
            self._put(Delivery(SourceError(-1, f"{self._source.name}: {error!r}"), 0.0))
        finally:
            self._put(None)

    def _put(self, delivery: Delivery | None) -> bool:
        """False if the consumer has left."""
        while not self._stop.is_set():
            try:
                self._queue.put(delivery, timeout=0.1)
                return True
            except queue.Full:
                if self._source.live and delivery is not None:
                    self._drop_oldest(delivery)
        return False

    def _drop_oldest(self, delivery: Delivery) -> None:
        with contextlib.suppress(queue.Empty):
            oldest = self._queue.get_nowait()
            if oldest is not None:
                delivery.dropped += oldest.dropped + 1


class VideoWriter:
    """Writes frames to a fragmented MP4: H.264 if this FFmpeg has it, else MPEG-4.

    Use through `open_video`. `file` is a Python file because its errors, such as a full disk, reach
    the caller; FFmpeg's own files swallow them. The first frame fixes the size (made even, as the
    codecs need); frames of another size are scaled to fit and padded.
    """

    def __init__(self, file: IO[bytes]):
        # Fragments make the file playable up to its last fragment if writing is interrupted.
        flags = "frag_keyframe+empty_moov+default_base_moof"
        self._container = av.open(file, "w", format="mp4", container_options={"movflags": flags})
        self._stream = None
        self._last_pts = -1
        self._offset: float | None = None
        self.frames = 0

    def write(self, image: np.ndarray, pts: float | None) -> None:
        """Adds a (height, width, 3) uint8 BGR frame shown at `pts` seconds.

        Times are shifted so that the first frame is at 0; a missing or earlier time than that of
        the frame before follows it by 1/25 s.
        """
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
        frame = av.VideoFrame.from_ndarray(_fit(image, height, width), format="bgr24")
        frame.pts, frame.time_base = ticks, TIME_BASE
        for packet in self._stream.encode(frame):
            self._container.mux(packet)
        self.frames += 1

    def _add_stream(self, height: int, width: int):
        names = [name for name in ("libx264", "h264", "libopenh264") if _can_encode(name)]
        for name in [*names, "mpeg4"]:
            options = H264_OPTIONS if name == "libx264" else {}
            stream = self._container.add_stream(name, rate=25, options=options)
            stream.width, stream.height = width + width % 2, height + height % 2
            stream.pix_fmt = "yuv420p"
            stream.codec_context.time_base = TIME_BASE
            stream.time_base = TIME_BASE
            if name == "mpeg4":
                stream.bit_rate = max(2_000_000, 6 * width * height)
            logger.info("writing %s video of %dx%d px", name, stream.width, stream.height)
            return stream
        raise InputError("this FFmpeg can write neither H.264 nor MPEG-4 video. Install PyAV.")

    def close(self) -> None:
        if self._stream is not None:
            for packet in self._stream.encode(None):
                self._container.mux(packet)
        self._container.close()


def _can_encode(name: str) -> bool:
    try:
        av.codec.Codec(name, "w")
    except ValueError:  # av's UnknownCodecError is one
        return False
    return True


def _fit(image: np.ndarray, height: int, width: int) -> np.ndarray:
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
def open_video(path: str | os.PathLike) -> Iterator[VideoWriter]:
    """A `VideoWriter` whose file appears when the block ends well and a frame was written."""
    if Path(path).suffix.lower() != ".mp4":
        raise InputError(
            f"{path}: annotated video is written as MP4. Give a name that ends in .mp4"
        )
    with contextlib.suppress(_NothingWritten), atomic_path(path) as temporary:
        with open(temporary, "wb") as file, contextlib.closing(VideoWriter(file)) as writer:
            yield writer
        if not writer.frames:
            raise _NothingWritten


class _NothingWritten(Exception):
    pass
