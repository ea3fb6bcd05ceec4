"""Frames that a camera's own program sends: image and aligned depth in, targets into the queue.

A frame is one line of JSON, then the pixels of the image, then those of the depth, row by row,
without padding, little endian:
{"width": 640, "height": 480, "encoding": "bgr8" (or rgb8), "depth": "uint16" (or float32),
"depth_unit": "mm" (or "m", or metres per unit), "stamp": seconds since 1970,
"base_from_hand": {"rotation": [x, y, z, w], "translation": [x, y, z]} (of a camera on the arm)}
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cpr_deploy.files import InputError
from cpr_deploy.picking.pick_queue import PickQueue
from cpr_deploy.picking.picker import PointPicker
from cpr_deploy.picking.queue_feed import QueueFeed
from cpr_deploy.picking.unchanged import Unchanged
from cpr_deploy.stream_records import point_records
from cpr_deploy.transforms import Transform

MAX_HEADER = 4096
# Seconds since 1970 beyond this are no time.
MAX_STAMP = 1e12
DEPTHS = {"uint16": "<u2", "float32": "<f4"}
ENCODINGS = ("bgr8", "rgb8")
_NEEDED = {"width", "height", "encoding", "depth", "depth_unit", "stamp"}


def pack_frame(image: np.ndarray, depth: np.ndarray, **header: Any) -> bytes:
    """The bytes of a frame. image (H, W, 3) uint8 BGR, depth (H, W) uint16 or float32."""
    height, width = image.shape[:2]
    fields = {"width": width, "height": height, "encoding": "bgr8", "depth": str(depth.dtype)}
    line = json.dumps({**fields, **header}, allow_nan=False).encode() + b"\n"
    kind = DEPTHS.get(fields["depth"])
    if kind is None:
        raise InputError(f"depth: is {depth.dtype}; uint16 or float32 is needed.")
    return line + image.tobytes() + depth.astype(kind).tobytes()


class PickFrames:
    """Runs a localizer and a picker on each frame; from several threads one after the other.

    on_record: gets a record of each frame, as JSON values.
    """

    def __init__(
        self,
        localizer: Any,
        picker: PointPicker,
        queue: PickQueue,
        *,
        clock: Callable[[], float] = time.time,
        on_record: Callable[[Mapping[str, Any]], None] | None = None,
    ):
        self._localizer = localizer
        self._picker = picker
        self._feed = QueueFeed(queue)
        self._clock = clock
        self._on_record = on_record
        self._unchanged = Unchanged()
        self._lock = threading.Lock()
        pixels = picker.camera.width * picker.camera.height
        self.max_bytes = MAX_HEADER + pixels * (3 + 4)

    def add(self, data: bytes) -> dict[str, Any]:
        """The picks of a frame, for whoever sent it: `ok`, and the record without its points.

        Raises:
            InputError: the bytes are no frame of this camera.
        """
        header, image, depth = self._unpack(data)
        hand = header.get("base_from_hand")
        place = None if hand is None else Transform.from_dict(hand, "frame: base_from_hand")
        with self._lock:
            found = self._localizer(image)
            points = point_records(found, self._localizer.class_names)
            now = self._clock()
            same_for = header["stamp"] - self._unchanged.since(image, header["stamp"])
            result = self._picker.pick(
                points,
                depth,
                stamp=header["stamp"],
                now=now,
                depth_unit=header["depth_unit"],
                base_from_hand=place,
                frozen=same_for >= self._picker.settings.frozen_after,
                flags=found.flags,
            )
            self._feed.add(result, now)
            record = {**result.to_dict(), "age_ms": round(1e3 * (now - result.stamp), 3)}
            if self._on_record is not None:
                self._on_record({"type": "picks", **record, "points": points})
        return {"ok": True, **record}

    def _unpack(self, data: bytes) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
        line, newline, _ = data[:MAX_HEADER].partition(b"\n")
        try:
            header = json.loads(line) if newline else None
        except ValueError:
            header = None
        if not isinstance(header, dict) or not header.keys() >= _NEEDED:
            raise InputError(
                f"frame: begins with a line of JSON with {', '.join(sorted(_NEEDED))}."
            )
        stamp, camera = header["stamp"], self._picker.camera
        number = isinstance(stamp, int | float) and not isinstance(stamp, bool)
        if not number or not abs(stamp) < MAX_STAMP:
            raise InputError(f"frame: stamp {stamp!r}: seconds since 1970 are needed.")
        size = header["width"], header["height"]
        if size != (camera.width, camera.height):
            raise InputError(
                f"frame: is of {size[0]!r} x {size[1]!r} px, the camera has {camera.width} x"
                f" {camera.height}. Give the camera's numbers at this resolution."
            )
        kind, encoding = DEPTHS.get(str(header["depth"])), header["encoding"]
        if kind is None or encoding not in ENCODINGS:
            raise InputError(
                f"frame: encoding {encoding!r}, depth {header['depth']!r}: one of"
                f" {', '.join(ENCODINGS)} and one of {', '.join(DEPTHS)} are needed."
            )
        start, pixels = len(line) + 1, camera.width * camera.height
        wanted = pixels * (3 + np.dtype(kind).itemsize)
        if len(data) - start != wanted:
            raise InputError(f"frame: {len(data) - start} bytes of pixels, {wanted} are needed.")
        shape = camera.height, camera.width
        image = np.frombuffer(data, np.uint8, 3 * pixels, start).reshape(*shape, 3)
        if encoding == "rgb8":
            image = np.ascontiguousarray(image[:, :, ::-1])
        depth = np.frombuffer(data, kind, pixels, start + 3 * pixels).reshape(shape)
        return header, image, depth.astype(str(header["depth"]), copy=False)
