"""Which image, depth and camera info belong together, by the times in their headers.

As the approximate policy of message_filters: within `slop`, in order, no image and no depth twice.
An image and a depth are a pair if each is the other's nearest, so that the result does not depend
on the order in which topics arrive. (One guess saves waiting for the next image: that it will not
be nearer to this one than any two were so far.) Images without a pair are given back too, with the
reason.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Iterator
from typing import Any

from cpr_deploy.files import InputError
from cpr_deploy.ros.messages import NANOSECONDS, stamp_of

TOPICS = ("image", "depth", "info")
# A message that is older by more seconds than the newest so far: time began anew (a bag again from
# its start, a simulation, a clock that was set). What waits then has no partners any more.
JUMP = 5.0


@dataclasses.dataclass(frozen=True)
class Together:
    """Messages of one moment; stamp: of the image, ns. missing: why depth or info is None."""

    stamp: int
    image: Any
    depth: Any = None
    info: Any = None
    missing: str = ""


class Synchroniser:
    """slop: seconds that times may differ. wait: seconds by which other topics may come later.

    queue_size: messages of a topic that wait; more, and the oldest image is given back unpaired.
    """

    def __init__(self, *, slop: float = 0.02, wait: float = 0.5, queue_size: int = 30):
        if not 0 <= slop < wait or queue_size < 1:
            raise InputError(
                f"slop {slop}, wait {wait}, queue {queue_size}: 0 <= slop < wait and a queue of at"
                " least 1 are needed."
            )
        self._slop = int(slop * NANOSECONDS)
        self._wait = int(wait * NANOSECONDS)
        self._size = queue_size
        self._stamps: dict[str, list[int]] = {topic: [] for topic in TOPICS}
        self._messages: dict[str, list[Any]] = {topic: [] for topic in TOPICS}
        # A camera info without a time is valid always (latched).
        self._timeless: Any = None
        self._newest = 0
        # Of the image that was decided last, and the shortest time between two of them.
        self._before: int | None = None
        self._interval: int | None = None

    def add(self, topic: str, message: Any) -> Iterator[Together]:
        """Takes a message of "image", "depth" or "info"; yields what is decided by it, in order."""
        stamp = stamp_of(message)
        if topic == "info" and stamp == 0:
            self._timeless = message
        else:
            if stamp < self._newest - JUMP * NANOSECONDS:
                yield from self.flush()
                self._begin_anew()
            self._newest = max(self._newest, stamp)
            stamps = self._stamps[topic]
            place = bisect.bisect_right(stamps, stamp)
            if topic == "image" and stamps[:place]:
                between = stamp - stamps[place - 1]
                self._interval = min(between, self._interval or between)
            stamps.insert(place, stamp)
            self._messages[topic].insert(place, message)
            if topic != "image":
                self._shorten(topic)
        yield from self._decided(at_end=False)

    def flush(self) -> Iterator[Together]:
        """What is left, when nothing more will come."""
        yield from self._decided(at_end=True)

    def _begin_anew(self) -> None:
        for topic in TOPICS:
            self._stamps[topic].clear()
            self._messages[topic].clear()
        self._newest, self._before, self._interval = 0, None, None

    def _shorten(self, topic: str) -> None:
        """Images hold their partners back; without them, only so many are kept."""
        images = self._stamps["image"]
        while len(self._stamps[topic]) > self._size and (
            not images or self._stamps[topic][0] < images[0] - self._slop
        ):
            self._drop(topic, 0)

    def _decided(self, *, at_end: bool) -> Iterator[Together]:
        images = self._stamps["image"]
        while images:
            waited = self._newest - images[0] > self._wait + self._slop
            over = at_end or waited or len(images) > self._size
            if not over and not all(self._is_settled(topic) for topic in ("depth", "info")):
                return
            yield self._next()

    def _is_settled(self, topic: str) -> bool:
        """Whether nothing that comes later on can be nearer to the oldest image."""
        images, stamps = self._stamps["image"], self._stamps[topic]
        if topic == "info" and self._timeless is not None:
            return True
        if not stamps or stamps[-1] < images[0]:
            return False
        # A depth that is later than the image may be nearer to the next one, but not where images
        # are far apart.
        later = stamps[bisect.bisect_left(stamps, images[0])]
        far = self._interval is not None and 2 * (later - images[0]) <= self._interval
        return topic == "info" or far or later - images[0] > self._slop or images[-1] >= later

    def _next(self) -> Together:
        images = self._stamps["image"]
        stamp = images[0]
        depth, why_depth = self._depth(stamp)
        info, why_info = self._info(stamp)
        image = self._drop("image", 0)
        self._before = stamp
        if depth is not None:
            place = depth
            depth = self._messages["depth"][place]
            # It stays, without its content, as the nearest of no other image.
            self._messages["depth"][place] = None
            for _ in range(place):
                self._drop("depth", 0)
        while len(self._stamps["info"]) > 1 and self._stamps["info"][1] <= stamp - self._slop:
            self._drop("info", 0)
        return Together(stamp, image, depth, info, why_depth or why_info)

    def _depth(self, stamp: int) -> tuple[int | None, str]:
        """The place of the depth that has the oldest image as its nearest, or None and why."""
        stamps = self._stamps["depth"]
        place = _nearest(stamps, stamp)
        if place is None:
            return None, "no depth image has come"
        if abs(stamps[place] - stamp) > self._slop:
            return None, f"the nearest depth image is {_apart(stamps[place], stamp)}"
        others = [*self._stamps["image"][1:2], *([] if self._before is None else [self._before])]
        taken = self._messages["depth"][place] is None
        if taken or any(
            abs(stamps[place] - other) < abs(stamps[place] - stamp) for other in others
        ):
            return None, "the nearest depth image is nearer to another image"
        return place, ""

    def _info(self, stamp: int) -> tuple[Any, str]:
        if self._timeless is not None:
            return self._timeless, ""
        stamps = self._stamps["info"]
        place = _nearest(stamps, stamp)
        if place is None:
            return None, "no camera info has come"
        if abs(stamps[place] - stamp) > self._slop:
            return None, f"the nearest camera info is {_apart(stamps[place], stamp)}"
        return self._messages["info"][place], ""

    def _drop(self, topic: str, place: int) -> Any:
        del self._stamps[topic][place]
        return self._messages[topic].pop(place)


def _nearest(stamps: list[int], stamp: int) -> int | None:
    """The place of the nearest; of two that are equally near the earlier."""
    if not stamps:
        return None
    place = bisect.bisect_left(stamps, stamp)
    if place == len(stamps):
        return place - 1
    if place and stamp - stamps[place - 1] <= stamps[place] - stamp:
        return place - 1
    return place


def _apart(stamp: int, image: int) -> str:
    seconds = (stamp - image) / NANOSECONDS
    return f"{abs(seconds):.3f} s {'later' if seconds > 0 else 'earlier'} than the image"
