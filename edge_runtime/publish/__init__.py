"""Where decisions and status go: the sinks of the run flow. `open_outlets` picks each from the visible table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edge_runtime import config, plugins
from edge_runtime.clock import Clock
from edge_runtime.publish.outlet import DirectOutlet, Outlet, QueuedOutlet
from edge_runtime.publish.sink import Sink


def _publisher(item: config.ZmqSink, clock: Clock) -> Sink:
    from edge_runtime.publish.zmq_publisher import ZmqPublisher

    keys = Path(item.keys) if item.keys else None
    return ZmqPublisher(item.bind, item.high_water_mark, int(item.mode, 8), item.group, keys)


def _packets(item: config.UnixSink, clock: Clock) -> Sink:
    from edge_runtime.publish.packet_publisher import PacketPublisher

    return PacketPublisher(item.bind, int(item.mode, 8), item.group)


def _recorder(item: config.RecordingSink, clock: Clock) -> Sink:
    from edge_runtime.recording.recorder import Recorder, free_name

    return Recorder(free_name(Path(item.path)), clock, item.max_gb, item.jpeg_quality)


def _metrics(item: config.MetricsSink, clock: Clock) -> Sink:
    from edge_runtime.publish.metrics import MetricsSink

    return MetricsSink(item.bind)


def _mqtt(item: config.MqttSink, clock: Clock) -> Sink:
    from edge_runtime.publish.mqtt_publisher import MqttPublisher

    return MqttPublisher(item)


def _dashboard(item: config.DashboardSink, clock: Clock) -> Sink:
    from edge_runtime.publish.dashboard_sink import DashboardSink

    return DashboardSink(item)


def _foxglove(item: config.FoxgloveSink, clock: Clock) -> Sink:
    from edge_runtime.publish.foxglove_sink import FoxgloveSink

    return FoxgloveSink(item, clock)


class Row(NamedTuple):
    """How a kind of sink is made, and called."""

    make: Callable[[Any, Clock], Sink]
    outlet: type[DirectOutlet] | type[QueuedOutlet]
    """Who calls it: the loop, where it never blocks, or a thread."""
    messages: bool = False
    """Whether it is shown the messages that the loop takes; by the loop."""


SINKS: dict[type, Row] = {
    config.ZmqSink: Row(_publisher, DirectOutlet),
    config.UnixSink: Row(_packets, DirectOutlet),
    config.RecordingSink: Row(_recorder, DirectOutlet, messages=True),
    config.MetricsSink: Row(_metrics, QueuedOutlet),
    config.MqttSink: Row(_mqtt, QueuedOutlet),
    config.DashboardSink: Row(_dashboard, DirectOutlet, messages=True),
    config.FoxgloveSink: Row(_foxglove, DirectOutlet, messages=True),
}
"""By the kind's settings."""


def shows_messages(settings: Any) -> bool:
    """Whether the sink of these settings is shown messages."""
    return type(settings) in SINKS and SINKS[type(settings)].messages


def open_outlets(settings: Sequence[Any], clock: Clock) -> list[Outlet]:
    """An outlet for every row; one that does not open is tried again. Raises nothing."""
    outlets: list[Outlet] = []
    for number, item in enumerate(settings, 1):
        if type(item) in SINKS:
            make, outlet, _ = SINKS[type(item)]
            name = f"{number} {item.__struct_config__.tag}"
            outlets.append(outlet(name, lambda make=make, item=item: make(item, clock)))  # type: ignore[misc]
        else:
            kind = plugins.class_of(item)
            assert kind is not None, f"{type(item)} is no sink's settings"
            outlets.append(QueuedOutlet(f"{number} {kind.__name__}", lambda kind=kind, item=item: kind(item)))  # type: ignore[misc]
    return outlets
