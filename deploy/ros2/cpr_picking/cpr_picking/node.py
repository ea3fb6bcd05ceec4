"""The node: subscriptions, publishers, services and a clock around a `PickPipeline`.

Messages are taken in the executor's thread; the network and the picker work in a thread of their
own, always on the newest frame. If that fails the node ends, with exit code 1: a robot must not go
on with the last picks.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from std_srvs.srv import Trigger

from cpr_deploy.files import InputError, read_json
from cpr_deploy.picking.camera_place import load_camera_place
from cpr_deploy.picking.pick_desk import PickDesk
from cpr_deploy.picking.pick_queue import PickQueue, QueueSettings
from cpr_deploy.picking.settings import PickSettings
from cpr_deploy.point_localizer import PointLocalizer
from cpr_deploy.ros import messages
from cpr_deploy.ros.pick_pipeline import (
    DIAGNOSTICS,
    DIAGNOSTICS_EVERY,
    INPUTS,
    OUTPUTS,
    PickFrame,
    PickPipeline,
    PipelineSettings,
)

# Seconds between looks at the clock while no message comes: frames may wait for a transform.
TICK = 0.05
PARAMETERS = {
    "model": "",
    "providers": ["CPUExecutionProvider"],
    "threads": 0,
    "score_thresh": 0.0,
    "image_compressed": False,
    "depth_compressed": False,
    "rectified": False,
    "slop": 0.02,
    "sync_wait": 0.5,
    "tf_wait": 0.5,
    "base_frame": "base_link",
    "camera_frame": "",
    "transform": "",
    "hand_frame": "",
    "settings": "",
    "arms": ["arm"],
    "max_age": 0.5,
    "hold_seconds": 30.0,
    "reject_seconds": 5.0,
    "exclusion": 0.05,
}
# Topic of an input -> its name in the pipeline.
TOPICS = {
    "image": "image",
    "depth": "depth",
    "camera_info": "info",
    "/tf": "tf",
    "/tf_static": "tf_static",
}


def sensor_qos() -> QoSProfile:
    """As drivers send: what is lost is lost, the newest count."""
    return QoSProfile(
        reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST, depth=5
    )


def reliable_qos(depth: int = 10, *, latched: bool = False) -> QoSProfile:
    durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
    return QoSProfile(
        reliability=ReliabilityPolicy.RELIABLE,
        durability=durability,
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
    )


QOS = {"tf": lambda: reliable_qos(100), "tf_static": lambda: reliable_qos(100, latched=True)}


class Picking:
    """Sets up everything on `node`. localizer: instead of the one of the parameters.

    Raises:
        InputError: parameters that cannot be used.
    """

    def __init__(self, node: Node, localizer: Any = None):
        self.node = node
        value = {
            name: node.declare_parameter(name, default).value
            for name, default in PARAMETERS.items()
        }
        self.pipeline = _pipeline(value, localizer)
        self.desk = PickDesk(self.pipeline.queue, self._seconds)
        self.failed = ""
        self._level = messages.STALE
        self._stopping = threading.Event()
        self._outputs = {}
        for name, kind in OUTPUTS.items():
            try:
                made = messages.ros_class(kind)
            except ModuleNotFoundError:
                node.get_logger().warning(f"{kind} is not installed, ~/{name} is left out")
            else:
                self._outputs[name] = node.create_publisher(made, f"~/{name}", reliable_qos())
        topic, kind = DIAGNOSTICS
        kind = messages.ros_class(kind)
        self._diagnostics = node.create_publisher(kind, topic, reliable_qos())
        for topic, name in TOPICS.items():
            compressed = bool(value.get(f"{name}_compressed"))
            node.create_subscription(
                messages.ros_class(INPUTS[name][compressed]),
                topic,
                lambda message, name=name: self.pipeline.add(name, message, self._now()),
                QOS.get(name, sensor_qos)(),
            )
        for arm in value["arms"]:
            if not arm.isidentifier():
                raise InputError(f"parameter arms: {arm!r} is no name of a part of a service.")
            for verb in ("take", "acknowledge", "reject"):
                node.create_service(Trigger, f"~/{arm}/{verb}", self._service(verb, arm))
        node.create_timer(DIAGNOSTICS_EVERY, self._tell)
        self._worker = threading.Thread(target=self._work, name="picking", daemon=True)
        self._worker.start()

    def close(self) -> None:
        self._stopping.set()
        self._worker.join()

    def _now(self) -> int:
        return self.node.get_clock().now().nanoseconds

    def _seconds(self) -> float:
        return self._now() / messages.NANOSECONDS

    def _service(self, verb: str, arm: str) -> Any:
        def answer(_: Any, response: Any) -> Any:
            found = getattr(self.desk, verb)(arm)
            response.success, response.message = found["ok"], json.dumps(found, allow_nan=False)
            return response

        return answer

    # --- the worker's thread ----------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while not self._stopping.is_set():
                frame = self.pipeline.take_frame(self._now(), latest=True)
                if frame is None:
                    self.pipeline.wait(TICK)
                else:
                    self._publish(frame)
        except Exception as error:  # whatever it is, nothing is picked any more
            self.failed = f"{type(error).__name__}: {error}"
            self.node.get_logger().fatal(f"picking ended: {self.failed}")
            rclpy.try_shutdown()

    def _publish(self, frame: PickFrame) -> None:
        for name, message in frame.messages().items():
            if name in self._outputs:
                self._outputs[name].publish(messages.build(message, messages.ros_class))

    def _tell(self) -> None:
        array = self.pipeline.diagnostics(self._now(), self.node.get_name())
        status = array.status[0]
        if status.level != self._level:
            logger = self.node.get_logger()
            (logger.info if status.level == messages.OK else logger.warning)(status.message)
        self._level = status.level
        self._diagnostics.publish(messages.build(array, messages.ros_class))


def _pipeline(value: dict[str, Any], localizer: Any) -> PickPipeline:
    if localizer is None:
        if not value["model"]:
            raise InputError("parameter model: the path of an exported localizer is needed.")
        localizer = PointLocalizer(
            value["model"],
            providers=value["providers"],
            threads=value["threads"] or None,
            score_thresh=value["score_thresh"] or None,
        )
    place, hand = value["transform"], value["hand_frame"]
    limits = value["settings"]
    return PickPipeline(
        localizer,
        PipelineSettings(
            base_frame=value["base_frame"],
            camera_frame=value["camera_frame"],
            camera_place=load_camera_place(place, on_arm=bool(hand)) if place else None,
            hand_frame=hand,
            rectified=value["rectified"],
            slop=value["slop"],
            wait=value["sync_wait"],
            tf_wait=value["tf_wait"],
        ),
        PickSettings.from_dict(read_json(limits), limits) if limits else PickSettings(),
        PickQueue(
            QueueSettings(
                **{
                    name: value[name]
                    for name in ("max_age", "hold_seconds", "reject_seconds", "exclusion")
                }
            )
        ),
    )


def main(args: list[str] | None = None) -> int:
    rclpy.init(args=args)
    node, picking = rclpy.create_node("picking"), None
    try:
        picking = Picking(node)
        rclpy.spin(node)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        if picking is not None:
            picking.close()
        node.destroy_node()
        rclpy.try_shutdown()
    return 1 if picking.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
