"""Bags of a camera above a table, with known places, for tests."""

from __future__ import annotations

import numpy as np

import ros_parts
import spot_model
from cpr_deploy.ros.bags import BagWriter
from cpr_deploy.transforms import Transform

WIDTH, HEIGHT, FOCAL = 320, 240, 250.0
# Cells (column, row) of the picture that are bright: a point at the middle of each.
MAX_POINTS = 50
CELLS = ((10, 8), (30, 8), (20, 20))
TABLE = 0.8
# The camera looks straight down from 1 m above the base, its x along the base's x.
BASE_FROM_CAMERA = Transform(np.diag([1.0, -1.0, -1.0]), (0.4, 0.1, 1.0))
BASE, STEP = "base_link", 50_000_000
TOPICS = {
    "image": "/camera/color/image_raw",
    "depth": "/camera/aligned_depth_to_color/image_raw",
    "info": "/camera/color/camera_info",
}


def places() -> np.ndarray:
    """Where the spots are, (N, 3) m in the base frame, by hand."""
    pixels = np.array(CELLS) * spot_model.CELL + spot_model.CELL / 2
    xy = (pixels - [WIDTH / 2, HEIGHT / 2]) * TABLE / FOCAL
    return np.column_stack([0.4 + xy[:, 0], 0.1 - xy[:, 1], np.full(len(xy), 1.0 - TABLE)])


def depth(seed: int) -> np.ndarray:
    """mm, with the noise of a sensor."""
    rng = np.random.default_rng(seed)
    return np.round(1000 * TABLE + rng.normal(0, 0.5, (HEIGHT, WIDTH))).astype(np.uint16)


def frame(number: int) -> dict:
    """The messages of one moment by name."""
    stamp = ros_parts.START + number * STEP
    picture = spot_model.picture(HEIGHT, WIDTH, CELLS)
    picture[0, 0] = number % 40, 0, 0  # pictures of a camera are never the same
    return {
        "image": ros_parts.image(picture, "bgr8", stamp),
        "depth": ros_parts.image(depth(number), "16UC1", stamp),
        "info": ros_parts.camera_info(WIDTH, HEIGHT, FOCAL, stamp),
    }


def static_tf(frame_id: str = BASE):
    return ros_parts.tf((frame_id, ros_parts.FRAME, BASE_FROM_CAMERA))


def write_bag(path, frames=6, *, tf=True, change=None, topics=TOPICS):
    """change: a function of the number and the messages by name, which it may edit."""
    with BagWriter(path) as bag:
        if tf:
            bag.write("/tf_static", ros_parts.START, static_tf())
        for number in range(frames):
            messages = frame(number)
            if change:
                messages = change(number, messages)
            # A message is recorded some ms after its stamp.
            for late, (name, message) in enumerate(messages.items()):
                time = ros_parts.START + number * STEP + (late + 1) * 3_000_000
                bag.write(topics[name], time, message)
    return path
