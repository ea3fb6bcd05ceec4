#!/usr/bin/env python
"""The stream runtime against its own session, and its memory, on the CPU.

1. Frames a second of the whole pipeline (decode, network, records) on a 1280x720 clip, over those
   of the session alone on the same frames, alternating so that a change of the machine's speed
   hits both. Without --model: the slim head with random weights (speed does not depend on them).
2. Memory of the runtime and its decoder process over 20,000 frames of 128x96 with a tiny model, and
   over 200 frames of 1280x720: growth after the first tenth.

Exit code 1 if a target is missed: ratio at least 0.9, growth below 20 MB.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

from cpr_deploy.files import run_main, write_json

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "benchmarks"))

TARGET_RATIO = 0.9
TARGET_GROWTH = 20e6


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", metavar="FILE.onnx", help="measure this one")
    parser.add_argument("--clip", metavar="FILE", help="measure on this video")
    parser.add_argument("--frames", type=int, default=20, help="of the ratio (%(default)s)")
    parser.add_argument("--pairs", type=int, default=3, help="of the ratio (%(default)s)")
    parser.add_argument("--small-frames", type=int, default=20_000, help="0: not (%(default)s)")
    parser.add_argument("--large-frames", type=int, default=200, help="0: not (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of the session (%(default)s)")
    parser.add_argument("--output", metavar="FILE.json", help="also write the figures here")
    return parser.parse_args()


def write_clip(path: Path, frames: int, height: int, width: int) -> Path:
    """A clip with moving noise and some bright cells, as costly to decode as footage."""
    import av
    import numpy as np

    import spot_model

    rng = np.random.default_rng(0)
    cells = [(column, row) for column in range(1, 12, 3) for row in range(1, 10, 4)]
    ground = rng.integers(0, 120, (height + 64, width + 64, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for index in range(frames):
            shift = index % 64
            image = ground[shift : shift + height, shift : shift + width].copy()
            np.maximum(image, spot_model.picture(height, width, cells), out=image)
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


class Watcher:
    """Notes the time of each frame record, and now and then the memory of us and our decoder."""

    def __init__(self, every: int = 0):
        self.times: list[float] = []
        self.memory: list[int] = []
        self._every = every

    def write(self, record) -> None:
        if record["type"] != "frame":
            return
        self.times.append(time.perf_counter())
        if self._every and len(self.times) % self._every == 0:
            self.memory.append(held_bytes())


def held_bytes() -> int:
    import os

    import stream_parts
    from cpr_deploy.metrics_text import resident_bytes

    children = stream_parts.decoders_of(os.getpid())
    return resident_bytes() + sum(resident_bytes(pid) for pid in children)


def pipeline(localizer, clip: Path, records: Path, watcher: Watcher, frames: int | None) -> None:
    from cpr_deploy.feed_group import FeedGroup
    from cpr_deploy.sources import SourceSpec
    from cpr_deploy.stream import StreamOutputs, run_streams
    from cpr_deploy.stream_records import open_records

    with open_records(str(records)) as writer, FeedGroup([SourceSpec(str(clip))]) as group:
        run_streams(localizer, group, StreamOutputs([writer, watcher]), max_frames=frames)


def ratio(localizer, clip: Path, folder: Path, args: argparse.Namespace) -> dict:
    """Frames a second of pipeline and session; both from the second frame on."""
    from cpr_deploy.latency import LatencyRecorder
    from cpr_deploy.sources import Frame, open_source

    source = open_source(str(clip))
    images = []
    for item in source:
        if isinstance(item, Frame):
            images.append(item.image)
        if len(images) == args.frames:
            break
    source.close()
    localizer(images[0])
    rows = []
    for _ in range(args.pairs):
        watcher = Watcher()
        pipeline(localizer, clip, folder / "o.jsonl", watcher, len(images))
        whole = (len(watcher.times) - 1) / (watcher.times[-1] - watcher.times[0])
        seconds = 0.0
        for image in images:
            latency = LatencyRecorder()
            localizer([image], latency=latency)
            seconds += 1e-3 * latency.totals_ms()["infer"]
        rows.append({"pipeline": whole, "session": len(images) / seconds})
    return {
        "frame": list(images[0].shape[:2]),
        "pipeline_fps": statistics.median(row["pipeline"] for row in rows),
        "session_fps": statistics.median(row["session"] for row in rows),
        "ratio": statistics.median(row["pipeline"] / row["session"] for row in rows),
        "pairs": rows,
    }


def growth(localizer, clip: Path, folder: Path, frames: int) -> dict:
    """Memory after the first tenth, and the most after that."""
    watcher = Watcher(every=max(1, frames // 100))
    pipeline(localizer, clip, folder / "o.jsonl", watcher, frames)
    settled = watcher.memory[len(watcher.memory) // 10 :]
    return {
        "frames": len(watcher.times),
        "bytes": settled[0],
        "growth": max(settled) - settled[0],
        "fps": (len(watcher.times) - 1) / (watcher.times[-1] - watcher.times[0]),
    }


def main() -> int:
    args = parse_args()
    import spot_model
    from cpr_deploy.point_localizer import PointLocalizer

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = args.model
        if model is None:
            from benchmark_onnx import build

            _, model = build("realtime", folder)
        localizer = PointLocalizer(model, threads=args.threads, resize="none")
        tiny = PointLocalizer(spot_model.model_bytes(), threads=1, resize="none")
        clip = Path(args.clip or write_clip(folder / "clip.mp4", max(args.frames, 60), 720, 1280))
        figures = {"ratio": ratio(localizer, clip, folder, args)}
        if args.small_frames:
            small = write_clip(folder / "small.mp4", args.small_frames, 96, 128)
            figures["memory_small"] = growth(tiny, small, folder, args.small_frames)
        if args.large_frames:
            large = write_clip(folder / "large.mp4", args.large_frames, 720, 1280)
            figures["memory_large"] = growth(localizer, large, folder, args.large_frames)
    print(json.dumps(figures, indent=1))
    missed = []
    if figures["ratio"]["ratio"] < TARGET_RATIO:
        missed.append(f"pipeline at {figures['ratio']['ratio']:.2f} of the session")
    for key, row in figures.items():
        if row.get("growth", 0) > TARGET_GROWTH:
            missed.append(f"{key}: {row['growth'] / 1e6:.1f} MB more")
    if args.output:
        write_json(args.output, figures, indent=1)
    for text in missed:
        print(f"missed: {text}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))
