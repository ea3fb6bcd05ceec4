"""CameraInfo with binning and regions, against projections by OpenCV."""

import cv2
import numpy as np
import pytest

import ros_parts
from cpr_deploy.files import InputError
from cpr_deploy.ros.camera_info import camera_of
from cpr_deploy.ros.typestore import from_cdr, to_cdr

POINTS = np.random.default_rng(0).uniform([-0.5, -0.3, 0.8], [0.5, 0.3, 3.0], (200, 3))
D = np.array([-0.1, 0.05, 0.002, -0.001, 0.01])


def opencv_pixels(message, points=POINTS):
    """Ours, of the full picture."""
    k = np.asarray(message.k).reshape(3, 3)
    found = cv2.projectPoints(points, np.zeros(3), np.zeros(3), k, np.asarray(message.d))[0]
    return found.reshape(-1, 2) + 0.5


def test_as_it_is():
    message = ros_parts.camera_info(640, 480, 500.0, d=D)
    again = from_cdr(to_cdr(message), message.type, "x")
    for found in (camera_of(message, "x"), camera_of(again, "x")):
        assert (found.width, found.height) == (640, 480)
        np.testing.assert_allclose(found.project(POINTS), opencv_pixels(message), atol=1e-8)


@pytest.mark.parametrize("region", [(0, 0, 0, 0), (0, 0, 640, 480), (100, 50, 320, 240)])
@pytest.mark.parametrize("binning", [(0, 0), (1, 1), (2, 2), (4, 2)])
def test_binning_and_region(region, binning):
    """A region moves the corner of the picture, binning makes one pixel of several."""
    x, y, width, height = region
    message = ros_parts.camera_info(
        *(640, 480, 500.0),
        d=D,
        x_offset=x,
        y_offset=y,
        roi_width=width,
        roi_height=height,
        binning_x=binning[0],
        binning_y=binning[1],
    )
    found = camera_of(message, "x")
    step = np.maximum(binning, 1)
    size = np.array([width or 640, height or 480]) // step
    assert (found.width, found.height) == tuple(size)
    wanted = (opencv_pixels(message) - [x, y]) / step
    np.testing.assert_allclose(found.project(POINTS), wanted, atol=1e-8)


def test_rectified_images_have_the_camera_of_p():
    message = ros_parts.camera_info(640, 480, 500.0, d=D)
    p = np.array([450.0, 0, 310, 0, 0, 455.0, 250, 0, 0, 0, 1, 0])
    message.fields["p"] = p
    found = camera_of(message, "x", rectified=True)
    wanted = POINTS[:, :2] / POINTS[:, 2:] * [450, 455] + [310.5, 250.5]
    np.testing.assert_allclose(found.project(POINTS), wanted, atol=1e-9)
    message.fields["p"] = p + np.eye(12)[3] * -45.0  # the right camera of a pair
    with pytest.raises(InputError, match="Use the left camera"):
        camera_of(message, "x", rectified=True)


def test_a_fisheye():
    d = np.array([-0.02, 0.004, 0.001, -0.0005])
    message = ros_parts.camera_info(640, 480, 300.0, d=d, distortion_model="equidistant")
    k = np.asarray(message.k).reshape(3, 3)
    wanted = cv2.fisheye.projectPoints(POINTS[:, None], np.zeros(3), np.zeros(3), k, d)[0] + 0.5
    found = camera_of(message, "x").project(POINTS)
    np.testing.assert_allclose(found, wanted.reshape(-1, 2), atol=1e-8)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"k": np.zeros(9)}, "was not calibrated has zeros"),
        ({"k": np.full(9, np.nan)}, "9 finite numbers"),
        ({"width": 0}, "width 0"),
        ({"distortion_model": "thin_prism"}, "'thin_prism': is not known"),
        ({"d": np.ones(7)}, "plumb_bob has 5"),
        ({"x_offset": 400, "roi_width": 320, "roi_height": 240}, "does not fit into 640 x 480"),
        ({"binning_x": 1000}, "does not fit"),
    ],
)
def test_what_is_refused(fields, text):
    with pytest.raises(InputError, match=f"^/info: .*{text}"):
        camera_of(
            ros_parts.camera_info(**{"width": 640, "height": 480, "f": 500.0, **fields}), "/info"
        )
