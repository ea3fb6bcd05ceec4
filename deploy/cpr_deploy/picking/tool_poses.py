"""Pick targets as poses of a tool, in the forms that arms take. Lengths are m, but where told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np

from cpr_deploy.files import InputError
from cpr_deploy.transforms import Transform


def tool_pose(position: Sequence[float], approach: Sequence[float]) -> Transform:
    """base_from_tool of a tool at `position`, m, whose z points along `approach`, both of the base.

    The turn about the approach is free; x of the tool is as near to x of the base as can be, or,
    where the approach is along that, to y.
    """
    z = np.asarray(approach, float)
    length = np.linalg.norm(z)
    if not np.isfinite(length) or length < 1e-9:
        raise InputError(f"approach {list(approach)}: a direction is needed.")
    z = z / length
    along = np.eye(3)[0] if abs(z[0]) < 0.99 else np.eye(3)[1]
    x = along - z * (along @ z)
    x /= np.linalg.norm(x)
    return Transform(np.column_stack([x, np.cross(z, x), z]), position)


def rotation_vector(pose: Transform) -> np.ndarray:
    """The axis of the turn times its angle, rad (3,): rx, ry, rz of Universal Robots."""
    x, y, z, w = pose.quaternion()
    sine = np.linalg.norm((x, y, z))
    if sine < 1e-12:
        return np.zeros(3)
    return 2 * np.arctan2(sine, w) / sine * np.array([x, y, z])


def kuka_angles(pose: Transform) -> np.ndarray:
    """A, B, C of KUKA, degrees (3,): turns about z, then the new y, then the new x."""
    r = pose.rotation
    b = np.arctan2(-r[2, 0], np.hypot(r[0, 0], r[1, 0]))
    if np.hypot(r[0, 0], r[1, 0]) > 1e-9:
        a, c = np.arctan2(r[1, 0], r[0, 0]), np.arctan2(r[2, 1], r[2, 2])
    else:  # x points up or down: only the sum or the difference of A and C counts
        a, c = np.arctan2(-r[0, 1], r[1, 1]), 0.0
    return np.degrees([a, b, c])


def ur_line(answer: Mapping[str, Any]) -> str:
    """(x,y,z,rx,ry,rz) for socket_read_ascii_float of URScript; () where there is no target."""
    if not answer["ok"]:
        return "()"
    pose = Transform.from_dict(answer["pose"])
    numbers = [*pose.translation, *rotation_vector(pose)]
    return "(" + ",".join(f"{value:.6f}" for value in numbers) + ")"


def kuka_xml(answer: Mapping[str, Any]) -> str:
    """<Pick Code="ok"><Pose X= Y= Z= A= B= C=/></Pick> for EthernetKRL, mm and degrees."""
    pick = ElementTree.Element("Pick", Code="ok" if answer["ok"] else str(answer["code"]))
    pick.set("Reason", str(answer.get("reason", "")))
    if "pose" in answer:
        pose = Transform.from_dict(answer["pose"])
        numbers = [*(1000 * pose.translation), *kuka_angles(pose)]
        names = zip("XYZABC", numbers, strict=True)
        ElementTree.SubElement(pick, "Pose", {name: f"{value:.4f}" for name, value in names})
        pick.set("Id", answer["target"]["id"])
    return ElementTree.tostring(pick, encoding="unicode")
