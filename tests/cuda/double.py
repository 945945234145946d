"""The driver double: building it, running tests on it, and what a test on it can ask of it.

A test marked `@pytest.mark.driver_double` runs in a second pytest whose `libcuda.so.1` is the double (all marked tests
of a session in one), so that the double never gets into the process of the others. A folder of such tests takes the
hooks into its conftest.py:

    from tests.cuda.double import pytest_configure, pytest_pyfunc_call, pytest_runtest_setup
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).with_name("driver_double.c")
KINDS = ("device memory", "host memory", "streams", "events", "graphs", "executable graphs", "primary contexts")
TOTAL_BYTES = 1 << 30
"""Memory of the double's devices."""

ILLEGAL_ADDRESS = 700

_REPORTS = "EDGE_RUNTIME_TEST_REPORTS"
"""Environment variable: the file to which a pytest on the double writes what came of each test."""
_kernels: list[Any] = []
"""All that were ever enqueued: C keeps no count of who may still call them."""
_OUTCOMES = pytest.StashKey[dict[str, tuple[str, str]]]()


class Double:
    """The double, from within a test that runs on it."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")

    def counts(self) -> dict[str, int]:
        """How many objects of each kind are alive in this process."""
        counts = (ctypes.c_long * len(KINDS))()
        self._library.double_counts(counts)
        return dict(zip(KINDS, counts, strict=True))

    def depth(self) -> int:
        """How many contexts are on the calling thread's stack."""
        return int(self._library.double_depth())

    def fail(self, function: str, code: int) -> None:
        """Let the next call of that driver function fail with that code."""
        self._library.double_fail(function.encode(), code)

    def lose_device(self, code: int) -> None:
        """Let every later call fail with that code, until `forget`."""
        self._library.double_lose(code)

    def forget(self) -> None:
        """Give a lost device back, and take what is left on it for freed."""
        self._library.double_forget()

    def push_own_context(self) -> Callable[[], None]:
        """Make a context of one's own current, as pycuda.autoinit does; the result takes it away again."""
        context = ctypes.c_void_p()
        assert self._library.cuCtxCreate_v2(ctypes.byref(context), 0, 0) == 0
        return lambda: self._library.cuCtxDestroy_v2(context)

    def enqueue(self, stream: int, kernel: Callable[[], None]) -> None:
        """Put a "kernel" on a stream: called when its turn comes, with every launch if captured in a graph.

        Buffers are host memory: it may work on the memory behind their addresses.
        """
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: kernel())
        _kernels.append(function)
        status = self._library.cuLaunchHostFunc(ctypes.c_void_p(stream), function, None)
        assert status == 0, f"the driver double refuses: error {status}"


def why_not() -> str:
    """Why the double cannot be built here, or nothing."""
    missing = [tool for tool in ("gcc", "nm") if shutil.which(tool) is None]
    return f"the driver double needs {' and '.join(missing)}" if missing else ""


def build(folder: Path) -> None:
    """Build the double as `libcuda.so.1` in `folder`."""
    library = folder / "libcuda.so.1"
    sources = [SOURCE]
    compile_ = ["gcc", "-O1", "-w", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library]
    subprocess.run([*compile_, *sources, "-ldl", "-lpthread"], check=True)
    # PyCUDA's extension doesn't load unless all it could ever call is there.
    needed = {name for extension in _pycuda_extensions() for name in _symbols(extension, "--undefined-only")}
    rest = sorted(name for name in needed - _symbols(library, "--defined-only") if name.startswith("cu"))
    if rest:
        stubs = folder / "rest.c"
        stubs.write_text("".join(f"int {name}(void) {{ return 801; }}\n" for name in rest))
        subprocess.run([*compile_, *sources, stubs, "-ldl", "-lpthread"], check=True)


def _pycuda_extensions() -> list[Path]:
    spec = importlib.util.find_spec("pycuda")  # does not import it: that needs a driver
    locations = spec.submodule_search_locations if spec else None
    found = {path for folder in locations or () for path in Path(folder).parent.glob("pycuda/_driver*.so")}
    return sorted(found)


def _symbols(library: Path, which: str) -> set[str]:
    listing = subprocess.run(["nm", "-D", which, library], check=True, capture_output=True, text=True).stdout
    return {line.split()[-1].split("@")[0] for line in listing.splitlines() if line.strip()}


def environment(folder: Path) -> dict[str, str]:
    """The environment of a process that is to find the double in `folder` as its driver."""
    found = [str(folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(found)}


def pytest_configure(config: pytest.Config) -> None:
    path = os.environ.get(_REPORTS)
    if path and not config.pluginmanager.has_plugin("double-reports"):
        config.pluginmanager.register(_Reports(Path(path)), "double-reports")
    if not config.pluginmanager.has_plugin("double-patience"):
        config.pluginmanager.register(_Patience(), "double-patience")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if _is_elsewhere(item):
        item.fixturenames = []  # type: ignore[attr-defined]  # they are set up where the test runs


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not _is_elsewhere(pyfuncitem):
        return None
    if reason := why_not():
        pytest.skip(reason)
    stash = pyfuncitem.config.stash
    if _OUTCOMES not in stash:
        stash[_OUTCOMES] = _run_on_double(pyfuncitem.session)
    outcome, text = stash[_OUTCOMES][pyfuncitem.nodeid]
    if outcome == "failed":
        pytest.fail(text, pytrace=False)
    if outcome == "skipped":
        pytest.skip(text)
    return True


def _is_elsewhere(item: pytest.Item) -> bool:
    return item.get_closest_marker("driver_double") is not None and _REPORTS not in os.environ


def _run_on_double(session: pytest.Session) -> dict[str, tuple[str, str]]:
    """What came of each marked test of the session: "passed", "failed" or "skipped", and why."""
    names = [item.nodeid for item in session.items if _is_elsewhere(item)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder)
        reports = folder / "reports.jsonl"
        reports.touch()
        child = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-m", "pytest", "-p", "no:cacheprovider", *names],
            cwd=session.config.rootpath,
            env={**environment(folder), _REPORTS: str(reports)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        done = [json.loads(line) for line in reports.read_text().splitlines()]
    ended = f"the process on the driver double ended with {child.returncode}:\n{child.stdout[-4000:]}"
    outcomes = dict.fromkeys(names, ("failed", ended))  # what the tests have that took it down, or came after
    outcomes |= {nodeid: (outcome, text) for nodeid, outcome, text in done}
    if len(done) == len(names) and child.returncode not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        outcomes[names[-1]] = ("failed", ended)  # on its way out
    return outcomes


class _Patience:
    """The first marked test of a session waits for all of them; each has its own limit in the process on the double."""

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        if _is_elsewhere(item):
            item.add_marker(pytest.mark.timeout(900))


class _Reports:
    """In the pytest on the double: writes one line for each test."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._outcome = ("passed", "")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "setup":
            self._outcome = ("passed", "")
        if report.failed:
            self._outcome = ("failed", report.longreprtext)
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
            self._outcome = ("skipped", reason.removeprefix("Skipped: "))
        if report.when == "teardown":
            with self._path.open("a") as file:
                file.write(json.dumps([report.nodeid, *self._outcome]) + "\n")
