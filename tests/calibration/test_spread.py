"""Work spread over processes: the same results in the same order, errors in their place, nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from calibration.spread import AHEAD, WORKERS, cores, dismiss, once_each, spread
from edge_runtime.errors import UserError


@pytest.fixture(autouse=True)
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKERS, "3")


def running(factor: int) -> Callable[[Iterator[tuple[str, int]]], Iterator[tuple[str, int]]]:
    """The sum so far of each group, times `factor`: what depends on all that came before in the group."""

    def job(items: Iterator[tuple[str, int]]) -> Iterator[tuple[str, int]]:
        group, total = "", 0
        for name, value in items:
            total = value if name != group else total + value
            group = name
            yield name, factor * total

    return job


def of_group(item: tuple[str, int]) -> str:
    return item[0]


def process_of(number: int) -> tuple[int, int]:
    return number, os.getpid()


def failing(number: int) -> int:
    if number == 70:
        raise UserError("number 70 is wrong")
    if number == 90:
        os._exit(9)
    return number


def own(work: Callable[[int], object]) -> Callable[[Iterator[int]], Iterator[object]]:
    return once_each(work)


def test_groups_of_any_length_give_the_same_by_one_process_and_by_several(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = (1, 1, 40, 3, 1, 17, 16, 2, 100, 1, 5)
    items = [(f"group {number}", value) for number, size in enumerate(sizes) for value in range(size)]
    spread_out = list(spread(partial(running, 2), items, of_group, alone=4, piece=4))
    monkeypatch.setenv(WORKERS, "1")
    assert spread_out == list(spread(partial(running, 2), items, of_group, alone=4, piece=4))
    assert spread_out == list(running(2)(iter(items)))


def test_several_processes_work_and_stay_for_the_next_work() -> None:
    dismiss()  # those of another test would have done all before the third had begun
    first, second = (list(spread(partial(own, process_of), range(60), alone=2, piece=2)) for _ in range(2))
    assert [number for number, _ in first] == list(range(60))
    workers = {process for _, process in first}
    assert len(workers) == 3 and os.getpid() not in workers
    # One that is quick may do all of it; a new one would not.
    assert {process for _, process in second} <= workers


def folder_of(number: int) -> str:
    return str(Path.cwd())


def test_processes_that_stayed_work_where_whoever_asks_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list(spread(partial(once_each, folder_of), range(100)))
    monkeypatch.chdir(tmp_path)
    assert set(spread(partial(once_each, folder_of), range(100))) == {str(tmp_path)}


def test_little_is_done_here() -> None:
    assert {process for _, process in spread(partial(own, process_of), range(9), alone=10)} == {os.getpid()}


def test_results_wait_for_nobody_beyond_some_pieces() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(10_000):
            taken.append(number)
            yield number

    results = spread(partial(own, process_of), items(), alone=2, piece=4)
    assert next(results)[0] == 0
    assert len(taken) < 100
    results.close()  # type: ignore[attr-defined]
    assert [number for number, _ in spread(partial(own, process_of), range(30), alone=2)] == list(range(30))


def slow_first(number: int) -> tuple[int, int, float]:
    if number == 0:
        time.sleep(1.5)
    return number, os.getpid(), time.monotonic()


def test_what_takes_long_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one process is at its first piece, the other does pieces that would have waited behind it."""
    monkeypatch.setenv(WORKERS, "2")
    done = list(spread(partial(own, slow_first), range(8), alone=2, piece=1))
    assert [number for number, *_ in done] == list(range(8))
    first, *others = done
    earlier = [number for number, process, at in others if process != first[1] and at < first[2]]
    assert len(earlier) > AHEAD, "more than were given to it at once"


def test_no_more_processes_than_are_asked_for_and_none_that_was_dismissed(monkeypatch: pytest.MonkeyPatch) -> None:
    def workers(most: int | None) -> set[int]:
        return {process for _, process in spread(partial(own, process_of), range(12), alone=2, piece=1, most=most)}

    assert workers(1) == {os.getpid()}
    before = workers(2)
    assert len(before) <= 2 and os.getpid() not in before
    dismiss()
    assert not before & workers(None)


def test_work_within_work_is_done_all_the_same() -> None:
    outer = spread(partial(own, process_of), range(40), alone=2, piece=2)
    next(outer)
    assert {process for _, process in spread(partial(own, process_of), range(40), alone=2)} == {os.getpid()}
    assert len(list(outer)) == 39


def test_an_error_comes_in_its_place_as_it_was_raised() -> None:
    results = spread(partial(own, failing), range(80), alone=2, piece=8)
    done = []
    with pytest.raises(UserError, match="^number 70 is wrong$"):
        for number in results:
            done.append(number)
    assert done == list(range(64))  # the piece that failed gave nothing
    assert list(spread(partial(own, failing), range(60), alone=2)) == list(range(60))


def test_a_process_that_ends_is_one_line() -> None:
    with pytest.raises(UserError, match=r"a worker process ended \(exit code 9\)"):
        list(spread(partial(own, failing), range(80, 100), alone=2, piece=2))


@pytest.mark.parametrize("told", ["0", "many", "-1"])
def test_a_number_that_is_none_is_refused(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKERS, told)
    with pytest.raises(UserError, match=f"{WORKERS} is '{told}'"):
        cores()


def test_a_main_program_without_a_guard_is_not_run_again() -> None:
    code = (
        "import operator\n"
        "from functools import partial\n"
        "from calibration.spread import once_each, spread\n"
        "from tests.calibration.test_spread import own, process_of\n"
        "print(len({p for _, p in spread(partial(own, process_of), range(60), alone=2, piece=2)}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "3\n"
