"""The sink of kind `unix`: whole packets to those that read, no wait for those that do not."""

from __future__ import annotations

import json
import re
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from edge_runtime import Config, Subscriber
from edge_runtime.clock import RealClock
from edge_runtime.config import UnixSink, ZmqSink
from edge_runtime.errors import ConfigError, HeldError
from edge_runtime.publish import open_outlets
from edge_runtime.publish.packet_publisher import MAX_RECEIVERS, PacketPublisher
from edge_runtime.publish.sink import published
from edge_runtime.publish.zmq_publisher import ZmqPublisher
from edge_runtime.runtime import Runtime
from edge_runtime.wire import DecisionMessage, StatusMessage
from tests.conftest import WAIT_S, running, tiny_config, wait_for
from tests.publish.test_sinks import decision, status

PAGE = Path(__file__).parents[2] / "docs" / "actuator.md"
EXAMPLE = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)


@pytest.fixture(params=["path", "abstract"])
def publisher(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[PacketPublisher]:
    publisher = PacketPublisher(f"ipc://{tmp_path}/p" if request.param == "path" else f"ipc://@{tmp_path}")
    yield publisher
    publisher.close()


def connect(publisher: PacketPublisher) -> socket.socket:
    """A receiver that the publisher knows of."""
    path = publisher.endpoint.removeprefix("ipc://")
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    receiver.settimeout(WAIT_S)
    receiver.connect("\0" + path[1:] if path.startswith("@") else path)
    publisher.serve()
    return receiver


def serve_until(publisher: PacketPublisher, ended: threading.Event) -> None:
    while not ended.wait(0.01):
        publisher.serve()


def test_a_packet_holds_the_bytes_of_the_zeromq_message(publisher: PacketPublisher) -> None:
    other = ZmqPublisher("tcp://127.0.0.1:*", 10)
    context = zmq.Context()
    subscriber = context.socket(zmq.SUB)
    subscriber.setsockopt(zmq.RCVTIMEO, int(1000 * WAIT_S))
    subscriber.subscribe(b"")
    subscriber.connect(other.endpoint)
    with connect(publisher) as receiver:
        for item in (published(decision(7, reason="é")), published(status(1))):
            publisher.publish(item)
            other.publish(item)
            assert receiver.recv(1 << 16) == b"\0".join(subscriber.recv_multipart())
    context.destroy(linger=0)
    other.close()


def test_a_new_receiver_gets_the_last_decision_and_status_at_once(publisher: PacketPublisher) -> None:
    for seq in range(3):
        publisher.publish(published(decision(seq)))
    publisher.publish(published(status(9)))
    with connect(publisher) as receiver:
        assert json.loads(receiver.recv(1 << 16).partition(b"\0")[2])["seq"] == 2
        assert json.loads(receiver.recv(1 << 16).partition(b"\0")[2])["state"] == "ready"


def test_one_that_does_not_read_misses_packets_and_another_gets_all(publisher: PacketPublisher) -> None:
    stalled, reader = connect(publisher), connect(publisher)
    for seq in range(2000):
        publisher.publish(published(decision(seq)))
        assert json.loads(reader.recv(1 << 16).partition(b"\0")[2])["seq"] == seq
    kept = 2000 - publisher.missed
    assert 0 < kept < 500
    # What was kept is whole and in order, and the first that comes after there is room again.
    seqs = [json.loads(stalled.recv(1 << 16).partition(b"\0")[2])["seq"] for _ in range(kept)]
    publisher.publish(published(decision(2000)))
    assert [*seqs, json.loads(stalled.recv(1 << 16).partition(b"\0")[2])["seq"]] == [*range(kept), 2000]
    stalled.close()
    reader.close()


def test_a_message_larger_than_the_kernel_keeps_is_missed_and_the_next_one_comes(publisher: PacketPublisher) -> None:
    with connect(publisher) as receiver:
        publisher.publish(published(decision(0, reason="x" * (1 << 20))))
        publisher.publish(published(decision(1)))
        assert json.loads(receiver.recv(1 << 16).partition(b"\0")[2])["seq"] == 1
    assert publisher.missed == 1


def test_receivers_come_and_go_and_one_too_many_is_turned_away(
    publisher: PacketPublisher, caplog: pytest.LogCaptureFixture
) -> None:
    receivers = [connect(publisher) for _ in range(MAX_RECEIVERS)]
    for _ in range(3):
        with connect(publisher) as late:
            assert late.recv(1 << 16) == b""
    assert caplog.text.count("turned away") == 1
    receivers.pop().close()
    publisher.publish(published(decision(1)))
    receivers.append(connect(publisher))
    assert json.loads(receivers[-1].recv(1 << 16).partition(b"\0")[2])["seq"] == 1
    publisher.publish(published(decision(2)))
    for receiver in receivers[:-1]:
        assert json.loads(receiver.recv(1 << 16).partition(b"\0")[2])["seq"] == 1
    for receiver in receivers:
        assert json.loads(receiver.recv(1 << 16).partition(b"\0")[2])["seq"] == 2
        receiver.close()


def test_what_a_receiver_sends_is_not_taken(publisher: PacketPublisher) -> None:
    with connect(publisher) as receiver, pytest.raises(BrokenPipeError):
        receiver.send(b"hello")


def test_the_file_has_the_mode_and_goes_with_the_sink(tmp_path: Path) -> None:
    path = tmp_path / "p"
    publisher = PacketPublisher(f"ipc://{path}", 0o640)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    for kind in (PacketPublisher, lambda endpoint: ZmqPublisher(endpoint, 1)):
        with pytest.raises(HeldError, match="is another runtime running"):
            kind(publisher.endpoint)
    publisher.close()
    publisher.close()
    assert not path.exists()
    with pytest.raises(ConfigError, match="no group 'nobody-has-it'"):
        PacketPublisher(f"ipc://{path}", group="nobody-has-it")


def test_it_takes_the_place_of_a_dead_one_and_leaves_a_living_one_of_zeromq_alone(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(tmp_path / "p"))
    PacketPublisher(f"ipc://{tmp_path}/p").close()
    living = ZmqPublisher(f"ipc://{tmp_path}/z", 1)
    with pytest.raises(HeldError):
        PacketPublisher(living.endpoint)
    living.close()


def test_what_receivers_miss_stands_in_the_health_of_the_sink(tmp_path: Path) -> None:
    (outlet,) = open_outlets([UnixSink(f"ipc://{tmp_path}/p")], RealClock())
    assert isinstance(outlet.sink, PacketPublisher)
    with connect(outlet.sink):
        for seq in range(1000):
            outlet.publish(published(decision(seq)))
        health = outlet.health()
        assert health.state == "open" and health.published == 1000 and health.dropped == outlet.sink.missed > 0
    outlet.close()


def test_a_subscriber_of_this_kind_waits_for_the_runtime_and_comes_back_to_the_next(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/p"
    with Subscriber(endpoint, "car", timeout_s=WAIT_S, kind="unix") as subscriber:
        assert subscriber.receive(0.01) is None
        for first in (0, 10):
            publisher = PacketPublisher(endpoint)
            ended = threading.Event()
            publisher.publish(published(decision(99, name="bus")))
            publisher.publish(published(decision(first)))
            serving = threading.Thread(target=serve_until, args=(publisher, ended))
            serving.start()
            assert next(iter(subscriber)).seq == first
            ended.set()
            serving.join()
            publisher.publish(published(decision(first + 2)))
            publisher.publish(published(status(1)))
            assert next(iter(subscriber)).seq == first + 2
            assert isinstance(subscriber.receive(WAIT_S), StatusMessage)
            publisher.close()
        assert subscriber.received == 4 and subscriber.lost == 1 + 7 + 1
        assert subscriber.receive(0.01) is None


def test_an_address_of_another_kind_is_a_mistake_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected ipc://PATH"):
        Subscriber("tcp://127.0.0.1:5560", kind="unix")
    config = tmp_path / "c.toml"
    config.write_text('name = "c"\nbundle = "b"\nsource = []\n[[sink]]\nkind = "unix"\nbind = "tcp://127.0.0.1:5560"\n')
    with pytest.raises(ConfigError, match="sink: item 1"):
        Config.load(config)


def test_a_real_receiver_acts_on_what_a_real_runtime_decides(tiny_bundle_path: Path, tmp_path: Path) -> None:
    """The program of docs/actuator.md, in a process of its own."""
    (code,) = EXAMPLE
    assert code.count("/run/edge-runtime/car/actuator") == 1
    script = tmp_path / "actuator.py"
    script.write_text(code.replace("/run/edge-runtime/car/actuator", f"{tmp_path}/p").replace("0.5)", f"{WAIT_S})"))
    rows = (ZmqSink(f"ipc://{tmp_path}/z"), UnixSink(f"ipc://{tmp_path}/p", "0600"))
    config = msgspec.structs.replace(tiny_config(tiny_bundle_path), sink=rows)
    with running(Runtime(config)):
        actuator = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
        assert actuator.stdout is not None
        with Subscriber(rows[1].bind, timeout_s=WAIT_S, kind="unix") as subscriber:
            heard: list[str] = []
            reading = threading.Thread(target=lambda: heard.extend(actuator.stdout))  # type: ignore[arg-type]
            reading.start()
            wait_for(lambda: len(heard) >= 3, "three decisions by the actuator")
            assert isinstance(subscriber.receive(WAIT_S), DecisionMessage | StatusMessage)
    assert actuator.wait(WAIT_S) == 0, "the end of the runtime is the end of the packets"
    reading.join(WAIT_S)
    assert len(heard) >= 3
