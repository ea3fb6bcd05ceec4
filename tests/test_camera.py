import json

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cpr_deploy.camera import CameraModel, load_camera
from cpr_deploy.files import InputError
from cpr_deploy.transforms import Transform

MODELS = ("none", "plumb_bob", "rational_polynomial", "equidistant")
K = [[600.0, 0, 319.5], [0, 610, 239.5], [0, 0, 1]]


def random_camera(rng, model):
    width, height = (int(side) for side in rng.integers(200, 2000, 2))
    focal = rng.uniform(0.6, 1.6) * max(width, height)
    k = [[focal, 0, width * rng.uniform(0.4, 0.6)], [0, focal * rng.uniform(0.95, 1.05), 0]]
    k[1][2] = height * rng.uniform(0.4, 0.6)
    scale = {
        "none": [],
        "plumb_bob": [0.1, 0.05, 2e-3, 2e-3, 0.02],
        "rational_polynomial": [0.3, 0.1, 2e-3, 2e-3, 0.03, 0.3, 0.1, 0.03],
        "equidistant": [0.05, 0.02, 0.01, 0.005],
    }[model]
    d = rng.uniform(-1, 1, len(scale)) * scale
    return CameraModel(width, height, [*k, [0, 0, 1]], model, d)


def random_points(rng, count=200):
    """In front of the camera, within 35 degrees of its axis."""
    z = rng.uniform(0.2, 20, (count, 1))
    return np.hstack([rng.uniform(-0.5, 0.5, (count, 2)) * z, z])


def opencv_pixels(camera, xyz):
    """Projected by OpenCV, in our pixels."""
    d = np.array(camera.d) if camera.d else np.zeros(4)
    zero = np.zeros(3)
    if camera.distortion_model == "equidistant":
        xy, _ = cv2.fisheye.projectPoints(xyz[:, None], zero, zero, camera.k, d)
    else:
        xy, _ = cv2.projectPoints(xyz[:, None], zero, zero, camera.k, d)
    return xy[:, 0] + 0.5


@pytest.mark.parametrize("model", MODELS)
def test_projection_is_that_of_opencv(model):
    rng = np.random.default_rng(1)
    for _ in range(40):
        camera, xyz = random_camera(rng, model), random_points(rng)
        xy = camera.project(xyz)
        assert not np.isnan(xy).any()
        np.testing.assert_allclose(xy, opencv_pixels(camera, xyz), atol=1e-7)


@pytest.mark.parametrize("model", MODELS)
def test_projection_inverts_deprojection(model):
    """Through a transform to the base and back; pixels from OpenCV, rotations from scipy."""
    rng = np.random.default_rng(2)
    for rotation in Rotation.random(40, random_state=2):
        camera, in_camera = random_camera(rng, model), random_points(rng)
        translation = rng.normal(size=3)
        base_from_camera = Transform.from_quaternion(rotation.as_quat(), translation)
        in_base = rotation.apply(in_camera) + translation
        xy = opencv_pixels(camera, rotation.inv().apply(in_base - translation))
        found = base_from_camera.apply(camera.deproject(xy, in_camera[:, 2]))
        np.testing.assert_allclose(found, in_base, atol=1e-6)
        back = camera.project(base_from_camera.inverse().apply(found))
        np.testing.assert_allclose(back, xy, atol=1e-6)


def test_pixels_are_continuous():
    """OpenCV's pixel (0, 0) is our (0.5, 0.5); a corner of the picture is our (0, 0)."""
    camera = CameraModel(640, 480, K, "none")
    np.testing.assert_allclose(camera.rays([[320, 240]])[0], [0, 0, 1], atol=1e-15)
    np.testing.assert_allclose(camera.project([[0, 0, 2]]), [[320, 240]])


def test_behind_the_camera_there_is_nothing():
    for model in MODELS:
        camera = random_camera(np.random.default_rng(3), model)
        assert np.isnan(camera.project([[0, 0, -1], [0.1, 0, 0], [np.nan, 0, 1]])).all()
        assert camera.project(np.zeros((0, 3))).shape == (0, 2)
        assert camera.rays(np.zeros((0, 2))).shape == (0, 3)


def test_barrel_distortion_does_not_fold_far_points_into_the_picture():
    camera = CameraModel(640, 480, K, "plumb_bob", [-0.3, 0, 0, 0, 0])
    limit = (1 / 0.9) ** 0.5  # 1 - 0.9 r^2 = 0
    inside, outside = camera.project([[0.99 * limit, 0, 1], [1.01 * limit, 0, 1]])
    assert not np.isnan(inside).any() and np.isnan(outside).all()
    # Nothing is seen beyond the largest radius, r (1 - 0.3 r^2) at the limit.
    seen = limit * (1 - 0.3 * limit**2) * 600 + 320
    rays = camera.rays([[seen - 1, 240], [seen + 1, 240]])
    assert 0 < rays[0, 0] < limit and np.isnan(rays[1]).all()


def test_fisheye_ends_at_the_side():
    camera = CameraModel(640, 480, K, "equidistant", [0, 0, 0, 0])
    edge = 600 * np.pi / 2 + 320
    rays = camera.rays([[edge - 1, 240], [edge + 1, 240], [320, 240]])
    assert rays[0, 0] > 500 and np.isnan(rays[1]).all()
    np.testing.assert_allclose(rays[2], [0, 0, 1], atol=1e-12)


def test_scaled_camera_sees_the_same_in_a_resized_picture():
    rng = np.random.default_rng(4)
    for model in MODELS:
        camera, xyz = random_camera(rng, model), random_points(rng)
        half = camera.scaled(camera.width * 2, camera.height * 3)
        np.testing.assert_allclose(half.project(xyz), camera.project(xyz) * [2, 3], atol=1e-7)


def test_files_round_trip(tmp_path):
    camera = random_camera(np.random.default_rng(5), "plumb_bob")
    path = tmp_path / "camera.json"
    path.write_text(json.dumps(camera.to_dict()))
    assert load_camera(path) == camera
    path.write_text(json.dumps({**camera.to_dict(), "k": camera.k.tolist()}))
    assert load_camera(path) == camera


def test_file_of_opencv(tmp_path):
    path = tmp_path / "camera.yml"
    file = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    file.write("image_width", 640)
    file.write("image_height", 480)
    file.write("camera_matrix", np.array(K))
    file.write("distortion_coefficients", np.array([[0.1, -0.2, 0.001, 0, 0]]))
    file.release()
    assert load_camera(path) == CameraModel(640, 480, K, "plumb_bob", [0.1, -0.2, 0.001, 0, 0])


def test_camera_info_file_of_ros(tmp_path):
    path = tmp_path / "camera_info.yaml"
    path.write_text(
        """image_width: 640
image_height: 480
camera_name: narrow_stereo
camera_matrix:
  rows: 3
  cols: 3
  data: [600.0, 0.0, 319.5, 0.0, 610.0, 239.5, 0.0, 0.0, 1.0]
distortion_model: rational_polynomial
distortion_coefficients:
  rows: 1
  cols: 8
  data: [0.1, 0.2, 0.0, 0.0, 0.0, 0.1, 0.2, 0.0]
rectification_matrix:
  rows: 3
  cols: 3
  data: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
"""
    )
    camera = CameraModel(640, 480, K, "rational_polynomial", [0.1, 0.2, 0, 0, 0, 0.1, 0.2, 0])
    assert load_camera(path) == camera


GOOD = {"width": 640, "height": 480, "k": K, "d": [], "distortion_model": "none"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "camera.json: width 0"),
        ({"width": 640.5}, "width 640.5"),
        ({"height": None}, "has no height"),
        ({"height": "tall"}, "must be numbers"),
        ({"k": [0.0] * 9}, "fx, fy > 0"),
        ({"k": [600, 0, 320, 0, 600, 240]}, "9 finite numbers"),
        ({"k": [600, 1, 320, 0, 600, 240, 0, 0, 1]}, "fx, fy > 0"),
        ({"k": "sharp"}, "k 'sharp': numbers"),
        ({"distortion_model": "magic"}, "'magic': is not known"),
        ({"distortion_model": "equidistant", "d": [0.1] * 5}, "has 4 finite"),
        ({"distortion_model": "plumb_bob", "d": [0.1, 0.2]}, "has 5 finite"),
        ({"distortion_model": "plumb_bob", "d": [0.1, float("nan"), 0, 0, 0]}, "has 5 finite"),
    ],
)
def test_bad_cameras(change, message):
    with pytest.raises(InputError, match=message):
        CameraModel.from_dict({**GOOD, **change}, "camera.json")


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_camera(tmp_path / "none.yaml")
    path = tmp_path / "bad.yaml"
    path.write_text("k: [1, 2")
    with pytest.raises(InputError, match="bad.yaml: is not valid YAML"):
        load_camera(path)
    path.write_text("!!python/object/apply:os.getcwd []")
    with pytest.raises(InputError, match="is not valid YAML"):
        load_camera(path)
    path.write_text("- 1\n- 2\n")
    with pytest.raises(InputError, match="is no camera"):
        load_camera(path)
