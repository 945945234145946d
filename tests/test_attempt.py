"""What is opened beside the loop: taken over once the loop gives way, and closed where it is not wanted any more."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from edge_runtime.attempt import Attempt
from edge_runtime.errors import UserError
from tests.conftest import WAIT_S


class Kept:
    """What an attempt did, in order, and on which thread."""

    def __init__(self, open: Callable[[], str] = lambda: "engines") -> None:
        self.did: list[object] = []
        self.threads: set[int] = set()
        self.woken = threading.Event()
        self.attempt = Attempt(
            "reload",
            open,
            take_over=lambda opened: self.note(("taken over", opened)),
            abandon=lambda opened: self.note(("abandoned", opened)),
            wake=self.woken.set,
            answer=lambda reason: self.note(("answered", reason)),
        )

    def note(self, what: object) -> None:
        self.did.append(what)
        self.threads.add(threading.get_ident())

    def begun(self) -> Attempt[str]:
        self.attempt.start()
        assert self.woken.wait(WAIT_S) and self.attempt.done.is_set()
        return self.attempt

    def ended(self) -> list[object]:
        self.attempt._thread.join(WAIT_S)
        assert not self.attempt._thread.is_alive()
        assert threading.get_ident() not in self.threads
        return self.did


def test_what_opened_is_taken_over_once_the_loop_has_given_way_and_not_before() -> None:
    kept = Kept()
    attempt = kept.begun()
    assert (attempt.opened, attempt.error, attempt.reason) == ("engines", None, None)
    assert attempt._thread.is_alive() and kept.did == []
    assert attempt._thread.daemon, "what hangs does not keep the process"
    attempt.accept()
    assert kept.ended() == [("answered", None), ("taken over", "engines")]


def test_what_the_loop_does_not_want_any_more_is_abandoned_and_said() -> None:
    kept = Kept()
    kept.begun().dismiss()
    assert kept.ended() == [("abandoned", "engines"), ("answered", "the runtime is stopping")]


def refused() -> str:
    raise UserError("no such bundle")


def bug() -> str:
    raise KeyError("surprise")


def exits() -> str:
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("open", "kind", "reason", "logged"),
    [
        (refused, UserError, "no such bundle", False),
        (bug, KeyError, "unexpected error, KeyError: 'surprise'", True),
        (exits, SystemExit, "unexpected error, SystemExit: 3", True),
    ],
)
@pytest.mark.parametrize("judge", [Attempt.accept, Attempt.dismiss])
def test_what_fails_is_answered_with_why_and_nothing_is_taken_over(
    open: Callable[[], str],
    kind: type[BaseException],
    reason: str,
    logged: bool,
    judge: Callable[[Attempt[str]], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = Kept(open)
    attempt = kept.begun()
    assert (type(attempt.error), attempt.reason, attempt.opened) == (kind, reason, None)
    judge(attempt)
    assert kept.ended() == [("answered", reason)]
    traces = [record for record in caplog.records if record.levelno >= logging.ERROR and record.exc_info]
    assert bool(traces) == logged, "a user's mistake is one line, a bug has its trace"


def test_to_dismiss_waits_for_the_end_as_long_as_told() -> None:
    may_open, opens = threading.Event(), threading.Event()

    def slow() -> str:
        opens.set()
        assert may_open.wait(WAIT_S)
        return "engines"

    kept = Kept(slow)
    kept.attempt.start()
    assert opens.wait(WAIT_S)
    assert not kept.attempt.done.is_set()
    kept.attempt.dismiss(0.01)
    assert kept.attempt._thread.is_alive() and kept.did == []
    may_open.set()
    kept.attempt.dismiss(WAIT_S)
    assert not kept.attempt._thread.is_alive()
    assert kept.did == [("abandoned", "engines"), ("answered", "the runtime is stopping")]
    never = Kept()
    never.attempt.dismiss(WAIT_S)  # was not begun: there is nothing to wait for
    assert never.did == []


def test_where_there_is_no_thread_to_be_had_that_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    kept = Kept()
    monkeypatch.setattr(threading.Thread, "start", none)
    kept.attempt.start()
    assert kept.attempt.done.is_set()
    assert (type(kept.attempt.error), kept.attempt.reason) == (RuntimeError, "can't start new thread")
    assert kept.attempt.opened is None
    kept.attempt.dismiss(1.0)
    assert kept.did == []


def test_without_an_answer_to_give_none_is_given() -> None:
    took: list[str] = []
    woken = threading.Event()
    attempt = Attempt("engines", lambda: "engines", took.append, took.append, woken.set)
    attempt.start()
    assert woken.wait(WAIT_S)
    attempt.accept()
    attempt._thread.join(WAIT_S)
    assert took == ["engines"]
