"""Where a camera is, out of the files of the calibration and of people."""

import numpy as np
import pytest

from cpr_deploy.files import InputError, write_json
from cpr_deploy.picking.camera_place import load_camera_place
from cpr_deploy.picking.hand_eye import EYE_IN_HAND, EYE_TO_HAND, HandEye, save_hand_eye
from cpr_deploy.transforms import Transform

PLACE = Transform.from_quaternion((0, 0.6, 0, 0.8), (0.1, 0.2, 0.3))


@pytest.mark.parametrize("on_arm", [False, True])
def test_a_transform(tmp_path, on_arm):
    path = tmp_path / "place.json"
    for value in (PLACE.to_dict(), {"matrix": PLACE.matrix().tolist()}):
        write_json(path, value)
        found = load_camera_place(path, on_arm=on_arm)
        np.testing.assert_allclose(found.matrix(), PLACE.matrix(), atol=1e-12)


@pytest.mark.parametrize("kind", [EYE_IN_HAND, EYE_TO_HAND])
def test_a_calibration(tmp_path, kind):
    path = tmp_path / "hand_eye.json"
    save_hand_eye(path, HandEye(kind, PLACE, "refined", 0.001, 12))
    on_arm = kind == EYE_IN_HAND
    found = load_camera_place(path, on_arm=on_arm)
    np.testing.assert_allclose(found.matrix(), PLACE.matrix(), atol=1e-12)
    with pytest.raises(InputError, match=f"hand_eye.json: this camera .* \\({kind}\\)"):
        load_camera_place(path, on_arm=not on_arm)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([], "is no transform"),
        ({"format": "other"}, "is no hand-eye calibration"),
        ({"rotation": [0, 0, 0, 2], "translation": [0, 0, 0]}, "length 2"),
    ],
)
def test_what_is_none(tmp_path, value, text):
    write_json(tmp_path / "x.json", value)
    with pytest.raises(InputError, match=f"x.json: .*{text}"):
        load_camera_place(tmp_path / "x.json", on_arm=False)
    with pytest.raises(InputError, match="no such file"):
        load_camera_place(tmp_path / "y.json", on_arm=False)
