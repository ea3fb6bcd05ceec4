"""Sources of frames: video files, streams, folders of images, cameras, raw frames on a pipe.

Frames are (height, width, 3) uint8 BGR. Times come from the container (pts), so that sources with a
variable frame rate keep their timing. A source is read by a decoder process (`decoder`), where it
may hang or die without harm; reading one directly, as tests and benchmarks do, works as well.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol

import av
import cv2
import numpy as np

from cpr_deploy.addresses import PROTOCOLS, redacted, scheme
from cpr_deploy.files import InputError
from cpr_deploy.image_files import read_bgr
from cpr_deploy.video_io import (
    MAX_PIXELS,
    error_reason,
    list_images,
    open_container,
    seconds_of,
    upright,
)

logger = logging.getLogger(__name__)

# Raw format -> rows of bytes per row of pixels as (numerator, denominator), channels per pixel,
# name of OpenCV's conversion to BGR ("" if it is BGR).
RAW_FORMATS = {
    "bgr24": (1, 1, 3, ""),
    "rgb24": (1, 1, 3, "COLOR_RGB2BGR"),
    "bgra": (1, 1, 4, "COLOR_BGRA2BGR"),
    "rgba": (1, 1, 4, "COLOR_RGBA2BGR"),
    "gray": (1, 1, 1, "COLOR_GRAY2BGR"),
    "yuv420p": (3, 2, 1, "COLOR_YUV2BGR_I420"),
    "nv12": (3, 2, 1, "COLOR_YUV2BGR_NV12"),
}


@dataclasses.dataclass
class Frame:
    """index: number from 0; pts: seconds from the container or None; captured_at: seconds since
    1970 when it was read; clock: the same moment on the monotonic clock, which all processes of a
    machine share; decode_seconds: what reading and decoding it took, waiting for a live source left
    out."""

    index: int
    image: np.ndarray
    pts: float | None
    captured_at: float = dataclasses.field(default_factory=time.time)
    name: str = ""
    clock: float = dataclasses.field(default_factory=time.monotonic)
    decode_seconds: float = 0.0


@dataclasses.dataclass
class SourceError:
    """The source failed after `index` frames; what was read before is good."""

    index: int
    message: str


class FrameSource(Protocol):
    """A source of frames. `live`: it does not wait for us. `length`: frames expected, or None.
    `skipped`: frames that `every` left out so far. `damaged`: frames that could not be decoded."""

    name: str
    live: bool
    length: int | None
    skipped: int
    damaged: int

    def __iter__(self) -> Iterator[Frame | SourceError]: ...

    def close(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class SourceSpec:
    """What to open and how, as JSON values: it goes to the decoder process.

    address: a video file, a folder of images, a stream's URL, a camera's number or /dev/videoN, or
    "-" for raw frames on standard input. fps: of a folder and of raw frames. every: each so many-th
    frame only. paced: hand frames of a file out at their times, as a live source would.
    """

    address: str
    fps: float = 5.0
    every: int = 1
    raw_size: tuple[int, int] | None = None  # width, height
    raw_format: str = "bgr24"
    paced: bool = False

    def __post_init__(self):
        if self.every < 1:
            raise InputError(f"every {self.every}: at least 1 is needed.")
        if not 0 < self.fps <= 1000:
            raise InputError(f"{self.fps} frames per second: a number above 0 is needed.")

    @property
    def name(self) -> str:
        """What records and logs call it; never with a password."""
        if self.address == "-":
            return "standard input"
        camera = camera_number(self.address)
        return redacted(self.address) if camera is None else f"camera {camera}"

    @property
    def kind(self) -> str:
        """stdin, address, camera or file (a folder too)."""
        if self.address == "-":
            return "stdin"
        if scheme(self.address):
            return "address"
        return "file" if camera_number(self.address) is None else "camera"


def camera_number(address: str) -> int | None:
    """The camera that "0" or "/dev/video0" means; a file or folder of that name goes first."""
    match = re.fullmatch(r"(?:/dev/video)?(\d{1,3})", address)
    if not match or Path(address).is_file() or Path(address).is_dir():
        return None
    return int(match[1])


def open_source(source: str | SourceSpec, *, fps: float = 5.0) -> FrameSource:
    """Opens a source; `fps` as in `SourceSpec`. InputError if there is no such source."""
    spec = source if isinstance(source, SourceSpec) else SourceSpec(source, fps=fps)
    if spec.kind == "stdin":
        return RawSource(sys.stdin.buffer, spec)
    if spec.kind == "address":
        return VideoSource(spec.address, live=True, every=spec.every)
    if spec.kind == "camera":
        return CameraSource(camera_number(spec.address), every=spec.every)
    path = Path(spec.address)
    if path.is_dir():
        return FolderSource(path, fps=spec.fps, every=spec.every)
    if path.is_file():
        return VideoSource(str(path), every=spec.every)
    unknown = "://" in spec.address
    raise InputError(
        f"{spec.name}: {'unknown kind of address' if unknown else 'no such file or folder'}. Give a"
        " video file, a folder of images, a stream's address"
        f" ({', '.join(f'{name}://' for name in PROTOCOLS)}), the number of a camera (0), or - for"
        " raw frames on standard input."
    )


class _Source:
    live = False
    length: int | None = None

    def __init__(self, name: str, every: int):
        self.name = name
        self.skipped = 0
        self.damaged = 0
        self._every = every

    def _wanted(self, index: int) -> bool:
        wanted = index % self._every == 0
        self.skipped += not wanted
        return wanted

    def close(self) -> None:
        pass


class VideoSource(_Source):
    """A video file or network stream, through FFmpeg.

    Damaged frames of a live source are left out and counted; of a file they are an error at its
    end. A stream of limited length, such as a file on a web server, is not live.
    """

    def __init__(self, path: str, *, live: bool = False, every: int = 1):
        super().__init__(redacted(path), every)
        self._container, self._stream = open_container(path, live=live)
        self.live = live and not (
            scheme(path).startswith("http") and (self._container.duration or 0) > 0
        )
        self.length = self._stream.frames or None

    def __iter__(self) -> Iterator[Frame | SourceError]:
        index = packets = 0
        problem = ""
        begin = time.perf_counter()
        try:
            for packet in self._container.demux(self._stream):
                if self.live:
                    begin = time.perf_counter()
                packets += packet.size > 0
                if packet.is_corrupt:
                    problem = problem or "a packet is damaged or cut off"
                try:
                    decoded = packet.decode()
                except av.error.InvalidDataError as error:
                    problem = problem or f"a frame cannot be decoded ({error_reason(error)})"
                    self.damaged += 1
                    continue
                for frame in decoded:
                    if frame.is_corrupt:
                        problem = problem or "a frame is damaged or cut off"
                        self.damaged += 1
                        continue
                    if frame.width * frame.height > MAX_PIXELS:
                        size = f"{frame.width}x{frame.height}"
                        yield SourceError(index, f"{self.name}: frames of {size} px.")
                        return
                    if self._wanted(index):
                        image = upright(frame, "bgr24")
                        seconds = time.perf_counter() - begin
                        yield Frame(index, image, seconds_of(frame), decode_seconds=seconds)
                        begin = time.perf_counter()
                    index += 1
        except (av.error.FFmpegError, OSError) as error:
            if self.live:
                yield SourceError(index, f"{self.name}: reading failed ({error_reason(error)}).")
                return
            problem = problem or f"reading failed ({error_reason(error)})"
        if self.live:
            yield SourceError(index, f"{self.name}: the stream has ended.")
            return
        if not problem and self.length and packets < self.length:
            problem = f"it ends after {packets} of {self.length} frames"
        if problem:
            yield SourceError(index, f"{self.name}: {problem}. The file may have been cut off.")

    def close(self) -> None:
        self._container.close()


class FolderSource(_Source):
    """Images of a folder in natural order; pts as if they were a video of `fps`."""

    def __init__(self, folder: Path, *, fps: float, every: int = 1):
        super().__init__(str(folder), every)
        self._paths = list_images(folder)
        self._fps = fps
        self.length = len(self._paths)

    def __iter__(self) -> Iterator[Frame | SourceError]:
        for index, path in enumerate(self._paths):
            if not self._wanted(index):
                continue
            begin = time.perf_counter()
            try:
                image = read_bgr(path)
            except InputError as error:
                yield SourceError(index, str(error))
                continue
            seconds = time.perf_counter() - begin
            yield Frame(index, image, index / self._fps, name=path.name, decode_seconds=seconds)


class CameraSource(_Source):
    """A camera, through OpenCV; pts are seconds since the first frame."""

    live = True

    def __init__(self, number: int, *, every: int = 1):
        super().__init__(f"camera {number}", every)
        self._capture = cv2.VideoCapture(number)
        if not self._capture.isOpened():
            raise InputError(f"{self.name}: cannot be opened. Check that it is there and free.")

    def __iter__(self) -> Iterator[Frame | SourceError]:
        index, first = 0, None
        while True:
            found, image = self._capture.read()
            if not found:
                yield SourceError(index, f"{self.name}: gives no more frames.")
                return
            if self._wanted(index):
                frame = Frame(index, image, 0.0)
                first = frame.clock if first is None else first
                frame.pts = frame.clock - first
                yield frame
            index += 1

    def close(self) -> None:
        self._capture.release()


class RawSource(_Source):
    """Frames of one size and format, one after another in `file`; pts as if a video of the spec's
    `fps`."""

    def __init__(self, file: IO[bytes], spec: SourceSpec):
        super().__init__(spec.name, spec.every)
        if spec.raw_format not in RAW_FORMATS:
            raise InputError(
                f"raw format {spec.raw_format}: one of {', '.join(RAW_FORMATS)} is needed."
            )
        rows, per, channels, self._conversion = RAW_FORMATS[spec.raw_format]
        width, height = spec.raw_size or (0, 0)
        if min(width, height) < 1 or width * height > MAX_PIXELS:
            raise InputError(
                f"{self.name}: its frames have no header. Give their size, as in --raw-size 640x480"
                f" (at most {MAX_PIXELS} pixels)."
            )
        if per == 2 and (width % 2 or height % 2):
            raise InputError(f"{width}x{height}: {spec.raw_format} needs even sides.")
        self._shape = (height * rows // per, width, channels)
        self._file = file
        self._fps = spec.fps

    def __iter__(self) -> Iterator[Frame | SourceError]:
        index = 0
        while data := self._file.read(int(np.prod(self._shape))):
            begin = time.perf_counter()
            if len(data) < np.prod(self._shape):
                yield SourceError(index, f"{self.name}: ends in the middle of a frame.")
                return
            if self._wanted(index):
                image = self._to_bgr(np.frombuffer(data, np.uint8).reshape(self._shape))
                seconds = time.perf_counter() - begin
                yield Frame(index, image, index / self._fps, decode_seconds=seconds)
            index += 1

    def _to_bgr(self, image: np.ndarray) -> np.ndarray:
        if not self._conversion:
            return image
        return cv2.cvtColor(image, getattr(cv2, self._conversion))


def spec_from_json(values: dict[str, Any]) -> SourceSpec:
    """Inverse of `dataclasses.asdict` through JSON."""
    size = values.get("raw_size")
    return SourceSpec(**{**values, "raw_size": tuple(size) if size else None})
