import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cpr_deploy.files import InputError
from cpr_deploy.transforms import Transform

RNG = np.random.default_rng(0)
# Half turns are where quaternions from matrices go wrong.
ROTATIONS = [
    *Rotation.random(200, random_state=0),
    *Rotation.from_rotvec(np.pi * np.vstack([np.eye(3), np.full((1, 3), 3**-0.5)])),
    Rotation.from_rotvec([np.pi - 1e-7, 0, 0]),
    Rotation.identity(),
]


def some(rotation):
    return Transform(rotation.as_matrix(), RNG.normal(size=3))


@pytest.mark.parametrize("rotation", ROTATIONS[-8:])
def test_quaternions_are_those_of_scipy(rotation):
    check_quaternion(rotation)


def test_many_quaternions_are_those_of_scipy():
    for rotation in ROTATIONS:
        check_quaternion(rotation)


def check_quaternion(rotation):
    quaternion = some(rotation).quaternion()
    assert quaternion[3] >= 0 and np.linalg.norm(quaternion) == pytest.approx(1, abs=1e-12)
    assert abs(quaternion @ rotation.as_quat()) == pytest.approx(1, abs=1e-12)
    back = Transform.from_quaternion(rotation.as_quat(), [0, 0, 0])
    np.testing.assert_allclose(back.rotation, rotation.as_matrix(), atol=1e-12)


def test_apply_inverse_and_product_against_scipy_and_matrices():
    points = RNG.normal(size=(20, 3))
    for first, second in zip(ROTATIONS[:20], ROTATIONS[20:40], strict=True):
        a, b = some(first), some(second)
        np.testing.assert_allclose(a.apply(points), first.apply(points) + a.translation)
        np.testing.assert_allclose(a.inverse().apply(a.apply(points)), points, atol=1e-12)
        np.testing.assert_allclose((a @ b).matrix(), a.matrix() @ b.matrix(), atol=1e-12)
    np.testing.assert_allclose(a.apply(points[0]), a.apply(points)[0])
    np.testing.assert_array_equal(Transform.identity().apply(points), points)


def test_dictionaries_round_trip():
    for rotation in ROTATIONS[:20]:
        transform = some(rotation)
        for value in (transform.to_dict(), {"matrix": transform.matrix().tolist()}):
            back = Transform.from_dict(value)
            np.testing.assert_allclose(back.matrix(), transform.matrix(), atol=1e-12)


def test_few_digits_are_made_an_exact_rotation():
    rotation = ROTATIONS[3].as_matrix().round(4)
    exact = Transform(rotation, [0, 0, 0]).rotation
    np.testing.assert_allclose(exact @ exact.T, np.eye(3), atol=1e-14)
    assert np.abs(exact - rotation).max() < 1e-4


def test_arrays_are_copies_that_nobody_can_change():
    rotation = np.eye(3)
    transform = Transform(rotation, [0, 0, 0])
    rotation[0, 0] = -1
    assert transform.rotation[0, 0] == 1
    with pytest.raises(ValueError):
        transform.translation[0] = 1


@pytest.mark.parametrize(
    ("rotation", "message"),
    [
        (np.diag([1, 1, -1]), "mirrored"),
        (1.01 * np.eye(3), "off by"),
        ([[1, 0.01, 0], [0, 1, 0], [0, 0, 1]], "off by"),
        (np.zeros((3, 3)), "off by"),
        (np.full((3, 3), np.nan), "3 x 3 finite numbers"),
        (np.eye(4), "3 x 3 finite numbers"),
        ("turn", "3 x 3 finite numbers"),
    ],
)
def test_what_is_no_rotation(rotation, message):
    with pytest.raises(InputError, match=message):
        Transform(rotation, [0, 0, 0])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"rotation": [0, 0, 0, 0], "translation": [0, 0, 0]}, "hand.json: quaternion .* length 0"),
        ({"rotation": [0, 0, 0, 2], "translation": [0, 0, 0]}, "order is x, y, z, w"),
        ({"rotation": [0, 0, 0, 1], "translation": [0, 0, np.inf]}, "translation .* 3 finite"),
        ({"rotation": [0, 0, 0, 1]}, "hand.json: is no transform"),
        ({"rotation": [0, 0, 1], "translation": [0, 0, 0]}, "4 finite numbers"),
        ({"matrix": np.ones((4, 4)).tolist()}, "last row"),
        ([1, 2, 3], "is no transform"),
        (None, "is no transform"),
    ],
)
def test_bad_dictionaries(value, message):
    with pytest.raises(InputError, match=message):
        Transform.from_dict(value, "hand.json")
