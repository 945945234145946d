"""Slow sensors that Linux shows as files: the source of kind `sysfs`.

Industrial I/O (https://docs.kernel.org/iio/, Documentation/ABI/testing/sysfs-bus-iio), hwmon and thermal zones.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from edge_runtime import config
from edge_runtime.capture.channels import check_channels
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.outages import Outage, ReturningSource
from edge_runtime.errors import ConfigError
from edge_runtime.specs import SensorStream

SYS = Path("/sys")
MAX_BYTES = 64
FOLDERS = {
    "iio": ("bus/iio/devices", "name"),
    "hwmon": ("class/hwmon", "name"),
    "thermal": ("class/thermal", "type"),
}
"""Where devices are, and the file with the name that one is called by: numbers change from boot to boot."""


class SysfsSource(ReturningSource):
    """Reads its files at a fixed rate, a sample each time. One that cannot be read costs its channel only."""

    ends: ClassVar[bool] = False

    def __init__(self, intake: Intake, row: config.SysfsSource, spec: SensorStream) -> None:
        """Raises ConfigError for channels that the stream has not, and names that are none."""
        super().__init__(f"sysfs {row.stream}", intake)
        check_channels("sysfs", row.stream, (*row.files, *row.scale), spec)
        for name in row.files.values():
            parts(name)
        self._row = row

    def _session(self) -> None:
        while not self.stopping.is_set():
            values = {channel: self._reading(channel, name) for channel, name in self._row.files.items()}
            if all(value is None for value in values.values()):
                raise Outage(f"nothing can be read of {', '.join(self._row.files.values())}")
            self._there()
            self._intake.sample(self._row.stream, values)
            self.stopping.wait(1 / self._row.rate_hz)

    def _reading(self, channel: str, name: str) -> float | None:
        try:
            return read(find(name)) * self._row.scale.get(channel, 1.0)
        except (OSError, ValueError):
            return None


def parts(name: str) -> tuple[str, str, str]:
    """Of `iio:NAME/FILE`, `hwmon:NAME/FILE` and `thermal:NAME`: kind, name, file. Raises ConfigError."""
    kind, _, rest = name.partition(":")
    device, _, file = rest.partition("/")
    if kind == "thermal" and not file:
        file = "temp"
    if kind not in FOLDERS or not device or not file or "/" in file or file in (".", ".."):
        raise ConfigError(f"source sysfs: {name!r}; expected iio:NAME/FILE, hwmon:NAME/FILE or thermal:NAME")
    return kind, device, file


def find(name: str) -> Path:
    """The file that it means at present: of the first device of that name. Raises OSError where there is none."""
    kind, device, file = parts(name)
    folder, called = FOLDERS[kind]
    for place in sorted((SYS / folder).iterdir()):
        try:
            if _text(place / called) == device:
                return place / file
        except OSError:
            continue
    raise FileNotFoundError(name)


def read(file: Path) -> float:
    """What it says, in the driver's unit. A raw value of Industrial I/O is (raw + offset) * scale, by the files beside
    it or those of its type. Raises OSError, ValueError."""
    value = float(_text(file))
    if not file.name.endswith("_raw"):
        return value
    return (value + _beside(file, "offset", 0.0)) * _beside(file, "scale", 1.0)


def _beside(file: Path, what: str, default: float) -> float:
    own = file.name.removesuffix("_raw")
    for name in (own, own.rstrip("0123456789"), own.rsplit("_", 1)[0]):
        try:
            return float(_text(file.with_name(f"{name}_{what}")))
        except FileNotFoundError:
            continue
    return default


def _text(file: Path) -> str:
    with file.open("rb") as opened:
        return opened.read(MAX_BYTES).decode("ascii").strip()
