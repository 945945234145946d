"""The contract of CUDA devices, one file for both back ends: on the driver double, and on a GPU where there is one."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from edge_runtime.cuda import CudaDevice, CudaError, open_cuda
from edge_runtime.errors import EngineError
from tests.cuda.devices import (
    ON_DOUBLE,
    ON_GPU,
    Doubling,
    graphs_on_double,
    on_double,
    pinned,
    with_graphs,
)
from tests.cuda.double import ILLEGAL_ADDRESS, TOTAL_BYTES, Double

# What a device is


def test_it_tells_what_it_is(device: CudaDevice, backend: str) -> None:
    info = device.info()
    assert device.name == backend
    assert info.name
    assert re.fullmatch(r"\d+\.\d", info.compute)
    assert info.driver >= 12000
    assert 0 < device.free_bytes() <= info.total_bytes


@on_double
def test_it_tells_the_double_s_figures(device: CudaDevice) -> None:
    info = device.info()
    assert (info.name, info.compute, info.driver) == ("Driver double 0", "8.7", 13000)
    assert (info.integrated, info.can_map_host_memory, info.total_bytes) == (True, True, TOTAL_BYTES)


@on_double
def test_another_device_is_opened_by_its_number(backend: Any) -> None:
    with open_cuda(backend, 1) as device:
        assert (device.info().name, device.info().compute) == ("Driver double 1", "8.6")
        assert not device.info().integrated


# Memory and copies


def test_what_goes_up_comes_down(device: CudaDevice) -> None:
    stream = device.stream()

    @settings(max_examples=40)
    @given(arrays.arrays(arrays.scalar_dtypes(), arrays.array_shapes(max_dims=4, max_side=7)))
    def check(values: NDArray[Any]) -> None:
        with device.scope() as scope:
            up, down = pinned(scope, values), pinned(scope, np.zeros_like(values))
            pointer = scope.allocate(values.nbytes)
            device.upload(pointer, up, stream)
            device.download(down, pointer, stream)
            device.synchronise(stream)
            assert down.tobytes() == values.tobytes()
            assert (down.shape, down.dtype) == (values.shape, values.dtype)

    check()


def test_mapped_memory_is_one_memory_for_both(device: CudaDevice) -> None:
    if not device.info().can_map_host_memory:
        pytest.skip("this GPU cannot map host memory")
    stream = device.stream()
    mapped = device.pinned((2, 3), np.int32, mapped=True)
    seen = pinned(device, np.zeros((2, 3), np.int32))
    mapped.array[...] = np.arange(6).reshape(2, 3)
    device.download(seen, mapped.pointer, stream)
    device.synchronise(stream)
    assert seen.tolist() == [[0, 1, 2], [3, 4, 5]]
    device.upload(mapped.pointer, pinned(device, np.full((2, 3), 9, np.int32)), stream)
    device.synchronise(stream)
    assert (mapped.array == 9).all()


def test_memory_that_is_not_mapped_has_no_address_on_the_device(device: CudaDevice) -> None:
    assert device.pinned((4,), np.uint8).pointer == 0


def test_an_array_with_gaps_is_refused(device: CudaDevice) -> None:
    stream, pointer = device.stream(), device.allocate(64)
    image = pinned(device, np.zeros((4, 4), np.float32))
    with pytest.raises(EngineError, match="not contiguous"):
        device.upload(pointer, image[:, ::2], stream)
    with pytest.raises(EngineError, match="not contiguous"):
        device.download(image.T, pointer, stream)


@on_double
def test_a_copy_past_the_end_is_refused_with_the_call_and_the_error(device: CudaDevice) -> None:
    stream, pointer = device.stream(), device.allocate(8)
    with pytest.raises(CudaError, match="cuMemcpyHtoDAsync: CUDA_ERROR_INVALID_VALUE") as caught:
        device.upload(pointer, pinned(device, np.zeros(9, np.uint8)), stream)
    assert caught.value.call.startswith("cuMemcpyHtoDAsync")
    assert caught.value.code == "CUDA_ERROR_INVALID_VALUE"
    assert not caught.value.device_lost


def test_out_of_memory_says_how_much_and_what_to_do(device: CudaDevice) -> None:
    with pytest.raises(CudaError) as caught:
        device.allocate(1 << 44)
    message = str(caught.value)
    assert "\n" not in message
    assert re.search(
        r"CUDA_ERROR_OUT_OF_MEMORY; asked for 16777216.0 MiB of device memory, [\d.]+ MiB are free; close other",
        message,
    )
    assert device.allocate(64)  # all is well after it


@on_double
def test_out_of_page_locked_memory_says_so(device: CudaDevice) -> None:
    with pytest.raises(CudaError, match="CUDA_ERROR_OUT_OF_MEMORY; asked for 2048.0 MiB of page-locked host memory"):
        device.pinned((2, 1 << 30), np.uint8)


@on_double
def test_page_locked_memory_that_cannot_be_mapped_is_not_kept(device: CudaDevice, double: Double) -> None:
    double.fail("cuMemHostGetDevicePointer", 801)
    with pytest.raises(CudaError, match="cuMemHostGetDevicePointer: CUDA_ERROR_NOT_SUPPORTED"):
        device.pinned((2,), np.uint8, mapped=True)
    assert double.counts()["host memory"] == 0


# Streams, events, timers


def test_a_stream_waits_for_another(device: CudaDevice) -> None:
    first, second = device.stream(), device.stream()
    up, down = pinned(device, np.arange(5.0)), pinned(device, np.zeros(5))
    pointer = device.allocate(up.nbytes)
    device.upload(pointer, up, first)
    device.wait(second, device.record(first))
    device.download(down, pointer, second)
    device.synchronise(second)
    assert down.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


@on_double
def test_marking_makes_nothing_new(device: CudaDevice, double: Double) -> None:
    first, second = device.stream(), device.stream()
    before = double.counts()
    events = set()
    for _ in range(50):
        events.add(device.record(first))
        device.wait(second, device.record(first))
    assert double.counts() == before
    assert len(events) == 1


def test_a_timer_tells_milliseconds(device: CudaDevice) -> None:
    job = Doubling(device)
    timer = device.timer(job.stream)
    times = []
    for _ in range(3):
        timer.start()
        job.enqueue()
        timer.stop()
        times.append(timer.elapsed_ms())
    assert all(0 <= time < 10_000 for time in times)
    assert (job.target == job.source).all()  # the end of the measurement is waited for


def test_a_timer_that_was_not_started_says_so(device: CudaDevice) -> None:
    with pytest.raises(CudaError, match="cuEventElapsedTime"):
        device.timer(device.stream()).elapsed_ms()


def test_an_unknown_stream_or_event_is_refused(device: CudaDevice) -> None:
    stream, pointer = device.stream(), device.allocate(8)
    array = pinned(device, np.zeros(8, np.uint8))
    calls: list[Callable[[], object]] = [
        lambda: device.upload(pointer, array, 12345),
        lambda: device.download(array, pointer, 12345),
        lambda: device.record(12345),
        lambda: device.wait(12345, device.record(stream)),
        lambda: device.wait(stream, 12345),
        lambda: device.synchronise(12345),
        lambda: device.timer(12345),
    ]
    for call in calls:
        with pytest.raises(EngineError, match="0x3039"):
            call()


# Graphs


@with_graphs
def test_a_graph_is_not_run_when_captured_and_sees_new_data_on_every_launch(device: CudaDevice) -> None:
    job = Doubling(device)
    job.source[...] = 1
    graph = device.capture(job.stream, job.enqueue)
    device.synchronise(job.stream)
    assert (job.target == 0).all()
    for value in (2, 3):
        job.source[...] = value
        graph.launch(job.stream)
        device.synchronise(job.stream)
        assert (job.target == value).all()


@with_graphs
def test_a_graph_may_take_a_second_stream_along(device: CudaDevice) -> None:
    job = Doubling(device)
    side = device.stream()
    echo = pinned(device, np.zeros(8, np.float32))

    def work() -> None:
        job.enqueue()
        device.wait(side, device.record(job.stream))
        device.download(echo, job.pointer, side)
        device.wait(job.stream, device.record(side))

    graph = device.capture(job.stream, work)
    job.source[...] = 7
    graph.launch(job.stream)
    device.synchronise(job.stream)
    assert (job.target == 7).all()
    assert (echo == 7).all()


@with_graphs
def test_what_the_work_raises_comes_through_and_the_stream_goes_on(device: CudaDevice) -> None:
    job = Doubling(device)

    def work() -> None:
        job.enqueue()
        raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        device.capture(job.stream, work)
    job.source[...] = 5
    job.enqueue()
    device.synchronise(job.stream)
    assert (job.target == 5).all()
    device.capture(job.stream, job.enqueue).launch(job.stream)


@with_graphs
def test_work_that_waits_cannot_be_captured(device: CudaDevice) -> None:
    job = Doubling(device)
    with pytest.raises(CudaError, match="cuStreamSynchronize: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED; .*without"):
        device.capture(job.stream, lambda: device.synchronise(job.stream))
    job.enqueue()
    device.synchronise(job.stream)


@graphs_on_double
def test_a_graph_that_cannot_be_made_leaves_nothing(device: CudaDevice, double: Double) -> None:
    job = Doubling(device)
    double.fail("cuGraphInstantiateWithFlags", 2)
    with pytest.raises(CudaError, match="CUDA_ERROR_OUT_OF_MEMORY"):
        device.capture(job.stream, job.enqueue)
    assert (double.counts()["graphs"], double.counts()["executable graphs"]) == (0, 0)


@graphs_on_double
def test_capturing_again_and_again_keeps_one_graph(device: CudaDevice, double: Double) -> None:
    job = Doubling(device)
    for _ in range(5):
        graph = device.capture(job.stream, job.enqueue)
        assert (double.counts()["graphs"], double.counts()["executable graphs"]) == (0, 1)
        graph.close()
        graph.close()
    with pytest.raises(EngineError, match="after close"):
        graph.launch(job.stream)


@graphs_on_double
def test_a_graph_outlived_by_its_scope_closes_in_peace_and_does_not_launch(device: CudaDevice) -> None:
    scope = device.scope()
    job = Doubling(device, scope)
    graph = scope.capture(job.stream, job.enqueue)
    scope.close()
    graph.close()
    with pytest.raises(EngineError, match="after close"):
        graph.launch(job.stream)


@pytest.mark.parametrize("backend", [ON_DOUBLE[1], ON_GPU[1]], indirect=True)
def test_a_back_end_without_graphs_names_the_one_with(device: CudaDevice) -> None:
    job = Doubling(device)
    assert not device.has_graphs
    with pytest.raises(EngineError, match='pycuda has no graphs; use cuda = "cuda-python"'):
        device.capture(job.stream, job.enqueue)


# Who owns what, and for how long


@on_double
def test_a_scope_frees_its_own_and_the_device_stays(device: CudaDevice, double: Double) -> None:
    kept = Doubling(device)
    before = double.counts()
    for value in (1, 2):
        with device.scope() as scope:
            job = Doubling(device, scope)
            timer = scope.timer(job.stream)
            with scope.scope() as inner:
                inner.allocate(16)
            assert double.counts() != before
        assert double.counts() == before
        for use in (scope.stream, timer.start):
            with pytest.raises(EngineError, match=r"^CUDA \w+: used after close$"):
                use()
        with pytest.raises(EngineError, match=f"CUDA stream {job.stream:#x} is not open on this device"):
            device.synchronise(job.stream)
        kept.source[...] = value
        kept.enqueue()
        device.synchronise(kept.stream)
        assert (kept.target == value).all()


def test_a_closed_scope_is_let_go(device: CudaDevice) -> None:
    scope = device.scope()
    watched = weakref.ref(scope)
    scope.close()
    del scope
    gc.collect()
    assert watched() is None


@on_double
def test_closing_waits_for_copies_under_way(device: CudaDevice) -> None:
    scope = device.scope()
    job = Doubling(device, scope)
    outside = pinned(device, np.zeros(8, np.float32))
    job.source[...] = 4
    device.upload(job.pointer, job.source, job.stream)
    device.download(outside, job.pointer, job.stream)
    scope.close()
    scope.close()
    assert (outside == 4).all()


@on_double
def test_closing_the_device_frees_the_scopes_in_it(backend: Any, double: Double) -> None:
    before = double.counts()
    device = open_cuda(backend)
    scope = device.scope().scope()
    Doubling(device, scope)
    assert double.counts() != before
    device.close()
    assert double.counts() == before
    scope.close()


@on_double
def test_an_error_half_way_through_a_scope_leaves_nothing(device: CudaDevice, double: Double) -> None:
    before = double.counts()
    with pytest.raises(CudaError, match="OUT_OF_MEMORY"), device.scope() as scope:
        Doubling(device, scope)
        scope.allocate(TOTAL_BYTES)
    assert double.counts() == before


@on_double
@pytest.mark.parametrize("call", ["cuStreamCreate", "cuEventCreate", "cuMemAlloc", "cuMemHostAlloc"])
def test_a_refused_object_is_an_engine_error_and_leaves_nothing(device: CudaDevice, double: Double, call: str) -> None:
    before = double.counts()
    double.fail(call, 999)
    with (
        pytest.raises(EngineError, match=f"{call}: CUDA_ERROR_UNKNOWN; the driver is in a bad state"),
        device.scope() as scope,
    ):
        Doubling(device, scope)
    assert double.counts() == before


@on_double
def test_an_error_on_closing_is_told_when_all_is_freed(backend: Any, double: Double) -> None:
    device = open_cuda(backend)
    Doubling(device)
    double.fail("cuCtxSynchronize", 999)
    with pytest.raises(CudaError, match="cuCtxSynchronize: CUDA_ERROR_UNKNOWN"):
        device.close()
    device.close()


@on_double
def test_a_lost_device_says_so_and_closes_in_peace(backend: Any, double: Double) -> None:
    device = open_cuda(backend)
    stream = device.stream()
    device.allocate(32)
    double.lose_device(ILLEGAL_ADDRESS)
    with pytest.raises(
        CudaError, match="CUDA_ERROR_ILLEGAL_ADDRESS; the device is lost to this process: restart it"
    ) as caught:
        device.synchronise(stream)
    assert caught.value.device_lost
    device.close()
    assert double.depth() == 0
    assert double.counts()["primary contexts"] == 0
    double.forget()


def test_after_close_it_refuses_and_closing_twice_is_harmless(backend: Any) -> None:
    device = open_cuda(backend)
    stream = device.stream()
    device.close()
    device.close()
    uses: list[Callable[[], object]] = [
        device.info, device.free_bytes, device.stream, device.scope,
        lambda: device.allocate(8),
        lambda: device.pinned((1,), np.uint8),
        lambda: device.synchronise(stream),
        lambda: device.record(stream),
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(EngineError, match="after close"):
            use()
