"""Runs tests as often as it is asked, each time in a fork of itself: what starting Python and importing numpy, ONNX
Runtime and pytest costs is paid once, and each run still begins with no module of the project imported.

A script, started by __main__.py in a copy of the source tree. Requests and answers are lines of JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

POLL_S = 0.005


class FirstFailure:
    """Brings the tests that killed before to the front, and keeps the name of the first that fails."""

    def __init__(self, first: list[str]) -> None:
        self.place = {name: index for index, name in enumerate(first)}
        self.failed: str | None = None

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items.sort(key=lambda item: self.place.get(item.nodeid, len(self.place)))

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and self.failed is None:
            self.failed = report.nodeid


def run(tests: list[str], first: list[str], limit_s: float) -> dict[str, Any]:
    """What came of `tests`: `outcome` ("survived", "killed", "timeout"), `by` (the test that failed), `libraries` (what
    was imported that is none of the project's)."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(readable)
        _run_in_child(tests, first, writable)
    os.close(writable)
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


def _run_in_child(tests: list[str], first: list[str], writable: int) -> None:
    """Never returns."""
    code = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        import pytest

        failure = FirstFailure(first)
        options = ["-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=no", "--hypothesis-seed=0"]
        code = int(pytest.main([*options, *tests], plugins=[failure]))
        answer = json.dumps({"by": failure.failed, "libraries": _libraries()}).encode()
        while answer:
            answer = answer[os.write(writable, answer) :]
    finally:
        os._exit(code)


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
    import pytest  # noqa: F401


def main() -> None:
    sys.path[:] = [place for place in sys.path if place != str(Path(__file__).parent)]
    for line in sys.stdin:
        request = json.loads(line)
        sys.dont_write_bytecode = not request.pop("write_bytecode", False)
        load(request.pop("load", []))
        print(json.dumps(run(**request)), flush=True)


if __name__ == "__main__":
    main()
