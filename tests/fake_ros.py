"""The part of ROS 2's Python that the node uses, in one process and without a network.

Names and types are checked as rclpy does: fields of messages by their definitions, so that a
message that a real ROS would refuse fails here too.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype

from cpr_deploy.ros.typestore import typestore

NODE = Path(__file__).parents[1] / "deploy/ros2/cpr_picking/cpr_picking/node.py"
_NUMBERS = {"float32": float, "float64": float, "string": str, "bool": bool, "byte": bytes}


class QoSProfile:
    def __init__(self, **settings: Any):
        self.__dict__.update(settings)


class ExternalShutdownException(Exception):
    pass


class Publisher:
    def __init__(self, kind: type, topic: str, qos: QoSProfile):
        self.kind, self.topic, self.qos, self.sent = kind, topic, qos, []

    def publish(self, message: Any) -> None:
        assert type(message) is self.kind, (self.topic, type(message))
        self.sent.append(message)


class Node:
    """Records what is made on it. `parameters`: those that differ from the defaults."""

    def __init__(self, name: str, parameters: dict[str, Any]):
        self.name, self.parameters, self.declared = name, parameters, {}
        self.publishers: dict[str, Publisher] = {}
        self.subscriptions: dict[str, Any] = {}
        self.services: dict[str, Any] = {}
        self.timers: list[Any] = []
        self.log: list[tuple[str, str]] = []
        self.now, self.destroyed = 0, False

    def declare_parameter(self, name: str, default: Any) -> Any:
        value = self.parameters.get(name, default)
        assert type(value) is type(default), name
        self.declared[name] = default
        return types.SimpleNamespace(value=value)

    def create_publisher(self, kind: type, topic: str, qos: QoSProfile) -> Publisher:
        self.publishers[topic] = Publisher(kind, topic, qos)
        return self.publishers[topic]

    def create_subscription(self, kind: type, topic: str, call: Any, qos: QoSProfile) -> None:
        self.subscriptions[topic] = types.SimpleNamespace(kind=kind, call=call, qos=qos)

    def create_service(self, kind: type, name: str, call: Any) -> None:
        self.services[name] = lambda: call(kind.Request(), kind.Response())

    def create_timer(self, seconds: float, call: Any) -> None:
        self.timers.append((seconds, call))

    def get_clock(self) -> Any:
        now = types.SimpleNamespace(nanoseconds=self.now)
        return types.SimpleNamespace(now=lambda: now)

    def get_logger(self) -> Any:
        levels = ("info", "warning", "error", "fatal")
        return types.SimpleNamespace(
            **{name: lambda text, name=name: self.log.append((name, text)) for name in levels}
        )

    def get_name(self) -> str:
        return self.name

    def destroy_node(self) -> None:
        self.destroyed = True


def message_class(type_name: str) -> type:
    """A class as rosidl makes it: fields by name, each of its type, none else."""
    fields = dict(typestore().fielddefs[type_name][1])

    def init(self: Any, **given: Any) -> None:
        assert given.keys() <= fields.keys(), (type_name, given.keys() - fields.keys())
        for name, value in given.items():
            assert _fits(value, fields[name]), (type_name, name, value)
            setattr(self, name, value)

    return type(type_name.rpartition("/")[2], (), {"__init__": init, "ros_type": type_name})


def _fits(value: Any, kind: Any) -> bool:
    node, detail = kind
    if node == Nodetype.NAME:
        return getattr(value, "ros_type", None) == detail
    if node in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        item, count = detail
        if item[0] == Nodetype.BASE and item[1][0] != "string":
            return isinstance(value, np.ndarray) and (not count or len(value) == count)
        return isinstance(value, list) and all(_fits(part, item) for part in value)
    wanted = _NUMBERS.get(detail[0], int)
    return type(value) is wanted and (wanted is not bytes or len(value) == 1)


class Ros:
    """An installed ROS. Use `load` to get the node's module with it."""

    def __init__(self, monkeypatch: Any, parameters: dict[str, Any]):
        self.node = Node("picking", parameters)
        self.shut_down = 0
        self.classes: dict[str, type] = {}
        self.spin = lambda node: None
        rclpy = _module(
            "rclpy",
            init=lambda args=None: None,
            create_node=lambda name: self.node,
            spin=lambda node: self.spin(node),
            try_shutdown=self._shutdown,
        )
        policy = types.SimpleNamespace
        modules = [
            rclpy,
            _module("rclpy.node", Node=Node),
            _module("rclpy.executors", ExternalShutdownException=ExternalShutdownException),
            _module(
                "rclpy.qos",
                QoSProfile=QoSProfile,
                ReliabilityPolicy=policy(BEST_EFFORT="best_effort", RELIABLE="reliable"),
                DurabilityPolicy=policy(VOLATILE="volatile", TRANSIENT_LOCAL="transient_local"),
                HistoryPolicy=policy(KEEP_LAST="keep_last"),
            ),
            _module("std_srvs"),
            _module("std_srvs.srv", Trigger=_trigger()),
        ]
        packages: dict[str, dict[str, type]] = {}
        for name in typestore().fielddefs:
            package, kind, short = name.split("/")
            if kind == "msg":
                self.classes[name] = message_class(name)
                packages.setdefault(package, {})[short] = self.classes[name]
        for package, members in packages.items():
            modules += [_module(package), _module(f"{package}.msg", **members)]
        for module in modules:
            monkeypatch.setitem(sys.modules, module.__name__, module)

    def _shutdown(self) -> None:
        self.shut_down += 1

    def load(self) -> types.ModuleType:
        spec = importlib.util.spec_from_file_location("cpr_picking_node", NODE)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def _module(name: str, **members: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__dict__.update(members)
    module.__path__ = []
    return module


def _trigger() -> type:
    class Request:
        pass

    class Response:
        success, message = False, ""

    return type("Trigger", (), {"Request": Request, "Response": Response})
