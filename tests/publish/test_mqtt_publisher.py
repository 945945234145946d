"""The sink of kind `mqtt` against a real mosquitto: killed, stalled, encrypted, and one that lets nobody in."""

from __future__ import annotations

import logging
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_runtime import broker, config
from edge_runtime.publish import mqtt_publisher
from edge_runtime.publish.mqtt_publisher import MqttPublisher
from edge_runtime.publish.outlet import QueuedOutlet
from edge_runtime.publish.sink import published
from edge_runtime.runtime import Runtime
from edge_runtime.wire import DecisionMessage
from tests.conftest import running, tiny_config, wait_for
from tests.mosquitto import Ear, Mosquitto, make_certificates, needed
from tests.publish.test_sinks import BUNDLE, decision, status
from tests.test_runtime import Vehicle
from tests.tiny import STREAMS

pytestmark = [needed, pytest.mark.usefixtures("quick_broker")]
pytest.importorskip("paho", reason="paho-mqtt is not installed")

CONFIG = config.Config(name="porch", bundle="b", source=())
DECISION, STATUS, AVAILABILITY = (f"edge-runtime/porch/{part}" for part in ("decision", "status", "availability"))
ANNOUNCED = "homeassistant/device/edge_runtime_porch/config"
Open = Callable[..., MqttPublisher]


@pytest.fixture
def ear(mosquitto: Mosquitto) -> Iterator[Ear]:
    listening = Ear(mosquitto.port)
    yield listening
    listening.close()


@pytest.fixture
def opened(mosquitto: Mosquitto) -> Iterator[Open]:
    """Opens sinks there, with a session begun."""
    sinks = []

    def open_sink(**settings: Any) -> MqttPublisher:
        sink = MqttPublisher(config.MqttSink(**{"port": mosquitto.port} | settings))
        sinks.append(sink)
        sink.session(CONFIG, BUNDLE, STREAMS)
        return sink

    yield open_sink
    for sink in sinks:
        sink.close()


def seqs(ear: Ear, topic: str = DECISION) -> list[int]:
    return [msgspec.json.decode(one.payload)["seq"] for one in ear.of(topic)]


def looked(vehicle: Vehicle) -> DecisionMessage:
    """The next decision, a picture having been sent."""
    vehicle.frame(240)
    return vehicle.decision()


def test_it_is_announced_and_says_what_is_decided(ear: Ear, opened: Open) -> None:
    sink = opened()
    item = published(decision(7))
    sink.publish(item)
    sink.publish(published(status(3)))
    (said,) = ear.wait(DECISION)
    assert said.payload == item.payload and not said.retained and said.expires_s == 60
    assert msgspec.json.decode(ear.wait(STATUS)[0].payload)["seq"] == 3
    announced = msgspec.json.decode(ear.wait(ANNOUNCED)[0].payload)
    assert announced["components"]["decision"]["options"] == ["keep"]
    assert announced["components"]["decision"]["state_topic"] == DECISION
    assert {f"age_{name}" for name in STREAMS} <= announced["components"].keys()
    assert (sink.trouble, sink.missed) == (None, 0)
    assert [one.topic for one in ear.heard].index(ANNOUNCED) < [one.topic for one in ear.heard].index(DECISION)
    sink.close()
    sink.close()
    assert [one.payload for one in ear.wait(AVAILABILITY, 2)] == [b"online", b"offline"]


def test_only_announcement_and_availability_are_kept_by_the_broker(
    mosquitto: Mosquitto, ear: Ear, opened: Open
) -> None:
    sink = opened()
    sink.publish(published(decision(0)))
    sink.publish(published(status(0)))
    ear.wait(DECISION) and ear.wait(STATUS) and ear.wait(ANNOUNCED)
    late = Ear(mosquitto.port)
    late.wait(ANNOUNCED) and late.wait(AVAILABILITY)
    late.say("end", "")
    late.wait("end")
    assert {one.topic for one in late.heard if one.retained} == {ANNOUNCED, AVAILABILITY}
    assert not late.of(DECISION) and not late.of(STATUS)
    late.close()


def test_it_is_announced_again_when_home_assistant_comes_and_when_it_learns_more(ear: Ear, opened: Open) -> None:
    sink = opened()
    sink.publish(published(decision(0)))
    ear.wait(ANNOUNCED)
    ear.say("homeassistant/status", "offline")
    ear.say("homeassistant/status", "online")
    ear.wait(ANNOUNCED, 2)
    sink.publish(published(decision(1, label="go", probabilities={"go": 0.9, "keep": 0.1})))
    more = ear.wait(ANNOUNCED, 3)
    options = [msgspec.json.decode(one.payload)["components"]["decision"]["options"] for one in more]
    assert options == [["keep"], ["keep"], ["keep", "go"]]


def test_another_bundle_takes_away_what_it_has_no_more(ear: Ear, opened: Open) -> None:
    sink = opened()
    sink.publish(published(decision(0)))
    ear.wait(ANNOUNCED)
    sink.session(CONFIG, BUNDLE, {"camera": STREAMS["camera"]})
    sink.publish(published(decision(1)))
    _, leaving, left = ear.wait(ANNOUNCED, 3)
    assert msgspec.json.decode(leaving.payload)["components"]["age_text"] == {"platform": "sensor"}
    assert "age_text" not in msgspec.json.decode(left.payload)["components"]


def test_nothing_is_announced_where_nobody_is_to_discover(ear: Ear, opened: Open) -> None:
    sink = opened(discovery="", topic="a/b")
    sink.publish(published(decision(0)))
    ear.wait("a/b/porch/decision")
    assert {one.topic for one in ear.heard} == {"a/b/porch/availability", "a/b/porch/decision"}


def test_what_says_the_same_is_thinned_out_and_what_does_not_goes_at_once(ear: Ear, opened: Open) -> None:
    sink = opened(max_rate_hz=0.1)
    sink.publish(published(decision(0)))
    ear.wait(DECISION)
    for seq in range(1, 200):
        sink.publish(published(decision(seq)))
    sink.publish(published(decision(200, label="go")))
    wait_for(lambda: 200 in seqs(ear), "the change")
    assert seqs(ear) == [0, 200] and sink.missed == 0


def test_a_flapping_label_is_thinned_out_too(ear: Ear, opened: Open) -> None:
    sink = opened(max_rate_hz=0.1)
    until = time.monotonic() + 0.5
    seq = 0
    while time.monotonic() < until:
        sink.publish(published(decision(seq, label=f"l{seq % 2}")))
        seq += 1
        time.sleep(0.001)
    ear.wait(DECISION)
    took = time.monotonic() - until + 0.5
    assert len(seqs(ear)) <= mqtt_publisher.CHANGES_HZ * took + 1


def test_whoever_goes_without_a_word_is_unavailable(ear: Ear, opened: Open) -> None:
    sink = opened()
    ear.wait(AVAILABILITY)
    assert sink._feed is not None and sink._feed._client is not None
    connection = sink._feed._client.socket()
    assert connection is not None
    connection.shutdown(2)  # type: ignore[union-attr]
    assert [one.payload for one in ear.wait(AVAILABILITY, 3)] == [b"online", b"offline", b"online"], "and comes back"


def test_a_broker_that_dies_and_comes_back_gets_the_newest_and_the_rest_is_counted(
    mosquitto: Mosquitto, ear: Ear, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_publisher, "CHANGES_HZ", 1e9)
    sink = opened(max_rate_hz=100)
    sink.publish(published(decision(0)))
    ear.wait(DECISION)
    mosquitto.kill()
    wait_for(lambda: sink.trouble is not None, "the trouble to be seen")
    for seq in range(1, 51):
        sink.publish(published(decision(seq, label=f"l{seq}")))
    assert sink.missed == 49
    again = Ear.__new__(Ear)
    mosquitto.start()
    again.__init__(mosquitto.port)  # type: ignore[misc]
    wait_for(lambda: sink.trouble is None, "the connection")
    sink.publish(published(decision(51, label="l51")))
    wait_for(lambda: 51 in seqs(again), "the newest")
    assert set(seqs(again)) <= {50, 51}, "nothing old"
    again.wait(ANNOUNCED), "the broker had forgotten it"
    again.close()


def test_a_longer_spool_is_sent_in_order_and_nothing_that_has_expired(
    mosquitto: Mosquitto, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_publisher, "CHANGES_HZ", 1e9)
    mosquitto.kill()
    sink = opened(spool=5)
    for seq in range(20):
        sink.publish(published(decision(seq, label=f"l{seq}")))
    assert sink.missed == 15
    assert sink._feed is not None
    spool = sink._feed._decisions
    spool._waiting[0] = spool._waiting[0]._replace(since=time.monotonic() - 61)
    mosquitto.start()
    ear = Ear(mosquitto.port)
    sink.publish(published(decision(20, label="l20")))  # whether or not the others had been sent before we listened
    wait_for(lambda: 20 in seqs(ear), "the end")
    assert seqs(ear) == sorted(seqs(ear)) and set(seqs(ear)) <= {16, 17, 18, 19, 20}
    assert sink.missed >= 16
    ear.close()


def test_a_broker_that_stalls_holds_nobody_up_and_fills_nothing(
    mosquitto: Mosquitto,
    ear: Ear,
    opened: Open,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(broker, "ANSWER_S", 0.2)
    monkeypatch.setattr(broker, "CONNECT_S", 0.2)
    monkeypatch.setattr(mqtt_publisher, "CHANGES_HZ", 1e9)
    sink = opened()
    sink.publish(published(decision(0)))
    ear.wait(DECISION)
    mosquitto.signal(signal.SIGSTOP)
    try:
        for seq in range(1, 2000):
            sink.publish(published(decision(seq, label=f"l{seq}")))
        wait_for(lambda: "acknowledged nothing" in caplog.text, "the stall to be seen")
        wait_for(lambda: "does not answer" in caplog.text, "a new connection to stall too")
        assert sink.trouble is not None
        assert sink._feed is not None
        assert len(sink._feed._decisions._waiting) <= 1 and len(sink._feed._sent) <= mqtt_publisher.IN_FLIGHT
        assert sink.missed >= 1999 - 1 - mqtt_publisher.IN_FLIGHT
    finally:
        mosquitto.signal(signal.SIGCONT)
    monkeypatch.undo()
    wait_for(lambda: sink.trouble is None, "it to go on")
    sink.publish(published(decision(2000, label="end")))
    wait_for(lambda: seqs(ear)[-1] == 2000, "the newest")


def test_its_state_and_its_losses_are_those_of_its_outlet(mosquitto: Mosquitto) -> None:
    mosquitto.kill()
    row = config.MqttSink(port=mosquitto.port)
    outlet = QueuedOutlet("2 mqtt", lambda: MqttPublisher(row))
    outlet.session(CONFIG, BUNDLE, STREAMS)
    for seq in range(9):
        outlet.publish(published(decision(seq, label=f"l{seq}")))
        time.sleep(0.11)
    wait_for(lambda: outlet.health().dropped > 0, "losses")
    health = outlet.health()
    assert health.state == "retrying" and str(mosquitto.port) in str(health.reason), health
    mosquitto.start()
    wait_for(lambda: outlet.health().state == "open", "it to open")
    outlet.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def guarded(tmp_path: Path, certificates: dict[str, Path]) -> Iterator[Mosquitto]:
    """Encrypted, and asks for a password."""
    passwords = tmp_path / "passwords"
    passwords.touch(mode=0o600)
    subprocess.run(["mosquitto_passwd", "-b", str(passwords), "porch", "right"], check=True, capture_output=True)
    lines = (
        f"cafile {certificates['authority']}",
        f"certfile {certificates['broker']}",
        f"keyfile {certificates['broker.key']}",
        "allow_anonymous false",
        f"password_file {passwords}",
    )
    started = Mosquitto(tmp_path / "guarded", *lines)
    yield started
    started.kill()


def secret(folder: Path, text: str) -> str:
    path = folder / "password"
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def test_encrypted_and_with_a_password(
    guarded: Mosquitto, certificates: dict[str, Path], tmp_path: Path, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = {"port": guarded.port, "user": "porch", "ca": str(certificates["authority"])}
    wrong = opened(**settings, password_file=secret(tmp_path, "wrong-secret\n"))
    wait_for(lambda: "Not authorized" in str(wrong.trouble), "the refusal")
    wrong.close()
    stranger = opened(**settings | {"ca": str(certificates["stranger"])}, password_file=secret(tmp_path, "right\n"))
    wait_for(lambda: "certificate" in str(stranger.trouble), "the certificate to be refused")
    stranger.close()
    other_name = opened(**settings, host="localhost", password_file=secret(tmp_path, "right\n"))
    wait_for(lambda: "certificate" in str(other_name.trouble), "the name to be refused")
    other_name.close()
    plain = opened(port=guarded.port)
    wait_for(lambda: plain._feed is not None and "no answer" not in str(plain.trouble), "an end")
    assert plain.trouble is not None
    plain.close()
    right = opened(**settings, password_file=secret(tmp_path, "right\n"))
    wait_for(lambda: right.trouble is None, "the connection")
    assert "wrong-secret" not in caplog.text and "right\n" not in caplog.text
    assert broker.probe(config.MqttSink(**settings, password_file=str(tmp_path / "password"))) is None
    assert "Not authorized" in str(broker.probe(config.MqttSink(**settings)))


def test_a_certificate_of_the_client_s_own(tmp_path: Path, certificates: dict[str, Path], opened: Open) -> None:
    lines = (
        f"cafile {certificates['authority']}",
        f"certfile {certificates['broker']}",
        f"keyfile {certificates['broker.key']}",
        "require_certificate true",
        "use_identity_as_username true",
        "allow_anonymous false",
    )
    asking = Mosquitto(tmp_path / "asking", *lines)
    try:
        settings = {"port": asking.port, "ca": str(certificates["authority"])}
        sink = opened(**settings, certificate=str(certificates["client"]), key=str(certificates["client.key"]))
        wait_for(lambda: sink.trouble is None, "the connection")
        without = opened(**settings)
        wait_for(lambda: "no answer" not in str(without.trouble), "the refusal")
        assert without.trouble is not None
    finally:
        asking.kill()


def test_a_runtime_goes_on_without_a_broker_and_with_it_again(mosquitto: Mosquitto, tiny_bundle_path: Path) -> None:
    mosquitto.kill()
    plain = tiny_config(tiny_bundle_path)
    both = msgspec.structs.replace(plain, sink=(*plain.sink, config.MqttSink(port=mosquitto.port, max_rate_hz=100)))
    with running(Runtime(both)) as runtime:
        vehicle = Vehicle(runtime)
        try:
            wait_for(lambda: looked(vehicle).source == "model", "a decision of the model")
            wait_for(lambda: vehicle.read() and "sink 2 mqtt" in str(vehicle.statuses[-1:]), "the trouble in status")
            assert vehicle.statuses[-1].sinks["2 mqtt"].state == "retrying"
            mosquitto.start()
            ear = Ear(mosquitto.port)
            ear.wait("edge-runtime/test/decision")
            wait_for(lambda: looked(vehicle).source == "model", "a decision of the model")
            newest = vehicle.decisions[-1].seq
            wait_for(lambda: newest <= max(seqs(ear, "edge-runtime/test/decision")), "the decision")
            payload = msgspec.json.decode(ear.wait("homeassistant/device/edge_runtime_test/config")[-1].payload)
            assert set(payload["components"]["decision"]["options"]) == {"bright", "dark", "stop", "high"}
            wait_for(lambda: vehicle.read() and vehicle.statuses[-1].sinks["2 mqtt"].state == "open", "it to be open")
        finally:
            vehicle.close()
    assert ear.wait("edge-runtime/test/availability", 2)[-1].payload == b"offline"
    ear.close()
