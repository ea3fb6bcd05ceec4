"""Latency per stage of a pipeline, with percentiles."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator

import numpy as np

PERCENTILES = (50, 95, 99)


class LatencyRecorder:
    """Collects seconds per named stage; the newest `window` samples of each are kept.

    One recorder belongs to one thread, or to several that use stages of their own.
    """

    def __init__(self, window: int = 100_000):
        self._window = window
        self._samples: dict[str, deque[float]] = {}
        self._counts: dict[str, int] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times the block. A block that raises is not counted."""
        begin = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - begin)

    def add(self, name: str, seconds: float) -> None:
        if name not in self._samples:
            self._samples[name] = deque(maxlen=self._window)
        self._samples[name].append(seconds)
        self._counts[name] = self._counts.get(name, 0) + 1

    def last_ms(self) -> dict[str, float]:
        """The newest sample of each stage, in milliseconds."""
        return {name: round(1e3 * samples[-1], 3) for name, samples in self._samples.items()}

    def totals_ms(self) -> dict[str, float]:
        """The sum of all samples of each stage, in milliseconds."""
        return {name: round(1e3 * sum(samples), 3) for name, samples in self._samples.items()}

    def summary(self) -> dict[str, dict[str, float]]:
        """Per stage: count, mean, p50, p95, p99 and max; milliseconds, in order of appearance."""
        result = {}
        for name, samples in self._samples.items():
            values = 1e3 * np.array(samples)
            row = {"count": self._counts[name], "mean": float(values.mean())}
            for percentile, value in zip(
                PERCENTILES, np.percentile(values, PERCENTILES), strict=True
            ):
                row[f"p{percentile}"] = float(value)
            row["max"] = float(values.max())
            result[name] = row
        return result

    def table(self) -> str:
        """The summary as text for people."""
        columns = ["count", "mean", *(f"p{percentile}" for percentile in PERCENTILES), "max"]
        lines = ["stage, ms".ljust(14) + "".join(column.rjust(10) for column in columns)]
        for name, row in self.summary().items():
            cells = [f"{row['count']:d}"] + [f"{row[column]:.2f}" for column in columns[1:]]
            lines.append(name.ljust(14) + "".join(cell.rjust(10) for cell in cells))
        return "\n".join(lines)
