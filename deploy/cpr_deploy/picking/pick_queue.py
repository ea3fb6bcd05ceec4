"""Hands out one target at a time to each of several arms, and none when it cannot see.

Times are seconds on the clock of the frames' stamps. Places are compared in the base frame, as the
same object has another id in each frame.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from cpr_deploy.picking.results import PickResult, PickTarget, Refusal, RefusalCode
from cpr_deploy.picking.settings import MAX_AHEAD, check_number

# How many ends of targets are kept to answer late arms.
_REMEMBERED = 1000


@dataclasses.dataclass(frozen=True)
class QueueSettings:
    """max_age: nothing is handed out if the newest frame is older (dead man's switch), s.
    hold_seconds: after this a target that was neither acknowledged nor rejected is free for others:
    longer than the longest motion of an arm. reject_seconds: so long a rejected place is left
    alone. exclusion: other arms get nothing within this distance of a target that is held, m; also
    the distance at which two sightings are one object.
    """

    max_age: float = 0.5
    hold_seconds: float = 30.0
    reject_seconds: float = 5.0
    exclusion: float = 0.05

    def __post_init__(self):
        for name in ("max_age", "hold_seconds", "exclusion"):
            check_number(name, getattr(self, name), above=0)
        check_number("reject_seconds", self.reject_seconds)


@dataclasses.dataclass(frozen=True)
class _Hold:
    target: PickTarget
    arm: str
    since: float


@dataclasses.dataclass(frozen=True)
class _Bar:
    """A place that is not handed out to frames taken, or at times, before."""

    position: np.ndarray
    frames_after: float
    until: float


class PickQueue:
    """The targets of the newest frame, what arms hold of them, and places that are barred.

    Safe to use from several threads.
    """

    def __init__(self, settings: QueueSettings | None = None):
        self.settings = settings or QueueSettings()
        self._lock = threading.RLock()
        self._result: PickResult | None = None
        self._held: dict[str, _Hold] = {}
        self._bars: list[_Bar] = []
        self._ended: deque[tuple[str, str]] = deque(maxlen=_REMEMBERED)
        self._counts = {"handed_out": 0, "acknowledged": 0, "rejected": 0, "timed_out": 0}

    def update(self, result: PickResult) -> None:
        """Takes the targets of a frame in place of the last one's; older frames are passed over.

        A frame that is not live takes the targets away at once.
        """
        with self._lock:
            if self._result is None or not result.live or result.stamp >= self._result.stamp:
                self._result = result

    def take(
        self, now: float, arm: str, order: Callable[[PickTarget], float] | None = None
    ) -> PickTarget | Refusal:
        """The next target for an arm, which holds it until it acknowledges or rejects it.

        order: a function of the target, smallest first, instead of the picker's order. The refusal
        is stale, frozen or another of the frame's codes, no_target, all_taken or arm_busy.
        """
        with self._lock:
            self._expire(now)
            refusal = self._blind(now)
            if refusal:
                return refusal
            for hold in self._held.values():
                if hold.arm == arm:
                    why = f"{arm} holds {hold.target.id}: acknowledge or reject it first"
                    return Refusal(RefusalCode.ARM_BUSY, why)
            targets = self._result.targets
            if order is not None:
                targets = sorted(targets, key=order)
            for target in targets:
                if self._is_free(target, now):
                    self._held[target.id] = _Hold(target, arm, now)
                    self._counts["handed_out"] += 1
                    return target
            if targets:
                why = f"{len(targets)} targets, all held by arms, just picked or rejected"
                return Refusal(RefusalCode.ALL_TAKEN, why, self._result.stamp)
            why = f"none in the newest frame, {len(self._result.refusals)} points were refused"
            return Refusal(RefusalCode.NO_TARGET, why, self._result.stamp)

    def acknowledge(self, id: str, *, now: float) -> Refusal | None:
        """The object was picked. None, or why this is not known to the queue.

        Its place is free again for frames taken after `now`.
        """
        return self._end(id, "acknowledged", now, bar_seconds=0.0)

    def reject(self, id: str, reason: str = "", *, now: float) -> Refusal | None:
        """The arm does not pick it: the place is left alone for `reject_seconds`."""
        return self._end(id, "rejected", now, self.settings.reject_seconds, reason)

    def status(self, now: float) -> dict[str, Any]:
        """JSON values: the age of the newest frame, what is held, and counts since the start."""
        with self._lock:
            self._expire(now)
            refusal = self._blind(now)
            return {
                "age": None if self._result is None else round(now - self._result.stamp, 3),
                "refusal": refusal.to_dict() if refusal else None,
                "targets": 0 if refusal else len(self._result.targets),
                "held": [
                    {"id": hold.target.id, "arm": hold.arm, "seconds": round(now - hold.since, 3)}
                    for hold in self._held.values()
                ],
                **self._counts,
            }

    def _blind(self, now: float) -> Refusal | None:
        result = self._result
        if result is None:
            return Refusal(RefusalCode.STALE, "there was no frame yet")
        if not result.live:
            refusal = result.refusals[0]
            return Refusal(refusal.code, refusal.reason, result.stamp)
        age = now - result.stamp
        if age > self.settings.max_age:
            return Refusal(RefusalCode.STALE, f"the newest frame is {age:.2f} s old", result.stamp)
        if age < -MAX_AHEAD:  # the clock was set back: nobody knows how old it is
            reason = f"the newest frame is {-age:.2f} s ahead of the clock"
            return Refusal(RefusalCode.STALE, reason, result.stamp)
        return None

    def _is_free(self, target: PickTarget, now: float) -> bool:
        if target.id in self._held:  # two frames of one stamp: the hold must stay known
            return False
        places = [hold.target.position for hold in self._held.values()]
        places += [
            bar.position
            for bar in self._bars
            if now < bar.until or target.stamp <= bar.frames_after
        ]
        return all(
            np.linalg.norm(place - target.position) >= self.settings.exclusion for place in places
        )

    def _end(
        self, id: str, how: str, now: float, bar_seconds: float, reason: str = ""
    ) -> Refusal | None:
        with self._lock:
            self._expire(now)
            hold = self._held.pop(id, None)
            if hold is None:
                ended = dict(self._ended).get(id)
                why = f"{id} was {ended}" if ended else f"{id} was never handed out"
                return Refusal(RefusalCode.UNKNOWN_ID, why)
            self._counts[how] += 1
            self._ended.append((id, f"{how}: {reason}" if reason else how))
            self._bars.append(_Bar(hold.target.position, now, now + bar_seconds))
            return None

    def _expire(self, now: float) -> None:
        for id, hold in list(self._held.items()):
            if now - hold.since > self.settings.hold_seconds:
                del self._held[id]
                self._counts["timed_out"] += 1
                self._ended.append((id, f"held for more than {self.settings.hold_seconds:g} s"))
                self._bars.append(_Bar(hold.target.position, now, now))
        newest = self._result.stamp if self._result else -np.inf
        self._bars = [bar for bar in self._bars if now < bar.until or newest <= bar.frames_after]
