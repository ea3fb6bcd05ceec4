"""The ROS 2 node with the part of rclpy that it uses: its interfaces, and a run of a camera."""

import json
import re
import sys
import time
import types
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

import fake_ros
import pick_bags
import ros_parts
import spot_model
from cpr_deploy.files import InputError
from cpr_deploy.point_localizer import PointLocalizer
from cpr_deploy.ros.messages import NANOSECONDS, build
from cpr_deploy.ros.pick_pipeline import DIAGNOSTICS, INPUTS, OUTPUTS

PACKAGE = Path(__file__).parents[1] / "deploy/ros2/cpr_picking"


@pytest.fixture
def ros(monkeypatch):
    return fake_ros.Ros(monkeypatch, {})


@pytest.fixture(scope="module")
def localizer():
    return PointLocalizer(spot_model.model_bytes(pick_bags.MAX_POINTS), threads=1)


@pytest.fixture
def start(ros, localizer):
    """Makes the node's Picking with parameters; ends it after the test."""
    made = []

    def start(**parameters):
        ros.node.parameters = parameters
        made.append(ros.load().Picking(ros.node, localizer))
        return made[-1]

    yield start
    for picking in made:
        picking.close()


def send(ros, number, names=("image", "depth", "camera_info")):
    """The messages of one moment, through the subscriptions, some ms later."""
    found = pick_bags.frame(number)
    found["camera_info"] = found.pop("info")
    ros.node.now = ros_parts.START + number * pick_bags.STEP + 5_000_000
    for name in names:
        subscription = ros.node.subscriptions[name]
        subscription.call(build(found[name], as_real))


def as_real(type_name):
    """What rclpy gives: attributes, arrays."""
    return lambda **fields: types.SimpleNamespace(**fields)


def send_tf(ros):
    message = build(pick_bags.static_tf(), as_real)
    ros.node.subscriptions["/tf_static"].call(message)


def sent(ros, name, count):
    """The first messages on a topic, which a thread sends."""
    publisher = ros.node.publishers[f"~/{name}"]
    until = time.monotonic() + 10
    while len(publisher.sent) < count and time.monotonic() < until:
        time.sleep(0.005)
    assert len(publisher.sent) >= count
    return publisher.sent


def run_frames(ros, count, first=0):
    for number in range(first, first + count):
        send(ros, number)
        sent(ros, "result", number - first + 1)


def test_topics_services_and_their_qualities(ros, start):
    start(arms=["left", "right"])
    node = ros.node
    assert {name: publisher.kind.ros_type for name, publisher in node.publishers.items()} == {
        **{f"~/{name}": kind for name, kind in OUTPUTS.items()},
        "/diagnostics": "diagnostic_msgs/msg/DiagnosticArray",
    }
    assert all(publisher.qos.reliability == "reliable" for publisher in node.publishers.values())
    kinds = {
        topic: subscription.kind.ros_type for topic, subscription in node.subscriptions.items()
    }
    assert kinds == {
        "image": "sensor_msgs/msg/Image",
        "depth": "sensor_msgs/msg/Image",
        "camera_info": "sensor_msgs/msg/CameraInfo",
        "/tf": "tf2_msgs/msg/TFMessage",
        "/tf_static": "tf2_msgs/msg/TFMessage",
    }
    for topic in ("image", "depth", "camera_info"):
        assert node.subscriptions[topic].qos.reliability == "best_effort"
    static = node.subscriptions["/tf_static"].qos
    assert (static.reliability, static.durability) == ("reliable", "transient_local")
    assert node.subscriptions["/tf"].qos.durability == "volatile"
    verbs = ("take", "acknowledge", "reject")
    assert set(node.services) == {f"~/{arm}/{verb}" for arm in ("left", "right") for verb in verbs}


def test_compressed_topics(ros, start):
    start(image_compressed=True, depth_compressed=True)
    for topic in ("image", "depth"):
        kind = ros.node.subscriptions[topic].kind.ros_type
        assert kind == "sensor_msgs/msg/CompressedImage" and kind in INPUTS[topic]


def test_picks_from_messages(ros, start):
    start()
    send_tf(ros)
    run_frames(ros, 4)
    poses = sent(ros, "poses", 4)[-1]
    found = np.array([[p.position.x, p.position.y, p.position.z] for p in poses.poses])
    assert poses.header.frame_id == "base_link" and len(found) == len(pick_bags.CELLS)
    wanted = pick_bags.places()
    apart = np.linalg.norm(found[:, None] - wanted, axis=2).min(axis=1)
    assert apart.max() < 0.002
    detections = sent(ros, "detections", 4)[-1].detections
    assert len(detections) == 3 and detections[0].bbox.size_x == 0.0
    pixels = {(d.bbox.center.position.x, d.bbox.center.position.y) for d in detections}
    assert pixels == {(x - 0.5, y - 0.5) for x, y in spot_model.centres(pick_bags.CELLS)}
    assert len(sent(ros, "annotations", 4)[-1].points[0].points) == 3
    point = sent(ros, "point", 1)[-1].point
    assert np.linalg.norm(wanted - [point.x, point.y, point.z], axis=1).min() < 0.002


def test_arms_get_different_targets_and_give_them_back(ros, start):
    start(arms=["left", "right"])
    send_tf(ros)
    run_frames(ros, 4)
    first, second = ros.node.services["~/left/take"](), ros.node.services["~/right/take"]()
    assert first.success and second.success
    ids = {json.loads(answer.message)["target"]["id"] for answer in (first, second)}
    assert len(ids) == 2
    again = ros.node.services["~/left/take"]()
    assert not again.success and json.loads(again.message)["code"] == "arm_busy"
    assert ros.node.services["~/left/acknowledge"]().success
    assert ros.node.services["~/right/reject"]().success
    refused = ros.node.services["~/right/reject"]()
    assert not refused.success and json.loads(refused.message)["code"] == "unknown_id"


def test_dead_man(ros, start):
    """Without new frames nothing is handed out, however many targets there were."""
    start()
    send_tf(ros)
    run_frames(ros, 4)
    ros.node.now += NANOSECONDS
    answer = ros.node.services["~/arm/take"]()
    assert not answer.success and json.loads(answer.message)["code"] == "stale"
    (_, tell) = ros.node.timers[0]
    tell()
    status = ros.node.publishers["/diagnostics"].sent[-1].status[0]
    assert status.level == b"\x03" and status.message.startswith("stale: ")


def test_diagnostics_say_what_is_wrong(ros, start):
    start()
    (_, tell) = ros.node.timers[0]
    tell()
    status = ros.node.publishers["/diagnostics"].sent[-1].status[0]
    assert status.level == b"\x03" and "no frame yet" in status.message
    send_tf(ros)
    run_frames(ros, 4)
    tell()
    status = ros.node.publishers["/diagnostics"].sent[-1].status[0]
    assert status.level == b"\x00" and status.message == "3 targets"
    values = {pair.key: pair.value for pair in status.values}
    assert values["frames"] == values["images"] == "4"
    broken = pick_bags.static_tf()
    broken.transforms[0].transform.rotation.fields["x"] = 9.0
    ros.node.subscriptions["/tf_static"].call(build(broken, as_real))
    tell()
    status = ros.node.publishers["/diagnostics"].sent[-1].status[0]
    assert status.level == b"\x01" and "quaternion" in status.message
    assert [level for level, _ in ros.node.log] == ["info", "warning"]


def test_without_transforms_frames_are_refused(ros, start):
    start(tf_wait=0.0)
    send(ros, 0)
    (result,) = sent(ros, "result", 1)
    record = json.loads(result.data)
    assert record["refusals"][0]["code"] == "no_transform" and not record["live"]


def test_only_the_newest_frame_counts(ros, start):
    """Frames that came while the network was busy are left out, and counted."""
    picking = start()
    send_tf(ros)
    with picking.pipeline._lock:
        for number in range(5):
            for name, message in pick_bags.frame(number).items():
                picking.pipeline.add(name, message, ros_parts.START)
        ros.node.now = ros_parts.START + 5 * pick_bags.STEP
    (result,) = sent(ros, "result", 1)
    record = json.loads(result.data)
    assert record["stamp"] == pytest.approx((ros_parts.START + 4 * pick_bags.STEP) / 1e9)
    assert record["dropped"] == 4


def test_outputs_of_packages_that_are_not_installed(ros, start, monkeypatch):
    monkeypatch.setitem(sys.modules, "foxglove_msgs", None)
    monkeypatch.setitem(sys.modules, "foxglove_msgs.msg", None)
    start()
    (warning,) = ros.node.log
    assert "foxglove_msgs/msg/ImageAnnotations is not installed" in warning[1]
    send_tf(ros)
    run_frames(ros, 1)
    assert "~/annotations" not in ros.node.publishers and sent(ros, "detections", 1)


def test_a_failure_ends_the_node(ros, start):
    class Broken:
        class_names = ("spot",)

        def __call__(self, image):
            raise RuntimeError("CUDA error")

    picking = start()
    picking.pipeline._localizer = Broken()
    send_tf(ros)
    send(ros, 0)
    picking._worker.join(10)
    assert picking.failed == "RuntimeError: CUDA error" and ros.shut_down
    assert ros.node.log[-1] == ("fatal", "picking ended: RuntimeError: CUDA error")


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"arms": ["left arm"]}, "'left arm' is no name"),
        ({"slop": -1.0}, "slop"),
        ({"base_frame": ""}, "base_frame"),
        ({"settings": "missing.json"}, "missing.json: no such file"),
        ({"transform": "missing.json"}, "missing.json: no such file"),
        ({"max_age": -1.0}, "max_age"),
    ],
)
def test_parameters_that_cannot_be_used(start, parameters, text):
    with pytest.raises(InputError, match=text):
        start(**parameters)


def test_main(ros, tmp_path, capsys):
    module = ros.load()
    assert module.main() == 2
    assert "parameter model" in capsys.readouterr().err and ros.node.destroyed
    model = tmp_path / "model.onnx"
    model.write_bytes(spot_model.model_bytes(pick_bags.MAX_POINTS))
    ros.node.parameters = {"model": str(model), "threads": 1}

    def stop(node):
        raise fake_ros.ExternalShutdownException

    ros.spin = stop
    assert module.main() == 0


# --- the package ----------------------------------------------------------------------------------


def test_the_parameter_file_has_all_parameters_with_their_defaults(ros, start):
    yaml = pytest.importorskip("yaml")
    start()
    text = (PACKAGE / "config/picking.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text)["picking"]["ros__parameters"] == ros.node.declared


def test_the_foxglove_layout_shows_what_is_there():
    """Panels that exist, in a tree that names each once, on topics that are written."""
    text = (PACKAGE.parent / "foxglove_layout.json").read_text(encoding="utf-8")
    layout = json.loads(text)

    def panels(tree):
        return [tree] if isinstance(tree, str) else panels(tree["first"]) + panels(tree["second"])

    assert sorted(panels(layout["layout"])) == sorted(layout["configById"])
    written = {f"/picking/{name}" for name in OUTPUTS} | {DIAGNOSTICS[0]}
    read = {pick_bags.TOPICS["image"], pick_bags.TOPICS["info"]}
    named = set(re.findall(r'"(/[a-z_/]+)', text))
    assert named <= written | read and "/picking/annotations" in named
    mode = layout["configById"]["Image!points"]["imageMode"]
    assert mode["imageTopic"] == pick_bags.TOPICS["image"]
    assert mode["annotations"] == {"/picking/annotations": {"visible": True}}


def test_the_launch_file_has_the_topics_of_the_script():
    """RealSense's, in all places."""
    launch = (PACKAGE / "launch/picking.launch.py").read_text(encoding="utf-8")
    script = (PACKAGE.parents[1] / "pick_points.py").read_text(encoding="utf-8")
    for topic in pick_bags.TOPICS.values():
        assert f'"{topic}"' in launch and f'"{topic}"' in script


def test_the_package_names_what_the_node_needs():
    root = ElementTree.parse(PACKAGE / "package.xml").getroot()
    needed = {element.text for element in root.findall("exec_depend")}
    kinds = [kind for kinds in INPUTS.values() for kind in kinds]
    used = {kind.split("/")[0] for kind in [*kinds, *OUTPUTS.values()]}
    assert used | {"rclpy", "std_srvs", "diagnostic_msgs", "ros2launch"} == needed
    assert root.findtext("license") == "Apache-2.0"


def test_colcon_finds_all_files(monkeypatch):
    import setuptools

    found = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: found.update(arguments))
    exec((PACKAGE / "setup.py").read_text(encoding="utf-8"), {"__file__": "setup.py"})
    for _, files in found["data_files"]:
        assert all((PACKAGE / file).exists() for file in files)
    installed = {file for _, files in found["data_files"] for file in files}
    assert installed >= {"launch/picking.launch.py", "config/picking.yaml", "package.xml"}
    (script,) = found["entry_points"]["console_scripts"]
    name, module, function = re.fullmatch(r"(\w+) = ([\w.]+):(\w+)", script).groups()
    launch = (PACKAGE / "launch/picking.launch.py").read_text(encoding="utf-8")
    assert f'executable="{name}"' in launch and found["name"] == "cpr_picking"
    node = (PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    assert f"def {function}(" in node
