"""The file that says where a camera is: a hand-eye calibration, or a transform written by hand."""

from __future__ import annotations

import os

from cpr_deploy.files import InputError, read_json
from cpr_deploy.transforms import Transform


def load_camera_place(path: str | os.PathLike, *, on_arm: bool) -> Transform:
    """hand_from_camera of a camera on the arm, else base_from_camera.

    Raises:
        InputError: no such file, no transform, or a calibration of the other kind.
    """
    value = read_json(path)
    if not isinstance(value, dict) or "format" not in value:
        return Transform.from_dict(value, str(path))
    from cpr_deploy.picking.hand_eye import EYE_IN_HAND, load_hand_eye

    found = load_hand_eye(path)
    if (found.kind == EYE_IN_HAND) != on_arm:
        is_on_arm = "is on the arm" if found.kind == EYE_IN_HAND else "stands still"
        raise InputError(
            f"{path}: this camera {is_on_arm} ({found.kind}). Give the frame of the hand for a"
            " camera on the arm, and for that alone."
        )
    return found.transform
