"""Whether a live stream shows the world as it is now: silence, frozen pictures, absurd frame rates.

Times are seconds on the monotonic clock: a jump of the wall clock changes nothing.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

from cpr_deploy.files import InputError

# A pause of this many usual intervals is a gap, if it is longer than `gap_after`.
GAP_INTERVALS = 3.0
# The usual interval is the median of so many.
_INTERVALS = 9
# So many seconds in a row above `max_fps` are too many; streams may begin with a burst.
OVERFLOW_SECONDS = 3


@dataclasses.dataclass(frozen=True)
class HealthSettings:
    """Seconds: gap_after without a frame are a gap; every stale_after of silence a `stale` record;
    after restart_after the source is opened anew; frozen_after of the same picture are `frozen`.
    max_fps: a live source that gives more is out of order (replays of a frozen picture do)."""

    gap_after: float = 1.0
    stale_after: float = 5.0
    restart_after: float = 20.0
    frozen_after: float = 10.0
    max_fps: float = 100.0

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if not 0 < value < 1e9:
                raise InputError(f"{name} {value}: a number above 0 is needed.")


@dataclasses.dataclass(frozen=True)
class StreamEvent:
    """Something that a record tells; `fields` as in `stream_records`."""

    type: str
    frame: int
    fields: Mapping[str, Any]


class StreamHealth:
    """Watches one stream, from `now` on."""

    def __init__(self, settings: HealthSettings, now: float):
        self._settings = settings
        self._last_frame: float | None = None
        self._silent_since = now
        self._told_until = now
        self._intervals: deque[float] = deque(maxlen=_INTERVALS)
        self._size: tuple[int, int] | None = None
        self._same_since = now
        self._frozen_told: float | None = None
        self._second = now
        self._in_second = 0
        self._hasty_seconds = 0
        self._damaged = 0
        self.stale = False
        self.frozen = False
        self.blind_seconds = 0.0

    def silence(self, now: float) -> float:
        """Seconds since the last frame, or since the beginning."""
        return now - self._silent_since

    def blind(self, now: float) -> float:
        """Seconds without a picture so far, the present silence included if it is one."""
        return self.blind_seconds + (self.silence(now) if self.stale else 0.0)

    def reopened(self) -> None:
        """The source was opened anew: its frame counter and rate begin again."""
        self._damaged = 0
        self._intervals.clear()
        self._hasty_seconds = self._in_second = 0

    def on_tick(self, frame: int, now: float) -> list[StreamEvent]:
        """Without a frame: `stale` each time another `stale_after` seconds have passed."""
        if now - self._told_until < self._settings.stale_after:
            return []
        self._told_until = now
        self.stale = True
        return [StreamEvent("stale", frame, {"seconds": round(self.silence(now), 3)})]

    def on_frame(
        self,
        frame: int,
        now: float,
        *,
        same: bool,
        size: tuple[int, int],
        damaged: int,
        held_up: bool = False,
    ) -> list[StreamEvent]:
        """With a frame of `size` (width, height): `gap` (unless it was we who held it up),
        `damaged`, `resolution`, `frozen`."""
        events = [
            *([] if held_up else self._gap(frame, now)),
            *self._damage(frame, damaged),
            *self._resolution(frame, size),
            *self._still(frame, now, same),
        ]
        self._count(now)
        self._last_frame = self._silent_since = self._told_until = now
        self.stale = False
        return events

    def _gap(self, frame: int, now: float) -> list[StreamEvent]:
        silence = self.silence(now)
        if self._last_frame is None:
            self.blind_seconds += silence if self.stale else 0.0
            return []
        usual = statistics.median(self._intervals) if self._intervals else 0.0
        self._intervals.append(silence)
        if silence < max(self._settings.gap_after, GAP_INTERVALS * usual):
            return []
        self.blind_seconds += silence
        return [StreamEvent("gap", frame, {"seconds": round(silence, 3)})]

    def _damage(self, frame: int, damaged: int) -> list[StreamEvent]:
        new, self._damaged = damaged - self._damaged, damaged
        return [StreamEvent("damaged", frame, {"count": new})] if new > 0 else []

    def _resolution(self, frame: int, size: tuple[int, int]) -> list[StreamEvent]:
        before, self._size = self._size, size
        if before in (None, size):
            return []
        fields = {"width": size[0], "height": size[1]}
        fields |= {"old_width": before[0], "old_height": before[1]}
        return [StreamEvent("resolution", frame, fields)]

    def _still(self, frame: int, now: float, same: bool) -> list[StreamEvent]:
        if not same:
            self._same_since, self._frozen_told, self.frozen = now, None, False
            return []
        told = self._same_since if self._frozen_told is None else self._frozen_told
        if now - told < self._settings.frozen_after:
            return []
        self._frozen_told, self.frozen = now, True
        return [StreamEvent("frozen", frame, {"seconds": round(now - self._same_since, 3)})]

    def _count(self, now: float) -> None:
        if now - self._second < 1.0:
            self._in_second += 1
            return
        rate = self._in_second / (now - self._second)
        self._hasty_seconds = self._hasty_seconds + 1 if rate > self._settings.max_fps else 0
        self._second, self._in_second = now, 1

    @property
    def overflow(self) -> bool:
        """Whether the frame rate has been absurd for some seconds."""
        return self._hasty_seconds >= OVERFLOW_SECONDS
