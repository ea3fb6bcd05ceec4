"""Transforms between frames at a time, out of the messages of /tf and /tf_static.

What tf2 does, for one thread and without ROS: the same answer for a node and for a recorded bag.
Other than tf2 it does not guess over a gap in which a frame has moved.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from typing import Any

import numpy as np

from cpr_deploy.files import InputError
from cpr_deploy.ros.messages import NANOSECONDS, stamp_of, transform_of
from cpr_deploy.transforms import Transform

# Frames from one to the root: more are a loop.
MAX_FRAMES = 1000
# Over a longer gap (s) nobody knows how a frame moved, if it did: more than STILL (m, rad).
MAX_GAP = 1.0
STILL = 1e-3


class TransformMissing(Exception):
    """There is no way between two frames at that time. `later`: it may yet come."""

    def __init__(self, text: str, *, later: bool):
        super().__init__(text)
        self.later = later


class TfBuffer:
    """keep: seconds for which transforms are kept behind the newest one of their frame. One that is
    older begins the frame anew: a recording is played again, or a clock was set."""

    def __init__(self, keep: float = 10.0):
        self._keep = int(keep * NANOSECONDS)
        # Child -> (parent, parent_from_child), valid always.
        self._static: dict[str, tuple[str, Transform]] = {}
        # Child -> times, and (parent, parent_from_child) at them.
        self._times: dict[str, list[int]] = {}
        self._moving: dict[str, list[tuple[str, Transform]]] = {}

    def add(self, message: Any, *, static: bool) -> list[str]:
        """Takes a tf2_msgs/TFMessage; says what was wrong with those it could not take."""
        faults = []
        for item in message.transforms:
            child, parent = _name(item.child_frame_id), _name(item.header.frame_id)
            try:
                if not child or not parent or child == parent:
                    raise InputError("two different frames are needed.")
                parent_from_child = transform_of(item.transform)
            except InputError as error:
                faults.append(f"transform from {child!r} to {parent!r}: {error}")
                continue
            if static:
                self._static[child] = (parent, parent_from_child)
            else:
                self._insert(child, stamp_of(item), (parent, parent_from_child))
        return faults

    def _insert(self, child: str, stamp: int, value: tuple[str, Transform]) -> None:
        times = self._times.setdefault(child, [])
        moving = self._moving.setdefault(child, [])
        if times and stamp < times[-1] - self._keep:  # time began anew
            times.clear()
            moving.clear()
        place = bisect.bisect_left(times, stamp)
        if place < len(times) and times[place] == stamp:
            moving[place] = value
            return
        times.insert(place, stamp)
        moving.insert(place, value)
        old = bisect.bisect_left(times, times[-1] - self._keep)
        del times[:old], moving[:old]

    def lookup(self, target: str, source: str, stamp: int) -> Transform:
        """target_from_source at `stamp` (ns), between samples along the shortest turn.

        Raises:
            TransformMissing: the frames are not connected, or not at that time.
        """
        target, source = _name(target), _name(source)
        from_source = self._to_root(source, stamp)
        from_target = self._to_root(target, stamp)
        for frame, path in from_target.items():
            if frame in from_source:
                return path.inverse() @ from_source[frame]
        text, later = self._why(target, source, stamp, from_target, from_source)
        raise TransformMissing(text, later=later)

    def _to_root(self, frame: str, stamp: int) -> dict[str, Transform]:
        """Every frame above `frame` -> that_from_frame, the nearest first, `frame` itself too."""
        found = {frame: Transform.identity()}
        path = found[frame]
        while len(found) < MAX_FRAMES:
            step = self._at(frame, stamp)
            if step is None or step[0] in found:
                break
            frame = step[0]
            path = step[1] @ path
            found[frame] = path
        return found

    def _at(self, child: str, stamp: int) -> tuple[str, Transform] | None:
        """The parent and parent_from_child at a time."""
        if child in self._static:
            return self._static[child]
        times, moving = self._times.get(child, []), self._moving.get(child, [])
        place = bisect.bisect_left(times, stamp)
        if place < len(times) and times[place] == stamp:
            return moving[place]
        if not 0 < place < len(times):
            return None
        (parent, before), (new_parent, after) = moving[place - 1], moving[place]
        if parent != new_parent:  # moved to another parent in between: nobody knows when
            return None
        gap = times[place] - times[place - 1]
        if gap > MAX_GAP * NANOSECONDS and _moved(before, after):
            return None
        share = (stamp - times[place - 1]) / gap
        return parent, interpolate(before, after, share)

    def _why(
        self, target: str, source: str, stamp: int, up: Iterable[str], other: Iterable[str]
    ) -> tuple[str, bool]:
        """What is missing at the ends of both ways up, and whether it may come."""
        text, later = f"no transform from {source!r} to {target!r}", True
        for end in (list(up)[-1], list(other)[-1]):
            times = self._times.get(end)
            if not times:
                text += f"; {end!r} has no parent"
            elif stamp > times[-1]:
                text += f"; the newest of {end!r} is {(stamp - times[-1]) / 1e9:.3f} s older"
            elif stamp < times[0]:
                text += f"; the oldest of {end!r} is {(times[0] - stamp) / 1e9:.3f} s newer"
                later = False
            else:
                place = bisect.bisect_left(times, stamp)
                gap = (times[place] - times[max(place - 1, 0)]) / NANOSECONDS
                text += f"; how {end!r} moved in a gap of {gap:.3f} s is not known"
                later = False
        return f"{text}. Check /tf and /tf_static, and the names of the frames.", later


def interpolate(before: Transform, after: Transform, share: float) -> Transform:
    """Between two transforms: 0 is the first, 1 the second."""
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_matrix(before.rotation.T @ after.rotation).as_rotvec()
    rotation = before.rotation @ Rotation.from_rotvec(share * turn).as_matrix()
    translation = (1 - share) * before.translation + share * after.translation
    return Transform(np.asarray(rotation), translation)


def _moved(before: Transform, after: Transform) -> bool:
    change = before.inverse() @ after
    # The largest entry of R - 1 is about the angle, where that is small.
    turn = np.abs(change.rotation - np.eye(3)).max()
    return bool(max(np.linalg.norm(change.translation), turn) > STILL)


def _name(frame: str) -> str:
    """tf2 has no leading slash, some drivers do."""
    return str(frame).removeprefix("/")
