"""Windows of readings in a row of a table: a list, or a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from build_engines.modalities.modality import SampleRow
from build_engines.rows import Row
from edge_runtime.capture.tables import column_named, read_rows
from edge_runtime.errors import UserError
from edge_runtime.specs import NS_PER_MS, SensorStream

TIME = "t_s"
"""Column of seconds, from any start; the last row is the moment."""


def window_rows(spec: SensorStream, row: SampleRow, held: str | list[Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Capture time and readings of each step of a window. Raises UserError."""
    if isinstance(held, str):
        path = row.path(held)
        if path.suffix.lower() == ".npy":
            yield from _spaced(spec, row, _array(spec, path))
        else:
            yield from _table(spec, row, path)
        return
    for reading in held:
        if not isinstance(reading, dict):
            raise row.fields.wrong(
                f"{row.field} holds {reading!r:.60}; a window is a list of readings, or a file's name"
            )
    yield from _spaced(spec, row, held)


def _spaced(spec: SensorStream, row: SampleRow, steps: list[dict[str, Any]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for index, reading in enumerate(steps):
        yield row.at_ns - round((len(steps) - 1 - index) * spec.step_ms * NS_PER_MS), reading


def _array(spec: SensorStream, path: Path) -> list[dict[str, Any]]:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"data {path}: is no NPY file of numbers ({error})") from None
    count = len(spec.channels)
    if values.ndim != 2 or values.shape[1] != count or values.dtype.kind not in "fiu":
        raise UserError(
            f"data {path}: holds {values.dtype} {list(values.shape)}; numbers [steps, {count}] are wanted, the "
            "channels in the recipe's order"
        )
    return [
        {channel.name: value for channel, value in zip(spec.channels, step, strict=True) if np.isfinite(value)}
        for step in values.tolist()
    ]


def _table(spec: SensorStream, row: SampleRow, path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    rows: list[Row] = []
    try:
        for one in read_rows(path):
            if one.problem:
                raise UserError(f"data {path}: line {one.line}: {one.problem}")
            rows.append(Row(path, one.line, dict(one.cells)))
    except OSError as error:
        raise UserError(f"data {path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"data {path}: {error}") from None
    if not rows:
        raise UserError(f"data {path}: holds no reading")
    time = column_named(TIME, rows[0])
    if time is None:
        yield from _spaced(spec, row, [dict(one) for one in rows])
        return
    seconds = [one.number(time, one[time]) for one in rows]
    if sorted(seconds) != seconds:
        raise UserError(f"data {path}: {time} goes backwards; rows are wanted in order of time")
    for second, reading in zip(seconds, rows, strict=True):
        yield row.at_ns - round((seconds[-1] - second) * 1e9), reading
