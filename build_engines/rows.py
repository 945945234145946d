"""Rows of people's JSON Lines files: what common tools write is read, all else is one line that says where and what."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_runtime.capture.tables import column_named, is_missing, is_utf8, json_objects, number
from edge_runtime.errors import UserError


class Row(dict[str, Any]):
    """One object; a field is found in other capitals too, and one that is not there is a UserError."""

    def __init__(self, path: Path, line: int, fields: dict[str, Any]) -> None:
        super().__init__(fields)
        self.path = path
        self.line = line

    def wrong(self, problem: str) -> UserError:
        """`problem` is wrong with it, and how it is mended."""
        identity = super().get("id")
        name = "" if identity is None else f" ({identity})"
        return UserError(f"data {self.path}: line {self.line}{name}: {problem}")

    def get(self, key: str, default: Any = None) -> Any:
        if key in self:
            return self[key]
        value: Any = self
        # A field within a field is written with a dot.
        for part in (key,) if column_named(key, self) is not None else key.split("."):
            column = column_named(part, value) if isinstance(value, dict) else None
            if column is None:
                return default
            value = dict.__getitem__(value, column)
        return value

    def __missing__(self, key: str) -> Any:
        column = column_named(key, self)
        if column is None:
            raise self.wrong(f"it has no field {key!r}; it has {', '.join(map(str, self))}")
        return self[column]

    def text(self, key: str) -> str:
        """The words in a field; empty where there are none."""
        value = self.get(key)
        if value is None or value != value:  # noqa: PLR0124  NaN, as data frames write it
            return ""
        if isinstance(value, dict | list):
            raise self.wrong(f"{key} holds {value!r:.60}; one text is wanted")
        return str(value).strip() and str(value)

    def file(self, key: str) -> str | None:
        """The file that a field names, or None."""
        return None if is_missing(value := self.get(key)) else self._plain(key, value)

    def readings(self, key: str = "sensors") -> dict[str, Any]:
        """Channel to what was measured, without those that hold no value."""
        value = self.get(key)
        if value is None or value != value:  # noqa: PLR0124
            return {}
        if not isinstance(value, dict):
            raise self.wrong(f"{key} is {value!r:.60}; channels and their values are wanted: {{'co2_ppm': 415.0}}")
        return value

    def number(self, name: str, value: Any) -> float:
        """`value`, that of field `name`, as a number; numbers in quotation marks are some."""
        parsed = number(value.strip() if isinstance(value, str) else value)
        if parsed is None:
            raise self.wrong(f"{name} is {value!r:.60}; it must be a number or null")
        return parsed

    def _plain(self, key: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self.wrong(f"{key} is {value!r:.60}; the name of a file is wanted")
        return value


def read_json_lines(path: Path) -> Iterator[Row]:
    """The objects in a JSON Lines file. Raises UserError naming the line, also where there is none."""
    any_row = False
    try:
        for row in json_objects(path):
            if row.problem:
                raise UserError(f"data {path}: line {row.line}: {row.problem}; each line holds one object")
            if not is_utf8(json.dumps(row.cells, ensure_ascii=False)):
                raise UserError(f"data {path}: line {row.line} is not UTF-8; save the file as UTF-8")
            any_row = True
            yield Row(path, row.line, dict(row.cells))
    except OSError as error:
        raise UserError(f"data {path}: cannot be read ({error.strerror}); check --data and --split") from None
    if not any_row:
        raise UserError(f"data {path}: holds no row")
