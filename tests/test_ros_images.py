"""Pixels out of messages: every encoding, byte order and padding, against OpenCV."""

import struct

import cv2
import numpy as np
import pytest

import ros_parts
from cpr_deploy.files import InputError
from cpr_deploy.ros.images import colour_image, depth_image
from cpr_deploy.ros.typestore import from_cdr, to_cdr

RNG = np.random.default_rng(0)
UNITS = {"mm": 1e-3, "m": 1.0}
BGR = RNG.integers(0, 256, (7, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("encoding", "pixels", "back"),
    [
        ("bgr8", BGR, BGR),
        ("rgb8", cv2.cvtColor(BGR, cv2.COLOR_BGR2RGB), BGR),
        ("bgra8", cv2.cvtColor(BGR, cv2.COLOR_BGR2BGRA), BGR),
        ("rgba8", cv2.cvtColor(BGR, cv2.COLOR_BGR2RGBA), BGR),
        ("mono8", BGR[:, :, 0], cv2.cvtColor(BGR[:, :, 0], cv2.COLOR_GRAY2BGR)),
    ],
)
@pytest.mark.parametrize("padding", [0, 3])
def test_colours(encoding, pixels, back, padding):
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    rows = np.hstack([rows, np.full((height, padding), 9, np.uint8)])
    message = ros_parts.image(pixels, encoding, step=rows.shape[1], data=rows.ravel())
    for again in (message, from_cdr(to_cdr(message), message.type, "x")):
        found = colour_image(again, "x")
        assert found.dtype == np.uint8 and found.flags.c_contiguous
        np.testing.assert_array_equal(found, back)


def metres(message):
    """NaN where there is no depth."""
    depth, unit = depth_image(message, "x")
    assert (depth.dtype, unit) in ((np.uint16, "mm"), (np.float32, "m")) and depth.ndim == 2
    good = np.isfinite(depth) & (depth > 0)
    return np.where(good, depth * UNITS[unit], np.nan).astype(np.float32)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("padding", [0, 4])
def test_depth_of_16_bits_is_millimetres(order, padding):
    millimetres = np.array([[0, 1, 1000], [65535, 258, 500]], np.uint16)
    pixels = millimetres.astype(f"{order}u2")
    rows = np.hstack([pixels.view(np.uint8), np.full((2, padding), 255, np.uint8)])
    message = ros_parts.image(pixels, "16UC1", step=rows.shape[1], data=rows.ravel())
    # A type of this machine's own order has no mark.
    message.fields["is_bigendian"] = int(order == ">")
    wanted = np.array([[np.nan, 0.001, 1.0], [65.535, 0.258, 0.5]], np.float32)
    np.testing.assert_allclose(metres(message), wanted, rtol=1e-6)


@pytest.mark.parametrize("order", ["<", ">"])
def test_depth_of_32_bits_is_metres(order):
    values = np.array([[0, -1, np.nan, np.inf, 0.25, 7.5]], f"{order}f4")
    message = ros_parts.image(values, "32FC1", is_bigendian=int(order == ">"))
    wanted = [[np.nan, np.nan, np.nan, np.nan, 0.25, 7.5]]
    np.testing.assert_array_equal(metres(message), np.float32(wanted))


@pytest.mark.parametrize(("suffix", "kind"), [(".png", "png"), (".jpg", "bgr8; jpeg compressed")])
def test_compressed_colours(suffix, kind):
    smooth = cv2.resize(BGR, (64, 48), interpolation=cv2.INTER_CUBIC)
    data = cv2.imencode(suffix, smooth)[1].tobytes()
    found = colour_image(ros_parts.compressed(data, kind), "x")
    wanted = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(found.astype(int) - wanted).max() <= (0 if suffix == ".png" else 3)
    with pytest.raises(InputError, match=f"^x: image of format '{kind}': cannot be read"):
        colour_image(ros_parts.compressed(data[: len(data) // 2], kind), "x")


def test_compressed_depth():
    """As compressed_depth_image_transport makes it; the bytes put together here."""
    truth = np.array([[0.3, 1.0, 2.5], [9.0, 0.0, 4.0]], np.float32)
    png = cv2.imencode(".png", np.uint16(truth * 1000))[1].tobytes()
    wanted = np.where(truth > 0, truth, np.nan)
    for head in (b"", struct.pack("<iff", 0, 0, 0)):
        message = ros_parts.compressed(head + png, "16UC1; compressedDepth png")
        np.testing.assert_allclose(metres(message), wanted, atol=1e-6)
    # 32FC1: a / depth + b in 16 bits.
    a, b = 100.0 * 101.0, -1009.0
    raw = np.where(truth > 0, np.round(a / np.where(truth > 0, truth, 1) + b), 0)
    assert raw.max() < 65536
    raw = np.clip(raw, 0, 65535)
    png = cv2.imencode(".png", np.uint16(raw))[1].tobytes()
    message = ros_parts.compressed(struct.pack("<iff", 0, a, b) + png, "32FC1; compressedDepth")
    found = metres(message)
    far = truth > 0
    np.testing.assert_allclose(found[far], truth[far], rtol=2e-3)
    assert np.isnan(found[~far]).all()


@pytest.mark.parametrize(
    ("read", "message", "text"),
    [
        (colour_image, ros_parts.image(BGR, "bayer_rggb8"), "Debayer it first"),
        (colour_image, ros_parts.image(BGR, "yuv422"), "'yuv422' is no colour image"),
        (colour_image, ros_parts.image(BGR, "16UC1"), "no colour image"),
        (depth_image, ros_parts.image(BGR, "bgr8"), "'bgr8' is no depth"),
        (depth_image, ros_parts.image(BGR, "mono16"), "is no depth"),
        (colour_image, ros_parts.image(BGR, "bgr8", step=14), "at least 15 bytes a row"),
        (colour_image, ros_parts.image(BGR, "bgr8", height=8), "The message is damaged"),
        (colour_image, ros_parts.image(BGR, "bgr8", height=0), "The message is damaged"),
        (colour_image, ros_parts.image(BGR, "bgr8", width=1 << 31), "The message is damaged"),
        (
            colour_image,
            ros_parts.compressed(b"", "jpeg"),
            "no image of a known format|not an image",
        ),
        (depth_image, ros_parts.compressed(b"x" * 40, "16UC1; compressedDepth rvl"), "RVL is not"),
        (depth_image, ros_parts.compressed(b"x", "bgr8; jpeg compressed bgr8"), "JPEG is no depth"),
    ],
)
def test_what_is_refused(read, message, text):
    with pytest.raises(InputError, match=text):
        read(message, "topic")


def test_an_image_of_16_bits_is_no_colour_image():
    data = cv2.imencode(".png", np.zeros((4, 4), np.uint16))[1].tobytes()
    with pytest.raises(InputError, match="more than 8 bits"):
        colour_image(ros_parts.compressed(data, "png"), "x")
    data = cv2.imencode(".png", BGR)[1].tobytes()
    with pytest.raises(InputError, match="depth has one"):
        depth_image(ros_parts.compressed(data, "16UC1; compressedDepth"), "x")
