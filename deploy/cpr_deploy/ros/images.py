"""Images and depth out of sensor_msgs/Image and CompressedImage, whoever read the message.

Depth is along the camera's z; 0 and NaN are none.
"""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np

from cpr_deploy.files import InputError
from cpr_deploy.point_localizer import MAX_PIXELS

# Encoding -> channels, and OpenCV's conversion to BGR, if one is needed.
COLOURS = {
    "bgr8": (3, None),
    "rgb8": (3, "COLOR_RGB2BGR"),
    "bgra8": (4, "COLOR_BGRA2BGR"),
    "rgba8": (4, "COLOR_RGBA2BGR"),
    "mono8": (1, "COLOR_GRAY2BGR"),
}
# Encoding -> type, unit (REP 118).
DEPTHS = {"16UC1": (np.uint16, "mm"), "32FC1": (np.float32, "m")}
_PNG = b"\x89PNG\r\n\x1a\n"


def is_compressed(message: Any) -> bool:
    """Whether this is a CompressedImage."""
    return not hasattr(message, "encoding")


def colour_image(message: Any, name: str) -> np.ndarray:
    """(height, width, 3) uint8 BGR of an Image or CompressedImage; `name` of it begins errors.

    Raises:
        InputError: an encoding that is no colour image, sizes that do not fit, a damaged image.
    """
    if is_compressed(message):
        return _decode_colour(bytes(message.data), f"{name}: image of format {message.format!r}")
    if message.encoding not in COLOURS:
        hint = (
            " Debayer it first (image_proc)."
            if message.encoding.startswith("bayer")
            else " Set the camera's driver to one of them."
        )
        raise InputError(
            f"{name}: encoding {message.encoding!r} is no colour image that is known here; these"
            f" are: {', '.join(COLOURS)}.{hint}"
        )
    channels, conversion = COLOURS[message.encoding]
    pixels = _pixels(message, np.uint8, channels, name)
    if conversion is None:
        return pixels
    import cv2

    return cv2.cvtColor(pixels, getattr(cv2, conversion))


def depth_image(message: Any, name: str) -> tuple[np.ndarray, str]:
    """(height, width) of an Image, or of a CompressedImage of compressedDepth, and its unit.

    uint16 in "mm" or float32 in "m".

    Raises:
        InputError: as `colour_image`.
    """
    if is_compressed(message):
        return _decode_depth(message, name)
    if message.encoding not in DEPTHS:
        raise InputError(
            f"{name}: encoding {message.encoding!r} is no depth that is known here; these are:"
            " 16UC1 (mm) and 32FC1 (m). Check that this is the topic of the depth image."
        )
    kind, unit = DEPTHS[message.encoding]
    return _pixels(message, kind, 1, name)[:, :, 0], unit


def _pixels(message: Any, kind: type, channels: int, name: str) -> np.ndarray:
    """(height, width, channels) in this machine's byte order, without the padding of rows."""
    height, width, step = int(message.height), int(message.width), int(message.step)
    item = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    row = width * channels * item.itemsize
    data = np.frombuffer(memoryview(message.data), np.uint8)
    if not 0 < height * width <= MAX_PIXELS or step < row or len(data) < height * step:
        raise InputError(
            f"{name}: {width} x {height} px of {message.encoding}, step {step}, in {len(data)}"
            f" bytes: at least {row} bytes a row and {height * max(step, row)} in all are needed."
            " The message is damaged."
        )
    rows = np.ascontiguousarray(data[: height * step].reshape(height, step)[:, :row])
    return rows.view(item).reshape(height, width, channels).astype(kind, copy=False)


def _decode(data: bytes, what: str) -> Any:
    """The whole image, or an error: a part of it would be filled with grey."""
    from PIL import Image

    from cpr_deploy.image_files import unreadable

    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} px are too many")
            image.load()
            return image.copy()
    except Exception as error:  # Pillow raises many types for damaged files
        raise InputError(f"{what}: {unreadable(error)}") from None


def _decode_colour(data: bytes, what: str) -> np.ndarray:
    image = _decode(data, what)
    if image.mode.startswith(("I", "F")):
        raise InputError(f"{what}: holds numbers of more than 8 bits, which is no colour image.")
    return np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])


def _decode_depth(message: Any, name: str) -> tuple[np.ndarray, str]:
    """As compressed_depth_image_transport writes it: 12 bytes of header, then a PNG of 16 bits.

    In the PNG of a 32FC1 image are a / depth + b, with a and b in the header.
    """
    encoding = str(message.format).partition(";")[0].strip()
    what = f"{name}: depth of format {message.format!r}"
    data = bytes(message.data)
    start = data.find(_PNG, 0, 32)
    if encoding not in DEPTHS or start < 0 or start not in (0, 12):
        raise InputError(
            f"{what}: only PNG of 16UC1 or 32FC1 is known here (JPEG is no depth, RVL is not"
            " supported). Record the raw depth image, or set png in compressed_depth."
        )
    raw = np.asarray(_decode(data[start:], what))
    if raw.ndim != 2:
        raise InputError(f"{what}: has {raw.shape[-1]} channels; depth has one.")
    if encoding == "16UC1":
        return raw.astype(np.uint16), "mm"
    if start == 0:
        raise InputError(f"{what}: the header with its quantisation is missing.")
    _, a, b = struct.unpack("<iff", data[:12])
    raw = raw.astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(raw > 0, a / (raw - b), np.nan).astype(np.float32), "m"
