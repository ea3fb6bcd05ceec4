"""Poses of tools in the conventions of arms, against scipy."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cpr_deploy.files import InputError
from cpr_deploy.picking import tool_poses
from cpr_deploy.transforms import Transform

RNG = np.random.default_rng(0)
TURNS = [*Rotation.random(100, rng=RNG), *Rotation.from_rotvec(np.pi * np.eye(3))]
TURNS += [Rotation.identity(), *Rotation.from_euler("ZYX", [[30, 90, 0], [30, -90, 10]], True)]


def test_the_tool_points_along_the_approach():
    directions = [*RNG.normal(size=(200, 3)), *np.eye(3), *-np.eye(3), (1, 1e-9, 0)]
    for approach in directions:
        pose = tool_poses.tool_pose((1, 2, 3), approach)
        unit = np.asarray(approach) / np.linalg.norm(approach)
        np.testing.assert_allclose(pose.apply([0, 0, 1]), unit + [1, 2, 3], atol=1e-12)
        np.testing.assert_allclose(pose.rotation.T @ pose.rotation, np.eye(3), atol=1e-12)
        assert np.linalg.det(pose.rotation) > 0
        # x of the tool has as much of x of the base as is possible at right angles to the approach.
        if abs(unit[0]) < 0.99:
            assert pose.rotation[0, 0] == pytest.approx(np.sqrt(1 - unit[0] ** 2), abs=1e-9)
    for nothing in ((0, 0, 0), (np.nan, 0, 1)):
        with pytest.raises(InputError, match="a direction is needed"):
            tool_poses.tool_pose((0, 0, 0), nothing)


@pytest.mark.parametrize("number", range(len(TURNS)))
def test_rotation_vectors_and_angles_are_the_same_turn(number):
    turn = TURNS[number]
    pose = Transform(turn.as_matrix(), (0, 0, 0))
    vector = tool_poses.rotation_vector(pose)
    assert np.linalg.norm(vector) <= np.pi + 1e-9
    np.testing.assert_allclose(Rotation.from_rotvec(vector).as_matrix(), pose.rotation, atol=1e-9)
    angles = tool_poses.kuka_angles(pose)
    again = Rotation.from_euler("ZYX", angles, degrees=True)  # about the turned axes
    np.testing.assert_allclose(again.as_matrix(), pose.rotation, atol=1e-7)


def answer(position=(0.4, -0.1, 0.2), approach=(0, 0, -1)):
    pose = tool_poses.tool_pose(position, approach)
    return {"ok": True, "target": {"id": "7-0"}, "pose": pose.to_dict()}


def test_the_line_for_universal_robots():
    line = tool_poses.ur_line(answer())
    assert line.startswith("(") and line.endswith(")")
    numbers = [float(text) for text in line[1:-1].split(",")]
    np.testing.assert_allclose(numbers[:3], (0.4, -0.1, 0.2))
    # Straight down: half a turn about x.
    np.testing.assert_allclose(numbers[3:], (np.pi, 0, 0), atol=1e-6)
    assert tool_poses.ur_line({"ok": False, "code": "stale", "reason": ""}) == "()"


def test_the_xml_for_kuka():
    pick = ElementTree.fromstring(tool_poses.kuka_xml(answer()))
    pose = {name: float(value) for name, value in pick.find("Pose").attrib.items()}
    assert (pick.get("Code"), pick.get("Id")) == ("ok", "7-0")
    assert [pose[name] for name in "XYZ"] == [400.0, -100.0, 200.0]
    assert [abs(pose[name]) for name in "ABC"] == pytest.approx([0, 0, 180])
    reason = 'a "b" <c> & d'
    refused = {"ok": False, "code": "stale", "reason": reason}
    pick = ElementTree.fromstring(tool_poses.kuka_xml(refused))
    assert pick.get("Code") == "stale" and pick.get("Reason") == reason
    assert pick.find("Pose") is None
