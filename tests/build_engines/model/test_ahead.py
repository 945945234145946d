from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from build_engines.model.ahead import WAITING, ahead
from edge_runtime.errors import UserError


def test_all_come_in_order_made_by_another_thread() -> None:
    made = ((number, threading.current_thread().name) for number in range(100))
    assert list(ahead(made)) == [(number, "ahead") for number in range(100)]


def test_what_is_raised_comes_in_its_place() -> None:
    def broken() -> Iterator[int]:
        yield from range(5)
        raise UserError("no more")

    taken = []
    with pytest.raises(UserError, match="no more"):
        for number in ahead(broken()):
            taken.append(number)
    assert taken == [0, 1, 2, 3, 4]


def test_only_some_are_made_ahead_and_none_once_nobody_takes_them() -> None:
    made = []

    def numbers() -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            yield number

    taking = ahead(numbers())
    assert next(taking) == 0
    taking.close()  # type: ignore[attr-defined]
    assert len(made) <= WAITING + 3
    assert not any(thread.name == "ahead" for thread in threading.enumerate())
