"""Recorded sensor values and sentences: CSV or JSON Lines, replayed at their own time stamps."""

from __future__ import annotations

import csv
import json
import math
import os
import select
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from edge_runtime import config
from edge_runtime.capture.admit import Refusal
from edge_runtime.capture.cameras import wait_until
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.source import Source
from edge_runtime.errors import ConfigError
from edge_runtime.streams import SensorStream, StreamSpec

Row = Mapping[str, Any]


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


class FileSource(Source):
    """A file of rows with time stamps. Rows that cannot be read are refused and counted as `malformed`."""

    ends: ClassVar[bool] = True

    def __init__(self, intake: Intake, settings: config.FileSource, spec: StreamSpec, timeline: Timeline) -> None:
        super().__init__(f"file {settings.path}", intake)
        self._settings = settings
        self._spec = spec
        self._timeline = timeline
        stamps = (stamp for row in self._rows() if (stamp := _number(row.get(settings.time))) is not None)
        first_s = next(stamps, None)
        if first_s is None:
            raise ConfigError(
                f"source file: {settings.path} has no row with a number in {settings.time!r}; set `time` to the "
                "name of the column that holds seconds"
            )
        self._check_columns(next(iter(self._rows())))
        timeline.register(first_s)

    def start(self) -> None:
        self._timeline.start(self._intake.clock.now_ns())
        super().start()

    def _run(self) -> None:
        settings, clock = self._settings, self._intake.clock
        for row in self._rows():
            stamp_s = _number(row.get(settings.time))
            if stamp_s is None:
                self._intake.refuse(settings.stream, Refusal("malformed", f"no number in {settings.time!r}"))
                continue
            due_ns = self._timeline.due_ns(stamp_s, settings.speed)
            if not wait_until(self, due_ns):
                return
            # The row's own time, not the moment this thread woke up: the spacing of the recording is kept.
            self._play(row, min(due_ns, clock.now_ns()))

    def _play(self, row: Row, captured_ns: int) -> None:
        stream, identity = self._settings.stream, row.get("id")
        identity = str(identity) if identity not in (None, "") else None
        if isinstance(self._spec, SensorStream):
            values = self._values(row)
            if values is None:
                self._intake.refuse(stream, Refusal("malformed", "a value is not a number"))
            else:
                self._intake.sample(stream, values, captured_ns, identity)
            return
        text = row.get(self._settings.text)
        if not isinstance(text, str):
            self._intake.refuse(stream, Refusal("malformed", f"no text in {self._settings.text!r}"))
            return
        language = row.get("lang")
        self._intake.text(stream, text, language if isinstance(language, str) else None, captured_ns, identity)

    def _values(self, row: Row) -> dict[str, float] | None:
        """Channel to value; an empty cell or null is a channel that is missing. None if a cell is no number."""
        values = {}
        for column, channel in self._columns.items():
            cell = row.get(column)
            if cell is None or cell == "":
                continue
            value = _number(cell, finite=False)
            if value is None:
                return None
            values[channel] = value
        return values

    def _check_columns(self, row: Row) -> None:
        if not isinstance(self._spec, SensorStream):
            return
        channels = {channel.name for channel in self._spec.channels}
        self._columns = dict(self._settings.columns) or {column: column for column in row if column in channels}
        if not self._columns:
            raise ConfigError(
                f"source file: {self._settings.path} has none of the channels {sorted(channels)} of stream "
                f"{self._settings.stream!r}; its columns are {sorted(row)}: map them with `columns`"
            )
        for column, channel in self._columns.items():
            if channel not in channels:
                raise ConfigError(f"source file: columns: {channel!r} is no channel; there are {sorted(channels)}")
            if self._settings.path.endswith(".csv") and column not in row:
                raise ConfigError(f"source file: {self._settings.path} has no column {column!r}, but {sorted(row)}")

    def _rows(self) -> Iterator[Row]:
        path = Path(self._settings.path)
        try:
            with path.open(encoding="utf-8", errors="replace", newline="") as file:
                if path.suffix == ".csv":
                    yield from csv.DictReader(file)
                elif path.suffix in (".jsonl", ".ndjson"):
                    for line in file:
                        if line.strip():
                            yield _json_row(line)
                else:
                    raise ConfigError(f"source file: {path} is neither .csv nor .jsonl")
        except OSError as error:
            raise ConfigError(f"source file: {path} cannot be read ({error.strerror}); check `path`") from None


def _json_row(line: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    if not isinstance(row, dict):
        return {}
    values = row.pop("values", None)
    return {**row, **values} if isinstance(values, dict) else row


def _number(cell: Any, finite: bool = True) -> float | None:
    if isinstance(cell, bool):
        return None
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) or not finite else None


class StdinSource(Source):
    """A sentence per line of standard input (UTF-8)."""

    ends: ClassVar[bool] = True
    longest_line = 64 << 10

    def __init__(self, intake: Intake, stream: str, descriptor: int | None = None) -> None:
        super().__init__("standard input", intake)
        self._stream = stream
        self._descriptor = sys.stdin.fileno() if descriptor is None else descriptor

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
