"""Clips, records and runs for the tests of the stream runtime."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av

import spot_model
from cpr_deploy.feed import FeedSettings
from cpr_deploy.feed_group import FeedGroup
from cpr_deploy.point_localizer import PointLocalizer
from cpr_deploy.sources import SourceSpec
from cpr_deploy.stream import StreamOutputs, run_streams

VIDEO = spot_model.ROOT / "deploy" / "video.py"


def cells_of(index: int) -> list[tuple[int, int]]:
    """The bright cells of picture `index` of `pictures`: their number tells the picture."""
    return [(k % 16, k // 16) for k in range(1 + index % 50)]


def pictures(count: int, size=(96, 128)):
    return [spot_model.picture(*size, cells_of(index), noise=index) for index in range(count)]


def write_clip(path, images, *, fps=25, codec="libx264", format=None, **options) -> Path:
    """A video of `images`; options are the encoder's. Sizes may not change."""
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if codec == "mpeg4":
            stream.bit_rate = 8_000_000
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Path(path)


class Records(list):
    """Collects records."""

    write = list.append

    def of(self, kind: str) -> list[dict]:
        return [record for record in self if record["type"] == kind]


class Frames(list):
    """Collects the times of annotated frames, taking `seconds` for each."""

    def __init__(self, seconds: float = 0.0):
        self._seconds = seconds

    def write(self, image, seconds) -> None:
        time.sleep(self._seconds)
        self.append(seconds)


def localizer(**options) -> PointLocalizer:
    return PointLocalizer(spot_model.model_bytes(), threads=1, resize="none", **options)


def run(*sources, settings=None, frames=None, using=None, **options):
    """(summary, records) of a run over addresses or specs."""
    specs = [s if isinstance(s, SourceSpec) else SourceSpec(str(s)) for s in sources]
    records = Records()
    with FeedGroup(specs, settings or FeedSettings()) as group:
        outputs = StreamOutputs([records], frames or [])
        summary = run_streams(using or localizer(), group, outputs, **options)
    return summary, records


def counts(summary, stream=0):
    return summary.streams[stream].feed.counts


def start_video(*words, log=subprocess.PIPE) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(VIDEO), *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=log,
        env=spot_model.environment(),
    )


def run_video(*words, **options) -> subprocess.CompletedProcess:
    options.setdefault("env", spot_model.environment())
    return subprocess.run(
        [sys.executable, str(VIDEO), *map(str, words)],
        capture_output=True,
        timeout=120,
        **options,
    )


def read_records(path) -> Records:
    """Whole lines of a file that may still be growing."""
    lines = Path(path).read_text().split("\n")[:-1] if Path(path).exists() else []
    return Records(json.loads(line) for line in lines)


def wait_until(condition, seconds=20.0, what="what was waited for"):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError):
            if found := condition():
                return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come in {seconds} s")


def decoders_of(pid: int) -> list[int]:
    """Decoders whose parent is `pid`, and whatever child of it is a zombie."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) != pid:
                continue
            if state == "Z" or b"cpr_deploy.decoder_child" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


@contextlib.contextmanager
def no_decoder_left():
    """Asserts that no decoder of ours, alive or a zombie, is left that was not there before.

    Workers that other tests have left to the garbage collector may be.
    """
    before = decoders_of(os.getpid())
    yield
    assert set(decoders_of(os.getpid())) <= set(before)


def open_files(pid: int | str = "self") -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=120, env=spot_model.environment()
    )
