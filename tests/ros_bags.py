"""Recordings of ROS 2, written by `rosbags`: code of its own, by the definitions of a distribution of ROS."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

WALL_NS = 1_764_000_000_000_000_000


def store() -> Any:
    """The types of ROS 2 Jazzy."""
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS2_JAZZY)


def header(types: Any, wall_ns: int, frame: str = "") -> Any:
    time = types["builtin_interfaces/msg/Time"](wall_ns // 1_000_000_000, wall_ns % 1_000_000_000)
    return types["std_msgs/msg/Header"](time, frame)


def imu(types: Any, wall_ns: int, forward: float, turn: float) -> Any:
    vector, zeros = types["geometry_msgs/msg/Vector3"], np.zeros(9)
    return types["sensor_msgs/msg/Imu"](
        header=header(types, wall_ns),
        orientation=types["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0),
        orientation_covariance=zeros,
        angular_velocity=vector(0.0, 0.0, turn),
        angular_velocity_covariance=zeros,
        linear_acceleration=vector(forward, 0.0, 9.81),
        linear_acceleration_covariance=zeros,
    )


def image(types: Any, wall_ns: int, pixels: Any, encoding: str, step: int) -> Any:
    return types["sensor_msgs/msg/Image"](
        header=header(types, wall_ns),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=step,
        data=np.frombuffer(padded(pixels, step), np.uint8),
    )


def padded(pixels: Any, step: int) -> bytes:
    """Each row filled up to `step` bytes."""
    rows = pixels.reshape(pixels.shape[0], -1)
    return np.pad(rows, ((0, 0), (0, step - rows.shape[1])), constant_values=99).tobytes()


def compressed(types: Any, wall_ns: int, data: bytes, how: str = "jpeg") -> Any:
    return types["sensor_msgs/msg/CompressedImage"](
        header=header(types, wall_ns), format=how, data=np.frombuffer(data, np.uint8)
    )


def write_bag(folder: Path, messages: Iterable[tuple[str, int, Any]]) -> Path:
    """Topic, wall time of recording, message; in that order. The MCAP file."""
    from rosbags.rosbag2 import StoragePlugin, Writer

    typestore = store()
    connections: dict[str, Any] = {}
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic, wall_ns, message in messages:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=typestore)
            writer.write(connections[topic], wall_ns, typestore.serialize_cdr(message, kind))
    (file,) = folder.glob("*.mcap")
    return file
