"""Definitions of messages and their bytes (CDR), by `rosbags`.

The standard packages are those of ROS 2 Humble; the ones used here are the same in Jazzy and later,
but for what `check_definition` finds. vision_msgs 4 and foxglove_msgs 3 are public and not among
them.
"""

from __future__ import annotations

import functools
from typing import Any

from cpr_deploy.files import InputError
from cpr_deploy.ros.messages import Message, build

# vision_msgs 4 (Humble and later): https://github.com/ros-perception/vision_msgs
_VISION_MSGS = {
    "Point2D": "float64 x\nfloat64 y",
    "Pose2D": "vision_msgs/Point2D position\nfloat64 theta",
    "BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "ObjectHypothesis": "string class_id\nfloat64 score",
    "ObjectHypothesisWithPose": "vision_msgs/ObjectHypothesis hypothesis\n"
    "geometry_msgs/PoseWithCovariance pose",
    "Detection2D": "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
    "vision_msgs/BoundingBox2D bbox\nstring id",
    "Detection2DArray": "std_msgs/Header header\nvision_msgs/Detection2D[] detections",
}
# foxglove_msgs 3: https://docs.foxglove.dev/docs/sdk/schemas (later ones may have more fields)
_FOXGLOVE_MSGS = {
    "Color": "float64 r\nfloat64 g\nfloat64 b\nfloat64 a",
    "Point2": "float64 x\nfloat64 y",
    "CircleAnnotation": "builtin_interfaces/Time timestamp\nfoxglove_msgs/Point2 position\n"
    "float64 diameter\nfloat64 thickness\nfoxglove_msgs/Color fill_color\n"
    "foxglove_msgs/Color outline_color",
    "PointsAnnotation": "builtin_interfaces/Time timestamp\nuint8 type\n"
    "foxglove_msgs/Point2[] points\nfoxglove_msgs/Color outline_color\n"
    "foxglove_msgs/Color[] outline_colors\nfoxglove_msgs/Color fill_color\nfloat64 thickness",
    "TextAnnotation": "builtin_interfaces/Time timestamp\nfoxglove_msgs/Point2 position\n"
    "string text\nfloat64 font_size\nfoxglove_msgs/Color text_color\n"
    "foxglove_msgs/Color background_color",
    "ImageAnnotations": "foxglove_msgs/CircleAnnotation[] circles\n"
    "foxglove_msgs/PointsAnnotation[] points\nfoxglove_msgs/TextAnnotation[] texts",
}


def need_rosbags() -> Any:
    """The module; InputError that names the extra where it is missing."""
    try:
        import rosbags
    except ModuleNotFoundError:
        raise InputError(
            "bags and messages of ROS need rosbags: pip install 'cpr-point-localization[pick]'."
        ) from None
    return rosbags


@functools.cache
def typestore() -> Any:
    """A `rosbags` store of all the types read and written here."""
    need_rosbags()
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    types: dict[str, Any] = {}
    for package, texts in (("vision_msgs", _VISION_MSGS), ("foxglove_msgs", _FOXGLOVE_MSGS)):
        for name, text in texts.items():
            types |= get_types_from_msg(text, f"{package}/msg/{name}")
    store.register(types)
    return store


def to_cdr(message: Message) -> bytes:
    """The bytes of a message, as they are on the wire and in bags."""
    store = typestore()
    return bytes(store.serialize_cdr(build(message, store.types.__getitem__), message.type))


def from_cdr(data: bytes, type_name: str, name: str) -> Any:
    """The message; `name` of it begins the error.

    Raises:
        InputError: the bytes are not of this type, or damaged.
    """
    need_rosbags()
    from rosbags.serde import SerdeError

    try:
        return typestore().deserialize_cdr(data, type_name)
    # rosbags lets some errors of damaged bytes through as they are.
    except (
        SerdeError,
        IndexError,
        ValueError,
        AssertionError,
        MemoryError,
        OverflowError,
    ) as error:
        raise InputError(
            f"{name}: is no {type_name} ({type(error).__name__}: {error}). The message is damaged."
        ) from None


def check_definition(type_name: str, definition: Any, name: str) -> None:
    """Whether the definition that a bag brings along is ours; it is compared, never executed.

    Raises:
        InputError: the bag's messages of this type have other fields.
    """
    from rosbags.interfaces import MessageDefinitionFormat
    from rosbags.typesys import TypesysError, get_types_from_idl, get_types_from_msg

    if definition.format == MessageDefinitionFormat.NONE or not definition.data.strip():
        return  # bags from before ROS 2 Iron have none
    try:
        if definition.format == MessageDefinitionFormat.MSG:
            found = get_types_from_msg(definition.data, type_name)
        else:
            text = definition.data
            parts = text.split("=" * 80 + "\n")
            found = {}
            for part in parts if len(parts) == 1 else parts[1:]:
                found |= get_types_from_idl(part.split("\n", 1)[1] if part[:4] == "IDL:" else part)
    except (TypesysError, ValueError, IndexError, KeyError, AssertionError) as error:
        raise InputError(f"{name}: its definition cannot be read ({error}).") from None
    ours = typestore().fielddefs
    for part, (_, fields) in found.items():
        if part in ours and _plain(ours[part][1]) != _plain(fields):
            raise InputError(
                f"{name}: its {part} has other fields than that of ROS 2 (Humble to now). Record it"
                " with the standard messages."
            )


def _plain(fields: Any) -> list[tuple[str, Any]]:
    return [(name.lower(), kind) for name, kind in fields]
