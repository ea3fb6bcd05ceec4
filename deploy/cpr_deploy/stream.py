"""From sources of frames to points, records and annotated video, with latencies per stage."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from cpr_deploy import stream_records
from cpr_deploy.annotator import Annotator
from cpr_deploy.decoder import DecoderError
from cpr_deploy.feed import StreamFeed, WaitingFrame
from cpr_deploy.feed_group import FeedGroup
from cpr_deploy.files import InputError, explain
from cpr_deploy.latency import LatencyRecorder
from cpr_deploy.model_spec import FLAG_NOT_FINITE
from cpr_deploy.point_localizer import PointLocalizer, PointResult
from cpr_deploy.regions import RegionLocalizer
from cpr_deploy.sessions import InferenceError
from cpr_deploy.sources import Frame
from cpr_deploy.stream_health import StreamEvent
from cpr_deploy.stream_status import StreamStatus
from cpr_deploy.tracking.settings import TrackSettings
from cpr_deploy.tracking.stream_tracks import RESET_EVENTS, StreamTracks, add_tracks
from cpr_deploy.tracking.tracker import FrameTracks
from cpr_deploy.tracking.zones import Zones

logger = logging.getLogger(__name__)

# Percentiles of latency are over so many frames, so that memory does not grow for hours.
LATENCY_WINDOW = 5_000
# Seconds between looks at a stop, and between calls of `on_status`.
_WAIT = 0.2
_STATUS_EVERY = 1.0


class FrameWriter(Protocol):
    """Takes annotated frames (height, width, 3) uint8 BGR and their seconds."""

    def write(self, image: np.ndarray, seconds: float | None) -> None: ...


class EntryWriter(Protocol):
    """Takes stream records."""

    def write(self, record: Mapping[str, Any]) -> None: ...


@dataclasses.dataclass
class StreamOutputs:
    """records: of all streams. frames: per source, in their order, those who get annotated frames.
    on_status: called about each second with the `StreamStatus` of every stream. zones: per source,
    drawn on its frames. raw_frames: per source, called with each of its frames (height, width, 3)
    before anything is drawn on it; they must copy what they keep. draw_in_thread: draw and write
    frames beside the work; of a live source those are left out for which there is no time."""

    records: list[EntryWriter] = dataclasses.field(default_factory=list)
    frames: list[list[FrameWriter]] = dataclasses.field(default_factory=list)
    on_status: list[Callable[[list[StreamStatus]], None]] = dataclasses.field(default_factory=list)
    zones: list[Zones] = dataclasses.field(default_factory=list)
    raw_frames: list[Callable[[np.ndarray], None]] = dataclasses.field(default_factory=list)
    draw_in_thread: bool = True


@dataclasses.dataclass
class StreamSummary:
    """latency: of the newest frames of all streams; streams: the status of each at the end; errors:
    messages of sources and outputs that failed; undrawn: frames that the annotated outputs of live
    sources leave out as they are slower; failed: ended as the network failed; interrupted: by
    Ctrl-C; stopped: by `FeedGroup.stop`."""

    latency: LatencyRecorder
    streams: list[StreamStatus]
    errors: list[str] = dataclasses.field(default_factory=list)
    undrawn: int = 0
    failed: bool = False
    interrupted: bool = False
    stopped: bool = False

    def _sum(self, name: str) -> int:
        return sum(getattr(status.feed.counts, name) for status in self.streams)

    @property
    def frames(self) -> int:
        return self._sum("processed")

    @property
    def points(self) -> int:
        return self._sum("points")

    @property
    def flagged(self) -> int:
        return self._sum("flagged")

    @property
    def dropped(self) -> int:
        return self._sum("dropped")


def run_streams(
    localizer: PointLocalizer | RegionLocalizer,
    group: FeedGroup,
    outputs: StreamOutputs | None = None,
    *,
    max_frames: int | None = None,
    max_age_ms: float = 500.0,
    show_scores: bool = True,
    tracking: TrackSettings | None = None,
) -> StreamSummary:
    """Runs `localizer` on the frames of an entered `group` until its sources end, or Ctrl-C.

    Frames of several streams that wait at the same time go through the network together. A result
    of a live source that is older than `max_age_ms` when it is known is marked stale. An error of
    a source becomes a record, and the work goes on with the others. If the network itself fails,
    every stream gets an error record and the run ends. With `tracking` each stream has tracks of
    its own, which end where it is interrupted; a frozen picture, and one of which the network knows
    nothing, is not tracked.

    Raises:
        RuntimeError: a frame is not accounted for; that is a defect.
    """
    run = _Run(localizer, group, outputs or StreamOutputs(), max_age_ms, show_scores, tracking)
    try:
        try:
            run.loop(max_frames)
        except InferenceError as error:
            run.fail(str(error))
        except KeyboardInterrupt:
            # What is done is kept: the caller closes the files as after a normal end.
            run.summary.interrupted = True
        run.end()
    finally:
        run.finish_drawing()
    return run.summary


class _Run:
    def __init__(
        self,
        localizer: PointLocalizer | RegionLocalizer,
        group: FeedGroup,
        outputs: StreamOutputs,
        max_age_ms: float,
        show_scores: bool,
        tracking: TrackSettings | None,
    ):
        self._localizer = localizer
        self._group = group
        self._outputs = outputs
        self._max_age_ms = max_age_ms
        self._show_scores = show_scores
        self._several = len(group.feeds) > 1
        self._forgiving = any(feed.live for feed in group.feeds)
        self._status = {
            id(feed): StreamStatus(number, feed, localizer.class_names)
            for number, feed in enumerate(group.feeds, 1)
        }
        self._tracks: dict[int, StreamTracks] = {}
        if tracking is not None:
            for index, feed in enumerate(group.feeds):
                drawn = bool(outputs.frames and outputs.frames[index])
                names = len(localizer.class_names)
                self._tracks[id(feed)] = StreamTracks(tracking, names, traced=drawn)
        self._annotators: dict[int, Annotator] = {}
        self._told = 0.0
        latency = LatencyRecorder(LATENCY_WINDOW)
        self.summary = StreamSummary(latency, list(self._status.values()))

    def loop(self, max_frames: int | None) -> None:
        group = self._group
        with tqdm(
            total=_length(group.feeds, max_frames), unit="frame", disable=not sys.stderr.isatty()
        ) as progress:
            while not group.finished:
                if group.stopping.is_set():
                    self.summary.stopped = True
                    return
                frames = []
                for feed, item in group.take(_WAIT):
                    if isinstance(item, WaitingFrame):
                        frames.append((feed, item))
                    else:
                        self._tell(feed, item)
                left = None if max_frames is None else max_frames - self.summary.frames
                progress.update(self._process(frames, left))
                for annotator in self._annotators.values():
                    annotator.check()
                self._tell_status()
                if max_frames is not None and self.summary.frames >= max_frames:
                    return

    def fail(self, message: str) -> None:
        """Ends all streams with an error; frames that wait are dropped."""
        self.summary.failed = True
        for status in self._status.values():
            feed = status.feed
            feed.fail(f"{feed.name}: {message}")
            while feed.waiting:
                for event in feed.take():
                    self._tell(feed, event)

    def end(self) -> None:
        for status in self._status.values():
            status.feed.stop()
        for status in self._status.values():
            feed = status.feed
            feed.join()
            for item in feed.remaining_events():
                self._tell(feed, item)
            counts = feed.counts
            self._record(
                feed, stream_records.end_record(feed.name, counts.processed, counts.errors)
            )
        self._tell_status(now=True)
        self._group.check()

    # --- frames -----------------------------------------------------------------------------------

    def _process(self, waiting: list[tuple[StreamFeed, WaitingFrame]], left: int | None) -> int:
        """Runs the frames that wait; how many that were. Beyond `left` they are not taken."""
        batch: list[tuple[StreamFeed, WaitingFrame, Frame]] = []
        for feed, item in waiting:
            if left is not None and len(batch) >= left:
                feed.give_back(item)
                continue
            try:
                batch.append((feed, item, item.take()))
            except DecoderError as error:
                feed.done(lost=True)
                logger.warning("%s: %s", feed.name, error)
        return self._localize(batch) if batch else 0

    def _localize(self, batch: list[tuple[StreamFeed, WaitingFrame, Frame]]) -> int:
        latency = LatencyRecorder()
        try:
            results = self._localizer([frame.image for _, _, frame in batch], latency=latency)
        except InputError as error:
            if len(batch) > 1:  # the others must not suffer for one
                return sum(self._localize([one]) for one in batch)
            feed = batch[0][0]
            feed.done(lost=True)
            feed.fail(f"{feed.name}: {error}")
            return 0
        except InferenceError:
            for feed, _, _ in batch:
                feed.done(lost=True)
            raise
        stages = latency.totals_ms()
        for (feed, item, frame), result in zip(batch, results, strict=True):
            self._deliver(feed, item, frame, result, stages)
        return len(batch)

    def _deliver(
        self,
        feed: StreamFeed,
        item: WaitingFrame,
        frame: Frame,
        result: PointResult,
        network_ms: Mapping[str, float],
    ) -> None:
        decode_ms = round(1e3 * frame.decode_seconds, 3)
        stages = {"decode": decode_ms, **network_ms}
        tracks = self._track(feed, item, frame, result, stages)
        age_ms = 1e3 * (time.monotonic() - frame.clock) if feed.live else None
        stale = age_ms is not None and age_ms > self._max_age_ms
        for stage, milliseconds in stages.items():
            self.summary.latency.add(stage, 1e-3 * milliseconds)
        if item.dropped:
            event = StreamEvent("drop", item.index, {"count": item.dropped})
            self._tell(feed, event)
        record = stream_records.frame_record(
            source=feed.name,
            file=frame.name,
            frame=frame.index,
            pts=frame.pts,
            captured_at=frame.captured_at,
            latency_ms=stages,
            shape=frame.image.shape,
            result=result,
            class_names=self._localizer.class_names,
            age_ms=age_ms,
            dropped=item.dropped,
            stale=stale,
            frozen=item.frozen,
        )
        if tracks is not None:
            add_tracks(record, tracks, self._localizer.class_names)
        self._record(feed, record)
        status = self._status[id(feed)]
        if self._outputs.raw_frames:
            self._outputs.raw_frames[status.number - 1](frame.image)
        status.add(frame, result, age_ms, stale=stale)
        feed.done()
        doubtful = stale or item.frozen
        self._draw(status, frame, result, tracks, sum(stages.values()), age_ms, doubtful)

    def _track(
        self,
        feed: StreamFeed,
        item: WaitingFrame,
        frame: Frame,
        result: PointResult,
        stages: dict[str, float],
    ) -> FrameTracks | None:
        """Tracks at this frame, if there are any; notes what they took."""
        stream = self._tracks.get(id(feed))
        if stream is None or item.frozen or result.flags & FLAG_NOT_FINITE:
            return None
        begin = time.perf_counter()
        seconds = _time_of(feed, frame)
        tracks = stream.update(result, seconds, frame.image)
        stages["track"] = round(1e3 * (time.perf_counter() - begin), 3)
        return tracks

    def _draw(
        self,
        status: StreamStatus,
        frame: Frame,
        result: PointResult,
        tracks: FrameTracks | None,
        total_ms: float,
        age_ms: float | None,
        doubtful: bool,
    ) -> None:
        annotator = self._annotator(status)
        if annotator is None:
            return
        feed = status.feed
        text = [f"{total_ms:.0f} ms"]
        if age_ms is not None:
            text += [f"age {age_ms:.0f} ms", f"blind {feed.blind_seconds():.1f} s"]
        if result.flags & FLAG_NOT_FINITE:
            text.append("NO RESULT")
        if doubtful:
            text.append("STALE")
        seconds = _time_of(feed, frame)
        traces = None if tracks is None else self._tracks[id(feed)].traces
        annotator.draw(frame.image, result, ", ".join(text), seconds, tracks, traces)

    def _annotator(self, status: StreamStatus) -> Annotator | None:
        outputs, index = self._outputs, status.number - 1
        if not outputs.frames or not outputs.frames[index]:
            return None
        if index not in self._annotators:
            self._annotators[index] = Annotator(
                status.feed.name,
                self._localizer.class_names,
                outputs.frames[index],
                self._write,
                self.summary.latency,
                show_scores=self._show_scores,
                zones=outputs.zones[index] if outputs.zones else None,
                thread=outputs.draw_in_thread,
                drop=status.feed.live,
            )
        return self._annotators[index]

    def finish_drawing(self) -> None:
        """Waits until all frames are drawn and written; the first error is raised."""
        with contextlib.ExitStack() as stack:
            for annotator in self._annotators.values():
                stack.callback(annotator.close)
        self.summary.undrawn = sum(one.undrawn for one in self._annotators.values())

    # --- records ----------------------------------------------------------------------------------

    def _tell(self, feed: StreamFeed, event: StreamEvent) -> None:
        if event.type == "error":
            self.summary.errors.append(str(event.fields["message"]))
        if event.type in RESET_EVENTS and id(feed) in self._tracks:
            self._tracks[id(feed)].reset()
        self._record(
            feed,
            stream_records.event_record(event.type, feed.name, event.frame, **event.fields),
        )

    def _record(self, feed: StreamFeed, record: dict[str, Any]) -> None:
        if self._several:
            record = {**record, "stream": self._status[id(feed)].number}
        for writer in list(self._outputs.records):
            self._write(self._outputs.records, writer, record)

    def _write(self, writers: list, writer: Any, *what: Any) -> None:
        """An output that fails ends a run on files. With live sources the others go on: a full disk
        must not make a lookout blind."""
        try:
            writer.write(*what)
        except Exception as error:
            if not self._forgiving or isinstance(error, BrokenPipeError):
                raise
            writers.remove(writer)
            message = explain(error) or str(error) or repr(error)
            # What no user can mend (an encoder, a window) is told in full.
            trace = None if isinstance(error, (InputError, OSError)) else error
            logger.error("an output failed: %s", message, exc_info=trace)
            self.summary.errors.append(message)
            if not self._outputs.records and not any(self._outputs.frames):
                raise

    def _tell_status(self, now: bool = False) -> None:
        if now or time.monotonic() - self._told >= _STATUS_EVERY:
            self._told = time.monotonic()
            for call in self._outputs.on_status:
                with contextlib.suppress(OSError):  # a full disk: the next time, perhaps
                    call(self.summary.streams)


def _time_of(feed: StreamFeed, frame: Frame) -> float | None:
    """Seconds that do not go back: times of a live source begin anew when it comes back, our clock
    does not."""
    return frame.clock if feed.live else frame.pts


def _length(feeds: Sequence[StreamFeed], max_frames: int | None) -> int | None:
    lengths = [feed.length for feed in feeds]
    if any(length is None for length in lengths):
        return max_frames
    total = sum(-(-length // feed.spec.every) for length, feed in zip(lengths, feeds, strict=True))
    return total if max_frames is None else min(total, max_frames)
