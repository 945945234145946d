"""Fixtures that several test modules share."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

from edge_runtime import broker
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.config import Config, SourceConfig, ZmqSink, ZmqSource
from edge_runtime.runtime import Runtime
from tests import tiny

if TYPE_CHECKING:
    from tests.mosquitto import Mosquitto

# How long an example takes depends on what else the machine does, and says nothing of the code.
settings.register_profile("tests", deadline=None, max_examples=int(os.environ.get("TESTS_EXAMPLES", "100")))
settings.load_profile("tests")

WAIT_S = float(os.environ.get("TESTS_WAIT_S", "120"))
"""Upper bound for things that happen within milliseconds on an idle machine."""


@pytest.fixture(autouse=True)
def denormals() -> None:
    """ONNX Runtime switches denormal numbers off for the thread that runs it (this one, in many tests): on again.

    C11's fesetenv with FE_DFL_ENV, which is -1 in glibc; elsewhere nothing happens.
    """
    libm = ctypes.util.find_library("m")
    if libm == "libm.so.6":
        ctypes.CDLL(libm).fesetenv(ctypes.c_void_p(-1))


@pytest.fixture(scope="session")
def tiny_bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_bundle_path: Path) -> Bundle:
    return open_bundle(tiny_bundle_path, allow_unsigned=True)


def run_beside(runtime: Runtime) -> tuple[threading.Thread, list[BaseException]]:
    """Run `runtime` on a thread, and wait until it has started; what it raises comes into the list."""
    errors: list[BaseException] = []

    def body() -> None:
        try:
            runtime.run()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    if not runtime.started.wait(WAIT_S):
        runtime.stop()
        raise AssertionError(f"not started within {WAIT_S} s")
    return thread, errors


@contextmanager
def running(runtime: Runtime) -> Iterator[Runtime]:
    """Run `runtime` on a thread; on the way out stop it and raise what it raised."""
    thread, errors = run_beside(runtime)
    try:
        if errors:
            raise errors[0]
        yield runtime
    finally:
        runtime.stop()
        thread.join(WAIT_S)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def tiny_config(bundle: Path, *sources: SourceConfig, name: str = "test", stop_at_end: bool = False) -> Config:
    """A configuration on free ports."""
    return Config(
        name=name,
        bundle=str(bundle),
        source=sources or (ZmqSource("tcp://127.0.0.1:*", rate_limit=0),),  # tests send in bursts
        sink=(ZmqSink("tcp://127.0.0.1:*"),),
        allow_unsigned=True,
        stop_at_end=stop_at_end,
    )


@pytest.fixture
def quick_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brokers that are away are tried again soon."""
    monkeypatch.setattr(broker, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(broker, "LONGEST_PAUSE_S", 0.1)


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A real broker that anybody may come into."""
    from tests.mosquitto import Mosquitto

    started = Mosquitto(tmp_path / "mosquitto")
    yield started
    started.kill()


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition()`; fail the test after WAIT_S."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_S} s for {what}"
        time.sleep(0.005)


def noise(brightness: int, seed: int, shape: tuple[int, int] = (tiny.HEIGHT, tiny.WIDTH)) -> NDArray[np.uint8]:
    """A picture of about that brightness, different for each seed, as a live camera's are."""
    low, high = max(0, brightness - 10), min(255, brightness + 10)
    return np.random.default_rng(seed).integers(low, high, (*shape, 3), dtype=np.uint8)


def jpeg(image: NDArray[np.uint8]) -> bytes:
    return bytes(cv2.imencode(".jpg", image)[1])
