"""Localizers timed side by side: stages, percentiles, sustained rates, cold starts."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cpr_deploy.files import InputError
from cpr_deploy.latency import LatencyRecorder
from cpr_deploy.point_localizer import PointLocalizer

if TYPE_CHECKING:
    from cpr_deploy.sources import Frame, SourceError


@dataclasses.dataclass
class Candidate:
    """A localizer to be timed, and what its start has cost.

    load_seconds: until the session stood; first_seconds: the first frame after that.
    """

    label: str
    localizer: PointLocalizer
    load_seconds: float
    first_seconds: float = 0.0


def load(label: str, model: str | os.PathLike | bytes, **options: Any) -> Candidate:
    """A candidate; `options` are those of `PointLocalizer`."""
    begin = time.perf_counter()
    localizer = PointLocalizer(model, **options)
    return Candidate(label, localizer, time.perf_counter() - begin)


def read_frames(source: str, limit: int) -> list[np.ndarray]:
    """The first frames of a video or folder, (height, width, 3) uint8 BGR."""
    from cpr_deploy.sources import SourceError, open_source

    frames = []
    with contextlib.closing(open_source(source)) as opened:
        for item in opened:
            if isinstance(item, SourceError):
                raise InputError(item.message)
            frames.append(item.image)
            if len(frames) >= limit:
                break
    if not frames:
        raise InputError(f"{source}: holds no frame. Give another --source.")
    return frames


def interleave(functions: Sequence[Callable[[int], None]], rounds: int) -> list[list[float]]:
    """Seconds of each call of each function: all take turns, so that a change of the machine's
    speed hits all of them. A function gets the number of the round; every round begins with
    another one.
    """
    times: list[list[float]] = [[] for _ in functions]
    for number in range(rounds):
        for place in range(len(functions)):
            index = (place + number) % len(functions)
            begin = time.perf_counter()
            functions[index](number)
            times[index].append(time.perf_counter() - begin)
    return times


def time_models(
    candidates: Sequence[Candidate], frames: Sequence[np.ndarray], *, rounds: int, warm_up: int
) -> dict[str, dict[str, Any]]:
    """Candidates on frames in memory, in turn, a frame at a time: label -> figures.

    Per candidate: "stages" (percentiles in ms, see `LatencyRecorder.summary`, and "total"),
    "fps" (sustained: rounds / seconds of its own turns), "load_seconds", "first_frame_seconds",
    "points" (mean, max per frame), "flagged" frames, "providers", "precision".
    """
    for candidate in candidates:
        begin = time.perf_counter()
        candidate.localizer(frames[0])
        candidate.first_seconds = time.perf_counter() - begin
        for number in range(max(0, warm_up - 1)):
            candidate.localizer(frames[number % len(frames)])
    recorders = [LatencyRecorder() for _ in candidates]
    results: list[list] = [[] for _ in candidates]

    def turn(index: int) -> Callable[[int], None]:
        def run(number: int) -> None:
            frame = frames[number % len(frames)]
            results[index].append(candidates[index].localizer(frame, latency=recorders[index]))

        return run

    times = interleave([turn(index) for index in range(len(candidates))], rounds)
    figures = {}
    for candidate, recorder, seconds, found in zip(
        candidates, recorders, times, results, strict=True
    ):
        for value in seconds:
            recorder.add("total", value)
        counts = [len(result) for result in found]
        figures[candidate.label] = {
            "stages": recorder.summary(),
            "fps": len(seconds) / sum(seconds),
            "load_seconds": candidate.load_seconds,
            "first_frame_seconds": candidate.first_seconds,
            "points": {"mean": float(np.mean(counts)), "max": max(counts)},
            "flagged": sum(result.flags != 0 for result in found),
            "providers": list(candidate.localizer.providers),
            "precision": candidate.localizer.spec.precision,
        }
    return figures


def time_pipeline(
    candidate: Candidate, source: str, *, limit: int, write: bool
) -> dict[str, dict[str, float] | float]:
    """A candidate on a video or folder from the decoder on, frame by frame in one thread.

    Returns "stages" (with decode, and with `write` draw and write, the annotated video), "fps" of
    the whole, and "fps_without_decode" of all else.
    """
    from cpr_deploy.overlay import draw_points
    from cpr_deploy.sources import open_source
    from cpr_deploy.video_writer import open_video

    latency = LatencyRecorder()
    frames = 0
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        opened = stack.enter_context(contextlib.closing(open_source(source)))
        video = stack.enter_context(open_video(Path(folder) / "out.mp4")) if write else None
        begin = time.perf_counter()
        decoding = 0.0
        for frame, seconds in _timed(opened, limit):
            decoding += seconds
            latency.add("decode", seconds)
            result = candidate.localizer(frame.image, latency=latency)
            frames += 1
            if video is not None:
                with latency.stage("draw"):
                    image = draw_points(frame.image, result, candidate.localizer.class_names)
                with latency.stage("write"):
                    video.write(image, frame.pts)
        total = time.perf_counter() - begin
    if not frames:
        raise InputError(f"{source}: holds no frame. Give another --source.")
    return {
        "frames": frames,
        "stages": latency.summary(),
        "fps": frames / total,
        "fps_without_decode": frames / (total - decoding),
    }


def _timed(source: Iterable[Frame | SourceError], limit: int) -> Iterable[tuple[Frame, float]]:
    """Frames with the seconds that each took to come."""
    from cpr_deploy.sources import SourceError

    iterator = iter(source)
    for _ in range(limit):
        begin = time.perf_counter()
        item = next(iterator, None)
        if item is None:
            return
        if isinstance(item, SourceError):
            raise InputError(item.message)
        yield item, time.perf_counter() - begin


def machine() -> dict[str, Any]:
    """Versions and hardware that figures of speed belong to."""
    import onnxruntime

    from cpr_deploy.sessions import gpu_identity

    model = platform.processor()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    gpu = gpu_identity(0)
    versions = {}
    for package in ("opencv-python", "av"):  # neither is needed to run a model
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        **versions,
        "system": platform.platform(),
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "gpu": "none" if gpu.startswith("unknown") else gpu,
    }


def figures_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The result of `time_models` for people: a block of stages per candidate, then the ratios."""
    lines = []
    first = next(iter(figures))
    for label, row in figures.items():
        lines.append(
            f"{label} ({row['precision']}, {', '.join(row['providers'])}): {row['fps']:.2f} frames"
            f" a second; session {row['load_seconds']:.2f} s, first frame"
            f" {row['first_frame_seconds']:.2f} s; {row['points']['mean']:.0f} points a frame, at"
            f" most {row['points']['max']}; {row['flagged']} frames with flags"
        )
        lines += stage_lines(row["stages"])
    if len(figures) > 1:
        base = figures[first]["stages"]["total"]["p50"]
        lines.append(f"median of the whole frame, times as fast as {first}:")
        lines += [
            f"  {label}: {base / row['stages']['total']['p50']:.2f}x"
            for label, row in figures.items()
        ]
    return "\n".join(lines)


def stage_lines(stages: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A line per stage, in ms."""
    columns = ("p50", "p95", "p99")
    lines = ["  " + "stage, ms".ljust(14) + "".join(name.rjust(10) for name in columns)]
    for name, row in stages.items():
        cells = "".join(f"{row[column]:10.2f}" for column in columns)
        lines.append("  " + name.ljust(14) + cells)
    return lines
