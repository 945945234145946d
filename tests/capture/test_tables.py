"""Files as people's tools write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.capture.tables import is_missing, moment, number, read_rows, time_unit

PLAIN = [{"t_s": 0.0, "a": 1.5, "b": 2.0}, {"t_s": 0.5, "a": -3.25, "b": None}]
WRITTEN = {
    "as it should be": b"t_s,a,b\n0.0,1.5,2\n0.5,-3.25,\n",
    "byte order mark": b"\xef\xbb\xbft_s,a,b\n0.0,1.5,2\n0.5,-3.25,NaN\n",
    "windows": b"t_s,a,b\r\n0.0,1.5,2\r\n0.5,-3.25,NA\r\n\r\n",
    "old mac": b"t_s,a,b\r0.0,1.5,2\r0.5,-3.25,-\r",
    "spreadsheet, central europe": b"t_s;a;b\n0,0;1,5;2\n0,5;-3,25;\n",
    "spreadsheet that names its delimiter": b"sep=;\nt_s;a;b\n0,0;1,5;2\n0,5;-3,25;null\n",
    "tabs": b"t_s\ta\tb\n0.0\t1.5\t2\n0.5\t-3.25\tNone\n",
    "trailing separators": b"t_s,a,b,,\n0.0,1.5,2,,\n0.5,-3.25,,,\n,,,,\n",
    "comments": b"# made by hand\n#\nt_s,a,b\n# and here\n0.0,1.5,2\n0.5,-3.25,n/a\n",
    "numpy's header": b"# t_s,a,b\n0.0e+00,1.5e+00,2\n5e-1,-3.25,nan\n",
    "quoted": b'"t_s","a","b"\n"0.0","1.5","2"\n"0.5","-3.25","--"\n',
    "blanks": b" t_s , a , b \n 0.0 , 1.5 , 2 \n 0.5 , -3.25 , \n",
    "utf-16": "﻿t_s\ta\tb\r\n0.0\t1.5\t2\r\n0.5\t-3.25\t\r\n".encode("utf-16-le"),
    "short rows": b"t_s,a,b\n0.0,1.5,2\n0.5,-3.25\n",
}


def cells(path: Path) -> list[dict[str, float | None]]:
    rows = list(read_rows(path))
    assert not any(row.problem for row in rows), rows
    return [
        {name: None if is_missing(row.cells.get(name)) else number(row.cells[name]) for name in ("t_s", "a", "b")}
        for row in rows
    ]


@pytest.mark.parametrize("how", WRITTEN)
def test_what_common_tools_write_is_read(how: str, tmp_path: Path) -> None:
    path = tmp_path / "x.CSV"
    path.write_bytes(WRITTEN[how])
    assert cells(path) == PLAIN


def test_json_lines_keep_each_rows_own_names(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"t_s": 0, "a": 1}\r\n\n{"t_s": 1, "values": {"b": null}}\n[1]\n{"t_s": 2\n')
    rows = list(read_rows(path))
    assert [(row.line, dict(row.cells)) for row in rows[:2]] == [(1, {"t_s": 0, "a": 1}), (3, {"t_s": 1, "b": None})]
    assert [(row.line, row.problem.split(" (")[0]) for row in rows[2:]] == [(4, "no JSON object but 1"), (5, "no JSON")]


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": 1}\n{"a": 2}\n \n\n',
        b'# by hand\n{"a": 1}\r\n// and here\r\n{"a": 2}\r\n',
        b'[\n{"a": 1},\n{"a": 2}\n]\n',
        b'[{"a": 1}, {"a": 2}]',
        '{"a": 1}\n{"a": 2}\n'.encode("utf-16"),
    ],
)
def test_json_lines_as_tools_write_them(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.NDJSON"
    path.write_bytes(content)
    assert [(dict(row.cells), row.problem) for row in read_rows(path)] == [({"a": 1}, ""), ({"a": 2}, "")]


def test_a_decimal_comma_is_no_thousands_mark_where_points_are_decimals(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("t_s;a\n0.5;1,234\n")
    assert number(next(iter(read_rows(path))).cells["a"]) is None


@pytest.mark.parametrize("at", [0, 3, 95])
def test_a_stray_quotation_mark_costs_its_own_row(tmp_path: Path, at: int) -> None:
    path = tmp_path / "x.csv"
    lines = [f"{row},{row},{chr(34) if row == at else ''}note" for row in range(100)]
    path.write_text("t_s,a,note\n" + "\n".join(lines) + "\n")
    rows = list(read_rows(path))
    assert [row.line for row in rows if row.problem] == [at + 2]
    assert len(rows) == 100


def test_two_stray_quotation_marks_swallow_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('t_s,note\n0,"open\n1,x\n2,"open\n3,x\n')
    assert [(row.line, bool(row.problem)) for row in read_rows(path)] == [(2, True), (3, False), (4, True), (5, False)]


def test_a_quoted_cell_may_hold_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('t_s,note\n0,"two\nlines, ""quoted"""\n1,x\n')
    assert [row.cells["note"] for row in read_rows(path)] == ['two\nlines, "quoted"', "x"]


def test_a_row_with_more_cells_than_names_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("t_s,a\n0,1\n1,2,3\n")
    assert [row.problem for row in read_rows(path)] == ["", "3 cells, the header names 2"]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"# only a comment\n", b"\xef\xbb\xbf", b",,,\n"])
def test_a_file_without_a_header_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="has no header line"):
        list(read_rows(path))


TIMES: dict[str, Any] = {
    "2024-05-06T07:08:09Z": 1714979289.0,
    "2024-05-06 07:08:09": 1714979289.0,
    "2024-05-06T07:08:09.250+02:00": 1714972089.25,
    "2024-05-06T07:08:09,25-0530": 1714999089.25,
    "2024-05-06T07:08": 1714979280.0,
    "2024-05-06": 1714953600.0,
    "2024-13-06T07:08:09Z": None,
    "yesterday": None,
    "1.5": 1.5,
    "nan": None,
    7: 7.0,
    None: None,
    True: None,
}


@pytest.mark.parametrize("cell", TIMES)
def test_times_in_words(cell: Any) -> None:
    assert moment(cell) == (None if TIMES[cell] is None else pytest.approx(TIMES[cell], abs=1e-6))


@pytest.mark.parametrize(
    ("column", "stamps", "expected_s", "unit"),
    [
        ("t_s", [0, 0.1, 0.2], 0.1, 1.0),
        ("t_s", [0, 100, 200], 0.1, 1e-3),
        ("t_s", [0, 60, 120], 0.1, 1.0),  # a slow logger; its name says seconds
        ("time", [0, 20, 40], 0.1, 1e-3),
        ("time", [0, 100_000, 200_000], 0.1, 1e-6),
        ("t_ms", [0, 1, 2], 0.1, 1e-3),
        ("Time [ms]", [0, 1, 2], None, 1e-3),
        ("timestamp", [1714979289, 1714979290], 0.1, 1.0),
        ("timestamp", [1714979289000, 1714979289100], 0.1, 1e-3),
        ("timestamp", [1714979289000000, 1714979289100000], None, 1e-6),
        ("timestamp", [1714979289000000000, 1714979289100000000], None, 1e-9),
        ("time", [], 0.1, 1.0),
    ],
)
def test_the_unit_of_times(column: str, stamps: list[float], expected_s: float | None, unit: float) -> None:
    assert time_unit(column, stamps, expected_s) == unit


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=400), st.sampled_from(["x.csv", "x.jsonl"]))
def test_no_bytes_break_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    try:
        rows = list(read_rows(path))
    except ValueError as error:
        assert "header" in str(error)
        return
    assert all(row.problem or isinstance(row.cells, dict) for row in rows)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.floats(allow_nan=False)), min_size=1, max_size=20))
def test_json_lines_lose_nothing(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, float]]) -> None:
    path = tmp_path_factory.getbasetemp() / "lose.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert [dict(row.cells) for row in read_rows(path)] == rows
