"""Runs tests as often as it is asked, each time in a fork of itself, so that what is costly is done once.

A script with two ways to work, both started by __main__.py in a copy of the source tree; requests and answers are lines
of JSON. Without arguments the libraries are loaded, and each run begins with no module of the project imported. With
`MODULE TEST...` the tests are collected too, and a run puts a change into the functions of the module that is imported
already: some ten times faster, and only for what lies within functions. What survives there is to be run anew if one
of these functions ran before the tests did (`ran`).
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

POLL_S = 0.005
OPTIONS = ["-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=no", "--hypothesis-seed=0"]
OPTIONS += [f"--basetemp={Path.cwd()}-tmp"]


class FirstFailure:
    """Brings the tests that killed before to the front, and keeps the name of the first that fails."""

    def __init__(self, first: list[str], fork: int | None = None) -> None:
        self.first = first
        self.failed: str | None = None
        self.fork = fork
        """In a fork: where to write what came of it."""

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        place = {name: index for index, name in enumerate(self.first)}
        items.sort(key=lambda item: place.get(item.nodeid, len(place)))

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and self.failed is None:
            self.failed = report.nodeid

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: Any) -> Iterator[None]:
        """Where a test fails in a fork that has somewhere to say so, nobody reads why: the end."""
        try:
            return (yield)
        except (Exception, pytest.fail.Exception):
            if self.fork is None or item.get_closest_marker("xfail") is not None:
                raise
            self.failed = item.nodeid
            exit_with(1, self, self.fork)


class Collected(FirstFailure):
    """Stays in the loop that would run the tests: each request is a fork that leaves it, and runs them."""

    def __init__(
        self,
        module: ModuleType,
        ran: set[CodeType],
        requests: Iterator[str],
        answer: Callable[[dict[str, Any]], None],
    ) -> None:
        super().__init__([])
        self._ran = ran
        self._module = module
        self._codes = code_of(_plain(Path(str(module.__file__)).read_text(encoding="utf-8")), str(module.__file__))
        self._requests = requests
        self._answer = answer

    def pytest_runtestloop(self, session: Any) -> bool | None:
        sys.setprofile(None)
        for line in self._requests:
            request = json.loads(line)
            changed = code_of(request["source"], str(self._module.__file__))
            swaps = code_swaps(self._codes, changed, functions_of(self._module))
            if swaps is None:
                self._answer({"outcome": "unfit"})
                continue
            child, end = fork()
            if child is None:
                self.fork = end
                self.first = request["first"]
                self.pytest_collection_modifyitems(session.items)
                for function, code in swaps:
                    function.__code__ = code
                return None  # the loop runs
            ran = any(function.__code__ in self._ran for function, _ in swaps)
            self._answer({"ran": ran, **await_end(child, end, request["limit_s"])})
        return True


def fork() -> tuple[int | None, int]:
    """The child's number and where to read its answer; in the child None and where to write it."""
    readable, writable = os.pipe()
    child = os.fork()
    if child:
        os.close(writable)
        return child, readable
    os.close(readable)
    os.setsid()
    return None, writable


def silence() -> None:
    """Nothing more is read from or written to the terminal, by whatever is started either."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)


def await_end(child: int, readable: int, limit_s: float) -> dict[str, Any]:
    """What came of the tests: `outcome` ("survived", "killed", "timeout"), `by` (the test that failed), `libraries`
    (what was imported that is none of the project's)."""
    end = time.monotonic() + limit_s
    done, status = os.waitpid(child, os.WNOHANG)
    while not done and time.monotonic() < end:
        time.sleep(POLL_S)
        done, status = os.waitpid(child, os.WNOHANG)
    try:  # what the tests started goes too
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    if not done:
        os.waitpid(child, 0)
    with os.fdopen(readable, "rb") as pipe:
        answer = json.loads(pipe.read() or "{}")
    outcome = "timeout" if not done else "survived" if status == 0 else "killed"
    return {"by": None, "libraries": [], **answer, "outcome": outcome}


def exit_with(code: int, failure: FirstFailure, writable: int) -> None:
    """The end of a fork. Never returns."""
    answer = json.dumps({"by": failure.failed, "libraries": _libraries()}).encode()
    while answer:
        answer = answer[os.write(writable, answer) :]
    os._exit(code)


def run_anew(tests: list[str], first: list[str], limit_s: float) -> dict[str, Any]:
    """Run `tests` in a fork that has imported nothing of the project: see `await_end`."""
    child, end = fork()
    if child is not None:
        return await_end(child, end, limit_s)
    try:
        silence()
        failure = FirstFailure(first, end)
        exit_with(int(pytest.main([*OPTIONS, *tests], plugins=[failure])), failure, end)
    finally:
        os._exit(1)


def _libraries() -> list[str]:
    """Imported modules of installed packages and of Python itself; not pytest's, which changes what it loads itself."""
    return [
        name
        for name, module in list(sys.modules.items())
        if name != "__main__"
        and "pytest" not in name
        and (
            name.partition(".")[0] in sys.stdlib_module_names
            or "site-packages" in (getattr(module, "__file__", None) or "")
        )
    ]


def load(libraries: list[str]) -> None:
    """Import what a run of the tests imported, so that the next runs need not."""
    for name in libraries:
        try:
            importlib.import_module(name)
        except Exception:  # not importable by itself: left to the tests
            continue


def _plain(source: str) -> str:
    """`source` as changed ones are written: by `ast.unparse`."""
    import ast

    return ast.unparse(ast.parse(source)) + "\n"


def code_of(source: str, file: str) -> CodeType:
    """The module's code."""
    return compile(source, file, "exec", dont_inherit=True)


def functions_of(module: ModuleType) -> dict[str, list[FunctionType]]:
    """The functions and methods that `module` defines, by qualified name, whatever wraps them."""
    found: dict[str, list[FunctionType]] = {}

    def look(value: Any) -> None:
        if isinstance(value, property):
            for part in (value.fget, value.fset, value.fdel):
                look(part)
            return
        value = (
            inspect.unwrap(getattr(value, "__func__", value))
            if callable(value) or hasattr(value, "__func__")
            else value
        )
        if getattr(value, "__module__", None) != module.__name__:
            return
        if isinstance(value, FunctionType):
            same = found.setdefault(value.__qualname__, [])
            if not any(one is value for one in same):
                same.append(value)
        elif isinstance(value, type):
            for part in list(vars(value).values()):
                look(part)

    for value in list(vars(module).values()):
        look(value)
    return found


Swaps = list[tuple[FunctionType, CodeType]]


def code_swaps(
    before: CodeType, after: CodeType, functions: dict[str, list[FunctionType]], prefix: str = ""
) -> Swaps | None:
    """The functions whose code differs, with the new one; None where something else differs too, or where a function
    cannot be found. Line numbers do not count."""
    if not _same_but_for_code(before, after):
        return None
    swaps: Swaps = []
    for one, other in zip(_inner(before), _inner(after), strict=True):
        name = prefix + one.co_name
        if one.co_name != other.co_name:
            return None
        if not one.co_flags & inspect.CO_OPTIMIZED:  # a class's body
            inner = code_swaps(one, other, functions, f"{name}.")
            if inner is None:
                return None
            swaps += inner
        elif not _same(one, other):
            found = functions.get(name, [])
            alone = sum(twin.co_name == one.co_name for twin in _inner(before)) == 1
            if len(found) != 1 or not alone or one.co_name == "<lambda>" or one.co_freevars != other.co_freevars:
                return None
            swaps.append((found[0], other))
    return swaps


def _inner(code: CodeType) -> list[CodeType]:
    return [one for one in code.co_consts if isinstance(one, CodeType)]


def _same_but_for_code(before: CodeType, after: CodeType) -> bool:
    def constants(code: CodeType) -> list[tuple[type, object]]:
        return [(type(one), None if isinstance(one, CodeType) else one) for one in code.co_consts]

    def parts(code: CodeType) -> tuple[object, ...]:
        return code.co_code, code.co_names, code.co_varnames, code.co_flags, repr(constants(code))

    return parts(before) == parts(after)


def _same(before: CodeType, after: CodeType) -> bool:
    inner, other = _inner(before), _inner(after)
    return _same_but_for_code(before, after) and all(map(_same, inner, other)) and len(inner) == len(other)


def serve_anew() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        sys.dont_write_bytecode = not request.pop("write_bytecode", False)
        load(request.pop("load", []))
        print(json.dumps(run_anew(**request)), flush=True)


def serve_collected(name: str, tests: list[str]) -> None:
    # Pytest takes what these are now, and talks.
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    silence()
    file, ran = str(Path.cwd() / (name.replace(".", "/") + ".py")), set[CodeType]()

    def note(frame: Any, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename == file:
            ran.add(frame.f_code)

    sys.setprofile(note)
    module = importlib.import_module(name)
    assert module.__file__ == file
    plugin = Collected(
        module, ran, iter(requests.readline, ""), lambda answer: print(json.dumps(answer), file=answers, flush=True)
    )
    code = int(pytest.main([*OPTIONS, *tests], plugins=[plugin]))
    if plugin.fork is not None:
        exit_with(code, plugin, plugin.fork)


if __name__ == "__main__":
    sys.path[:] = [place for place in sys.path if place != str(Path(__file__).parent)]
    if len(sys.argv) == 1:
        serve_anew()
    else:
        serve_collected(sys.argv[1], sys.argv[2:])
