from __future__ import annotations

import io

import pytest
from rich.console import Console

from build_engines import progress as told
from build_engines.progress import counted, progress


def test_where_there_is_no_terminal_a_line_comes_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter((0.0, 10.0, 31.0, 50.0, 62.0))
    monkeypatch.setattr(told.time, "monotonic", lambda: next(seconds))
    page = io.StringIO()
    with progress(Console(file=page, width=80), "read [x]", 100) as advance:
        for step in range(4):
            advance(2, f"row {step}" if step < 3 else "")
    assert page.getvalue() == "read [x]: 4 of 100 after 31 s  row 1\nread [x]: 8 of 100 after 62 s  row 2\n"


def test_on_a_terminal_there_is_a_bar() -> None:
    page = io.StringIO()
    with progress(Console(file=page, force_terminal=True, width=80), "read", None, transient=False) as advance:
        advance(3, "row 2")
    assert "read" in page.getvalue() and "row 2" in page.getvalue()


def test_what_is_taken_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "EVERY_S", 0.0)
    page = io.StringIO()
    items = counted(Console(file=page, width=80), "judge", iter("abc"))
    assert next(items) == "a" and page.getvalue() == ""
    assert list(items) == ["b", "c"]
    lines = page.getvalue().splitlines()
    assert [line.partition(" after")[0] for line in lines] == ["judge: 1", "judge: 2", "judge: 3"]
