"""Counters in the text format of Prometheus, for its node exporter's textfile collector or /metrics
of the web page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cpr_deploy.files import write_text
from cpr_deploy.stream_status import AGE_BUCKETS, StreamStatus

# Name of the metric, type, help, key of the snapshot.
_METRICS = (
    ("frames_decoded_total", "counter", "Frames that the source gave.", "decoded"),
    ("frames_processed_total", "counter", "Frames whose points are known.", "processed"),
    ("frames_dropped_total", "counter", "Frames left out as a newer one had come.", "dropped"),
    ("frames_skipped_total", "counter", "Frames left out by --every.", "skipped"),
    ("frames_damaged_total", "counter", "Frames that could not be decoded.", "damaged"),
    ("frames_late_total", "counter", "Processed frames older than --max-age-ms.", "late"),
    ("frames_flagged_total", "counter", "Frames with flags of the network.", "flagged"),
    ("frames_in_flight", "gauge", "Frames decoded and not yet processed.", "in_flight"),
    ("points_total", "counter", "Points found.", "points"),
    ("gaps_total", "counter", "Pauses of a live source.", "gaps"),
    ("stale_total", "counter", "Reports of a silent source.", "stale"),
    ("frozen_total", "counter", "Reports of a picture that does not change.", "frozen"),
    ("reconnects_total", "counter", "Times that a lost source came back.", "reconnects"),
    ("errors_total", "counter", "Failures for good.", "errors"),
    ("blind_seconds_total", "counter", "Seconds without a picture.", "blind_seconds"),
    ("frames_per_second", "gauge", "Frames processed in a second, of late.", "frames_per_second"),
)
_AGE = "result_age_seconds"


def metrics_text(statuses: Sequence[StreamStatus]) -> str:
    """All counters of all streams."""
    snapshots = [status.snapshot() for status in statuses]
    labels = [_labels(str(item["stream"]), item["source"]) for item in snapshots]
    lines = []
    for name, kind, text, key in _METRICS:
        lines += [f"# HELP cpr_{name} {text}", f"# TYPE cpr_{name} {kind}"]
        lines += [
            f"cpr_{name}{{{label}}} {item[key]}"
            for label, item in zip(labels, snapshots, strict=True)
        ]
    lines += ["# HELP cpr_up 1 if the stream shows the present.", "# TYPE cpr_up gauge"]
    lines += [
        f"cpr_up{{{label}}} {int(item['state'] == 'online')}"
        for label, item in zip(labels, snapshots, strict=True)
    ]
    lines += [
        f"# HELP cpr_{_AGE} From capture to points, of live sources.",
        f"# TYPE cpr_{_AGE} histogram",
    ]
    for label, status in zip(labels, statuses, strict=True):
        lines += _histogram(label, status)
    lines += [
        "# HELP cpr_resident_bytes Memory of the process in use.",
        "# TYPE cpr_resident_bytes gauge",
        f"cpr_resident_bytes {resident_bytes()}",
    ]
    return "\n".join(lines) + "\n"


def _labels(stream: str, source: str) -> str:
    escaped = source.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'stream="{stream}",source="{escaped}"'


def _histogram(label: str, status: StreamStatus) -> list[str]:
    counts, total = status.age_histogram()
    lines, below = [], 0
    for bound, count in zip((*AGE_BUCKETS, "+Inf"), counts, strict=True):
        below += count
        lines.append(f'cpr_{_AGE}_bucket{{{label},le="{bound}"}} {below}')
    return [*lines, f"cpr_{_AGE}_sum{{{label}}} {total}", f"cpr_{_AGE}_count{{{label}}} {below}"]


def resident_bytes(pid: int | str = "self") -> int:
    """Memory that a process holds; 0 where the system does not tell."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


class MetricsFile:
    """Renews a file as a whole, so that no reader sees half of it."""

    def __init__(self, path: str | os.PathLike):
        self._path = path

    def __call__(self, statuses: Sequence[StreamStatus]) -> None:
        write_text(self._path, metrics_text(statuses))
