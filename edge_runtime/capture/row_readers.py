"""What a row of a file holds for each kind of stream that can be read from one; a kind is one class and one row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from edge_runtime import config
from edge_runtime.admit import Refusal
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.tables import Row, column_named, is_missing, is_utf8, number
from edge_runtime.errors import ConfigError
from edge_runtime.specs import SensorStream, TextStream

MOST_COLUMNS = 1000
"""Of a file whose rows name ever new ones, so many are remembered."""


class RowReader(ABC):
    """Reads one stream from the rows of one file. Made on any thread, then used by the source's own."""

    def __init__(self, intake: Intake, settings: config.FileSource) -> None:
        self._intake = intake
        self._settings = settings

    @abstractmethod
    def play(self, row: Row, captured_ns: int, identity: str | None) -> None:
        """Hand over what `row` holds as captured at `captured_ns` (monotonic), or refuse it."""

    def malformed(self, row: Row, problem: str) -> None:
        """Count `row`, or a cell of it, as refused."""
        detail = f"line {row.line}: {problem}".encode("ascii", "backslashreplace").decode()
        self._intake.refuse(self._settings.stream, Refusal("malformed", detail))


class SensorRows(RowReader):
    """A column per channel. A cell without a value is a missing channel; one that holds no number is refused alone."""

    def __init__(
        self, intake: Intake, settings: config.FileSource, spec: SensorStream, columns: Sequence[str], where: str
    ) -> None:
        """`columns` are those of the file's first rows, `where` names the file. Raises ConfigError where no column is
        a channel's."""
        super().__init__(intake, settings)
        self._names = [channel.name for channel in spec.channels]
        self._channels = self._mapped(columns, where)

    def play(self, row: Row, captured_ns: int, identity: str | None) -> None:
        values, bad = {}, False
        for column, cell in row.cells.items():
            channel = self._channel(column)
            if channel is None or is_missing(cell):
                continue
            value = number(cell)
            if value is None:
                bad = True
                self.malformed(row, f"{column!r} is {cell!r:.80}, which is no number")
            else:
                values[channel] = value
        if values or not bad:
            self._intake.sample(self._settings.stream, values, captured_ns, identity)

    def _channel(self, column: str) -> str | None:
        """The channel that a column feeds; rows of one file may name different ones."""
        if column not in self._channels:
            names = [] if self._settings.columns else self._names
            channel = next((name for name in names if column_named(name, [column])), None)
            if len(self._channels) > MOST_COLUMNS:
                return channel
            self._channels[column] = channel
        return self._channels[column]

    def _mapped(self, columns: Sequence[str], where: str) -> dict[str, str | None]:
        """Column to channel, as the configuration or the names say. Raises ConfigError."""
        settings, names = self._settings, self._names
        if settings.columns:
            mapping: dict[str, str | None] = {}
            for column, channel in settings.columns.items():
                if channel not in names:
                    raise ConfigError(f"source file: columns: {channel!r} is no channel; there are {sorted(names)}")
                actual = column_named(column, columns)
                if actual is None and not settings.path.lower().endswith((".jsonl", ".ndjson")):
                    raise ConfigError(f"{where} has no column {column!r}, but {sorted(columns)}")
                mapping[actual or column] = channel
            return mapping
        if not any(column_named(name, columns) for name in names):
            raise ConfigError(
                f"{where} has none of the channels {sorted(names)} of stream "
                f"{settings.stream!r}; its columns are {sorted(columns)}: map them with `columns`"
            )
        return {}


class TextRows(RowReader):
    """A sentence in the column that the settings name, and its language in `lang`."""

    def __init__(
        self, intake: Intake, settings: config.FileSource, spec: TextStream, columns: Sequence[str], where: str
    ) -> None:
        super().__init__(intake, settings)

    def play(self, row: Row, captured_ns: int, identity: str | None) -> None:
        stream, column = self._settings.stream, self._settings.text
        text = row.cells.get(column)
        if not isinstance(text, str):
            self.malformed(row, f"no text in {column!r}")
            return
        if not is_utf8(text):
            self._intake.refuse(stream, Refusal("not_utf8", f"line {row.line}: save the file as UTF-8"))
            return
        language = row.cells.get("lang")
        language = language if isinstance(language, str) and language.strip() else None
        self._intake.text(stream, text, language, captured_ns, identity)


ROW_READERS: dict[type, Callable[[Intake, config.FileSource, Any, Sequence[str], str], RowReader]] = {
    SensorStream: SensorRows,
    TextStream: TextRows,
}
"""Spec of the kinds of streams that a file may feed, to what reads them."""
