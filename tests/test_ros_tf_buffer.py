"""Transforms at a time, against matrices of scipy."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

import ros_parts
from cpr_deploy.ros.messages import Message
from cpr_deploy.ros.tf_buffer import TfBuffer, TransformMissing
from cpr_deploy.ros.typestore import from_cdr, to_cdr
from cpr_deploy.transforms import Transform

START, SECOND = ros_parts.START, ros_parts.SECOND


def random_transform(seed):
    rng = np.random.default_rng(seed)
    return Transform(Rotation.random(rng=rng).as_matrix(), rng.uniform(-2, 2, 3))


def close(a, b, atol=1e-9):
    np.testing.assert_allclose(a.matrix(), b.matrix(), atol=atol)


def test_along_a_tree_in_all_directions():
    """base - shoulder - hand - camera, and base - table: any to any."""
    edges = {
        ("base", "shoulder"): random_transform(1),
        ("shoulder", "hand"): random_transform(2),
        ("hand", "camera"): random_transform(3),
        ("base", "table"): random_transform(4),
    }
    buffer = TfBuffer()
    for number, ((parent, child), transform) in enumerate(edges.items()):
        message = ros_parts.tf((parent, child, transform))
        message = from_cdr(to_cdr(message), message.type, "x")
        assert buffer.add(message, static=number % 2 == 0) == []
    in_base = {"base": np.eye(4)}
    for (parent, child), transform in edges.items():
        in_base[child] = in_base[parent] @ transform.matrix()
    for target, target_in_base in in_base.items():
        for source, source_in_base in in_base.items():
            wanted = np.linalg.inv(target_in_base) @ source_in_base
            found = buffer.lookup(target, f"/{source}", START)
            np.testing.assert_allclose(found.matrix(), wanted, atol=1e-9)


def test_between_two_times():
    first, last = random_transform(5), random_transform(6)
    buffer = TfBuffer()
    # In any order.
    buffer.add(ros_parts.tf(("base", "hand", last), stamp=START + SECOND), static=False)
    buffer.add(ros_parts.tf(("base", "hand", first), stamp=START), static=False)
    slerp = Slerp([0, 1], Rotation.from_matrix([first.rotation, last.rotation]))
    for share in (0, 0.25, 0.5, 0.999, 1):
        found = buffer.lookup("base", "hand", START + int(share * SECOND))
        translation = (1 - share) * first.translation + share * last.translation
        close(found, Transform(slerp(share).as_matrix(), translation))


def test_the_newest_of_a_time_counts_and_old_ones_go():
    buffer = TfBuffer(keep=2.0)
    for second in range(5):
        message = ros_parts.tf(("a", "b", random_transform(second)), stamp=START + second * SECOND)
        buffer.add(message, static=False)
    buffer.add(
        ros_parts.tf(("a", "b", random_transform(9)), stamp=START + 4 * SECOND), static=False
    )
    close(buffer.lookup("a", "b", START + 4 * SECOND), random_transform(9))
    close(buffer.lookup("a", "b", START + 2 * SECOND), random_transform(2))
    with pytest.raises(TransformMissing, match="oldest of 'b' is 1.000 s newer") as error:
        buffer.lookup("a", "b", START + SECOND)
    assert not error.value.later


def test_time_that_begins_anew():
    buffer = TfBuffer()
    buffer.add(
        ros_parts.tf(("a", "b", random_transform(1)), stamp=START + 60 * SECOND), static=False
    )
    buffer.add(ros_parts.tf(("a", "b", random_transform(2)), stamp=START), static=False)
    close(buffer.lookup("a", "b", START), random_transform(2))
    with pytest.raises(TransformMissing):
        buffer.lookup("a", "b", START + 60 * SECOND)


def test_what_is_missing_is_told():
    buffer = TfBuffer()
    with pytest.raises(TransformMissing, match="'camera' has no parent") as error:
        buffer.lookup("base", "camera", START)
    assert error.value.later
    buffer.add(ros_parts.tf(("base", "hand", random_transform(1))), static=False)
    with pytest.raises(TransformMissing, match="newest of 'hand' is 0.500 s older") as error:
        buffer.lookup("base", "hand", START + SECOND // 2)
    assert error.value.later
    # Two trees.
    buffer.add(ros_parts.tf(("rig", "camera", random_transform(2))), static=True)
    with pytest.raises(TransformMissing, match="'rig' has no parent"):
        buffer.lookup("base", "camera", START)


def test_nobody_knows_how_a_frame_moved_in_a_long_gap():
    """An arm whose poses stop coming for a while, and a mount that is told every five seconds."""
    start, buffer = random_transform(5), TfBuffer()
    moved = Transform(start.rotation, start.translation + [0.002, 0, 0])
    turned = Transform(start.rotation @ Rotation.from_rotvec([0, 0.003, 0]).as_matrix(), [0, 0, 0])
    edges = {"still": start, "moved": moved, "turned": turned}
    for child, after in edges.items():
        before = Transform(start.rotation, after.translation) if child == "turned" else start
        for seconds, place in ((0, before), (5, after), (6, after)):
            message = ros_parts.tf(("base", child, place), stamp=START + seconds * SECOND)
            buffer.add(message, static=False)
    close(buffer.lookup("base", "still", START + 2 * SECOND), start)
    for child in ("moved", "turned"):
        with pytest.raises(TransformMissing, match=f"{child}.* in a gap of 5.000 s") as error:
            buffer.lookup("base", child, START + 2 * SECOND)
        assert not error.value.later
        close(buffer.lookup("base", child, START + 5 * SECOND + 1), edges[child])


def test_a_frame_that_changes_its_parent():
    buffer = TfBuffer()
    buffer.add(ros_parts.tf(("table", "part", random_transform(1))), static=False)
    message = ros_parts.tf(("hand", "part", random_transform(2)), stamp=START + SECOND)
    buffer.add(message, static=False)
    close(buffer.lookup("hand", "part", START + SECOND), random_transform(2))
    with pytest.raises(TransformMissing):
        buffer.lookup("hand", "part", START + SECOND // 2)


def test_a_loop_ends():
    buffer = TfBuffer()
    edges = [("a", "b"), ("b", "c"), ("c", "a")]
    buffer.add(ros_parts.tf(*[(p, c, random_transform(1)) for p, c in edges]), static=True)
    with pytest.raises(TransformMissing):
        buffer.lookup("other", "a", START)
    buffer.lookup("a", "c", START)  # a way there is


def with_rotation(xyzw):
    message = ros_parts.tf(("base", "hand", random_transform(1)))
    content = Message("geometry_msgs/msg/Quaternion", dict(zip("xyzw", xyzw, strict=True)))
    message.transforms[0].transform.fields["rotation"] = content
    return message


@pytest.mark.parametrize("xyzw", [(0, 0, 0, 0), (0, 0, 0, 2), (float("nan"), 0, 0, 1)])
def test_what_is_no_rotation_is_told_and_left_out(xyzw):
    buffer = TfBuffer()
    (fault,) = buffer.add(with_rotation(xyzw), static=True)
    assert fault.startswith("transform from 'hand' to 'base': quaternion")
    with pytest.raises(TransformMissing):
        buffer.lookup("base", "hand", START)


@pytest.mark.parametrize("frames", [("", "a"), ("a", ""), ("a", "a"), ("a", "/a")])
def test_frames_without_a_name(frames):
    (fault,) = TfBuffer().add(ros_parts.tf((*frames, random_transform(1))), static=True)
    assert "two different frames are needed" in fault
