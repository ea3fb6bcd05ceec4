"""Messages of a camera as a driver would send them, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from cpr_deploy.ros.messages import Message, header
from cpr_deploy.transforms import Transform

FRAME = "camera_color_optical_frame"
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


def image(pixels: np.ndarray, encoding: str, stamp: int = START, **fields: Any) -> Message:
    """(height, width[, channels]) in the byte order of the array's type."""
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    content = {
        "header": header(stamp, fields.pop("frame_id", FRAME)),
        "height": height,
        "width": width,
        "encoding": encoding,
        "is_bigendian": int(pixels.dtype.byteorder == ">"),
        "step": width * channels * pixels.itemsize,
        "data": np.frombuffer(pixels.tobytes(), np.uint8),
    }
    return Message("sensor_msgs/msg/Image", {**content, **fields})


def compressed(data: bytes, kind: str, stamp: int = START) -> Message:
    content = {"header": header(stamp, FRAME), "format": kind}
    content["data"] = np.frombuffer(data, np.uint8)
    return Message("sensor_msgs/msg/CompressedImage", content)


def camera_info(width=96, height=64, f=80.0, stamp: int = START, **fields: Any) -> Message:
    """A pinhole camera with its principal point in the middle of the image."""
    roi = {"x_offset": 0, "y_offset": 0, "height": 0, "width": 0, "do_rectify": False}
    roi |= {name: fields.pop(name) for name in list(fields) if name in roi}
    # The middle of our pixels is half a pixel less in ROS's.
    k = [f, 0, width / 2 - 0.5, 0, f, height / 2 - 0.5, 0, 0, 1]
    if "roi_width" in fields:
        roi["width"], roi["height"] = fields.pop("roi_width"), fields.pop("roi_height")
    content = {
        "header": header(stamp, fields.pop("frame_id", FRAME)),
        "height": height,
        "width": width,
        "distortion_model": "plumb_bob",
        "d": np.zeros(5),
        "k": np.array(k, float),
        "r": np.eye(3).ravel(),
        "p": np.array([*k[:3], 0, *k[3:6], 0, *k[6:], 0], float),
        "binning_x": 0,
        "binning_y": 0,
        "roi": Message("sensor_msgs/msg/RegionOfInterest", roi),
    }
    return Message("sensor_msgs/msg/CameraInfo", {**content, **fields})


def tf(*edges: tuple[str, str, Transform], stamp: int = START) -> Message:
    """(parent, child, parent_from_child) of one time."""
    items = []
    for parent, child, transform in edges:
        t = dict(zip("xyz", transform.translation.tolist(), strict=True))
        q = dict(zip("xyzw", transform.quaternion().tolist(), strict=True))
        content = {
            "translation": Message("geometry_msgs/msg/Vector3", t),
            "rotation": Message("geometry_msgs/msg/Quaternion", q),
        }
        stamped = {
            "header": header(stamp, parent),
            "child_frame_id": child,
            "transform": Message("geometry_msgs/msg/Transform", content),
        }
        items.append(Message("geometry_msgs/msg/TransformStamped", stamped))
    return Message("tf2_msgs/msg/TFMessage", {"transforms": items})
