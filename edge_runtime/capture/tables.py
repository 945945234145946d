"""Rows of people's files: CSV and JSON Lines as common tools write them.

The csv module's reader splits a line; what it cannot know is found here from the first lines: encoding, delimiter,
decimal comma, comments, the header. Its Sniffer guesses letters as delimiters, and larger libraries (pandas, Polars)
are too heavy for a device that reads a few columns.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

MISSING = frozenset(("", "nan", "na", "n/a", "#n/a", "null", "none", "nil", "-", "--"))
"""What tools write where there is no value, in small letters."""
DELIMITERS = ",;\t|"
SAMPLE_LINES = 200
LONGEST_LINE = 1 << 20
QUOTED_LINES = 20
"""A quoted cell may go on over so many lines; then its quotation mark is a stray one, and costs its own line only."""

_ISO = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9})\d*)?)?)?\s*(Z|[+-]\d\d:?(?:\d\d)?)?", re.I
)
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+(?:e[+-]?\d+)?\s*", re.I)
_DECIMAL_POINT = re.compile(r"\s*[+-]?\d*\.\d+(?:e[+-]?\d+)?\s*", re.I)


TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
"""Endings of their names; a `.txt` may be one too."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its line in the file, its cells by column, or what is wrong with it."""

    line: int
    cells: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a CSV file is written."""

    delimiter: str
    decimal_comma: bool


def read_rows(path: Path) -> Iterator[Row]:
    """Every row of the `.csv` (`.tsv`, `.txt`) or `.jsonl` (`.ndjson`) file, the bad ones with their problem.

    Raises OSError; ValueError where the name has another ending, or a CSV has no header.
    """
    ending = path.suffix.lower()
    if ending in (".csv", ".tsv", ".txt"):
        return _csv_rows(path)
    if ending in (".jsonl", ".ndjson"):
        return _json_rows(path)
    raise ValueError("is neither .csv nor .jsonl")


def is_missing(cell: Any) -> bool:
    """Whether a cell holds no value."""
    return cell is None or (isinstance(cell, str) and cell.strip().lower() in MISSING) or cell != cell  # noqa: PLR0124


def number(cell: Any) -> float | None:
    """The finite or infinite number in a cell, or None."""
    if isinstance(cell, bool):
        return None
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        return None


def moment(cell: Any) -> float | None:
    """The time in a cell: a finite number as it is, or ISO 8601 as seconds since 1970 (UTC unless it says)."""
    value = number(cell)
    if value is not None:
        return value if math.isfinite(value) else None
    match = _ISO.fullmatch(cell.strip()) if isinstance(cell, str) else None
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    offset = timedelta()
    if (zone := match[8]) and zone.upper() != "Z":
        digits = zone[1:].replace(":", "").ljust(4, "0")
        offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:])) * (-1 if zone[0] == "-" else 1)
    try:
        whole = datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc) - offset
    except (ValueError, OverflowError):
        return None
    return whole.timestamp() + float("0." + (match[7] or "0"))


def is_date(cell: Any) -> bool:
    """Whether a cell holds a time in ISO 8601."""
    return isinstance(cell, str) and number(cell) is None and moment(cell) is not None


_UNIT_NAMES = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "millis": 1e-3, "us": 1e-6, "ns": 1e-9}


def time_unit(column: str, stamps: Sequence[float], expected_s: float | None) -> float:
    """Seconds in one unit of the numbers `stamps` of `column`.

    Times since 1970 tell it by their size. Else the column's name does (`t_ms`), and then, where rows are expected
    every `expected_s` seconds, how far whole numbers lie apart: the unit that comes nearest, if seconds are far off.
    """
    largest = max(map(abs, stamps), default=0.0)
    for limit, unit in ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3), (1e8, 1.0)):
        if largest >= limit and min(map(abs, stamps)) > largest / 10:
            return unit
    named = _UNIT_NAMES.get(re.split(r"[_\s(\[]+", column.lower().rstrip(")]"))[-1])
    steps = sorted(later - earlier for earlier, later in pairwise(stamps) if later > earlier)
    if named not in (None, 1.0) or expected_s is None or not steps or any(stamp != int(stamp) for stamp in stamps):
        return named or 1.0
    step = steps[len(steps) // 2] / expected_s
    if step < 50:
        return 1.0
    unit = min((1.0, 1e-3, 1e-6, 1e-9), key=lambda scale: abs(math.log(step * scale)))
    # A name that says seconds is only doubted where another unit fits well.
    return unit if named is None or 2 / 3 < step * unit < 1.5 else 1.0


def column_named(name: str, columns: Iterable[str]) -> str | None:
    """The one of `columns` that means `name`: itself, else in other capitals or with blanks around it."""
    candidates = list(columns)
    if name in candidates:
        return name
    return next((column for column in candidates if column.strip().casefold() == name.casefold()), None)


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without their ends; UTF-16 by its mark, else UTF-8. What is neither stays as surrogates.

    Only line feeds and carriage returns end a line. Raises OSError.
    """
    with path.open("rb") as file:
        utf16 = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
    encoding = "utf-16" if utf16 else "utf-8-sig"
    with path.open(encoding=encoding, errors="replace" if utf16 else "surrogateescape", newline=None) as file:
        count = 0
        while line := file.readline(LONGEST_LINE):
            count += 1
            yield count, line.rstrip("\n").replace("\0", "")


def is_utf8(text: str) -> bool:
    """Whether a text of `lines_of` could be read as what its file says it is."""
    return text.isascii() or not any("\udc80" <= sign <= "\udcff" for sign in text)


def json_objects(path: Path) -> Iterator[Row]:
    """Every object of a JSON Lines file, as it is; the bad lines with their problem.

    Comment lines, a comma after an object and the brackets of a list around them all are no problem. Raises OSError.
    """
    for count, line in lines_of(path):
        text = line.strip()
        if not text or text in "[]" or text.startswith(("#", "//")):
            continue
        try:
            value = json.loads(text.removesuffix(","))
        except (ValueError, RecursionError) as error:
            problem = "the line is too long" if len(line) >= LONGEST_LINE - 1 else f"no JSON ({error})"
            yield Row(count, problem=problem)
            continue
        for entry in value if isinstance(value, list) else (value,):
            is_object = isinstance(entry, dict)
            yield Row(count, entry) if is_object else Row(count, problem=f"no JSON object but {entry!r:.40}")


def _json_rows(path: Path) -> Iterator[Row]:
    """With the channels of `values` beside the other fields."""
    for row in json_objects(path):
        values = row.cells.get("values")
        if isinstance(values, dict):
            others = {name: value for name, value in row.cells.items() if name != "values"}
            yield Row(row.line, {**others, **values})
        else:
            yield row


def _csv_rows(path: Path) -> Iterator[Row]:
    lines = lines_of(path)
    sample = list(islice(lines, SAMPLE_LINES))
    header_at, dialect = _dialect([line for _, line in sample])
    header = _split(sample[header_at][1].lstrip("#").strip(" "), dialect)
    assert header is not None  # _dialect has split it
    names = [name.strip() for name in header]
    while names and not names[-1]:
        names.pop()
    if not any(names):
        raise ValueError("has no header line with the columns' names")
    rest = _Reader(_chain(sample[header_at + 1 :], lines), dialect, len(names))
    for count, cells, problem in rest:
        if problem:
            yield Row(count, problem=problem)
        elif any(cell.strip() for cell in cells[len(names) :]):
            yield Row(count, problem=f"{len(cells)} cells, the header names {len(names)}")
        elif any(cell.strip() for cell in cells):
            yield Row(count, {name: _cell(cell, dialect) for name, cell in zip(names, cells, strict=False) if name})


def _chain(first: Iterable[tuple[int, str]], then: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield from first
    yield from then


def _cell(cell: str, dialect: Dialect) -> str:
    return cell.replace(",", ".") if dialect.decimal_comma and _DECIMAL_COMMA.fullmatch(cell) else cell


def _dialect(lines: list[str]) -> tuple[int, Dialect]:
    """Which line is the header, and how the file is written."""
    named = ""
    comment: int | None = None
    for at, line in enumerate(lines):
        if line[:4].lower() == "sep=" and len(line.strip()) == 5:
            named = line[4]
        elif line.lstrip().startswith("#"):
            comment = at
        elif line.strip():
            break
    else:
        raise ValueError("has no header line with the columns' names")
    delimiter = named or max(DELIMITERS, key=lambda candidate: _outside_quotes(line).count(candidate))
    plain = Dialect(delimiter, False)
    cells = [cell for row in lines[at:] for cell in _split(row, plain) or ()]
    comma = any(map(_DECIMAL_COMMA.fullmatch, cells)) and not any(map(_DECIMAL_POINT.fullmatch, cells))
    dialect = Dialect(delimiter, comma and delimiter != ",")
    first = _split(line, dialect) or []
    if comment is not None and all(is_missing(cell) or moment(_cell(cell, dialect)) is not None for cell in first):
        # As numpy.savetxt writes it: the header is a comment.
        heading = _split(lines[comment].lstrip("# "), dialect) or []
        if len(heading) == len(first):
            return comment, dialect
    if not first:
        raise ValueError(f"has a header line that cannot be split: {line[:80]!r}")
    return at, dialect


def _outside_quotes(line: str) -> str:
    return re.sub(r'"[^"]*"', "", line)


def _split(line: str, dialect: Dialect) -> list[str] | None:
    """The cells of a line, or None where its quotation marks do not fit together."""
    try:
        records = list(csv.reader(line.splitlines(keepends=True), delimiter=dialect.delimiter, strict=True))
    except csv.Error:
        return None
    return records[0] if len(records) == 1 else None if records else []


class _Reader:
    """Splits lines; a cell in quotation marks may hold line breaks."""

    def __init__(self, lines: Iterator[tuple[int, str]], dialect: Dialect, columns: int) -> None:
        self._lines = lines
        self._dialect = dialect
        self._columns = columns
        self._waiting: list[tuple[int, str]] = []

    def __iter__(self) -> Iterator[tuple[int, list[str], str]]:
        while (taken := self._next()) is not None:
            count, line = taken
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            if len(line) >= LONGEST_LINE - 1:
                yield count, [], "the line is too long"
            elif '"' not in line:
                yield count, next(csv.reader([line], delimiter=self._dialect.delimiter)), ""
            else:
                cells = self._quoted(line)
                yield count, cells or [], "" if cells is not None else "a stray quotation mark"

    def _next(self) -> tuple[int, str] | None:
        return self._waiting.pop(0) if self._waiting else next(self._lines, None)

    def _quoted(self, line: str) -> list[str] | None:
        """The cells of `line` and of as many of those behind it as its quotation marks need."""
        if (cells := _split(line, self._dialect)) is not None:
            return cells
        used: list[tuple[int, str]] = []
        while len(used) < QUOTED_LINES and len(line) < LONGEST_LINE and (taken := self._next()) is not None:
            used.append(taken)
            line += "\n" + taken[1]
            if '"' in taken[1] and (cells := _split(line, self._dialect)) is not None and len(cells) == self._columns:
                return cells
        self._waiting = used + self._waiting
        return None
