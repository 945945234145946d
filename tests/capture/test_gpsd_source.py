"""The source of kind `gpsd`: a real gpsd fed by gpsfake, and a socket that says what a real one rarely does."""

from __future__ import annotations

import math
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_runtime import config
from edge_runtime.capture import gpsd_source, outages
from edge_runtime.capture.source import Source
from edge_runtime.config import load_config
from edge_runtime.errors import ConfigError
from tests.capture.test_sources import Inbox
from tests.conftest import WAIT_S, wait_for

TPV = b'{"class":"TPV","device":"/dev/x","mode":3,"lat":48.5,"climb":0.25}\n'
ROW = {"stream": "sensors", "channels": {"a": "lat", "b": "climb"}}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(outages, "LONGEST_PAUSE_S", 0.1)


@contextmanager
def following(port: int, **settings: Any) -> Iterator[tuple[Inbox, Source]]:
    inbox = Inbox()
    source = inbox.open(config.GpsdSource(port=port, **(ROW | settings)))
    source.start()
    try:
        yield inbox, source
    finally:
        source.stop(10.0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def nmea(body: str) -> str:
    check = 0
    for character in body:
        check ^= ord(character)
    return f"${body}*{check:02X}\r\n"


@pytest.mark.skipif(
    shutil.which("gpsfake") is None or shutil.which("gpsd", path="/usr/sbin:/usr/bin") is None,
    reason="gpsd and gpsfake are not installed (apt-get install gpsd gpsd-clients)",
)
def test_a_real_gpsd_is_followed(tmp_path: Path) -> None:
    log = tmp_path / "log.nmea"
    sentences = []
    for second in range(59):
        sentences.append(nmea(f"GPGGA,1200{second:02d}.00,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,"))
        sentences.append(nmea(f"GPRMC,1200{second:02d}.00,A,4807.038,N,01131.000,E,022.4,084.4,271126,003.1,W,A"))
        sentences.append(nmea("GPGSA,A,3,04,05,,09,12,,,24,,,,,2.5,1.3,2.1"))
    log.write_text("".join(sentences))
    port = free_port()
    fake = subprocess.Popen(
        ["gpsfake", "-q", "-n", "-c", "0.05", "-P", str(port), str(log)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with following(port) as (inbox, source):
            wait_for(lambda: inbox.boxes["sensors"].counts(0).in_flight > 2, "positions")
            values = dict(inbox.take("sensors")[-1].values)  # type: ignore[attr-defined]
            assert values["a"] == pytest.approx(48.1173, abs=1e-4)
            assert source.state == "running" and not inbox.intake.refusals("sensors")["malformed"]
    finally:
        fake.terminate()
        fake.wait(WAIT_S)


@contextmanager
def saying(*parts: bytes, port: int = 0) -> Iterator[int]:
    """A socket that says these to everyone who comes, and then nothing."""
    listener = socket.create_server(("127.0.0.1", port))
    kept: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            kept.append(connection)
            try:
                for part in parts:
                    connection.sendall(part)
            except OSError:
                continue

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in kept:
            connection.close()
        thread.join(WAIT_S)


def test_reports_are_samples_whatever_comes_between_them() -> None:
    lines = (b'{"class":"SKY"}\n', TPV[:20], TPV[20:], b"nonsense\n", b"[1]\n", TPV, b"[" * 9000 + b"\n")
    no_fix = b'{"class":"TPV","mode":1}\n{"class":"TPV"}\n{"class":"TPV","mode":2,"alt":1}\n'
    odd = b'{"class":"TPV","mode":3,"lat":{},"climb":99}\n'
    with saying(*lines, no_fix, odd) as port, following(port) as (inbox, source):
        wanted = {"malformed": 2, "no_fix": 2, "no_field": 1, "not_a_number": 1}
        wait_for(lambda: dict(inbox.intake.refusals("sensors")) == wanted, str(inbox.intake.refusals("sensors")))
        samples: list[Any] = list(inbox.take("sensors"))
        assert [dict(sample.values) for sample in samples] == [{"a": 48.5, "b": 0.25}] * 2
        assert source.state == "running"


def test_a_fix_in_three_dimensions_and_a_device_may_be_asked_for() -> None:
    flat = TPV.replace(b'"mode":3', b'"mode":2')
    other = TPV.replace(b"/dev/x", b"/dev/y")
    with saying(flat, other, TPV) as port, following(port, fix=3, device="/dev/x") as (inbox, _):
        wait_for(lambda: inbox.captured("sensors") == 2, "both reports of the device")
        assert dict(inbox.intake.refusals("sensors")) == {"no_fix": 1}


def test_places_and_headings_may_be_told_from_an_origin() -> None:
    here = b'{"class":"TPV","mode":3,"lat":48.0005,"lon":11.0,"track":45.0}\n{"class":"TPV","mode":3,"lon":11.0}\n'
    row = {"channels": {"a": "north", "b": "yaw"}, "origin": (48.0, 11.0)}
    with saying(here) as port, following(port, **row) as (inbox, _):
        wait_for(lambda: dict(inbox.intake.refusals("sensors")) == {"no_field": 1}, "both reports")
        (sample,) = inbox.take("sensors")
        # Half a thousandth of a degree of latitude at 48 degrees: 55.595 m by the ellipsoid's radius there.
        assert dict(sample.values) == pytest.approx({"a": 55.595, "b": math.pi / 4}, abs=0.005)  # type: ignore[attr-defined]


def test_the_plane_touches_the_ellipsoid_at_the_origin() -> None:
    local = gpsd_source.local
    east = local({"lat": 0.0, "lon": 1.0}, (0.0, 0.0))
    assert east["east"] == pytest.approx(gpsd_source.EQUATOR_M * math.sin(math.radians(1.0)))
    assert east["north"] == pytest.approx(0.0, abs=1e-6)
    # From the south pole to the north pole the plane's north leads nowhere; half way it is the equator's radius.
    assert local({"lat": 0.0, "lon": 0.0}, (90.0, 0.0))["north"] == pytest.approx(-gpsd_source.EQUATOR_M)
    for track, yaw in ((0, math.pi / 2), (90, 0), (180, -math.pi / 2), (270, math.pi), (360, math.pi / 2)):
        assert local({"track": track}, (0, 0)) == {"yaw": pytest.approx(yaw)}
    assert local({"lat": "x", "lon": 1.0, "track": None}, (0, 0)) == {} == local({}, (0, 0))
    assert local({"lat": math.nan, "lon": 1.0}, (0, 0)) == {}


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (b'{"class":"ERROR","message":"no such device"}\n', "no such device"),
        (b"x" * (gpsd_source.MAX_LINE_BYTES + 9), "a line without an end"),
    ],
)
def test_what_is_no_gpsd_is_an_outage(says: bytes, reason: str) -> None:
    with saying(says) as port, following(port) as (inbox, source):
        wait_for(lambda: reason in str(source.reason), reason)
        assert source.state == "waiting" and inbox.captured("sensors") == 0


def test_one_that_goes_and_comes_back_is_followed_again() -> None:
    port = free_port()
    with following(port) as (inbox, source):
        wait_for(lambda: source.state == "waiting" and "refused" in str(source.reason), "the outage")
        with saying(TPV, port=port):
            wait_for(lambda: inbox.captured("sensors") == 1 and source.state == "running", "a report")
        wait_for(lambda: source.state == "waiting", "the end")
        with saying(TPV, port=port):
            wait_for(lambda: inbox.captured("sensors") == 2 and source.state == "running", "a report again")


def test_rows_that_cannot_be_meant_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no channel 'x'; there are a, b"):
        Inbox().open(config.GpsdSource(stream="sensors", channels={"x": "lat"}))
    file = tmp_path / "c.toml"
    file.write_text(
        'name = "c"\nbundle = "b"\n[[source]]\nkind = "gpsd"\nstream = "s"\nhost = "gps.lan"\n'
        'channels = { a = "lat" }\n'
    )
    with pytest.raises(ConfigError, match="beyond this host"):
        load_config(file)
