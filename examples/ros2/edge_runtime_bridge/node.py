"""The node: subscribes to an edge-runtime over ZeroMQ and publishes what it hears. Messages are made in `messages`.

ros2 run edge_runtime_bridge bridge --ros-args -p endpoint:=tcp://127.0.0.1:5560 -p keys:=ros.key.toml
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import rclpy
import zmq
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rosidl_runtime_py import set_message_fields
from vision_msgs.msg import Classification, Detection2DArray

from edge_runtime_bridge import messages

TURN_S = 0.005
"""How often it looks whether something has come."""


class Bridge(Node):
    """Topics: `decision` (vision_msgs/Classification), `detections` (vision_msgs/Detection2DArray), `/diagnostics`."""

    def __init__(self) -> None:
        super().__init__("edge_runtime_bridge")
        self._frame_id = self.declare_parameter("frame_id", "camera").value
        width = self.declare_parameter("image_width", 1.0).value
        height = self.declare_parameter("image_height", 1.0).value
        self._size = float(width), float(height)
        self._decided = self.create_publisher(Classification, "decision", 10)
        self._seen = self.create_publisher(Detection2DArray, "detections", 10)
        self._told = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._socket = zmq.Context.instance().socket(zmq.SUB)
        keys = self.declare_parameter("keys", "").value
        if keys:
            read = dict(re.findall(r'^(\w+) = "(.*)"$', Path(keys).read_text(encoding="utf-8"), re.M))
            self._socket.curve_serverkey = read["server_key"].encode()
            self._socket.curve_publickey = read["public_key"].encode()
            self._socket.curve_secretkey = read["secret_key"].encode()
        for topic in (b"decision.", b"status."):
            self._socket.subscribe(topic)
        self._socket.connect(self.declare_parameter("endpoint", "tcp://127.0.0.1:5560").value)
        self.create_timer(TURN_S, self._take)

    def _take(self) -> None:
        while self._socket.poll(0):
            topic, payload = self._socket.recv_multipart()
            message = json.loads(payload)
            if topic.startswith(b"status."):
                self._told.publish(_filled(DiagnosticArray(), messages.diagnostics(message)))
                continue
            self._decided.publish(_filled(Classification(), messages.classification(message, self._frame_id)))
            seen = messages.detections(message, self._size, self._frame_id)
            if seen is not None:
                self._seen.publish(_filled(Detection2DArray(), seen))


def _filled(message: Any, fields: messages.Message) -> Any:
    """rclpy has fields of type `byte` as bytes."""
    for row in fields.get("status", ()):
        row["level"] = bytes([row["level"]])
    set_message_fields(message, fields)
    return message


def main() -> None:
    rclpy.init()
    node = Bridge()
    try:
        rclpy.spin(node)
    except KeyboardInterrupt:
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
