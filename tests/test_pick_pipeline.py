"""From a camera's messages to picks: what is found, and how every fault is told."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

import pick_bags
import ros_parts
import spot_model
from cpr_deploy.files import InputError
from cpr_deploy.picking.settings import PickSettings
from cpr_deploy.point_localizer import PointLocalizer
from cpr_deploy.ros.messages import NANOSECONDS
from cpr_deploy.ros.pick_pipeline import OUTPUTS, PickPipeline, PipelineSettings
from cpr_deploy.ros.typestore import from_cdr, to_cdr
from cpr_deploy.transforms import Transform

START, STEP = ros_parts.START, pick_bags.STEP


@pytest.fixture(scope="module")
def localizer():
    return PointLocalizer(spot_model.model_bytes(pick_bags.MAX_POINTS), threads=1)


@pytest.fixture
def make(localizer):
    def make(limits=None, **settings):
        limits = PickSettings(stable_frames=1) if limits is None else limits
        return PickPipeline(localizer, PipelineSettings(**settings), limits)

    return make


def feed(pipeline, number=0, late=5_000_000, change=None):
    """The messages of a moment; the frames that came of them."""
    found = pick_bags.frame(number)
    if change:
        found = change(found)
    now = START + number * STEP + late
    for name, message in found.items():
        pipeline.add(name, message, now)
    return frames(pipeline, now)


def frames(pipeline, now):
    found = []
    while (frame := pipeline.take_frame(now)) is not None:
        found.append(frame)
    return found


def refusal(frame):
    assert not frame.result.live and not frame.result.targets
    (refusal,) = {(r.code, r.reason) for r in frame.result.refusals}
    return refusal


def apart(frame):
    positions = np.array([target.position for target in frame.result.targets])
    assert len(positions) == len(pick_bags.CELLS)
    return np.linalg.norm(positions[:, None] - pick_bags.places(), axis=2).min(axis=1).max()


def test_picks_and_their_messages(make):
    pipeline = make()
    pipeline.add("tf_static", pick_bags.static_tf(), START)
    (frame,) = feed(pipeline)
    assert apart(frame) < 0.002
    assert (frame.base_frame, frame.camera_frame) == ("base_link", ros_parts.FRAME)
    target = frame.result.targets[0]
    assert target.frame_id == "base_link"
    found = frame.messages()
    assert {name: message.type for name, message in found.items()} == OUTPUTS
    for message in found.values():
        assert to_cdr(message)
    pose = found["poses"].poses[0]
    assert [pose.position.x, pose.position.y, pose.position.z] == target.position.tolist()
    record = frame.record()
    assert record["age_ms"] == 5.0 and len(record["points"]) == 3
    assert pipeline.queue.status(START / 1e9)["targets"] == 3


def test_all_message_forms_are_the_same(make):
    """Bytes of a bag, another order of bytes, padding, metres, compressed."""
    import cv2

    def padded(found):
        rows = np.asarray(found["image"].data).reshape(pick_bags.HEIGHT, -1)
        rows = np.hstack([rows, np.zeros((len(rows), 7), np.uint8)])
        found["image"].fields.update(step=rows.shape[1], data=rows.ravel())
        return found

    def big(found):
        millimetres = pick_bags.depth(0).astype(">u2")
        return {**found, "depth": ros_parts.image(millimetres, "16UC1", is_bigendian=1)}

    def metres(found):
        depth = (pick_bags.depth(0) / 1000).astype(np.float32)
        return {**found, "depth": ros_parts.image(depth, "32FC1")}

    def compressed(found):
        pixels = np.asarray(found["image"].data).reshape(pick_bags.HEIGHT, pick_bags.WIDTH, 3)
        image = cv2.imencode(".png", pixels)[1].tobytes()
        depth = cv2.imencode(".png", pick_bags.depth(0))[1].tobytes()
        return {
            **found,
            "image": ros_parts.compressed(image, "bgr8; png compressed bgr8"),
            "depth": ros_parts.compressed(bytes(12) + depth, "16UC1; compressedDepth png"),
        }

    def from_bytes(found):
        return {name: from_cdr(to_cdr(m), m.type, name) for name, m in found.items()}

    positions = []
    for change in (None, padded, big, metres, compressed, from_bytes):
        pipeline = make()
        pipeline.add("tf_static", pick_bags.static_tf(), START)
        (frame,) = feed(pipeline, change=change)
        # Frames of a compressed depth have no other header: they are of the same moment.
        positions.append([target.position for target in frame.result.targets])
    for other in positions[1:]:
        np.testing.assert_allclose(other, positions[0], atol=1e-6)


def test_a_camera_that_moves(make):
    """Its pose at the time of each image, between those that the arm told."""
    pipeline = make(tf_wait=10.0)
    way = Transform(np.eye(3), (0.2, 0, 0))  # of the base in 100 ms

    def arm(stamp, place):
        edge = ("base_link", ros_parts.FRAME, place @ pick_bags.BASE_FROM_CAMERA)
        pipeline.add("tf", ros_parts.tf(edge, stamp=stamp), stamp)

    arm(START, Transform.identity())
    assert feed(pipeline, 1) == []  # waits for what comes after 50 ms
    arm(START + 100_000_000, way)
    (frame,) = frames(pipeline, START + 100_000_000)
    positions = np.array([target.position for target in frame.result.targets])
    wanted = pick_bags.places() + [0.1, 0, 0]
    assert np.linalg.norm(positions[:, None] - wanted, axis=2).min(axis=1).max() < 0.002


def test_a_camera_on_the_arm_with_its_place_in_the_hand(make):
    hand_from_camera = Transform.from_quaternion((0, 0, 0.6, 0.8), (0.01, 0.02, 0.03))
    pipeline = make(camera_place=hand_from_camera, hand_frame="tool0")
    arm = pick_bags.BASE_FROM_CAMERA @ hand_from_camera.inverse()
    pipeline.add("tf", ros_parts.tf(("base_link", "tool0", arm)), START)
    assert apart(feed(pipeline)[0]) < 0.002
    with pytest.raises(InputError, match="hand_frame 'tool0': needs the camera's place"):
        make(hand_frame="tool0")


def test_the_place_of_a_file(make):
    pipeline = make(camera_place=pick_bags.BASE_FROM_CAMERA)
    assert apart(feed(pipeline)[0]) < 0.002


# --- faults ---------------------------------------------------------------------------------------


def test_no_transform(make):
    pipeline = make(tf_wait=0.3)
    assert feed(pipeline) == []
    (frame,) = frames(pipeline, START + 400_000_000)
    code, reason = refusal(frame)
    assert code == "no_transform" and "has no parent" in reason


def without(name):
    return lambda found: {key: value for key, value in found.items() if key != name}


@pytest.mark.parametrize("name", ["depth", "info"])
def test_topics_that_are_silent(make, name):
    pipeline = make(camera_place=pick_bags.BASE_FROM_CAMERA)
    found = [
        frame for number in range(20) for frame in feed(pipeline, number, change=without(name))
    ]
    pipeline.add_all(START)
    found += frames(pipeline, START)
    assert len(found) == 20 and pipeline.counts["refused"] == 20
    assert {refusal(frame)[0] for frame in found} == {"unsynchronised"}
    assert not pipeline.queue.status((START + 20 * STEP) / 1e9)["targets"]


def changed(name, **fields):
    def change(found):
        found[name].fields.update(fields)
        return found

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (changed("image", encoding="bayer_rggb8"), "Debayer"),
        (changed("depth", encoding="mono16"), "encoding 'mono16' is no depth"),
        (changed("image", height=1000), "The message is damaged"),
        (changed("info", k=np.zeros(9)), "not calibrated"),
        (changed("info", width=640), "camera_info: is of 640 x 240 px, the image has 320 x 240"),
        (
            lambda f: {**f, "depth": ros_parts.image(pick_bags.depth(0)[::2], "16UC1")},
            "Align depth",
        ),
        (
            lambda f: {
                **f,
                "depth": ros_parts.image(pick_bags.depth(0), "16UC1", frame_id="depth_frame"),
            },
            "Use depth that is aligned to the image",
        ),
    ],
)
def test_messages_that_cannot_be_used(make, change, text):
    pipeline = make(camera_place=pick_bags.BASE_FROM_CAMERA)
    (frame,) = feed(pipeline, change=change)
    code, reason = refusal(frame)
    assert code == "bad_message" and text in reason
    assert frame.record()["refusals"][0]["code"] == "bad_message" and frame.messages()
    assert apart(feed(pipeline, 1)[0]) < 0.002  # the next one is looked at


def test_depth_of_nothing(make):
    pipeline = make(camera_place=pick_bags.BASE_FROM_CAMERA)
    nothing = np.zeros((pick_bags.HEIGHT, pick_bags.WIDTH), np.uint16)
    (frame,) = feed(pipeline, change=lambda f: {**f, "depth": ros_parts.image(nothing, "16UC1")})
    assert {r.code for r in frame.result.refusals} == {"too_few_valid"} and frame.result.live


def test_one_bad_frame_does_not_take_the_targets_away_but_many_do(make):
    pipeline = make(camera_place=pick_bags.BASE_FROM_CAMERA)
    bad = changed("image", encoding="yuv")

    def targets(number):
        return pipeline.queue.status((START + number * STEP) / 1e9)["targets"]

    feed(pipeline, 0)
    feed(pipeline, 1, change=bad)
    assert targets(1) == 3
    for number in range(2, 14):
        feed(pipeline, number, change=bad)
    status = pipeline.queue.status((START + 13 * STEP) / 1e9)
    assert status["refusal"]["code"] == "bad_message"
    feed(pipeline, 14)
    assert targets(14) == 3


def test_stale_and_frozen_frames_take_the_targets_away_at_once(make):
    pipeline = make(camera_place=pick_bags.BASE_FROM_CAMERA)
    feed(pipeline, 0)
    (frame,) = feed(pipeline, 1, late=NANOSECONDS)
    assert refusal(frame)[0] == "stale"
    assert pipeline.queue.status(START / 1e9 + 0.05)["refusal"]["code"] == "stale"

    pipeline = make(camera_place=pick_bags.BASE_FROM_CAMERA)
    picture = spot_model.picture(pick_bags.HEIGHT, pick_bags.WIDTH, pick_bags.CELLS)

    def same(found):  # new stamps and new depth, the old picture
        stamp = found["depth"].header.stamp
        stamp = stamp.sec * NANOSECONDS + stamp.nanosec
        return {**found, "image": ros_parts.image(picture, "bgr8", stamp)}

    codes = [feed(pipeline, n, change=same)[0].result.live for n in range(25)]
    assert codes == [True] * 20 + [False] * 5
    assert pipeline.queue.status((START + 24 * STEP) / 1e9)["refusal"]["code"] == "frozen"


def test_a_frame_of_which_nothing_is_known_takes_the_targets_away(make, localizer, monkeypatch):
    pipeline = make(camera_place=pick_bags.BASE_FROM_CAMERA)
    feed(pipeline, 0)
    found = localizer(spot_model.picture(pick_bags.HEIGHT, pick_bags.WIDTH, pick_bags.CELLS))
    blind = dataclasses.replace(found, flags=4)
    monkeypatch.setattr(type(localizer), "__call__", lambda *_, **__: blind)
    (frame,) = feed(pipeline, 1)
    assert not frame.result.targets and {r.code for r in frame.result.refusals} == {"no_result"}
    status = pipeline.queue.status((START + STEP) / 1e9)
    assert status["refusal"]["code"] == "no_result" and status["targets"] == 0


def test_transforms_that_are_none(make):
    pipeline = make(tf_wait=0.0)
    message = pick_bags.static_tf()
    message.transforms[0].transform.rotation.fields["w"] = 3.0
    pipeline.add("tf_static", message, START)
    (fault,) = pipeline.faults()
    assert "quaternion" in fault and pipeline.faults() == []
    assert refusal(feed(pipeline)[0])[0] == "no_transform"


def test_only_the_newest_if_asked_for(make):
    pipeline = make(camera_place=pick_bags.BASE_FROM_CAMERA)
    for number in range(5):
        for name, message in pick_bags.frame(number).items():
            pipeline.add(name, message, START + number * STEP)
    now = START + 4 * STEP
    frame = pipeline.take_frame(now, latest=True)
    assert (frame.stamp, frame.dropped) == (START + 4 * STEP, 4)
    assert pipeline.take_frame(now, latest=True) is None
    counts = pipeline.counts
    assert counts["images"] == counts["frames"] + counts["dropped"] == 5


def test_the_newest_with_depth_if_asked_for(make):
    """Depth comes with every other image: it is used, whatever waits behind it."""
    pipeline = make(camera_place=pick_bags.BASE_FROM_CAMERA)
    for number in range(6):
        for name, message in pick_bags.frame(number).items():
            if name != "depth" or number % 2 == 0:
                pipeline.add(name, message, START + number * STEP)
    pipeline.add_all(START + 5 * STEP)
    frame = pipeline.take_frame(START + 5 * STEP, latest=True)
    assert (frame.stamp, frame.dropped) == (START + 4 * STEP, 5)
    assert apart(frame) < 0.002


def test_a_recording_that_is_played_again(make):
    """Stamps and the clock go back by a minute: the queue goes on with the new time."""
    pipeline = make(base_frame="base_link")
    for begin in (1200, 0):
        arm = ("base_link", ros_parts.FRAME, pick_bags.BASE_FROM_CAMERA)
        for number in range(begin, begin + 3):
            stamp = START + number * STEP
            pipeline.add("tf", ros_parts.tf(arm, stamp=stamp), stamp)
            (frame,) = feed(pipeline, number)[-1:]
            assert apart(frame) < 0.002
        status = pipeline.queue.status((START + number * STEP) / 1e9)
        assert (status["targets"], status["age"]) == (3, 0.0)


def test_a_camera_without_rosbags():
    """The node needs none of it."""
    code = "import sys; sys.modules['rosbags'] = None; import cpr_deploy.ros.pick_pipeline"
    subprocess.run([sys.executable, "-c", code], env=spot_model.environment(), check=True)


def test_a_new_camera_info_is_a_new_camera(make):
    """A zoom, or another resolution: the old numbers are not used on."""
    pipeline = make(camera_place=pick_bags.BASE_FROM_CAMERA)
    feed(pipeline, 0)
    k = np.array([2 * pick_bags.FOCAL, 0, 159.5, 0, 2 * pick_bags.FOCAL, 119.5, 0, 0, 1])
    (frame,) = feed(pipeline, 1, change=changed("info", k=k))
    xy = np.array([target.position[:2] for target in frame.result.targets])
    wanted = [0.4, 0.1] + (pick_bags.places()[:, :2] - [0.4, 0.1]) / 2
    assert np.linalg.norm(xy[:, None] - wanted, axis=2).min(axis=1).max() < 0.002


@pytest.mark.parametrize("settings", [{"base_frame": ""}, {"tf_wait": -1.0}, {"slop": 2.0}])
def test_settings(make, settings):
    with pytest.raises(InputError):
        make(**settings)
