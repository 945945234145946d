from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest

from edge_runtime.infer.tensorrt.library import TensorRTUnavailable, find_library, is_harmless, load_library


@pytest.fixture
def library() -> Any:
    found = find_library(("tensorrt_rtx",))
    if found is None:
        pytest.skip("tensorrt_rtx is not installed")
    return found


def test_the_preferred_flavour_that_loads_is_taken(library: Any) -> None:
    assert library.flavour == "tensorrt_rtx"
    assert library.is_rtx
    assert str(library) == f"tensorrt_rtx {library.version}"
    assert library.version.count(".") >= 2
    assert load_library(("tensorrt_rtx",)) is library
    if find_library(("tensorrt",)) is None:
        assert load_library(("tensorrt", "tensorrt_rtx")) is library


def without(code: str, broken: str = "") -> str:
    """What `code` prints in an interpreter that has no TensorRT, or one that breaks while loading."""
    head = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {broken!r}: raise OSError('libnvinfer.so.10: cannot open shared object file')\n"
        "        if name in ('tensorrt', 'tensorrt_rtx'): raise ModuleNotFoundError('no', name=name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from edge_runtime.infer.tensorrt.library import *\n"
    )
    line = [sys.executable, "-c", head + code]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def test_every_flavour_s_reason_is_in_one_line() -> None:
    ask = "try: load_library()\nexcept Exception as error: print(type(error).__name__, error)"
    assert without(ask) == (
        "TensorRTUnavailable TensorRT is not usable (tensorrt: not installed for this Python; "
        "tensorrt_rtx: not installed for this Python)"
    )
    assert "tensorrt: libnvinfer.so.10: cannot open shared object file;" in without(ask, broken="tensorrt")
    assert without("print(find_library())") == "None"


def test_nothing_preferred_is_nothing_found() -> None:
    with pytest.raises(TensorRTUnavailable):
        load_library(())


def test_messages_reach_the_log_once_and_harmless_ones_not(library: Any, caplog: pytest.LogCaptureFixture) -> None:
    logger, severity = library.messages.logger, library.module.ILogger.Severity
    for _ in range(3):
        logger.log(severity.WARNING, "a warning of\nthis test")
        logger.log(severity.WARNING, "Converting conv weight scales to fp32")
        logger.log(severity.INFO, "chatter")
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.WARNING, "a warning of this test")
    ]
    logger.log(severity.ERROR, "an error of this test")
    assert library.messages.last_error == "an error of this test"


def test_who_collects_gets_the_messages_instead_of_the_log(library: Any, caplog: pytest.LogCaptureFixture) -> None:
    logger, severity = library.messages.logger, library.module.ILogger.Severity
    with library.messages.collect() as outer:
        with library.messages.collect() as inner:
            logger.log(severity.ERROR, "for the inner one")
        logger.log(severity.ERROR, "for the outer one")
    assert (outer, inner) == (["for the outer one"], ["for the inner one"])
    assert not caplog.records
    assert not is_harmless("for the outer one")
