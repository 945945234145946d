"""The source of kind `can` on python-can's virtual bus."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from edge_runtime import config
from edge_runtime.capture import outages
from edge_runtime.capture.source import Source
from edge_runtime.errors import ConfigError
from tests.capture.test_sources import Inbox
from tests.conftest import wait_for

can = pytest.importorskip("can", reason="python-can is not installed")
pytest.importorskip("cantools", reason="cantools is not installed")

DBC = """VERSION ""
BS_:
BU_: ECU
BO_ 291 Wheels: 4 ECU
 SG_ Speed : 0|16@1- (0.01,0) [-100|100] "m/s" ECU
 SG_ Gear : 16|8@1+ (1,0) [0|10] "" ECU
BO_ 2566844693 Engine: 8 ECU
 SG_ Load : 0|8@1+ (0.5,0) [0|100] "%" ECU
BO_ 512 Mixed: 2 ECU
 SG_ Which M : 0|8@1+ (1,0) [0|1] "" ECU
 SG_ First m0 : 8|8@1+ (1,0) [0|255] "" ECU
 SG_ Second m1 : 8|8@1+ (1,0) [0|255] "" ECU
VAL_ 291 Gear 1 "first" 2 "second" ;
"""


@pytest.fixture
def dbc(tmp_path: Path) -> str:
    path = tmp_path / "car.dbc"
    path.write_text(DBC)
    return str(path)


@contextmanager
def listening(dbc: str, **signals: str) -> Iterator[tuple[Inbox, Source, Any]]:
    """The inbox, the source, and somebody else's bus."""
    channel = uuid4().hex
    inbox = Inbox()
    source = inbox.open(config.CanSource("sensors", dbc, signals, bus=channel, interface="virtual"))
    source.start()
    with can.Bus(channel=channel, interface="virtual") as bus:
        try:
            wait_for(lambda: source.state == "running", "the bus")
            yield inbox, source, bus
        finally:
            source.stop(10.0)
        assert bus.recv(0) is None, "it has sent nothing"


def frame(number: int, data: bytes, **more: Any) -> Any:
    return can.Message(arbitration_id=number, data=data, is_extended_id=number > 0x7FF, **more)


def values(inbox: Inbox) -> list[dict[str, float]]:
    return [dict(sample.values) for sample in inbox.take("sensors")]  # type: ignore[attr-defined]


def test_signals_are_samples_in_their_units_stamped_as_they_were_received(dbc: str) -> None:
    with listening(dbc, a="Wheels.Speed", b="Wheels.Gear") as (inbox, _, bus):
        before = time.monotonic_ns()
        bus.send(frame(291, b"\x9c\xff\x02\x00"))
        bus.send(frame(0x7E8, b"\x00" * 8))  # somebody else's
        bus.send(frame(291, b"\x2c\x01\x01\x00"))
        wait_for(lambda: inbox.captured("sensors") == 2, "both")
        after = time.monotonic_ns()
        samples: list[Any] = list(inbox.take("sensors"))
        assert [dict(one.values) for one in samples] == [{"a": -1.0, "b": 2.0}, {"a": 3.0, "b": 1.0}]
        assert all(before - 50_000_000 <= one.captured_ns <= after for one in samples)


def test_extended_identifiers_and_signals_of_several_messages(dbc: str) -> None:
    with listening(dbc, a="Engine.Load", b="Wheels.Gear") as (inbox, _, bus):
        bus.send(frame(0x18FEF115, b"\x64" + bytes(7)))
        bus.send(frame(291, b"\x00\x00\x02\x00"))
        wait_for(lambda: inbox.captured("sensors") == 2, "both")
        assert values(inbox) == [{"a": 50.0}, {"b": 2.0}]


def test_of_a_multiplexed_message_only_what_it_holds_counts(dbc: str) -> None:
    with listening(dbc, a="Mixed.First", b="Mixed.Second") as (inbox, _, bus):
        bus.send(frame(512, b"\x00\x09"))
        bus.send(frame(512, b"\x01\x08"))
        wait_for(lambda: inbox.captured("sensors") == 2, "both")
        assert values(inbox) == [{"a": 9.0}, {"b": 8.0}]


def test_frames_that_are_too_short_are_refused_and_the_next_is_taken(dbc: str) -> None:
    with listening(dbc, a="Wheels.Speed") as (inbox, source, bus):
        bus.send(frame(291, b"\x01"))
        bus.send(frame(291, b""))
        bus.send(frame(291, b"", is_remote_frame=True, dlc=4))
        bus.send(frame(291, b"\x64\x00\x00\x00"))
        wait_for(lambda: inbox.captured("sensors") == 3, "the good one")
        assert dict(inbox.intake.refusals("sensors")) == {"malformed": 2}
        assert values(inbox) == [{"a": 1.0}] and source.state == "running"


def test_a_stamp_of_another_clock_is_no_time_of_capture(dbc: str) -> None:
    with listening(dbc, a="Wheels.Speed") as (inbox, source, _):
        clock = inbox.intake.clock
        received: Any = source._received_ns  # type: ignore[attr-defined]
        now_s = clock.wall_ns() / 1e9
        assert received(now_s - 0.5) == pytest.approx(clock.now_ns() - 500_000_000, abs=300_000_000)
        assert received(now_s - 60) is None and received(now_s + 60) is None and received(0.0) is None


def test_a_bus_that_is_not_there_is_tried_again(dbc: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(outages, "LONGEST_PAUSE_S", 0.05)
    inbox = Inbox()
    source = inbox.open(config.CanSource("sensors", dbc, {"a": "Wheels.Speed"}, bus="nocan77"))
    source.start()
    try:
        wait_for(lambda: source.state == "waiting" and source.reason != "not open yet", "the outage")
        assert source.reason
    finally:
        source.stop(10.0)
    assert source.ended


@pytest.mark.parametrize(
    ("signals", "message"),
    [
        ({"x": "Wheels.Speed"}, "no channel 'x'; there are a, b"),
        ({"a": "Wheels.Colour"}, "no signal 'Wheels.Colour'; expected MESSAGE.SIGNAL"),
        ({"a": "Doors.Open"}, "no signal 'Doors.Open'"),
        ({"a": "Speed"}, "no signal 'Speed'"),
    ],
)
def test_rows_that_cannot_be_meant_are_one_line(dbc: str, signals: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Inbox().open(config.CanSource("sensors", dbc, signals))


def test_a_file_that_is_no_dbc_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "car.dbc"
    for text in (None, "nonsense {", "\0\1"):
        if text is not None:
            path.write_text(text)
        with pytest.raises(ConfigError, match="cannot be read as DBC") as caught:
            Inbox().open(config.CanSource("sensors", str(path), {"a": "A.B"}))
        assert "\n" not in str(caught.value)
