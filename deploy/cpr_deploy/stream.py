"""From a source of frames to points, records and annotated video, with latencies per stage."""

from __future__ import annotations

import dataclasses
import sys

from tqdm import tqdm

from cpr_deploy import stream_records
from cpr_deploy.latency import LatencyRecorder
from cpr_deploy.overlay import draw_points
from cpr_deploy.point_localizer import PointLocalizer
from cpr_deploy.stream_records import RecordWriter
from cpr_deploy.video_io import (
    GAP_SECONDS,
    Delivery,
    Frame,
    FrameReader,
    FrameSource,
    SourceError,
    VideoWriter,
)

STAGES_TO_POINTS = ("decode", "preprocess", "infer", "postprocess")


@dataclasses.dataclass
class StreamSummary:
    """frames: processed; points: found in all; flagged: frames with flags; dropped: frames of a
    live source that were not processed; errors: messages of the source."""

    latency: LatencyRecorder
    frames: int = 0
    points: int = 0
    flagged: int = 0
    dropped: int = 0
    errors: list[str] = dataclasses.field(default_factory=list)
    interrupted: bool = False


def run_stream(
    localizer: PointLocalizer,
    source: FrameSource,
    *,
    video: VideoWriter | None = None,
    records: RecordWriter | None = None,
    every: int = 1,
    max_frames: int | None = None,
    show_scores: bool = True,
) -> StreamSummary:
    """Runs `localizer` on every `every`th frame of `source` until it ends or Ctrl-C.

    The source is read in a thread of its own. Stages: decode, preprocess, infer, postprocess, draw,
    encode. An error of the source becomes a record and the work goes on with what follows.
    """
    stream = _Stream(localizer, source, video, records, show_scores)
    summary = stream.summary
    length = None if source.length is None else -(-source.length // every)
    if max_frames is not None:
        length = max_frames if length is None else min(length, max_frames)
    progress = tqdm(total=length, unit="frame", disable=not sys.stderr.isatty())
    try:
        with progress, FrameReader(source, every=every) as reader:
            for delivery in reader:
                if isinstance(delivery.item, SourceError):
                    stream.fail(delivery.item)
                    continue
                stream.process(delivery.item, delivery)
                progress.update()
                if max_frames is not None and summary.frames >= max_frames:
                    break
    except KeyboardInterrupt:
        # What is done is kept: the caller closes the files as after a normal end.
        summary.interrupted = True
    stream.record(stream_records.end_record(source.name, summary.frames, len(summary.errors)))
    return summary


class _Stream:
    """Where one stream goes, and what has come of it so far."""

    def __init__(
        self,
        localizer: PointLocalizer,
        source: FrameSource,
        video: VideoWriter | None,
        records: RecordWriter | None,
        show_scores: bool,
    ):
        self.summary = StreamSummary(LatencyRecorder())
        self._localizer = localizer
        self._source = source
        self._video = video
        self._records = records
        self._show_scores = show_scores
        self._frames_read = 0
        self._last_captured: float | None = None

    def record(self, entry: dict) -> None:
        if self._records is not None:
            self._records.write(entry)

    def fail(self, error: SourceError) -> None:
        self.summary.errors.append(error.message)
        index = error.index if error.index >= 0 else self._frames_read
        self.record(stream_records.error_record(self._source.name, index, error.message))

    def process(self, frame: Frame, delivery: Delivery) -> None:
        self._note_losses(frame, delivery.dropped)
        latency, localizer = self.summary.latency, self._localizer
        latency.add("decode", delivery.decode_seconds)
        result = localizer(frame.image, latency=latency)
        newest = latency.last_ms()
        stages = {stage: newest[stage] for stage in STAGES_TO_POINTS}
        self.record(
            stream_records.frame_record(
                source=self._source.name,
                file=frame.name,
                frame=frame.index,
                pts=frame.pts,
                captured_at=frame.captured_at,
                latency_ms=stages,
                result=result,
                class_names=localizer.class_names,
            )
        )
        self.summary.frames += 1
        self.summary.points += len(result)
        self.summary.flagged += result.flags != 0
        if self._video is not None:
            with latency.stage("draw"):
                image = draw_points(
                    frame.image,
                    result,
                    localizer.class_names,
                    status=f"{sum(stages.values()):.0f} ms",
                    show_scores=self._show_scores,
                )
            with latency.stage("encode"):
                self._video.write(image, frame.pts)

    def _note_losses(self, frame: Frame, dropped: int) -> None:
        name = self._source.name
        if dropped:
            self.summary.dropped += dropped
            self.record(stream_records.drop_record(name, frame.index, dropped))
        if self._source.live and self._last_captured is not None and not dropped:
            silence = frame.captured_at - self._last_captured
            if silence > GAP_SECONDS * (frame.index + 1 - self._frames_read):
                self.record(stream_records.gap_record(name, frame.index, silence))
        self._last_captured = frame.captured_at
        self._frames_read = frame.index + 1
