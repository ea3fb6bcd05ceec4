"""Messages of ROS 2 as plain data, and the ones that tell about picks.

A `Message` names its type and its fields; `build` makes the real thing of it, with the classes of
`rosbags` or of `rclpy`: both take their fields by name. The other way needs nothing: functions
that read messages take either, as their fields have the same names.

Pixels of `vision_msgs` are ROS's (whole numbers at pixel centres, ours - 0.5), those of
`foxglove_msgs` are ours: from the corner of the first pixel.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cpr_deploy.camera import HALF_PIXEL
from cpr_deploy.transforms import Transform

NANOSECONDS = 1_000_000_000
# Of diagnostic_msgs/DiagnosticStatus.
OK, WARN, ERROR, STALE = range(4)
# Of foxglove_msgs/PointsAnnotation: the type of single points, and how large they are drawn.
_POINTS = 1
_POINT_PX = 8.0


@dataclasses.dataclass(frozen=True)
class Message:
    """type: as ROS names it, "geometry_msgs/msg/Point"; fields: numbers, texts, messages, lists."""

    type: str
    fields: Mapping[str, Any]

    def __getattr__(self, name: str) -> Any:
        # Read like a real one.
        try:
            return self.__dict__["fields"][name]
        except KeyError:
            raise AttributeError(name) from None


def build(message: Any, class_of: Callable[[str], Callable[..., Any]]) -> Any:
    """The real message, of the classes that `class_of` gives for the names of types."""
    if isinstance(message, Message):
        fields = {name: build(value, class_of) for name, value in message.fields.items()}
        return class_of(message.type)(**fields)
    if isinstance(message, list):
        return [build(item, class_of) for item in message]
    return message


def ros_class(type_name: str) -> Callable[..., Any]:
    """What makes a "package/msg/Name" in an installed ROS."""
    package, kind, name = type_name.split("/")
    made = getattr(importlib.import_module(f"{package}.{kind}"), name)
    if name != "DiagnosticStatus":
        return made
    # The one `byte` among our fields, which is bytes in rclpy.
    return lambda level, **fields: made(level=bytes([level]), **fields)


def nanoseconds(time: Any) -> int:
    """builtin_interfaces/Time as whole nanoseconds."""
    return int(time.sec) * NANOSECONDS + int(time.nanosec)


def stamp_of(message: Any) -> int:
    """The time in the header of a message, ns."""
    return nanoseconds(message.header.stamp)


def header(stamp: int, frame_id: str) -> Message:
    """stamp: ns since 1970."""
    return Message("std_msgs/msg/Header", {"stamp": _time(stamp), "frame_id": frame_id})


def detections(stamp: int, frame_id: str, points: Sequence[Mapping[str, Any]]) -> Message:
    """Points {x, y, score, class_name, track_id?}, px, as boxes of no size around them."""
    top = header(stamp, frame_id)
    return Message(
        "vision_msgs/msg/Detection2DArray",
        {"header": top, "detections": [_detection(top, point) for point in points]},
    )


def _detection(top: Message, point: Mapping[str, Any]) -> Message:
    place = {"x": float(point["x"]) - HALF_PIXEL, "y": float(point["y"]) - HALF_PIXEL}
    position = Message("vision_msgs/msg/Point2D", place)
    centre = Message("vision_msgs/msg/Pose2D", {"position": position, "theta": 0.0})
    hypothesis = Message(
        "vision_msgs/msg/ObjectHypothesis",
        {"class_id": str(point["class_name"]), "score": float(point["score"])},
    )
    result = Message(
        "vision_msgs/msg/ObjectHypothesisWithPose",
        {
            "hypothesis": hypothesis,
            "pose": Message(
                "geometry_msgs/msg/PoseWithCovariance",
                {"pose": _pose((0, 0, 0), (0, 0, 0, 1)), "covariance": np.zeros(36)},
            ),
        },
    )
    box = Message("vision_msgs/msg/BoundingBox2D", {"center": centre, "size_x": 0.0, "size_y": 0.0})
    track = point.get("track_id")
    return Message(
        "vision_msgs/msg/Detection2D",
        {
            "header": top,
            "results": [result],
            "bbox": box,
            "id": "" if track is None else str(track),
        },
    )


def annotations(stamp: int, points: Sequence[Mapping[str, Any]]) -> Message:
    """The same points for Foxglove's Image panel, px; an empty set takes the old ones away."""
    from cpr_deploy.overlay import class_colour

    colours = [class_colour(int(point["label"])) for point in points]
    drawn = Message(
        "foxglove_msgs/msg/PointsAnnotation",
        {
            "timestamp": _time(stamp),
            "type": _POINTS,
            "points": [
                Message("foxglove_msgs/msg/Point2", {"x": float(p["x"]), "y": float(p["y"])})
                for p in points
            ],
            "outline_color": _colour((0, 0, 0)),
            "outline_colors": [_colour(colour) for colour in colours],
            "fill_color": _colour((0, 0, 0)),
            "thickness": _POINT_PX,
        },
    )
    fields = {"circles": [], "points": [drawn], "texts": []}
    return Message("foxglove_msgs/msg/ImageAnnotations", fields)


def poses(stamp: int, frame_id: str, places: Sequence[Transform]) -> Message:
    """One pose for each pick: z of the tool along the approach."""
    found = [_pose(place.translation, place.quaternion()) for place in places]
    return Message(
        "geometry_msgs/msg/PoseArray", {"header": header(stamp, frame_id), "poses": found}
    )


def point(stamp: int, frame_id: str, position: Sequence[float]) -> Message:
    """position: (x, y, z), m."""
    return Message(
        "geometry_msgs/msg/PointStamped",
        {"header": header(stamp, frame_id), "point": _point(position)},
    )


def diagnostics(
    stamp: int, name: str, hardware_id: str, level: int, text: str, values: Mapping[str, Any]
) -> Message:
    """level: OK, WARN, ERROR or STALE. The values become text."""
    pairs = [
        Message("diagnostic_msgs/msg/KeyValue", {"key": key, "value": str(value)})
        for key, value in values.items()
    ]
    status = Message(
        "diagnostic_msgs/msg/DiagnosticStatus",
        {
            "level": level,
            "name": name,
            "message": text,
            "hardware_id": hardware_id,
            "values": pairs,
        },
    )
    return Message(
        "diagnostic_msgs/msg/DiagnosticArray", {"header": header(stamp, ""), "status": [status]}
    )


def string(text: str) -> Message:
    return Message("std_msgs/msg/String", {"data": text})


def transform_of(message: Any) -> Transform:
    """geometry_msgs/Transform: parent_from_child.

    Raises:
        InputError: not finite, or a quaternion that is no rotation.
    """
    q, t = message.rotation, message.translation
    return Transform.from_quaternion((q.x, q.y, q.z, q.w), (t.x, t.y, t.z))


def _point(xyz: Sequence[float]) -> Message:
    return Message("geometry_msgs/msg/Point", dict(zip("xyz", map(float, xyz), strict=True)))


def _pose(xyz: Sequence[float], xyzw: Sequence[float]) -> Message:
    turn = dict(zip("xyzw", map(float, xyzw), strict=True))
    return Message(
        "geometry_msgs/msg/Pose",
        {"position": _point(xyz), "orientation": Message("geometry_msgs/msg/Quaternion", turn)},
    )


def _time(stamp: int) -> Message:
    seconds, rest = divmod(int(stamp), NANOSECONDS)
    return Message("builtin_interfaces/msg/Time", {"sec": seconds, "nanosec": rest})


def _colour(bgr: Sequence[int]) -> Message:
    b, g, r = (value / 255 for value in bgr)
    return Message("foxglove_msgs/msg/Color", {"r": r, "g": g, "b": b, "a": 1.0})
