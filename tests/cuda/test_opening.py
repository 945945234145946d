"""Opening CUDA devices, and the threads and contexts that they belong to: on the driver double, and on a GPU."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from edge_runtime.cuda import CudaDevice, CudaUnavailable, open_cuda
from edge_runtime.errors import EngineError, UserError
from tests.cuda.devices import (
    ON_DOUBLE,
    Doubling,
    in_thread,
    on_double,
)
from tests.cuda.double import Double

# Threads and contexts


def test_another_thread_is_refused_and_both_are_named(device: CudaDevice) -> None:
    job = Doubling(device)
    scope, timer = device.scope(), device.timer(job.stream)
    uses: list[Callable[[], object]] = [
        device.info, device.free_bytes, device.stream, device.close, scope.close, timer.start, timer.elapsed_ms,
        job.enqueue,
        lambda: scope.allocate(8),
        lambda: device.synchronise(job.stream),
    ]  # fmt: skip
    for use in uses:
        (error,) = in_thread(lambda use=use: use(), "camera")
        assert isinstance(error, EngineError)
        assert f"of thread '{threading.current_thread().name}' used from thread 'camera'" in str(error)
    job.source[...] = 6
    job.enqueue()
    device.synchronise(job.stream)
    assert (job.target == 6).all()


def test_every_thread_can_have_a_device_of_its_own(device: CudaDevice, backend: Any) -> None:
    def work() -> None:
        with open_cuda(backend) as own:
            job = Doubling(own)
            job.source[...] = 3
            job.enqueue()
            own.synchronise(job.stream)
            assert (job.target == 3).all()

    assert in_thread(work) == []
    Doubling(device).enqueue()


@pytest.mark.parametrize("old_first", [True, False])
def test_a_second_device_in_one_thread_outlives_the_first_or_not(backend: Any, old_first: bool) -> None:
    old, new = open_cuda(backend), open_cuda(backend)
    while_both = Doubling(old)  # made when the new one is the latest opened
    Doubling(new)
    first, last = (old, new) if old_first else (new, old)
    if not old_first:
        first.close()
        while_both.source[...] = 8
        while_both.enqueue()
        old.synchronise(while_both.stream)
        assert (while_both.target == 8).all()
    first.close()
    job = Doubling(last)
    job.source[...] = 8
    job.enqueue()
    last.synchronise(job.stream)
    assert (job.target == 8).all()
    last.close()


@on_double
def test_a_thread_with_a_context_of_its_own_is_refused(backend: Any, double: Double) -> None:
    pop = double.push_own_context()
    with pytest.raises(CudaUnavailable, match="already has another CUDA context"):
        open_cuda(backend)
    assert double.depth() == 1
    pop()


@on_double
def test_two_different_devices_in_one_thread_are_refused(device: CudaDevice, backend: Any) -> None:
    with pytest.raises(CudaUnavailable, match="already has another CUDA context"):
        open_cuda(backend, 1)
    Doubling(device).enqueue()


# Opening


@on_double
@pytest.mark.parametrize("call", ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent"])
def test_an_error_while_opening_leaves_nothing_and_names_the_call(backend: Any, double: Double, call: str) -> None:
    before = double.counts()
    double.fail(call, 999)
    with pytest.raises(CudaUnavailable, match=f"{backend}: {call}: CUDA_ERROR_UNKNOWN"):
        open_cuda(backend)
    assert double.counts() == before
    assert double.depth() == 0
    open_cuda(backend).close()


def test_a_device_that_is_not_there_is_a_user_s_mistake_in_one_line(backend: Any) -> None:
    with pytest.raises(UserError, match="CUDA_ERROR_INVALID_DEVICE; there is no GPU of this number") as caught:
        open_cuda(backend, 99)
    assert "\n" not in str(caught.value)


@pytest.mark.driver_double
def test_auto_takes_the_one_with_graphs() -> None:
    with open_cuda() as device:
        assert device.name == "cuda-python"


@pytest.mark.parametrize("backend", ON_DOUBLE[1:], indirect=True)
def test_auto_goes_on_to_the_next(backend: str, double: Double) -> None:
    double.fail("cuInit", 100)
    with open_cuda() as device:
        assert device.name == backend


def test_without_cuda_the_package_imports_and_opening_gives_both_reasons() -> None:
    script = """
import sys
sys.modules["cuda"] = sys.modules["pycuda"] = None  # as on a machine that has neither
from edge_runtime.cuda import CudaUnavailable, open_cuda
try:
    open_cuda()
except CudaUnavailable as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert re.fullmatch(
        r"CUDA is not usable \(cuda-python: .*pip install 'edge-runtime\[cuda13\]'.*; "
        r"pycuda: .*pip install 'edge-runtime\[pycuda\]'\)\n",
        done.stdout,
    )


def test_importing_the_package_loads_no_cuda() -> None:
    script = """
import sys
before = set(sys.modules)  # cuda-bindings 12 puts its namespace there whenever Python starts
import edge_runtime.cuda
print([m for m in set(sys.modules) - before if m.split(".")[0] in ("cuda", "pycuda")])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
