"""What hand-eye calibration reads: pictures of a board with the arm's poses, and touched points.

Lengths are m.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from cpr_deploy.camera import CameraModel
from cpr_deploy.files import InputError, read_json
from cpr_deploy.image_files import read_bgr
from cpr_deploy.picking.board import Board, board_pose
from cpr_deploy.transforms import Transform

EYE_IN_HAND, EYE_TO_HAND = "eye_in_hand", "eye_to_hand"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """A picture of the board: the arm's pose, and px (N, 2) of places (N, 3) on the board."""

    name: str
    base_from_hand: Transform
    places: np.ndarray
    xy: np.ndarray
    camera_from_board: Transform


def read_views(
    images: str | os.PathLike, poses: str | os.PathLike, camera: CameraModel, board: Board
) -> tuple[list[View], list[str]]:
    """Pictures in a folder that show the board, and the names of those that do not.

    poses: JSON {"poses": [{"image": file name, "rotation": [x, y, z, w] or "rotation_vector":
    [rx, ry, rz] (rad), "translation": [x, y, z] (m)}, ..]}, or "matrix" (4 x 4): base_from_hand.

    Raises:
        InputError: a picture without a pose or the other way round, or of another size.
    """
    folder, records = Path(images), read_poses(poses)
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder. Give the folder of the board's images.")
    names = {p.name for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES}
    for missing, what in (
        (names - set(records), f"have no pose in {poses}"),
        (set(records) - names, f"of {poses} are not in {folder}"),
    ):
        if missing:
            listed = ", ".join(sorted(missing)[:5])
            raise InputError(f"{folder}: {len(missing)} images ({listed}) {what}.")
    views, without = [], []
    for name in sorted(names):
        image = read_bgr(folder / name)
        if image.shape[:2] != (camera.height, camera.width):
            raise InputError(
                f"{folder / name}: is {image.shape[1]}x{image.shape[0]} px, the camera"
                f" {camera.width}x{camera.height}. Use the camera's numbers at this resolution."
            )
        found = board.find(image)
        pose = found and board_pose(camera, *found)
        if pose is None:
            without.append(name)
        else:
            views.append(View(name, records[name], *found, pose[0]))
    return views, without


def read_poses(path: str | os.PathLike) -> dict[str, Transform]:
    """Image name -> base_from_hand; see `read_views`."""
    value = read_json(path)
    records = value.get("poses") if isinstance(value, dict) else None
    if not isinstance(records, list) or not all(isinstance(item, dict) for item in records):
        raise InputError(
            f'{path}: {{"poses": [{{"image": .., "rotation": .., "translation": ..}}, ..]}} needed.'
        )
    poses: dict[str, Transform] = {}
    for index, record in enumerate(records):
        name, where = record.get("image"), f"{path}: poses[{index}]"
        if not isinstance(name, str) or name in poses:
            raise InputError(f"{where}: image {name!r}: a file name, each once, is needed.")
        poses[name] = _pose(record, where)
    return poses


def read_touched(
    path: str | os.PathLike, camera: CameraModel | None, kind: str
) -> tuple[np.ndarray, np.ndarray, str, list[Transform] | None]:
    """The arguments of `calibrate_touched`, from a file.

    JSON {"points": [{"base": [x, y, z], "camera": [x, y, z]}, ..]}, m. Instead of "camera" also
    "pixel": [x, y] (px, the first centre at 0.5) and "depth" (m), which need a camera. For a camera
    on the arm "base_from_hand" too: a transform.
    """
    value = read_json(path)
    records = value.get("points") if isinstance(value, dict) else None
    if not isinstance(records, list) or not all(isinstance(item, dict) for item in records):
        raise InputError(f'{path}: {{"points": [{{"base": .., "camera": ..}}, ..]}} is needed.')
    in_camera, in_base, poses = [], [], []
    for index, record in enumerate(records):
        where = f"{path}: points[{index}]"
        in_base.append(_triple(record.get("base"), f"{where}: base"))
        if "camera" in record:
            in_camera.append(_triple(record["camera"], f"{where}: camera"))
        elif camera is None:
            raise InputError(f'{where}: has no "camera"; with "pixel" and "depth" give a camera.')
        else:
            pixel, depth = record.get("pixel"), record.get("depth")
            place = _triple([*(pixel if isinstance(pixel, list) else ()), depth], f"{where}: pixel")
            xyz = camera.deproject([place[:2]], place[2:])[0]
            if np.isnan(xyz).any() or place[2] <= 0:
                raise InputError(f"{where}: pixel {pixel}, depth {depth}: show no place.")
            in_camera.append(xyz)
        if "base_from_hand" in record:
            poses.append(_pose(record["base_from_hand"], f"{where}: base_from_hand"))
    if len(poses) != (len(records) if kind == EYE_IN_HAND else 0):
        raise InputError(
            f"{path}: {len(poses)} of {len(records)} points have base_from_hand. For a camera on"
            " the arm all need it, else none."
        )
    return np.array(in_camera).reshape(-1, 3), np.array(in_base).reshape(-1, 3), kind, poses or None


def _pose(record: Any, where: str) -> Transform:
    if isinstance(record, Mapping) and "rotation_vector" in record:
        vector = _triple(record["rotation_vector"], f"{where}: rotation_vector")
        translation = _triple(record.get("translation"), f"{where}: translation")
        return Transform(Rotation.from_rotvec(vector).as_matrix(), translation)
    return Transform.from_dict(record, where)


def _triple(value: Any, where: str) -> np.ndarray:
    try:
        array = np.array(value, float)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.shape != (3,) or not np.isfinite(array).all():
        raise InputError(f"{where} {value!r}: 3 finite numbers are needed.")
    return array
