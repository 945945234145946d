"""Requests to reload and what became of them, with attempts that end when they are told to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from edge_runtime.attempt import Attempt
from edge_runtime.config import Config
from edge_runtime.errors import ConfigError
from edge_runtime.reload import Reloads
from edge_runtime.session import Session
from edge_runtime.wire import ReloadHealth
from tests.conftest import WAIT_S

CONFIG = Config(name="test", bundle="b", source=())
SESSION: Any = "a session"


class Desk:
    """Where reloads are asked for; an attempt opens something once it may."""

    def __init__(self) -> None:
        self.begun: list[Callable[[], Config]] = []
        self.may_open = threading.Event()
        self.error: Exception | None = None
        self.gone: list[str] = []
        self.attempts: list[Attempt[Session]] = []
        self.reloads = Reloads(self._begin)

    def _begin(self, load: Callable[[], Config]) -> Attempt[Session]:
        self.begun.append(load)

        def opens() -> Session:
            assert self.may_open.wait(WAIT_S)
            if self.error is not None:
                raise self.error
            return SESSION  # type: ignore[no-any-return]

        attempt = Attempt(
            "reload", opens, lambda _: self.gone.append("taken over"), lambda _: self.gone.append("abandoned"),
            lambda: None,
        )  # fmt: skip
        self.attempts.append(attempt)
        return attempt

    def open(self, error: Exception | None = None) -> None:
        self.error = error
        self.may_open.set()
        assert self.attempts[-1].done.wait(WAIT_S)
        self.may_open.clear()


def test_nothing_is_due_where_nothing_was_asked_for() -> None:
    desk = Desk()
    assert not desk.reloads.due() and desk.reloads.finished() is None
    assert desk.reloads.health() == ReloadHealth(0, 0, False, None)
    desk.reloads.cancel()


def test_one_attempt_at_a_time_and_what_is_asked_meanwhile_once_more_after_it() -> None:
    desk, loads = Desk(), [lambda: CONFIG for _ in range(3)]
    desk.reloads.ask(loads[0])
    assert desk.reloads.due()
    desk.reloads.start()
    assert (desk.begun, desk.reloads.due(), desk.reloads.finished()) == ([loads[0]], False, None)
    assert desk.reloads.health() == ReloadHealth(0, 0, True, None)
    desk.reloads.ask(loads[1])
    desk.reloads.ask(loads[2])
    assert not desk.reloads.due()
    desk.open()
    attempt = desk.reloads.finished()
    assert attempt is desk.attempts[0] and attempt.opened is SESSION
    assert desk.reloads.finished() is None, "told once"
    attempt.accept()
    assert desk.reloads.health() == ReloadHealth(1, 0, False, None)
    assert desk.reloads.due()
    desk.reloads.start()
    assert desk.begun == [loads[0], loads[2]], "the last that was asked for"
    assert not desk.reloads.due()
    desk.open()
    second = desk.reloads.finished()
    assert second is desk.attempts[1]
    second.dismiss(WAIT_S)


def test_refusals_are_counted_with_their_reason_until_one_succeeds() -> None:
    desk = Desk()
    for refused in (1, 2):
        desk.reloads.ask(lambda: CONFIG)
        desk.reloads.start()
        desk.open(ConfigError(f"no bundle {refused}"))
        attempt = desk.reloads.finished()
        assert attempt is not None and attempt.opened is None
        attempt.dismiss(WAIT_S)
        assert desk.reloads.health() == ReloadHealth(0, refused, False, f"no bundle {refused}")
    desk.reloads.ask(lambda: CONFIG)
    desk.reloads.start()
    desk.open()
    attempt = desk.reloads.finished()
    assert attempt is desk.attempts[2]
    attempt.accept()
    assert desk.reloads.health() == ReloadHealth(1, 2, False, None)


def test_at_the_end_what_was_asked_is_forgotten_and_what_opens_is_abandoned() -> None:
    desk = Desk()
    desk.reloads.ask(lambda: CONFIG)
    desk.reloads.start()
    desk.reloads.ask(lambda: CONFIG)
    threading.Timer(0.01, desk.may_open.set).start()
    desk.reloads.cancel()
    desk.attempts[0]._thread.join(WAIT_S)
    assert desk.gone == ["abandoned"]
    assert desk.reloads.finished() is desk.attempts[0]
    assert not desk.reloads.due(), "no reload any more"
