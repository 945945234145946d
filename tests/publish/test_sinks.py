"""The contract of every sink, and what a subscriber sees of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import zmq

from edge_runtime import Subscriber
from edge_runtime.errors import ConfigError
from edge_runtime.publish.sink import Sink, published
from edge_runtime.publish.zmq_publisher import ZmqPublisher
from edge_runtime.wire import BundleId, DecisionMessage, Latency, Percentiles, StatusMessage
from tests.conftest import WAIT_S

BUNDLE = BundleId("tiny", "1", "00")


def decision(seq: int, name: str = "car", **changes: Any) -> DecisionMessage:
    message = DecisionMessage(
        schema=1,
        name=name,
        bundle=BUNDLE,
        seq=seq,
        captured_ns=seq,
        published_ns=1000 + seq,
        wall_time="2026-01-01T00:00:00.000Z",
        label="keep",
        confidence=0.5,
        probabilities={"keep": 0.5},
        tags=[],
        source="model",
        reason=None,
        inputs={},
        latency_ms=Latency(1.0, 0.1, 0.2, {"vision": 0.3}, 0.1),
        dropped={},
        backend={},
        precision={},
    )
    return msgspec.structs.replace(message, **changes)


def status(seq: int, name: str = "car") -> StatusMessage:
    return StatusMessage(
        schema=1,
        name=name,
        bundle=BUNDLE,
        seq=seq,
        published_ns=seq,
        wall_time="",
        state="ready",
        reason=None,
        uptime_s=1.0,
        decisions=1,
        safe_decisions=0,
        streams={},
        unrouted={},
        conserved=True,
        latency_ms=Percentiles(0, None, None, None, None),
        wall_clock_jumps=0,
        engine_restarts=0,
        memory_mb=1.0,
        temperature_c=None,
        backend={},
        precision={},
        signed_by=None,
    )


@pytest.fixture
def publisher() -> Iterator[ZmqPublisher]:
    publisher = ZmqPublisher("tcp://127.0.0.1:*", 100)
    yield publisher
    publisher.close()


def serve_until(publisher: ZmqPublisher, subscriber: Subscriber, kind: type) -> Any:
    """Let the publisher answer subscriptions until `subscriber` gets a message of `kind`."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        message = subscriber.receive(0.01)
        if isinstance(message, kind):
            return message
    raise AssertionError("nothing came")


def test_a_sink_takes_messages_without_a_subscriber_and_closes_twice(publisher: ZmqPublisher) -> None:
    sink: Sink = publisher
    sink.publish(published(decision(0)))
    sink.publish(published(status(0)))
    sink.serve()
    sink.close()
    sink.close()
    again = ZmqPublisher(publisher.endpoint, 1)
    assert again.endpoint == publisher.endpoint, "closing freed the address"
    again.close()


def test_two_frames_topic_and_json(publisher: ZmqPublisher) -> None:
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.subscribe(b"decision.car")
        socket.connect(publisher.endpoint)
        publisher.publish(published(decision(5)))
        deadline = time.monotonic() + WAIT_S
        while not socket.poll(10):
            assert time.monotonic() < deadline
        topic, payload = socket.recv_multipart()
    assert topic == b"decision.car"
    assert msgspec.json.decode(payload)["seq"] == 5


def test_a_new_subscriber_gets_the_last_decision_and_status_at_once(publisher: ZmqPublisher) -> None:
    for seq in range(3):
        publisher.publish(published(decision(seq)))
        publisher.publish(published(status(seq)))
    with Subscriber(publisher.endpoint) as subscriber:
        assert serve_until(publisher, subscriber, DecisionMessage).seq == 2
        assert serve_until(publisher, subscriber, StatusMessage).seq == 2


def test_gaps_repeats_and_restarts_are_told_apart(publisher: ZmqPublisher) -> None:
    publisher.publish(published(decision(0)))
    with Subscriber(publisher.endpoint, timeout_s=WAIT_S) as subscriber:
        assert serve_until(publisher, subscriber, DecisionMessage).seq == 0
        for message in (decision(1), decision(4), decision(4), decision(0, published_ns=9999)):
            publisher.publish(published(message))
        seen = [next(iter(subscriber)).seq for _ in range(3)]
        assert seen == [1, 4, 0]
        assert (subscriber.lost, subscriber.repeated, subscriber.restarts) == (2, 1, 1)
        assert not subscriber.stale


def test_silence_is_an_error_and_staleness(publisher: ZmqPublisher) -> None:
    with Subscriber(publisher.endpoint, timeout_s=0.2, stale_after_s=0.1) as subscriber:
        stop = threading.Event()

        def chatter() -> None:
            while not stop.is_set():
                publisher.publish(published(status(0)))
                time.sleep(0.02)

        thread = threading.Thread(target=chatter)
        thread.start()
        with pytest.raises(TimeoutError, match="no decision for 0.2 s"):
            next(iter(subscriber))
        stop.set()
        thread.join()
        assert subscriber.stale


def test_only_the_named_runtime_is_heard(publisher: ZmqPublisher) -> None:
    publisher.publish(published(decision(1, "bus")))
    publisher.publish(published(decision(2, "car")))
    with Subscriber(publisher.endpoint, "car") as subscriber:
        assert serve_until(publisher, subscriber, DecisionMessage).name == "car"


def test_a_subscriber_that_never_reads_costs_nobody_else_anything() -> None:
    publisher = ZmqPublisher("tcp://127.0.0.1:*", 1000)
    context = zmq.Context()
    dead = context.socket(zmq.SUB)
    dead.setsockopt(zmq.RCVHWM, 1)
    dead.subscribe(b"")
    dead.connect(publisher.endpoint)
    try:
        with Subscriber(publisher.endpoint, high_water_mark=100_000) as good:
            publisher.publish(published(decision(0, "w")))
            serve_until(publisher, good, DecisionMessage)
            for seq in range(1, 5000):  # 50 MB: far more than the dead one's buffers hold
                publisher.publish(published(decision(seq, "w", tags=["x" * 10_000])))
                if seq % 5 == 0:  # the good one reads along
                    _read_to(good, seq)
            assert good.lost == 0
    finally:
        context.destroy(linger=0)
        publisher.close()


def _read_to(subscriber: Subscriber, seq: int) -> None:
    while True:
        message = subscriber.receive(WAIT_S)
        assert message is not None, f"decision {seq} did not come"
        if isinstance(message, DecisionMessage) and message.seq >= seq:
            return


def test_an_address_that_is_taken_is_named(publisher: ZmqPublisher) -> None:
    with pytest.raises(ConfigError, match="is another runtime running"):
        ZmqPublisher(publisher.endpoint, 1)
