"""Columns of rows on disk: what training reads need not fit into memory.

A column is a file of rows of one form, one after the other. Its rows are read when they are asked for, and not mapped:
what is resident is what was asked for, and what the system keeps of the file is the system's to give back.
"""

from __future__ import annotations

import fcntl
import math
import os
import shutil
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from edge_runtime.errors import UserError

INDEX = "columns.json"
"""Written last: without it the folder is not whole."""
BLOCK_BYTES = 8 << 20
"""Rows are read in order so much at a time."""


class _Form(Struct, frozen=True):
    file: str
    dtype: str
    shape: tuple[int, ...]


class _Part:
    """One file of rows."""

    def __init__(self, path: Path, rows: int) -> None:
        self.path, self.rows = path, rows
        self._file = path.open("rb", buffering=0)

    def __reduce__(self) -> Any:
        return _Part, (self.path, self.rows)

    def read(self, into: memoryview, offset: int) -> None:
        while into:
            count = os.preadv(self._file.fileno(), [into], offset)
            if count == 0:
                raise UserError(f"{self.path}: ends too early; delete the folder and build again")
            into, offset = into[count:], offset + count


class Column:
    """[N, ...] read from disk: indexed along the first axis by a number, a slice or numbers [n]. Any thread.

    What was opened goes on being read though its file is deleted; another process, to which it is sent, opens the file.
    """

    def __init__(self, parts: Sequence[_Part], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        """`shape`: of a row."""
        self._parts = tuple(parts)
        self._starts: list[int] = [0, *np.cumsum([part.rows for part in parts]).tolist()]
        self.dtype = dtype
        self.shape = (self._starts[-1], *shape)
        self._row_bytes = dtype.itemsize * math.prod(shape)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, rows: int | slice | NDArray[np.int64]) -> NDArray[Any]:
        if isinstance(rows, int | np.integer):
            row: NDArray[Any] = self[np.array([rows])][0]
            return row
        chosen = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows)
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < len(self):
            raise IndexError(f"row {chosen.max()} of {len(self)}")
        out = np.empty((len(chosen), *self.shape[1:]), self.dtype)
        into = out.reshape(-1).view(np.uint8).data if out.size else memoryview(b"")
        breaks = np.flatnonzero(np.diff(chosen) != 1) + 1
        for start, end in zip([0, *breaks], [*breaks, len(chosen)], strict=True):
            self._read(into[start * self._row_bytes : end * self._row_bytes], int(chosen[start]) if end else 0)
        return out

    def __iter__(self) -> Iterator[NDArray[Any]]:
        step = max(1, BLOCK_BYTES // max(1, self._row_bytes))
        for start in range(0, len(self), step):
            yield from self[start : start + step]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All of it, in memory."""
        return self[:] if dtype is None else self[:].astype(dtype)

    def joined(self, other: Column) -> Column:
        """These rows, and then those of `other`, which have the same form."""
        return Column((*self._parts, *other._parts), self.dtype, self.shape[1:])

    def _read(self, into: memoryview, row: int) -> None:
        """Rows that follow each other, from `row` on."""
        while into:
            place = bisect_right(self._starts, row) - 1
            count = min(len(into) // self._row_bytes, self._starts[place + 1] - row)
            self._parts[place].read(into[: count * self._row_bytes], (row - self._starts[place]) * self._row_bytes)
            into, row = into[count * self._row_bytes :], row + count


def joined(one: Column | NDArray[Any], other: Column | NDArray[Any]) -> Column | NDArray[Any]:
    """The rows of both, on disk where they are on disk."""
    if isinstance(one, Column) and isinstance(other, Column):
        return one.joined(other)
    return np.concatenate([np.asarray(one), np.asarray(other)])


@contextmanager
def alone(work: Path, name: str) -> Iterator[None]:
    """One process at a time makes what is called `name` in `work`; the others wait, and then find it there."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / f".{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_columns(folder: Path, rows: Iterator[Mapping[str, NDArray[Any] | str]]) -> dict[str, Column | NDArray[Any]]:
    """Each of `rows` has the same names, and by name a text or arrays of one form: a column for each name, in `folder`,
    which is made anew. Texts stay in memory, [N] objects. Raises UserError where the disk cannot take them.
    """
    shutil.rmtree(folder, ignore_errors=True)
    files: dict[str, BinaryIO] = {}
    forms: dict[str, _Form] = {}
    texts: dict[str, list[str]] = {}
    count = 0
    try:
        folder.mkdir(parents=True)
        for row in rows:
            for name, value in row.items():
                if isinstance(value, str):
                    texts.setdefault(name, []).append(value)
                    continue
                if name not in files:
                    forms[name] = _Form(f"{len(files)}.rows", value.dtype.str, value.shape)
                    files[name] = (folder / forms[name].file).open("wb", buffering=1 << 20)
                assert value.shape == forms[name].shape, f"{name}: {value.shape} after {forms[name].shape}"
                files[name].write(np.ascontiguousarray(value).data)
            count += 1
        for file in files.values():
            file.close()
        (folder / INDEX).write_bytes(msgspec.json.encode((count, forms, texts)))
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(
            f"cannot keep the data's tensors in {folder} ({error.strerror}, after {count} rows); make room, or choose "
            "another disk by --work"
        ) from None
    finally:
        for file in files.values():
            try:
                file.close()
            except OSError:
                pass  # said above
    return _opened(folder, count, forms, texts)


def read_columns(folder: Path) -> dict[str, Column | NDArray[Any]] | None:
    """What `write_columns` left in `folder`; None where it is not there, or not whole."""
    try:
        index = (folder / INDEX).read_bytes()
        count, forms, texts = msgspec.json.decode(index, type=tuple[int, dict[str, _Form], dict[str, list[str]]])
        columns = _opened(folder, count, forms, texts)
        sizes = {form.file: (folder / form.file).stat().st_size for form in forms.values()}
    except (OSError, msgspec.DecodeError):
        return None
    whole = all(
        sizes[form.file] == count * np.dtype(form.dtype).itemsize * math.prod(form.shape) for form in forms.values()
    )
    return columns if whole else None


def _opened(
    folder: Path, count: int, forms: Mapping[str, _Form], texts: Mapping[str, list[str]]
) -> dict[str, Column | NDArray[Any]]:
    columns: dict[str, Column | NDArray[Any]] = {name: np.array(values, object) for name, values in texts.items()}
    for name, form in forms.items():
        columns[name] = Column([_Part(folder / form.file, count)], np.dtype(form.dtype), tuple(form.shape))
    return columns
