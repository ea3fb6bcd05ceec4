"""Single frames of a video: which ones are wanted, and reading them with their times (PyAV)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cpr_deploy.files import InputError

if TYPE_CHECKING:
    import av

# Every so many frames, as SeaPerson was made.
EVERY = 50
# Grey values a side by which frames are compared for a change of scene.
_THUMBNAIL = 32


@dataclass(frozen=True)
class Selection:
    """Which frames of a video to take: one of the three rules, or every 50th frame.

    every: each so many frames. every_seconds: the first frame of each so many seconds, by the times
    in the file, so that a variable frame rate does no harm. scene_change: a frame whose grey values
    (of a thumbnail) differ from those of the last one taken by at least this share of the range, on
    average; above 0, below 1. The first frame is always taken.
    start, end: seconds from the beginning of the video; frames from start to before end count.
    """

    every: int | None = None
    every_seconds: float | None = None
    scene_change: float | None = None
    start: float = 0.0
    end: float | None = None

    def __post_init__(self) -> None:
        rules = (self.every, self.every_seconds, self.scene_change)
        if sum(rule is not None for rule in rules) > 1:
            raise InputError("every, every_seconds, scene_change: give one of them.")
        if rules == (None, None, None):
            object.__setattr__(self, "every", EVERY)
        if self.every is not None and self.every < 1:
            raise InputError(f"every {self.every}: give a number of frames, 1 or more.")
        if self.every_seconds is not None and not 0 < self.every_seconds < math.inf:
            raise InputError(f"every {self.every_seconds} s: give a time above 0 s.")
        if self.scene_change is not None and not 0 < self.scene_change < 1:
            raise InputError(f"scene change {self.scene_change}: give a share above 0, below 1.")
        end = math.inf if self.end is None else self.end
        if not 0 <= self.start < end:
            raise InputError(f"from {self.start} s to {self.end} s: is no time. Correct it.")

    def rule(self) -> Callable[[int, float, av.VideoFrame], bool]:
        """A new function that says of each frame, in order, whether to take it.

        Its arguments: the number of the frame from `start`, its seconds, the frame.
        """
        if self.every_seconds is not None:
            return self._timed(self.every_seconds)
        if self.scene_change is not None:
            return self._changed(self.scene_change)
        return lambda number, seconds, frame: number % self.every == 0

    def _timed(self, period: float) -> Callable[[int, float, av.VideoFrame], bool]:
        taken: int | None = None

        def take(number: int, seconds: float, frame: av.VideoFrame) -> bool:
            nonlocal taken
            # A little late is on time: 0.1 s is not exact.
            place = math.floor((seconds - self.start) / period + 1e-6)
            # Another period, not a later one: times may start anew where recordings were joined.
            wanted = place != taken
            taken = place
            return wanted

        return take

    def _changed(self, least: float) -> Callable[[int, float, av.VideoFrame], bool]:
        last: np.ndarray | None = None

        def take(number: int, seconds: float, frame: av.VideoFrame) -> bool:
            nonlocal last
            small = frame.reformat(_THUMBNAIL, _THUMBNAIL, "gray", interpolation="AREA")
            grey = small.to_ndarray().astype(np.float32) / 255
            wanted = last is None or float(np.abs(grey - last).mean()) >= least
            if wanted:
                last = grey
            return wanted

        return take


class TakenFrame(NamedTuple):
    """index: among all frames of the video, from 0. seconds: from its beginning. image: (H, W, 3)
    uint8 RGB, upright."""

    index: int
    seconds: float
    image: np.ndarray


class VideoReader:
    """Reads the selected frames of a video file, each once, in order. Use as a context manager.

    Damaged frames, and those after them up to the next one that depends on no other, are left out.
    """

    def __init__(self, path: str | os.PathLike, *, threads: int = 0):
        """threads: of the decoder; 0: one a CPU. InputError if it is no video."""
        from cpr_deploy.video_io import open_container

        self.path = os.fspath(path)
        self._container, self._stream = open_container(self.path)
        self._stream.codec_context.thread_count = threads
        # What went wrong, for people, in the order of time.
        self.problems: list[str] = []
        # Frames decoded so far.
        self.frames = 0

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    @property
    def length(self) -> int | None:
        """About how many frames it has, as the file says; None: it does not."""
        stream = self._stream
        if stream.frames:
            return stream.frames
        duration = stream.duration and float(stream.duration * stream.time_base)
        if not duration and self._container.duration:
            duration = self._container.duration / 1e6
        return round(duration * float(stream.average_rate or 25)) if duration else None

    def read(
        self, selection: Selection, *, on_frame: Callable[[], Any] = lambda: None
    ) -> Iterator[TakenFrame]:
        """The frames that `selection` takes.

        on_frame: called for each frame that was decoded, taken or not.

        Raises:
            InputError: frames of an absurd size; neither frames nor file have times.
        """
        from cpr_deploy.video_io import MAX_PIXELS, upright

        take = selection.rule()
        number = 0
        for index, seconds, frame in self._decode():
            on_frame()
            if seconds < selection.start:
                continue
            if selection.end is not None and seconds >= selection.end:
                return
            if frame.width * frame.height > MAX_PIXELS:
                raise InputError(
                    f"{self.path}: at {seconds:.3f} s: a frame of {frame.width}x{frame.height} px."
                    " The file is damaged: copy or record it again."
                )
            if take(number, seconds, frame):
                yield TakenFrame(index, seconds, upright(frame, "rgb24"))
            number += 1

    def _decode(self) -> Iterator[tuple[int, float, av.VideoFrame]]:
        """Number, seconds and frame, of those that are whole."""
        import av

        from cpr_deploy.video_io import error_reason

        stream = self._stream
        begin = float((stream.start_time or 0) * stream.time_base)
        rate = stream.average_rate or stream.guessed_rate
        seconds, packets, waiting = 0.0, 0, False
        try:
            for packet in self._container.demux(stream):
                packets += packet.size > 0
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError as error:
                    time = seconds
                    if packet.pts is not None:
                        time = float(packet.pts * packet.time_base) - begin
                    self._note(time, f"cannot be decoded ({error_reason(error)})")
                    waiting = True
                    continue
                for frame in frames:
                    index, self.frames = self.frames, self.frames + 1
                    if frame.pts is not None:
                        seconds = float(frame.pts * frame.time_base) - begin
                    elif rate:
                        seconds = float(index / rate)
                    else:
                        raise InputError(
                            f"{self.path}: neither its frames nor the file say their times. Pack it"
                            " into a container that does, such as MP4."
                        )
                    if frame.is_corrupt or packet.is_corrupt:
                        self._note(seconds, "is damaged or cut off")
                        waiting = True
                        continue
                    # Frames that are told by how they differ from a damaged one are damaged too.
                    waiting = waiting and not frame.key_frame
                    if not waiting:
                        yield index, seconds, frame
        except (av.error.FFmpegError, OSError) as error:
            self.problems.append(f"after {seconds:.3f} s: reading failed ({error_reason(error)}).")
            return
        if stream.frames and packets < stream.frames:
            self.problems.append(
                f"after {seconds:.3f} s: it ends with {packets} of {stream.frames}"
                " frames. It was cut off."
            )

    def _note(self, seconds: float, what: str) -> None:
        self.problems.append(f"at {seconds:.3f} s: a frame {what}.")
