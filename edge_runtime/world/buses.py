"""The car's buses: motion and ranges as CAN frames by `town.dbc`, position as sentences of a satellite receiver.

The car may be asked to send so in place of ZeroMQ: its frames are Linux's own (`struct can_frame` of linux/can.h), a
datagram each to a Unix socket; its sentences are NMEA 0183, which gpsd reads.
"""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path

from edge_runtime.errors import UserError
from edge_runtime.world.drive import Link
from edge_runtime.world.sensors import RANGE_CHANNELS

DBC = Path(__file__).with_name("town.dbc")
SIGNALS = {
    "speed_mps": "Motion.Speed",
    "yaw_rate_radps": "Motion.YawRate",
    "accel_mps2": "Motion.Acceleration",
    **{name: f"Ranges{'Left' if sector < 5 else 'Right'}.Range{sector}" for sector, name in enumerate(RANGE_CHANNELS)},
}
"""Channel of the stream `sensors` to its signal."""
ORIGIN = (48.0, 11.0)
"""Latitude and longitude (degrees) of the town's x = y = 0."""
FRAME = struct.Struct("=IB3x8s")
"""Identifier, length, data."""
MOTION, RANGES_LEFT, RANGES_RIGHT = 256, 272, 273
KNOTS = 3600 / 1852
"""In a metre a second."""
_EQUATOR_M, _FLATTENING = 6378137.0, 1 / 298.257223563
"""WGS 84."""


def can_frames(values: Mapping[str, float]) -> Iterator[bytes]:
    """The frames that tell `values` (channel to value, as `sensors` measures them)."""
    if "speed_mps" in values:
        scaled = ((values["speed_mps"], 0.005), (values["yaw_rate_radps"], 0.0002), (values["accel_mps2"], 0.002))
        yield FRAME.pack(MOTION, 6, struct.pack("<Hhh", *(round(value / unit) for value, unit in scaled)))
    if RANGE_CHANNELS[0] in values:
        raw = [round(values[name] / 0.02) for name in RANGE_CHANNELS]
        yield FRAME.pack(RANGES_LEFT, 8, _packed(raw[:5]))
        yield FRAME.pack(RANGES_RIGHT, 8, _packed(raw[5:]))


def _packed(raw: list[int]) -> bytes:
    """12 bits each, the first ones lowest."""
    return sum(value << 12 * place for place, value in enumerate(raw)).to_bytes(8, "little")


def sentences(values: Mapping[str, float], speed_mps: float, at: datetime) -> bytes:
    """What a satellite receiver says at `at` (UTC) of a position in the town (m, and radians counter-clockwise from
    east) that is driven through at `speed_mps`: NMEA 0183's GGA, GSA and RMC.

    Near the origin the ellipsoid is taken for flat: at most 5 cm off within 500 m.
    """
    latitude, longitude = _placed(values["x_m"], values["y_m"])
    clock, place = (
        f"{at:%H%M%S}.{at.microsecond // 10_000:02d}",
        f"{_degrees(latitude, 2, 'NS')},{_degrees(longitude, 3, 'EW')}",
    )
    track = (90.0 - math.degrees(values["heading_rad"])) % 360.0
    told = (
        f"GPGGA,{clock},{place},1,10,0.8,500.0,M,46.0,M,,",
        "GPGSA,A,3,02,05,07,09,13,15,20,24,29,30,,,1.5,0.8,1.2",
        f"GPRMC,{clock},A,{place},{speed_mps * KNOTS:.2f},{track:.2f},{at:%d%m%y},,,A",
    )
    return b"".join(_sentence(body) for body in told)


def _placed(x_m: float, y_m: float) -> tuple[float, float]:
    """Latitude and longitude of a place east and north of ORIGIN, by the ellipsoid's radii there."""
    latitude, longitude = map(math.radians, ORIGIN)
    squared = _FLATTENING * (2 - _FLATTENING)
    bent = 1 - squared * math.sin(latitude) ** 2
    north_m, east_m = _EQUATOR_M * (1 - squared) / bent**1.5, _EQUATOR_M / math.sqrt(bent) * math.cos(latitude)
    return math.degrees(latitude + y_m / north_m), math.degrees(longitude + x_m / east_m)


def _degrees(value: float, digits: int, sides: str) -> str:
    """As degrees and minutes of so many digits and 10^-6, and the side."""
    millionths = round(abs(value) * 60 * 1_000_000)
    whole, minutes = divmod(millionths, 60 * 1_000_000)
    return f"{whole:0{digits}d}{minutes // 1_000_000:02d}.{minutes % 1_000_000:06d},{sides[value < 0]}"


def _sentence(body: str) -> bytes:
    check = 0
    for character in body.encode():
        check ^= character
    return f"${body}*{check:02X}\r\n".encode()


class BusLink(Link):
    """Readings go onto the buses, pictures and sentences over ZeroMQ as ever. Sends never block."""

    def __init__(self, inputs: str, decisions: str, can: Path, gnss: tuple[str, int], keys: Path | None = None) -> None:
        """`can`: Unix socket that takes frames; `gnss`: host and UDP port that takes sentences. Raises UserError."""
        super().__init__(inputs, decisions, keys)
        self._gnss = gnss
        self._speed_mps = 0.0
        self._frames = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sentences = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for taken in (self._frames, self._sentences):
            taken.setblocking(False)
        try:
            self._frames.connect(str(can))
        except OSError as error:
            self.close()
            raise UserError(f"--can {can}: nobody takes frames there ({error.strerror})") from None

    def send_values(self, stream: str, values: Mapping[str, float]) -> None:
        """One reading of a stream of sensors."""
        try:
            if stream == "position":
                now = datetime.now(timezone.utc)
                self._sentences.sendto(sentences(values, self._speed_mps, now), self._gnss)
            else:
                self._speed_mps = values.get("speed_mps", self._speed_mps)
                for frame in can_frames(values):
                    self._frames.send(frame)
        except OSError:  # nobody is there, or it is full
            self.counts.unsent += 1
        else:
            self.counts.sent[stream] += 1

    def close(self) -> None:
        super().close()
        self._frames.close()
        self._sentences.close()
