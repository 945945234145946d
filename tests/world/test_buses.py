"""The car on its buses: what a DBC makes of its frames, what a receiver's sentences say, and that nothing waits."""

from __future__ import annotations

import math
import socket
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.capture.gpsd_source import local
from edge_runtime.errors import UserError
from edge_runtime.world import buses
from edge_runtime.world.buses import DBC, FRAME, ORIGIN, SIGNALS, BusLink, can_frames, sentences
from edge_runtime.world.sensors import RANGE_CHANNELS

NOW = datetime(2026, 11, 27, 12, 0, 5, 250_000, timezone.utc)
RESOLUTION = {"speed_mps": 0.005, "yaw_rate_radps": 0.0002, "accel_mps2": 0.002}
HERE = "tcp://127.0.0.1:1"


@given(
    st.floats(0, 60),
    st.floats(-6, 6),
    st.floats(-50, 50),
    st.lists(st.floats(0, 60), min_size=len(RANGE_CHANNELS), max_size=len(RANGE_CHANNELS)),
)
def test_a_dbc_reads_what_was_measured(speed: float, yaw_rate: float, accel: float, ranges: list[float]) -> None:
    cantools = pytest.importorskip("cantools", reason="cantools is not installed")
    values = {"speed_mps": speed, "yaw_rate_radps": yaw_rate, "accel_mps2": accel}
    values |= dict(zip(RANGE_CHANNELS, ranges, strict=True))
    database = cantools.database.load_file(str(DBC))
    read = {}
    for frame in can_frames(values):
        number, length, data = FRAME.unpack(frame)
        message = database.get_message_by_frame_id(number)
        assert length == message.length
        decoded = message.decode(data[:length])
        read |= {f"{message.name}.{name}": value for name, value in decoded.items()}
    assert read.keys() == set(SIGNALS.values())
    for channel, signal in SIGNALS.items():
        assert read[signal] == pytest.approx(values[channel], abs=RESOLUTION.get(channel, 0.02) / 2 + 1e-9)


def test_what_was_not_measured_is_not_told() -> None:
    assert [FRAME.unpack(frame)[0] for frame in can_frames(dict.fromkeys(RANGE_CHANNELS, 1.0))] == [272, 273]
    assert list(can_frames({})) == []


@given(st.floats(-500, 500), st.floats(-500, 500), st.floats(-math.pi, math.pi))
def test_a_receiver_s_sentences_lead_back_to_the_place(x_m: float, y_m: float, heading: float) -> None:
    told = sentences({"x_m": x_m, "y_m": y_m, "heading_rad": heading}, 5.0, NOW)
    lines = told.decode("ascii").splitlines()
    for line in lines:
        body, _, check = line.removeprefix("$").partition("*")
        made = 0
        for character in body:
            made ^= ord(character)
        assert f"{made:02X}" == check
    gga, _, rmc = (line.split(",") for line in lines)
    assert gga[1] == rmc[1] == "120005.25" and rmc[9] == "271126"
    place = {"lat": degrees(gga[2], 2), "lon": degrees(gga[4], 3), "track": float(rmc[8])}
    found = local(place, ORIGIN)
    assert found["east"] == pytest.approx(x_m, abs=0.05) and found["north"] == pytest.approx(y_m, abs=0.05)
    turned = (found["yaw"] - heading + math.pi) % (2 * math.pi) - math.pi
    assert turned == pytest.approx(0.0, abs=1e-4)
    assert float(rmc[7]) == pytest.approx(5.0 * 3600 / 1852, abs=0.005)


def degrees(text: str, digits: int) -> float:
    """Of degrees and minutes, north and east."""
    return int(text[:digits]) + float(text[digits:]) / 60


def test_south_and_west_are_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buses, "ORIGIN", (0.0, 0.0))
    gga = sentences({"x_m": -100.0, "y_m": -100.0, "heading_rad": 0.0}, 0.0, NOW).decode().split(",")
    assert gga[3] == "S" and gga[5] == "W"


def test_readings_go_onto_the_buses_and_never_wait(tmp_path: Path) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bus,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        bus.bind(str(tmp_path / "can"))
        receiver.bind(("127.0.0.1", 0))
        link = BusLink(HERE, HERE, tmp_path / "can", receiver.getsockname())
        try:
            motion = {"speed_mps": 3.0, "yaw_rate_radps": 0.0, "accel_mps2": 0.0}
            link.send_values("sensors", motion)
            assert FRAME.unpack(bus.recv(99))[0] == buses.MOTION
            receiver.settimeout(60)
            link.send_values("position", {"x_m": 0.0, "y_m": 0.0, "heading_rad": 0.0})
            assert f",{3.0 * buses.KNOTS:.2f}," in receiver.recv(999).decode()
            for _ in range(10_000):
                link.send_values("sensors", motion)  # nobody takes them any more
            assert link.counts.unsent > 0 and link.counts.sent["sensors"] > 1
        finally:
            link.close()


def test_a_bus_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nobody takes frames there"):
        BusLink(HERE, HERE, tmp_path / "can", ("127.0.0.1", 9))
