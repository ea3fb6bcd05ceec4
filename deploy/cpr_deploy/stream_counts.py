"""Counts of one stream, and the rule that they must always obey."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class StreamCounts:
    """Frames: decoded by the source; skipped, because only every Nth was asked for; dropped,
    because a newer one had come; processed. Of the processed: late (older than the age limit when
    their points were known) and flagged. Events: gaps, stale, frozen, reconnects, damaged (frames
    that could not be decoded, which are not among the decoded) and errors."""

    decoded: int = 0
    skipped: int = 0
    dropped: int = 0
    processed: int = 0
    late: int = 0
    flagged: int = 0
    points: int = 0
    gaps: int = 0
    stale: int = 0
    frozen: int = 0
    reconnects: int = 0
    damaged: int = 0
    errors: int = 0

    def check(self, in_flight: int, name: str) -> None:
        """RuntimeError unless every decoded frame is accounted for. `in_flight` is counted where
        the frames are."""
        if self.decoded != self.processed + self.dropped + self.skipped + in_flight:
            raise RuntimeError(
                f"{name}: {self.decoded} frames decoded, but {self.processed} processed +"
                f" {self.dropped} dropped + {self.skipped} skipped + {in_flight} in flight"
            )
