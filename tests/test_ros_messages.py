"""Messages of ROS 2: their bytes, against a second implementation and by hand."""

import struct

import numpy as np
import pytest
from mcap_ros2._dynamic import generate_dynamic, serialize_dynamic
from rosbags.typesys import Stores, get_typestore
from scipy.spatial.transform import Rotation

from cpr_deploy.files import InputError
from cpr_deploy.picking.tool_poses import tool_pose
from cpr_deploy.ros import messages
from cpr_deploy.ros.typestore import check_definition, from_cdr, to_cdr, typestore
from cpr_deploy.transforms import Transform

STAMP = 1_700_000_000_123_456_789
POINTS = [
    {"x": 10.5, "y": 20.5, "score": 0.9, "label": 0, "class_name": "bolt"},
    {"x": 0.5, "y": 479.25, "score": 0.25, "label": 7, "class_name": "Öse", "track_id": 12},
]
PLACE = tool_pose((0.1, -0.2, 0.3), (0, 0, -1))
ALL = {
    "detections": messages.detections(STAMP, "camera", POINTS),
    "no detections": messages.detections(STAMP, "camera", []),
    "annotations": messages.annotations(STAMP, POINTS),
    "poses": messages.poses(STAMP, "base", [PLACE, PLACE]),
    "point": messages.point(STAMP, "base", (1.5, -2.5, 3.5)),
    "diagnostics": messages.diagnostics(
        STAMP, "picking", "camera", messages.WARN, "late", {"frames": 3, "age": "0.5 s"}
    ),
    "string": messages.string('{"é": 1}'),
}


def plain(message):
    """Any message as dicts, lists and numbers."""
    if isinstance(message, messages.Message):
        return {name: plain(value) for name, value in message.fields.items()}
    if hasattr(message, "__slots__") and not isinstance(message, np.ndarray):
        return {name: plain(getattr(message, name)) for name in message.__slots__}
    if isinstance(message, np.ndarray | list | tuple):
        return [plain(item) for item in message]
    return message.item() if isinstance(message, np.generic) else message


@pytest.mark.parametrize("name", ALL)
def test_bytes_agree_with_another_implementation(name):
    """mcap-ros2-support reads the text of the definitions by itself."""
    message = ALL[name]
    data = to_cdr(message)
    text, _ = typestore().generate_msgdef(message.type, ros_version=2)
    decoded = generate_dynamic(message.type, text)[message.type](data)
    assert plain(decoded) == plain(message)
    assert serialize_dynamic(message.type, text)[message.type](plain(message)) == data
    back = from_cdr(data, message.type, name)
    assert bytes(typestore().serialize_cdr(back, message.type)) == data


def test_bytes_by_hand():
    data = to_cdr(messages.point(STAMP, "ab", (1.0, 2.0, -3.0)))
    # CDR little endian; seconds, nanoseconds; the text with its length and a zero; doubles at a
    # multiple of 8 behind the first four bytes.
    wanted = b"\0\1\0\0" + struct.pack("<iI", 1_700_000_000, 123_456_789)
    wanted += struct.pack("<I", 3) + b"ab\0" + b"\0" + struct.pack("<3d", 1, 2, -3)
    assert data == wanted


def test_detections_are_boxes_of_no_size_in_pixels_of_ros():
    """The first pixel's centre is (0, 0) there, (0.5, 0.5) here."""
    message = from_cdr(to_cdr(ALL["detections"]), ALL["detections"].type, "x")
    first, second = message.detections
    assert (first.bbox.center.position.x, first.bbox.center.position.y) == (10.0, 20.0)
    assert (first.bbox.size_x, first.bbox.size_y, first.bbox.center.theta) == (0, 0, 0)
    assert first.results[0].hypothesis.class_id == "bolt"
    assert (first.id, second.id) == ("", "12")
    assert messages.stamp_of(message) == messages.stamp_of(second) == STAMP
    assert second.header.frame_id == "camera"
    # Foxglove draws from the corner of the first pixel.
    (drawn,) = ALL["annotations"].points
    assert [(p.x, p.y) for p in drawn.points] == [(10.5, 20.5), (0.5, 479.25)]
    assert drawn.fields["type"] == 1 and len(drawn.outline_colors) == 2


def test_a_stamp_before_the_epoch_and_a_frame_of_many_characters():
    for stamp in (0, 1, 999_999_999, 1_000_000_000, 2**31 * 10**9 - 1):
        message = messages.point(stamp, "é" * 300, (0, 0, 0))
        assert messages.stamp_of(from_cdr(to_cdr(message), message.type, "x")) == stamp


def test_quaternions_are_those_of_scipy():
    rng = np.random.default_rng(1)
    for rotation in Rotation.random(20, rng=rng):
        place = Transform(rotation.as_matrix(), rng.normal(size=3))
        found = messages.poses(0, "b", [place]).poses[0]
        q, p = found.orientation, found.position
        again = Rotation.from_quat([q.x, q.y, q.z, q.w])
        assert (rotation.inv() * again).magnitude() < 1e-7
        np.testing.assert_allclose([p.x, p.y, p.z], place.translation)


@pytest.mark.parametrize("cut", [0, 3, 4, 20, 30, -9])
def test_damaged_bytes(cut):
    data = to_cdr(ALL["poses"])
    with pytest.raises(InputError, match=r"topic: is no geometry_msgs/msg/PoseArray"):
        from_cdr(data[:cut], "geometry_msgs/msg/PoseArray", "topic")


def test_any_bytes_are_an_error_or_a_message():
    rng = np.random.default_rng(2)
    good = np.frombuffer(to_cdr(ALL["detections"]), np.uint8)
    errors = 0
    for _ in range(300):
        data = good.copy()
        data[rng.integers(len(data), size=3)] = rng.integers(256, size=3)
        try:
            from_cdr(data.tobytes(), ALL["detections"].type, "x")
        except InputError:
            errors += 1
    assert 0 < errors < 300


@pytest.mark.parametrize("store", [Stores.ROS2_FOXY, Stores.ROS2_JAZZY, Stores.ROS2_KILTED])
def test_other_releases_of_ros_have_the_same_messages(store):
    other = get_typestore(store)
    types = {
        "sensor_msgs/msg/Image",
        "sensor_msgs/msg/CompressedImage",
        "sensor_msgs/msg/CameraInfo",
        "tf2_msgs/msg/TFMessage",
    } | {m.type for m in ALL.values() if not m.type.startswith(("vision_msgs", "foxglove_msgs"))}
    for name in types:
        text, _ = other.generate_msgdef(name, ros_version=2)
        check_definition(name, definition(text), name)


def definition(text, kind="MSG"):
    from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat

    return MessageDefinition(MessageDefinitionFormat[kind], text)


def test_another_definition_is_refused():
    check_definition("sensor_msgs/msg/Image", definition("", "NONE"), "old bag")
    text, _ = typestore().generate_msgdef("sensor_msgs/msg/Image", ros_version=2)
    with pytest.raises(InputError, match=r"/camera: its sensor_msgs/msg/Image has other fields"):
        check_definition(
            "sensor_msgs/msg/Image", definition(text.replace("uint32 height", "")), "/camera"
        )
    for text in ("no definition at all;;", "uint8[ x", "", "float64"):
        with pytest.raises(InputError, match="^/camera: its "):
            check_definition("sensor_msgs/msg/Image", definition(text + "\n;"), "/camera")


def test_definitions_of_a_bag_are_not_executed(tmp_path):
    mark = tmp_path / "mark"
    text = f"uint8 X=__import__('pathlib').Path({str(mark)!r}).touch()\nuint8 x"
    with pytest.raises(InputError):
        check_definition("sensor_msgs/msg/Image", definition(text), "/camera")
    assert not mark.exists()


# Facts of the public definition: https://docs.ros.org/en/jazzy/p/vision_msgs/
def test_vision_msgs_have_the_fields_of_version_4():
    fields = typestore().fielddefs
    names = {
        "Detection2DArray": ["header", "detections"],
        "Detection2D": ["header", "results", "bbox", "id"],
        "ObjectHypothesisWithPose": ["hypothesis", "pose"],
        "ObjectHypothesis": ["class_id", "score"],
        "BoundingBox2D": ["center", "size_x", "size_y"],
        "Pose2D": ["position", "theta"],
        "Point2D": ["x", "y"],
    }
    for name, wanted in names.items():
        assert [field for field, _ in fields[f"vision_msgs/msg/{name}"][1]] == wanted


def test_what_a_real_ros_gets(monkeypatch):
    """rclpy has classes in modules, and wants bytes where the definition says byte."""
    import sys
    import types

    class DiagnosticStatus:
        def __init__(self, **fields):
            self.__dict__.update(fields)

    module = types.ModuleType("diagnostic_msgs.msg")
    module.DiagnosticStatus = module.DiagnosticArray = module.KeyValue = DiagnosticStatus
    monkeypatch.setitem(sys.modules, "diagnostic_msgs", types.ModuleType("diagnostic_msgs"))
    monkeypatch.setitem(sys.modules, "diagnostic_msgs.msg", module)
    made = messages.build(ALL["diagnostics"].status[0], messages.ros_class)
    assert made.level == b"\x01" and made.values[0].key == "frames"
