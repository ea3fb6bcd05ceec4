import cv2
import numpy as np
import pytest

from cpr_deploy.tracking.camera_motion import CameraMotion, jacobians, transform

WIDTH, HEIGHT = 640, 480


@pytest.fixture(scope="module")
def ground():
    """A textured picture, larger than the frames."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (90, 110, 3), dtype=np.uint8)
    return cv2.resize(coarse, (1100, 900), interpolation=cv2.INTER_CUBIC)


def frame(ground, homography):
    """What a camera sees; `homography` from px of the ground to px of the frame (corner origin)."""
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    return cv2.warpPerspective(ground, np.linalg.inv(half) @ homography @ half, (WIDTH, HEIGHT))


def view(x=0.0, y=0.0, degrees=0.0, zoom=1.0, tilt=(0.0, 0.0)):
    angle = np.deg2rad(degrees)
    c, s = zoom * np.cos(angle), zoom * np.sin(angle)
    move = np.array([[c, -s, x], [s, c, y], [*tilt, 1]])
    centre = np.array([[1, 0, WIDTH / 2], [0, 1, HEIGHT / 2], [0, 0, 1.0]])
    start = np.array([[1, 0, -550], [0, 1, -450], [0, 0, 1.0]])
    return centre @ move @ start


def error(found, true):
    """Mean px over the frame."""
    grid = np.stack(np.meshgrid(np.linspace(0, WIDTH, 9), np.linspace(0, HEIGHT, 7)), axis=-1)
    points = grid.reshape(-1, 2)
    return np.linalg.norm(transform(found, points) - transform(true, points), axis=1).mean()


@pytest.mark.parametrize(
    "second",
    [
        {"x": 12.5, "y": -7},
        {"degrees": 3},
        {"zoom": 1.05},
        {"x": -20, "y": 11, "degrees": -1.5, "zoom": 0.97},
        {"x": 5, "tilt": (5e-5, -3e-5)},
        {"x": 70, "y": 30},
        {},
    ],
)
def test_known_motion_is_found(ground, second):
    camera = CameraMotion()
    assert camera.update(frame(ground, view())) is None
    found = camera.update(frame(ground, view(**second)))
    true = view(**second) @ np.linalg.inv(view())
    assert error(found, true) < 0.6


def test_objects_that_move_do_not_carry_the_camera_along(ground):
    rng = np.random.default_rng(1)
    first, second = frame(ground, view()), frame(ground, view(x=6))
    for x, y in rng.integers(0, [WIDTH - 60, HEIGHT - 60], (12, 2)):
        patch = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        patch = cv2.resize(patch, (40, 40), interpolation=cv2.INTER_NEAREST)
        first[y : y + 40, x : x + 40] = patch
        second[y + 15 : y + 55, x : x + 40] = patch
    camera = CameraMotion()
    camera.update(first)
    assert error(camera.update(second), np.array([[1, 0, 6], [0, 1, 0], [0, 0, 1.0]])) < 0.6


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_large_objects_that_all_move_one_way_are_left_out(ground, factor):
    """Who does not know of them is misled by them."""
    rng = np.random.default_rng(3)
    dull = cv2.GaussianBlur(ground, (0, 0), 6)
    first, second = frame(dull, view()), frame(dull, view(x=4))
    places = np.array([[x, y] for x in range(20, 600, 100) for y in range(20, 400, 100)])
    for x, y in places:
        patch = cv2.resize(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8), (48, 48))
        first[y : y + 48, x : x + 48] = patch
        second[y + 12 : y + 60, x : x + 48] = patch
    first, second = (
        cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
        for image in (first, second)
    )
    true = np.array([[1, 0, 4.0 * factor], [0, 1, 0], [0, 0, 1]])
    unknowing, knowing = CameraMotion(), CameraMotion()
    unknowing.update(first)
    knowing.update(first)
    misled = unknowing.update(second)
    found = knowing.update(second, objects=(places + 24.0) * factor, size=60.0 * factor)
    assert error(found, true) < 0.5 * factor
    assert misled is None or error(misled, true) > 1.5 * error(found, true)


def test_what_cannot_be_told_is_not_told(ground):
    picture = frame(ground, view())
    grey = np.full_like(picture, 90)
    other = np.random.default_rng(2).integers(0, 255, picture.shape, dtype=np.uint8)
    camera = CameraMotion()
    for image in (picture, grey, grey, picture, other, picture[:240], picture):
        assert camera.update(image) is None
    # And the next pair is told again.
    assert error(camera.update(picture), np.eye(3)) < 0.1
    camera.reset()
    assert camera.update(picture) is None


def test_jacobians_are_those_of_small_steps():
    rng = np.random.default_rng(0)
    homography = np.eye(3) + rng.normal(size=(3, 3)) * [[0.1, 0.1, 20], [0.1, 0.1, 20], [1e-4] * 3]
    points = rng.random((20, 2)) * 500
    found = jacobians(homography, points)
    for axis in range(2):
        step = np.zeros(2)
        step[axis] = 1e-4
        slope = (transform(homography, points + step) - transform(homography, points - step)) / 2e-4
        np.testing.assert_allclose(found[:, :, axis], slope, rtol=1e-5, atol=1e-6)
