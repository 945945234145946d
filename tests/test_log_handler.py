"""The log stays readable, and is waited for by nobody, whatever is said to it."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import log_handler
from edge_runtime.log_handler import (
    BURST_LINES,
    LINES_PER_S,
    MAX_LINE,
    START_LINES,
    START_S,
    BoundedHandler,
    Budget,
    one_line,
)
from tests.conftest import WAIT_S, wait_for

FORGED = "camera\n2026-01-01 00:00:00,000 ERROR the brakes are gone\r\x1b[2J\x1b]0;x\x07\u202e\u2028\x85\x00\udcff"


class Log:
    """A handler that writes into a pipe, and what comes out of it."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.handler = BoundedHandler(self.writing, "%(levelname)s %(message)s")
        self.log = logging.Logger("test")
        self.log.addHandler(self.handler)

    def lines(self) -> list[str]:
        """All that was written so far, and after what is still to be summed up."""
        self.handler.close()
        os.set_blocking(self.reading, False)
        data = b""
        try:
            while more := os.read(self.reading, 1 << 16):
                data += more
        except BlockingIOError:
            pass
        return data.decode().split("\n")[:-1]


@pytest.fixture
def log() -> Iterator[Log]:
    made = Log()
    yield made
    os.close(made.reading)


@given(st.text(max_size=2000))
def test_any_text_is_one_bounded_line_of_printable_characters(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert len(line) <= 10 * MAX_LINE + 40
    if text.isprintable() and len(text) <= MAX_LINE:
        assert line == text


def test_no_line_is_forged_and_no_cursor_moved(log: Log) -> None:
    log.log.warning("%s: refusing messages: %s", FORGED, FORGED)
    (line,) = log.lines()
    assert line.startswith("WARNING camera\\n2026-01-01")
    assert line.isprintable() and "\\x1b[2J" in line and "\\u202e" in line


def test_lines_of_a_trace_cannot_be_taken_for_lines_of_the_log(log: Log) -> None:
    def deep(left: int) -> None:
        if left:
            deep(left - 1)
        raise ValueError(FORGED * 100)

    try:
        deep(100)
    except ValueError:
        log.log.exception("a bug")
    first, *trace = log.lines()
    assert first == "ERROR a bug"
    assert 3 < len(trace) <= log_handler.MAX_TRACE_LINES + 1
    assert all(line.startswith("    | ") and line.isprintable() and len(line) < 10 * MAX_LINE for line in trace)
    assert any("ValueError" in line for line in trace)


def test_repeats_are_counted_and_summed_up(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_handler, "REPEAT_S", 3600.0)  # so many lines may take a while
    for _ in range(100_000):
        log.log.warning("camera: refusing messages")
    log.log.warning("something else")
    assert log.lines() == [
        "WARNING camera: refusing messages",
        "WARNING something else",
        "WARNING 99999 times more: camera: refusing messages",
    ]


def test_a_repeat_after_a_while_is_said_again(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_handler, "REPEAT_S", 0.0)
    log.log.warning("again")
    log.log.warning("again")
    assert log.lines() == ["WARNING again", "WARNING again"]


def test_repeats_are_summed_up_though_nothing_else_is_said(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_handler, "REPEAT_S", 0.05)
    monkeypatch.setattr(log_handler, "SUM_UP_S", 0.01)
    for _ in range(3):
        log.log.warning("again")
    data = b""
    while b"times more: again" not in data:
        data += os.read(log.reading, 1 << 16)


def test_whatever_comes_a_few_lines_a_second_are_written_and_the_rest_is_counted(log: Log) -> None:
    start = time.monotonic()
    for number in range(50_000):
        log.log.error("%d", number)
    # A reader is there, so that nothing is lost at the pipe.
    allowed = START_LINES + BURST_LINES + log_handler.ERRORS_PER_S * (time.monotonic() - start) + 2
    log.handler._errors._left = 2
    log.log.error("last")
    lines = log.lines()
    assert len(lines) <= allowed
    left_out = sum(int(line[1:].split()[0]) for line in lines if line.startswith("("))
    said = [line for line in lines if not line.startswith("(")]
    assert left_out + len(said) == 50_001
    assert said[-1] == "ERROR last"


def test_a_flood_of_warnings_whose_causes_differ_leaves_no_error_out(log: Log) -> None:
    for number in range(5000):
        log.log.warning("camera.front: refusing messages: cause %d", number)
        log.log.info("sensors: left out: channel_%d", number)
    log.log.error("engine failed")
    log.log.error("engine does not restart")
    lines = log.lines()
    assert lines[-2:] == ["ERROR engine failed", "ERROR engine does not restart"]
    assert len(lines) < START_LINES + 50


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(1, 5)), max_size=200), st.floats(0, 60), st.floats(0.1, 20))
def test_in_no_while_after_the_start_are_more_lines_than_a_burst_and_the_rate(
    steps: list[tuple[float, int]], begin: float, length: float
) -> None:
    budget, now, said = Budget(LINES_PER_S, 0.0), 0.0, []
    for gap, lines in steps:
        now += gap
        if budget.take(lines, now):
            said.append((now, lines))
    begin += START_S
    within = [lines for at, lines in said if begin <= at < begin + length]
    # What was there at the begin is no more than a burst; the last one may have borrowed.
    assert sum(within[:-1]) <= BURST_LINES + LINES_PER_S * length


def test_what_is_left_out_is_told_with_the_next_line(log: Log) -> None:
    log.handler._lines._left = 1.5
    for number in range(50):
        log.log.warning("%d", number)
    log.handler._lines._left = 10.0
    log.log.warning("next")
    assert log.lines() == ["WARNING 0", "(49 lines are left out)", "WARNING next"]


def test_a_full_pipe_holds_up_nobody(log: Log) -> None:
    os.set_blocking(log.writing, False)
    try:
        while os.write(log.writing, bytes(1 << 16)):
            pass
    except BlockingIOError:
        os.set_blocking(log.writing, True)
    done = threading.Event()

    def say() -> None:
        for number in range(20_000):
            log.log.warning("line %d", number)
        log.handler.flush()
        done.set()

    threading.Thread(target=say, daemon=True).start()
    assert done.wait(WAIT_S)
    assert len(log.handler._waiting) <= log_handler.MAX_WAITING

    def drained() -> bool:
        return b"line 0\n" in os.read(log.reading, 1 << 16)

    wait_for(drained, "the first line, once somebody reads")


def test_nobody_at_the_other_end_is_no_trouble() -> None:
    made = Log()
    os.close(made.reading)
    made.log.warning("x")
    made.handler.flush()
    made.log.warning("y")
    made.handler.close()
    assert not made.handler._waiting


def test_arguments_that_do_not_fit_are_said_and_raise_nothing(log: Log) -> None:
    log.log.warning("%d", "x")

    class Bad:
        def __str__(self) -> str:
            raise RuntimeError("no")

    log.log.warning("%s", Bad())
    first, second = log.lines()
    assert "cannot be said" in first and "cannot be said" in second


def test_all_of_the_process_goes_through_it(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level, raised = root.handlers[:], root.level, logging.raiseExceptions
    try:
        handler = log_handler.log_to(sys.stderr.fileno(), logging.INFO, "%(levelname)s %(message)s")
        logging.getLogger("some.library").info("a\nb")
        handler.close()
        assert capfd.readouterr().err == "INFO a\\nb\n"
    finally:
        root.handlers[:], logging.raiseExceptions = before, raised
        root.setLevel(level)
