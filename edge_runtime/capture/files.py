"""Recorded sensor values and sentences: CSV or JSON Lines, replayed at their own time stamps."""

from __future__ import annotations

import logging
import math
import os
import select
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import ClassVar

from edge_runtime import config
from edge_runtime.admit import Refusal
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.playback import log_end, wait_until
from edge_runtime.capture.row_readers import ROW_READERS
from edge_runtime.capture.source import Source
from edge_runtime.capture.tables import Row, column_named, is_date, is_missing, moment, read_rows, time_unit
from edge_runtime.errors import ConfigError
from edge_runtime.streams import StreamSpec, kind_of

log = logging.getLogger("edge_runtime.capture")

DEFAULT_TIME = "t_s"


class Timeline:
    """One common zero for all files of a runtime, so that files of one drive stay together.

    Files register the stamp of their first row before any of them starts; the earliest is played at once.
    """

    def __init__(self) -> None:
        self._first_s = math.inf
        self._start_ns: int | None = None

    def register(self, first_s: float) -> None:
        self._first_s = min(self._first_s, first_s)

    def start(self, now_ns: int) -> None:
        """The first source to start sets the zero."""
        if self._start_ns is None:
            self._start_ns = now_ns

    def due_ns(self, stamp_s: float, speed: float) -> int:
        """When a row stamped `stamp_s` is to be played, on the monotonic clock."""
        assert self._start_ns is not None
        return self._start_ns + int((stamp_s - self._first_s) / speed * 1e9)


TIME_NAMES = ("t_s", "time_s", "t", "time", "timestamp", "ts", "datetime", "date_time", "date", "t_ms", "time_ms",
              "timestamp_ms", "t_us", "timestamp_us", "t_ns", "timestamp_ns")  # fmt: skip
"""Where the configuration names no column, the first of these that the file has holds its times."""
SAMPLE_ROWS = 200
_UNITS = {1e-3: "milliseconds", 1e-6: "microseconds", 1e-9: "nanoseconds"}


class FileSource(Source):
    """A file of rows with time stamps, as `tables` reads it.

    A row that cannot be read is refused and counted as `malformed`, and so is each cell that holds no number; the
    row's other channels are heard. At its end it logs rows read and what was refused, by reason.
    """

    ends: ClassVar[bool] = True

    def __init__(self, intake: Intake, settings: config.FileSource, spec: StreamSpec, timeline: Timeline) -> None:
        super().__init__(f"file {settings.path}", intake)
        self._settings = settings
        self._spec = spec
        self._timeline = timeline
        where = f"source file: {settings.path}"
        sample = list(islice(self._rows(), SAMPLE_ROWS))
        columns = list(dict.fromkeys(name for row in sample for name in row.cells))
        self._time = self._time_column(columns)
        self._unit_s = self._unit(sample)
        first_s = next((stamp for row in self._rows() if (stamp := self._stamp(row)) is not None), None)
        if first_s is None:
            problem = next((f"; line {row.line}: {row.problem}" for row in sample if row.problem), "")
            raise ConfigError(
                f"{where} has no row with a number or an ISO 8601 time in {self._time!r}{problem}; set `time` to "
                f"the name of the column that holds it; there are {columns}"
            )
        self._reader = ROW_READERS[type(spec)](intake, settings, spec, columns, where)
        timeline.register(first_s)

    def start(self) -> None:
        self._timeline.start(self._intake.clock.now_ns())
        super().start()

    def _run(self) -> None:
        settings, clock = self._settings, self._intake.clock
        read = 0
        before = self._intake.refusals(settings.stream)
        for row in self._rows():
            stamp_s = self._stamp(row)
            if stamp_s is None:
                self._reader.malformed(
                    row, row.problem or f"no time in {self._time!r} but {row.cells.get(self._time)!r:.80}"
                )
                read += 1
                continue
            due_ns = self._timeline.due_ns(stamp_s, settings.speed)
            if not wait_until(self, due_ns):
                return
            read += 1
            # The row's own time, not the moment this thread woke up: the spacing of the recording is kept.
            identity = row.cells.get("id")
            identity = None if is_missing(identity) else str(identity)
            self._reader.play(row, min(due_ns, clock.now_ns()), identity)
        log_end(self, self._intake, settings.stream, before, read, "rows")

    def _stamp(self, row: Row) -> float | None:
        cell = row.cells.get(self._time)
        stamp = moment(cell)
        return stamp if stamp is None or is_date(cell) else stamp * self._unit_s

    def _time_column(self, columns: list[str]) -> str:
        setting = self._settings.time
        candidates = (setting, *TIME_NAMES) if setting == DEFAULT_TIME else (setting,)
        matching = next((column for name in candidates if (column := column_named(name, columns))), None)
        if matching is not None and matching.strip().casefold() != setting.casefold():
            log.info("%s: has no column %r; times are taken from %r", self.name, setting, matching)
        return matching or setting

    def _unit(self, sample: list[Row]) -> float:
        cells = [row.cells.get(self._time) for row in sample]
        stamps = [stamp for cell in cells if not is_date(cell) and (stamp := moment(cell)) is not None]
        # Sentences come when they come.
        expected_s = None if kind_of(self._spec).each_answered else 1 / self._spec.rate_hz
        unit = time_unit(self._time, stamps, expected_s)
        if unit != 1.0:
            log.info("%s: times in %r are read as %s", self.name, self._time, _UNITS[unit])
        return unit

    def _rows(self) -> Iterator[Row]:
        path = Path(self._settings.path)
        try:
            yield from read_rows(path)
        except OSError as error:
            raise ConfigError(f"source file: {path} cannot be read ({error.strerror}); check `path`") from None
        except ValueError as error:
            raise ConfigError(f"source file: {path} {error}") from None


class StdinSource(Source):
    """A sentence per line of standard input (UTF-8)."""

    ends: ClassVar[bool] = True
    longest_line = 64 << 10

    def __init__(self, intake: Intake, stream: str, descriptor: int | None = None) -> None:
        super().__init__("standard input", intake)
        self._stream = stream
        self._descriptor = _standard_input() if descriptor is None else descriptor

    def _run(self) -> None:
        waiting = b""
        while not self.stopping.is_set():
            if not select.select([self._descriptor], [], [], 0.1)[0]:
                continue
            read = os.read(self._descriptor, 4096)
            *lines, waiting = (waiting + read).split(b"\n")
            for line in lines:
                self._line(line)
            if not read:
                if waiting:
                    self._line(waiting)
                return
            if len(waiting) > self.longest_line:
                self._intake.refuse(self._stream, Refusal("too_big"))
                waiting = b""

    def _line(self, line: bytes) -> None:
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            self._intake.refuse(self._stream, Refusal("not_utf8"))
            return
        if text.strip():
            self._intake.text(self._stream, text)


def _standard_input() -> int:
    """Its descriptor. Raises ConfigError where this process was started without one."""
    try:
        return sys.stdin.fileno()
    except (AttributeError, ValueError, OSError):
        raise ConfigError(
            "source stdin: standard input is closed; start the runtime with one (`< /dev/null` for none), or take "
            "another source"
        ) from None
