"""From messages of a camera to picks: what the ROS 2 node and the tool for bags share.

Times are whole nanoseconds since 1970, as in the headers of messages; `now` is the clock by which
age is told: of the node, or of the recording.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cpr_deploy.camera import CameraModel
from cpr_deploy.files import InputError
from cpr_deploy.picking.pick_queue import PickQueue
from cpr_deploy.picking.picker import PointPicker
from cpr_deploy.picking.queue_feed import QueueFeed
from cpr_deploy.picking.results import PickResult, Refusal, RefusalCode
from cpr_deploy.picking.settings import PickSettings
from cpr_deploy.picking.tool_poses import tool_pose
from cpr_deploy.picking.unchanged import Unchanged
from cpr_deploy.ros import messages
from cpr_deploy.ros.camera_info import camera_of
from cpr_deploy.ros.images import colour_image, depth_image
from cpr_deploy.ros.synchroniser import Synchroniser, Together
from cpr_deploy.ros.tf_buffer import TfBuffer, TransformMissing
from cpr_deploy.stream_records import point_records
from cpr_deploy.transforms import Transform

# What comes in, and its type; depth and image may be compressed.
INPUTS = {
    "image": ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"),
    "depth": ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"),
    "info": ("sensor_msgs/msg/CameraInfo",),
    "tf": ("tf2_msgs/msg/TFMessage",),
    "tf_static": ("tf2_msgs/msg/TFMessage",),
}
# What goes out, each under the name of the node.
OUTPUTS = {
    "detections": "vision_msgs/msg/Detection2DArray",
    "annotations": "foxglove_msgs/msg/ImageAnnotations",
    "poses": "geometry_msgs/msg/PoseArray",
    "point": "geometry_msgs/msg/PointStamped",
    "result": "std_msgs/msg/String",
}

# How the stream is: topic and type, and seconds between two of them.
DIAGNOSTICS = ("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
DIAGNOSTICS_EVERY = 1.0


class MessageCode(enum.StrEnum):
    """Why nothing was looked for in a frame, beside those of `RefusalCode`."""

    BAD_MESSAGE = "bad_message"


# What may befall single frames of a stream that is sound.
_PASSING = (RefusalCode.UNSYNCHRONISED, RefusalCode.NO_TRANSFORM, MessageCode.BAD_MESSAGE)


@dataclasses.dataclass(frozen=True)
class PipelineSettings:
    """base_frame: of the picks. camera_frame: of the camera; "" is the frame of its messages.

    camera_place: the camera in the base frame, or, of a camera on the arm, in hand_frame; without
    it tf tells. rectified: the image is. slop, wait, queue_size: see `Synchroniser`. tf_wait:
    seconds for which a frame waits for its transform.
    """

    base_frame: str = "base_link"
    camera_frame: str = ""
    camera_place: Transform | None = None
    hand_frame: str = ""
    rectified: bool = False
    slop: float = 0.02
    wait: float = 0.5
    queue_size: int = 30
    tf_wait: float = 0.5

    def __post_init__(self):
        if not self.base_frame:
            raise InputError("base_frame: the name of a frame is needed, as in base_link.")
        if self.hand_frame and self.camera_place is None:
            raise InputError(
                f"hand_frame {self.hand_frame!r}: needs the camera's place in it; without that tf"
                " tells where the camera is."
            )
        if not 0 <= self.tf_wait < 1e6:
            raise InputError(f"tf_wait {self.tf_wait}: seconds from 0 on are needed.")


@dataclasses.dataclass(frozen=True)
class PickFrame:
    """What came of one image.

    stamp: of the image; now: when that was known. points as in stream records, px. dropped: frames
    left out before this one.
    """

    stamp: int
    now: int
    camera_frame: str
    base_frame: str
    result: PickResult
    points: Sequence[Mapping[str, Any]] = ()
    dropped: int = 0

    def record(self) -> dict[str, Any]:
        """As a line of JSON."""
        return {
            "type": "picks",
            **self.result.to_dict(),
            "age_ms": round((self.now - self.stamp) / 1e6, 3),
            "frame_id": self.base_frame,
            "camera_frame": self.camera_frame,
            **({"dropped": self.dropped} if self.dropped else {}),
            "points": list(self.points),
        }

    def messages(self) -> dict[str, messages.Message]:
        """By the names of `OUTPUTS`. `point`, the first target, only if there is one."""
        targets = self.result.targets
        places = [tool_pose(target.position, target.approach) for target in targets]
        found = {
            "detections": messages.detections(self.stamp, self.camera_frame, self.points),
            "annotations": messages.annotations(self.stamp, self.points),
            "poses": messages.poses(self.stamp, self.base_frame, places),
            "result": messages.string(json.dumps(self.record(), allow_nan=False)),
        }
        if targets:
            found["point"] = messages.point(self.stamp, self.base_frame, targets[0].position)
        return found


class _Ready(NamedTuple):
    """Messages of a moment with base_from_camera then, or why that is not known."""

    together: Together
    base_from_camera: Transform | None
    why: str

    @property
    def usable(self) -> bool:
        return not self.together.missing and self.base_from_camera is not None


class PickPipeline:
    """Takes messages by `add`, gives what came of them by `take_frame`; these may be two threads.

    localizer: as `PointLocalizer`. queue: gets every result; a new one if it is not given.
    """

    def __init__(
        self,
        localizer: Any,
        settings: PipelineSettings | None = None,
        pick_settings: PickSettings | None = None,
        queue: PickQueue | None = None,
    ):
        self.settings = settings or PipelineSettings()
        self.queue = queue or PickQueue()
        self._feed = QueueFeed(self.queue)
        self._localizer = localizer
        self._pick_settings = pick_settings or PickSettings()
        self._lock = threading.Condition()
        self._synchroniser = Synchroniser(
            slop=self.settings.slop, wait=self.settings.wait, queue_size=self.settings.queue_size
        )
        self._tf = TfBuffer()
        # Decided frames, and until when they wait for their transform.
        self._waiting: deque[tuple[Together, int]] = deque()
        self._picker: PointPicker | None = None
        self._unchanged = Unchanged()
        self._last_result: PickResult | None = None
        # What was wrong with transforms that came.
        self._faults: deque[str] = deque(maxlen=100)
        self.counts = {"images": 0, "frames": 0, "dropped": 0, "refused": 0, "targets": 0}

    # --- messages ---------------------------------------------------------------------------------

    def add(self, name: str, message: Any, now: int) -> None:
        """Takes a message of one of `INPUTS`."""
        with self._lock:
            if name in ("tf", "tf_static"):
                self._faults.extend(self._tf.add(message, static=name == "tf_static"))
            else:
                self.counts["images"] += name == "image"
                self._decided(self._synchroniser.add(name, message), now)
            self._lock.notify_all()

    def faults(self) -> list[str]:
        """What was wrong with transforms since the last call."""
        with self._lock:
            found = list(self._faults)
            self._faults.clear()
        return found

    def add_all(self, now: int) -> None:
        """Nothing more will come: what waits for partners waits no longer."""
        with self._lock:
            self._decided(self._synchroniser.flush(), now)
            self._waiting = deque((together, now) for together, _ in self._waiting)
            self._lock.notify_all()

    def _decided(self, found: Any, now: int) -> None:
        until = now + int(self.settings.tf_wait * messages.NANOSECONDS)
        self._waiting.extend((together, until) for together in found)

    def wait(self, seconds: float) -> None:
        """Until a message comes, or so many seconds."""
        with self._lock:
            self._lock.wait(seconds)

    def diagnostics(self, now: int, name: str) -> messages.Message:
        """How it is, under the name of a node: STALE if no target can be handed out."""
        health = self.queue.status(now / messages.NANOSECONDS)
        refusal, level = health["refusal"], messages.STALE
        if refusal is None:
            level, last = messages.OK, self._last_result
            if last is not None and not last.live:
                level, refusal = messages.WARN, last.refusals[0].to_dict()
        text = f"{health['targets']} targets"
        if refusal is not None:
            text = f"{refusal['code']}: {refusal['reason']}"
        faults = self.faults()
        if faults:
            level, text = max(level, messages.WARN), faults[-1]
        counts = ("age", "handed_out", "acknowledged", "rejected", "timed_out")
        values = {**self.counts, **{key: health[key] for key in counts}}
        values["held"] = json.dumps(health["held"])
        return messages.diagnostics(now, name, "camera", level, text, values)

    # --- frames -----------------------------------------------------------------------------------

    def take_frame(self, now: int, *, latest: bool = False) -> PickFrame | None:
        """What came of the next image, or None if none is ready. latest: leaves older ones out."""
        with self._lock:
            found = self._ready(now)
            dropped = 0
            while latest and found is not None and (newer := self._ready(now)) is not None:
                dropped += 1
                # Where depth comes less often than images, the newest image often has none.
                if newer.usable or not found.usable:
                    found = newer
            self.counts["dropped"] += dropped
        if found is None:
            return None
        frame = dataclasses.replace(self._frame(found, now), dropped=dropped)
        self.counts["frames"] += 1
        self.counts["refused"] += not frame.result.live
        self.counts["targets"] += len(frame.result.targets)
        self._tell_queue(frame)
        return frame

    def _tell_queue(self, frame: PickFrame) -> None:
        self._last_result = frame.result
        passing = not frame.result.live and frame.result.refusals[0].code in _PASSING
        self._feed.add(frame.result, frame.now / messages.NANOSECONDS, passing=passing)

    def _ready(self, now: int) -> _Ready | None:
        """The next frame that waits for nothing."""
        if not self._waiting:
            return None
        together, until = self._waiting[0]
        transform, why = None, ""
        if not together.missing:
            try:
                transform = self._place(together)
            except TransformMissing as error:
                if error.later and now < until:
                    return None
                why = str(error)
        self._waiting.popleft()
        return _Ready(together, transform, why)

    def _place(self, together: Together) -> Transform:
        """base_from_camera when the image was taken."""
        settings = self.settings
        source = self._camera_frame(together)
        if settings.camera_place is not None:
            source = settings.hand_frame or settings.base_frame
        place = self._tf.lookup(settings.base_frame, source, together.stamp)
        return place if settings.camera_place is None else place @ settings.camera_place

    def _camera_frame(self, together: Together) -> str:
        return self.settings.camera_frame or str(together.image.header.frame_id)

    def _frame(self, ready: _Ready, now: int) -> PickFrame:
        together, base_from_camera = ready.together, ready.base_from_camera
        stamp = together.stamp / messages.NANOSECONDS

        def told(result: PickResult, points: Sequence[Mapping[str, Any]] = ()) -> PickFrame:
            camera_frame, base_frame = self._camera_frame(together), self.settings.base_frame
            return PickFrame(together.stamp, now, camera_frame, base_frame, result, points)

        def refused(code: RefusalCode | MessageCode, reason: str) -> PickFrame:
            return told(PickResult(stamp, [], [Refusal(code, reason, stamp)], live=False))

        if together.missing:
            return refused(RefusalCode.UNSYNCHRONISED, together.missing)
        if base_from_camera is None:
            return refused(RefusalCode.NO_TRANSFORM, ready.why)
        try:
            image = colour_image(together.image, "image")
            depth, unit = depth_image(together.depth, "depth")
            camera = camera_of(together.info, "camera_info", rectified=self.settings.rectified)
            self._check_frames(together, image, camera)
            found = self._localizer(image)
            points = point_records(found, self._localizer.class_names)
            result = self._picker_of(camera).pick(
                points,
                depth,
                stamp=stamp,
                now=now / messages.NANOSECONDS,
                depth_unit=unit,
                base_from_hand=base_from_camera,
                frozen=self._is_frozen(image, together.stamp),
                flags=found.flags,
            )
        except InputError as error:
            return refused(MessageCode.BAD_MESSAGE, str(error))
        return told(result, points)

    def _check_frames(self, together: Together, image: np.ndarray, camera: CameraModel) -> None:
        height, width = image.shape[:2]
        if (camera.width, camera.height) != (width, height):
            raise InputError(
                f"camera_info: is of {camera.width} x {camera.height} px, the image has {width} x"
                f" {height}. Use the camera info of this image's topic."
            )
        frames = {
            "image": together.image.header.frame_id,
            "depth": together.depth.header.frame_id,
            "camera_info": together.info.header.frame_id,
        }
        if len({frame for frame in frames.values() if frame}) > 1:
            told = ", ".join(f"{name} {frame!r}" for name, frame in frames.items())
            raise InputError(
                f"frames of the messages differ: {told}. Use depth that is aligned to the image,"
                " and the camera info of the image."
            )

    def _picker_of(self, camera: CameraModel) -> PointPicker:
        """Made anew when the camera changes. The camera itself is the hand: tf says where it is."""
        if self._picker is None or self._picker.camera != camera:
            self._picker = PointPicker(
                camera,
                settings=self._pick_settings,
                hand_from_camera=Transform.identity(),
                frame_id=self.settings.base_frame,
            )
        return self._picker

    def _is_frozen(self, image: np.ndarray, stamp: int) -> bool:
        """Whether the very same picture has come for too long."""
        same_for = (stamp - self._unchanged.since(image, stamp)) / messages.NANOSECONDS
        return same_for >= self._pick_settings.frozen_after
