"""Position and speed from gpsd: the source of kind `gpsd`. Its protocol is JSON, a line each (`man 5 gpsd_json`)."""

from __future__ import annotations

import math
import socket
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from edge_runtime import config
from edge_runtime.admit import Refusal
from edge_runtime.capture.channels import check_channels
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.outages import Outage, ReturningSource
from edge_runtime.specs import SensorStream

CONNECT_S = 5.0
TURN_S = 0.1
MAX_LINE_BYTES = 64 << 10
NO_FIX, FIX_2D = 1, 2
EQUATOR_M, FLATTENING = 6378137.0, 1 / 298.257223563
"""WGS 84."""
WATCH = b'?WATCH={"enable":true,"json":true%s};\n'


class GpsdSource(ReturningSource):
    """Follows gpsd's reports of time, position and velocity (TPV), each a sample as old as its arrival.

    A report without a fix, or with a poorer one than is asked for, is refused as `no_fix`: the stream grows stale.
    """

    ends: ClassVar[bool] = False

    def __init__(self, intake: Intake, row: config.GpsdSource, spec: SensorStream) -> None:
        """Raises ConfigError for a channel that the stream has not."""
        super().__init__(f"gpsd {row.host}:{row.port}", intake)
        check_channels("gpsd", row.stream, sorted(row.channels), spec)
        self._row = row

    def _session(self) -> None:
        row = self._row
        with socket.create_connection((row.host, row.port), CONNECT_S) as connection:
            device = b',"device":' + msgspec.json.encode(row.device) if row.device else b""
            connection.sendall(WATCH % device)
            connection.settimeout(TURN_S)
            rest = b""
            while not self.stopping.is_set():
                try:
                    data = connection.recv(1 << 16)
                except TimeoutError:
                    continue
                if not data:
                    raise Outage("gpsd has closed the connection")
                *lines, rest = (rest + data).split(b"\n")
                if len(rest) > MAX_LINE_BYTES:
                    raise Outage("this is no gpsd: a line without an end")
                for line in lines:
                    self._line(line)

    def _line(self, line: bytes) -> None:
        try:
            report = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._intake.refuse(self._row.stream, Refusal("malformed", str(error)))
            return
        kind = report.get("class") if isinstance(report, dict) else None
        if kind == "ERROR":
            raise Outage(f"gpsd says: {str(report.get('message'))[:100]}")
        if kind in ("VERSION", "DEVICES", "WATCH", "TPV"):
            self._there()
        if kind == "TPV" and (not self._row.device or report.get("device") == self._row.device):
            self._report(report)

    def _report(self, report: Mapping[str, Any]) -> None:
        row = self._row
        mode = report.get("mode")
        if not isinstance(mode, int) or mode < row.fix:
            self._intake.refuse(row.stream, Refusal("no_fix", f"mode {mode}"))
            return
        if row.origin is not None:
            report = {**report, **local(report, row.origin)}
        values = {channel: report[field] for channel, field in row.channels.items() if field in report}
        if not values:
            self._intake.refuse(row.stream, Refusal("no_field", f"has none of {', '.join(row.channels.values())}"))
            return
        self._intake.sample(
            row.stream,
            {name: value if isinstance(value, int | float | str) else "object" for name, value in values.items()},
        )


def local(report: Mapping[str, Any], origin: tuple[float, float]) -> dict[str, float]:
    """`east` and `north` of `origin` (latitude, longitude in degrees) in metres, in the plane that touches WGS 84
    there, and `yaw` in radians, 0 = east, counter-clockwise, in (-pi, pi]; as ROS has them (REP 103). Heights are left
    out. What the report lacks is left out.
    """
    found = {}
    latitude, longitude, track = (_number(report.get(name)) for name in ("lat", "lon", "track"))
    if latitude is not None and longitude is not None:
        here, there = _earth_fixed(latitude, longitude), _earth_fixed(*origin)
        x, y, z = (one - other for one, other in zip(here, there, strict=True))
        phi, lam = map(math.radians, origin)
        found["east"] = -math.sin(lam) * x + math.cos(lam) * y
        found["north"] = math.cos(phi) * z - math.sin(phi) * (math.cos(lam) * x + math.sin(lam) * y)
    if track is not None:
        found["yaw"] = math.radians(-((track + 90.0) % 360.0 - 180.0))
    return found


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _earth_fixed(latitude: float, longitude: float) -> tuple[float, float, float]:
    """Metres from the middle of the Earth, of a place on the ellipsoid."""
    phi, lam = math.radians(latitude), math.radians(longitude)
    squared = FLATTENING * (2 - FLATTENING)
    radius = EQUATOR_M / math.sqrt(1 - squared * math.sin(phi) ** 2)
    return (
        radius * math.cos(phi) * math.cos(lam),
        radius * math.cos(phi) * math.sin(lam),
        radius * (1 - squared) * math.sin(phi),
    )
