"""Results of a stream into a queue, whatever befalls single frames or the clock."""

from __future__ import annotations

import numpy as np

from cpr_deploy.picking.pick_queue import PickQueue
from cpr_deploy.picking.results import PickResult, Refusal, RefusalCode


class QueueFeed:
    """Feeds one queue from one stream."""

    def __init__(self, queue: PickQueue):
        self.queue = queue
        # Stamps of the newest frame, and of the newest that was looked at.
        self._newest = self._last_live = -np.inf

    def add(self, result: PickResult, now: float, *, passing: bool = False) -> None:
        """Takes what came of a frame, at `now` (seconds on the clock of the stamps).

        passing: what befell the frame, if it is not live, may befall single frames of a stream that
        is sound (its depth is missing): that does not take the targets away, but many such do.
        """
        max_age = self.queue.settings.max_age
        if result.stamp < self._newest - max_age:
            # Time began anew: a recording again from its start, or a clock that was set. The queue
            # would pass over all frames until the old time comes again.
            self._newest = self._last_live = -np.inf
            refusal = Refusal(RefusalCode.STALE, "time began anew", result.stamp)
            self.queue.update(PickResult(result.stamp, [], [refusal], live=False))
        self._newest = max(self._newest, result.stamp)
        if result.live:
            self._last_live = max(self._last_live, result.stamp)
        if result.live or not passing or now - self._last_live > max_age:
            self.queue.update(result)
