"""The source of kind `mqtt` against a real mosquitto: what it takes, what it refuses, and outages."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_runtime import broker, config
from edge_runtime.capture import open_sources
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.source import Source
from edge_runtime.cli.doctor import _brokers
from edge_runtime.clock import RealClock
from edge_runtime.config import MqttTopic, load_config
from edge_runtime.errors import ConfigError
from edge_runtime.runtime import Runtime
from tests import tiny
from tests.capture.test_sources import Inbox
from tests.conftest import running, tiny_config, wait_for
from tests.mosquitto import Ear, Mosquitto, needed
from tests.test_runtime import Vehicle

pytestmark = pytest.mark.usefixtures("quick_broker")
pytest.importorskip("paho", reason="paho-mqtt is not installed")

PLAIN = MqttTopic("room/a", "sensors", channel="a")
BOTH = MqttTopic("room/json", "sensors", channels={"a": "left.value", "b": "list[1]"})
TEXT = MqttTopic("voice/+/text", "text")


@pytest.fixture
def voice(mosquitto: Mosquitto) -> Iterator[Ear]:
    speaking = Ear(mosquitto.port, ("none",))
    yield speaking
    speaking.close()


@contextmanager
def listening(port: int, *topics: MqttTopic, **settings: Any) -> Iterator[tuple[Inbox, Source]]:
    inbox = Inbox()
    row = config.MqttSource(port=port, topic=topics, **settings)
    (source,) = open_sources([row], tiny.STREAMS, inbox.intake, "tcp://127.0.0.1:9")
    source.start()
    try:
        wait_for(lambda: source.state == "running", "the connection")
        time.sleep(0.1)  # until it is subscribed
        yield inbox, source
    finally:
        source.stop(10.0)


def refused(inbox: Inbox, stream: str, **reasons: int) -> None:
    wait_for(lambda: dict(inbox.intake.refusals(stream)) == reasons, f"{reasons}, {inbox.intake.refusals(stream)}")


@needed
def test_readings_and_sentences_are_taken_at_their_arrival(mosquitto: Mosquitto, voice: Ear) -> None:
    named = MqttTopic("by/+/name", "sensors", channel="+", field="v", words={"ON": 1.0})
    said = MqttTopic("voice/json", "text", text="$.said")
    with listening(mosquitto.port, PLAIN, BOTH, TEXT, named, said) as (inbox, source):
        before = time.monotonic_ns()
        voice.say("room/a", " 21.5\n")
        voice.say("room/json", '{"left": {"value": 3}, "list": [0, true], "more": "x"}')
        voice.say("room/json", '{"left": {"value": "4.5"}}')
        voice.say("by/b/name", '{"v": "ON"}')
        wait_for(lambda: inbox.captured("sensors") == 4, "the readings")
        samples: list[Any] = list(inbox.take("sensors"))
        assert [dict(sample.values) for sample in samples] == [
            {"a": 21.5},
            {"a": 3.0, "b": 1.0},
            {"a": 4.5},
            {"b": 1.0},
        ]
        after = time.monotonic_ns()
        assert all(before - 10 * broker.TURN_S * 1e9 <= sample.captured_ns <= after for sample in samples)
        voice.say("voice/kitchen/text", "turn the light on")
        voice.say("voice/json", '{"said": "停 车"}')
        wait_for(lambda: inbox.captured("text") == 2, "the sentences")
        assert [message.text for message in inbox.take("text")] == ["turn the light on", "停 车"]  # type: ignore[attr-defined]
        assert source.reason is None and not inbox.intake.unrouted_counts()


@needed
def test_what_cannot_be_used_is_refused_by_reason_and_the_next_is_heard(mosquitto: Mosquitto, voice: Ear) -> None:
    said = MqttTopic("voice/json", "text", text="said")
    with listening(mosquitto.port, PLAIN, BOTH, TEXT, said, rate_limit=0) as (inbox, _):
        voice.say("room/json", "{")
        voice.say("room/json", b"\xff\xfe")
        voice.say("room/json", "[" * 5000)
        voice.say("room/json", '{"other": 1}')
        voice.say("room/json", '{"left": 7}')
        voice.say("room/json", '{"left": {"value": {}}}')
        voice.say("room/json", '{"left": {"value": NaN}}')
        voice.say("room/json", '{"left": {"value": null}}')
        voice.say("room/json", '{"left": {"value": 1e400}}')
        voice.say("room/a", "unavailable")
        voice.say("room/a", "")
        voice.say("room/a", "101")
        voice.say("room/a", "1" * (64 << 10) + "1")
        refused(
            inbox,
            "sensors",
            malformed=4,
            no_field=2,
            not_a_number=3,
            not_finite=1,
            null=1,
            out_of_range=1,
            too_big=1,
        )
        voice.say("voice/x/text", b"\xff")
        voice.say("voice/x/text", "")
        voice.say("voice/json", '{"said": 3}')
        refused(inbox, "text", malformed=2, empty=1)
        voice.say("room/json", '{"left": {"value": 1}, "list": [0, "word"]}')
        wait_for(lambda: inbox.captured("sensors") == 14, "the one that is good, in part")
        assert [dict(sample.values) for sample in inbox.take("sensors")] == [{"a": 1.0}]  # type: ignore[attr-defined]


@needed
def test_what_the_broker_has_kept_is_old_and_never_taken(mosquitto: Mosquitto, voice: Ear) -> None:
    voice.say("room/a", "1", retain=True)
    voice.say("voice/x/text", "stop", retain=True)
    with listening(mosquitto.port, PLAIN, TEXT) as (inbox, _):
        refused(inbox, "sensors", retained=1)
        refused(inbox, "text", retained=1)
        voice.say("room/a", "2", retain=True)  # it is new for whoever listens now
        wait_for(lambda: inbox.captured("sensors") == 2, "the new one")
        assert [dict(sample.values) for sample in inbox.take("sensors")] == [{"a": 2.0}]  # type: ignore[attr-defined]


@needed
def test_a_broker_that_dies_and_comes_back_is_heard_again_and_what_it_kept_is_old(mosquitto: Mosquitto) -> None:
    with listening(mosquitto.port, PLAIN) as (inbox, source):
        mosquitto.kill()
        wait_for(lambda: source.state == "waiting", "the outage")
        assert str(mosquitto.port) in str(source.reason) and source.health().state == "waiting"
        mosquitto.start()
        wait_for(lambda: source.state == "running" and source.reason is None, "the connection")
        voice = Ear(mosquitto.port, ("none",))

        def heard() -> bool:
            voice.say("room/a", "3")
            return inbox.captured("sensors") > 0

        wait_for(heard, "a reading")
        voice.close()


@needed
def test_a_flood_is_bounded_and_the_other_streams_go_on(mosquitto: Mosquitto, voice: Ear) -> None:
    with listening(mosquitto.port, PLAIN, TEXT) as (inbox, _):
        for _ in range(500):
            voice.client.publish("room/a", "1", 0)
        voice.say("voice/x/text", "stop")
        wait_for(lambda: inbox.captured("text") == 1, "the sentence")
        assert inbox.intake.refusals("sensors")["over_rate"] > 100
        assert [message.text for message in inbox.take("text")] == ["stop"]  # type: ignore[attr-defined]


@needed
def test_messages_beyond_what_is_read_are_kept_by_the_broker(mosquitto: Mosquitto, voice: Ear) -> None:
    with listening(mosquitto.port, PLAIN, TEXT) as (inbox, source):
        voice.say("room/a", b"1" * (broker.MAX_PACKET_BYTES + 1))
        voice.say("voice/x/text", "stop")
        wait_for(lambda: inbox.captured("text") == 1, "the sentence")
        assert not inbox.intake.refusals("sensors") and source.state == "running"


@needed
def test_what_waited_while_nobody_read_is_as_old_as_it_may_be(mosquitto: Mosquitto, voice: Ear) -> None:
    """The thread is held up, as by a machine that is too busy; what comes meanwhile must not pass for new."""
    with listening(mosquitto.port, TEXT, PLAIN) as (inbox, source):
        free, held = threading.Event(), threading.Event()
        link: Any = source._link  # type: ignore[attr-defined]

        def hold() -> None:
            held.set()
            free.wait(60)

        link.turn = hold
        link.wake()
        assert held.wait(60)
        del link.turn
        came_after = time.monotonic_ns()
        voice.say("room/a", "5")
        time.sleep(0.4)
        released = time.monotonic_ns()
        free.set()
        wait_for(lambda: inbox.captured("sensors") == 1, "the reading")
        (sample,) = inbox.take("sensors")
        assert sample.captured_ns <= came_after < released - 400_000_000 + 1


@needed
def test_a_stream_that_demands_stamps_takes_nothing_here(mosquitto: Mosquitto, voice: Ear) -> None:
    inbox = Inbox()
    inbox.intake = Intake(tiny.STREAMS, inbox.boxes, RealClock(), stamped=["text"])
    row = config.MqttSource(port=mosquitto.port, topic=(TEXT,))
    (source,) = open_sources([row], tiny.STREAMS, inbox.intake, "")
    source.start()
    try:

        def refusal() -> bool:
            voice.say("voice/x/text", "stop")
            return inbox.intake.refusals("text")["no_stamp"] > 0

        wait_for(refusal, "the refusal")
    finally:
        source.stop(10.0)


@needed
def test_a_broker_that_stalls_is_seen_and_the_source_stops_in_time(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "KEEPALIVE_S", 1)
    with listening(mosquitto.port, PLAIN) as (_, source):
        mosquitto.signal(signal.SIGSTOP)
        try:
            wait_for(lambda: source.state == "waiting", "the stall to be seen")
            source.stop(10.0)
            assert source.ended
        finally:
            mosquitto.signal(signal.SIGCONT)


@pytest.mark.parametrize(
    ("topic", "message"),
    [
        (MqttTopic("a/#", "sensors", channel="a"), "take turns in one channel"),
        (MqttTopic("a/+", "sensors", channel="a"), "take turns in one channel"),
        (MqttTopic("+/+", "sensors", channel="+"), "take turns in one channel"),
        (MqttTopic("a", "sensors", channel="+"), "take turns in one channel"),
        (MqttTopic("a", "sensors"), "give `channel`"),
        (MqttTopic("a", "sensors", channel="a", channels={"b": "b"}), "give `channel`"),
        (MqttTopic("a", "sensors", channel="x"), "no channel 'x'; there are a, b"),
        (MqttTopic("a", "sensors", channel="a", field="x..y"), "no place in JSON"),
        (MqttTopic("a", "text", channel="a"), "takes sentences"),
        (MqttTopic("a", "camera"), "no stream of sensors or text 'camera'"),
        (MqttTopic("a", "none"), "no stream of sensors or text 'none'"),
        (MqttTopic("a+", "text"), "stands for a whole level"),
    ],
)
def test_rows_that_cannot_be_meant_are_one_line(topic: MqttTopic, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_sources([config.MqttSource(topic=(topic,))], tiny.STREAMS, Inbox().intake, "")
    assert repr(topic.topic) in str(caught.value) and "\n" not in str(caught.value)


@needed
def test_a_runtime_decides_by_what_comes_and_tells_of_the_broker(
    mosquitto: Mosquitto, voice: Ear, tiny_bundle_path: Path, tmp_path: Path
) -> None:
    row = config.MqttSource(port=mosquitto.port, topic=(PLAIN,))
    both = tiny_config(tiny_bundle_path, config.ZmqSource("tcp://127.0.0.1:*", rate_limit=0), row)
    with running(Runtime(both)) as runtime:
        vehicle = Vehicle(runtime)
        try:

            def decided() -> bool:
                voice.say("room/a", "90")
                vehicle.frame(128)
                return vehicle.decision().label == "high"

            wait_for(decided, "the reading to count")
            wait_for(lambda: vehicle.read() and bool(vehicle.statuses), "a status")
            mosquitto.kill()
            wait_for(lambda: vehicle.read() and "source mqtt" in str(vehicle.statuses[-1].reason), "the trouble")
            assert vehicle.statuses[-1].sources[1].state == "waiting"
        finally:
            vehicle.close()


@needed
def test_doctor_asks_every_broker_once(mosquitto: Mosquitto, tmp_path: Path) -> None:
    file = tmp_path / "hub.toml"
    rows = f'host = "127.0.0.1"\nport = {mosquitto.port}\n'
    file.write_text(
        'name = "hub"\nbundle = "b"\n[[source]]\nkind = "mqtt"\n' + rows + '[[source.topic]]\ntopic = "t"\n'
        'stream = "text"\n[[sink]]\nkind = "mqtt"\n' + rows
    )
    (found,) = _brokers(load_config(file))
    assert (found.check, found.verdict) == ("mqtt", "ok")
    mosquitto.kill()
    (found,) = _brokers(load_config(file))
    assert found.verdict == "bad" and f"mqtt://127.0.0.1:{mosquitto.port}" in found.detail
    open_row = msgspec.structs.replace(config.MqttSink(), user="x", password_file=str(file))
    file.chmod(0o644)
    (found,) = _brokers(config.Config("hub", "b", (), (open_row,)))
    assert found.verdict == "bad" and "chmod 600" in found.detail
