"""Signals of a CAN bus, by a DBC file: the source of kind `can`. It listens only: nothing is ever sent."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from edge_runtime import config
from edge_runtime.admit import Refusal
from edge_runtime.capture.channels import check_channels
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.outages import Outage, ReturningSource
from edge_runtime.errors import ConfigError
from edge_runtime.specs import SensorStream

if TYPE_CHECKING:
    import can

log = logging.getLogger("edge_runtime.capture")

TURN_S = 0.1
LATE_NS = 1_000_000_000
"""A frame whose stamp is older than this was stamped by another clock: its arrival counts."""

Key = tuple[int, bool]
"""Identifier, and whether it is an extended one."""


class CanSource(ReturningSource):
    """Each frame that holds signals of the row is a sample of them, captured when it was received.

    A frame that is shorter than the DBC says is refused as `malformed`, an error frame of the bus as `error_frame`.
    """

    ends: ClassVar[bool] = False

    def __init__(self, intake: Intake, row: config.CanSource, spec: SensorStream) -> None:
        """Raises ConfigError for a DBC that cannot be read, and for signals and channels that are not there."""
        super().__init__(f"can {row.interface} {row.bus}", intake)
        import cantools

        check_channels("can", row.stream, sorted(row.signals), spec)
        try:
            database: Any = cantools.database.load_file(row.path, database_format="dbc")
        except Exception as error:  # its parser raises what it likes
            raise ConfigError(
                f"source can: {row.path}: cannot be read as DBC ({' '.join(str(error).split())[:200]})"
            ) from None
        self._row = row
        self._messages: dict[Key, Any] = {}
        self._signals: dict[Key, dict[str, str]] = defaultdict(dict)
        """Frame to channel to signal."""
        for channel, name in row.signals.items():
            message = _message(database, row.path, name)
            key = message.frame_id, message.is_extended_frame
            self._messages[key] = message
            self._signals[key][channel] = name.partition(".")[2]

    def _session(self) -> None:
        import can

        row = self._row
        filters: Any = [
            {"can_id": number, "can_mask": 0x1FFFFFFF if extended else 0x7FF, "extended": extended}
            for number, extended in self._messages
        ]
        try:
            with can.Bus(channel=row.bus, interface=row.interface, can_filters=filters) as bus:
                self._there()
                while not self.stopping.is_set():
                    frame = bus.recv(TURN_S)
                    if frame is not None:
                        self._take(frame)
        except (can.CanError, ValueError) as error:
            raise Outage(f"{row.interface} {row.bus}: {error}") from None

    def _take(self, frame: can.Message) -> None:
        if frame.is_error_frame:
            self._intake.refuse(self._row.stream, Refusal("error_frame"))
            return
        key = frame.arbitration_id, frame.is_extended_id
        message = self._messages.get(key)
        if message is None or frame.is_remote_frame:
            return
        try:
            decoded: Mapping[str, Any] = message.decode(bytes(frame.data), decode_choices=False)
        except Exception as error:  # whatever the bytes are
            self._intake.refuse(self._row.stream, Refusal("malformed", f"{message.name}: {error}"))
            return
        # Of a multiplexed message only the signals that this frame holds.
        values = {channel: decoded[name] for channel, name in self._signals[key].items() if name in decoded}
        if values:
            self._intake.sample(self._row.stream, values, self._received_ns(frame.timestamp))

    def _received_ns(self, stamp_s: float) -> int | None:
        """By the kernel's stamp, which is wall time; None where it says nothing that can be used."""
        now_ns = self._intake.clock.now_ns()  # first: a pause between the two makes it older, not younger
        age_ns = self._intake.clock.wall_ns() - int(stamp_s * 1e9)
        return now_ns - age_ns if 0 <= age_ns <= LATE_NS else None


def _message(database: Any, path: str, name: str) -> Any:
    called, _, signal = name.partition(".")
    try:
        message = database.get_message_by_name(called)
        message.get_signal_by_name(signal)
    except KeyError:
        raise ConfigError(f"source can: {path} has no signal {name!r}; expected MESSAGE.SIGNAL") from None
    return message
