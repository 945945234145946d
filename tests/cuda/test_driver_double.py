"""The driver double catches what it is there to catch."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.cuda import CudaDevice, CudaError, open_cuda
from tests.cuda import double
from tests.cuda.double import Double

pytestmark = pytest.mark.driver_double


@pytest.fixture
def device() -> Iterator[CudaDevice]:
    with open_cuda("cuda-python") as opened:
        yield opened


def test_a_result_read_too_early_is_not_there_yet(device: CudaDevice) -> None:
    stream, pointer = device.stream(), device.allocate(4)
    up, down = device.pinned((4,), np.uint8).array, device.pinned((4,), np.uint8).array
    up[:], down[:] = 1, 0
    device.upload(pointer, up, stream)
    device.download(down, pointer, stream)
    assert (down == 0).all()
    up[:] = 2  # too early as well
    device.synchronise(stream)
    assert (down == 2).all()


def test_streams_know_nothing_of_each_other_unless_told(device: CudaDevice) -> None:
    first, second = device.stream(), device.stream()
    pointer = device.allocate(4)
    up, down = device.pinned((4,), np.uint8).array, device.pinned((4,), np.uint8).array
    up[:] = 1
    device.upload(pointer, up, first)
    device.download(down, pointer, second)
    device.synchronise(second)
    assert not (down == 1).any()


def test_pageable_memory_is_read_when_enqueued(device: CudaDevice) -> None:
    stream, pointer = device.stream(), device.allocate(4)
    up, down = np.full(4, 1, np.uint8), np.zeros(4, np.uint8)
    device.upload(pointer, up, stream)
    up[:] = 2
    device.download(down, pointer, stream)
    assert (down == 1).all()


def test_freed_memory_is_refused_and_never_handed_out_again(device: CudaDevice) -> None:
    stream, array = device.stream(), device.pinned((16,), np.uint8).array
    seen = set()
    for _ in range(20):
        with device.scope() as scope:
            pointer = scope.allocate(16)
        assert pointer not in seen
        seen.add(pointer)
        with pytest.raises(CudaError, match="INVALID_VALUE"):
            device.upload(pointer, array, stream)


def test_a_graph_launched_on_freed_buffers_loses_the_device() -> None:
    device = open_cuda("cuda-python")
    stream, array = device.stream(), device.pinned((16,), np.uint8).array
    buffers = device.scope()
    pointer = buffers.allocate(16)
    graph = device.capture(stream, lambda: device.upload(pointer, array, stream))
    buffers.close()
    graph.launch(stream)
    with pytest.raises(CudaError, match="ILLEGAL_ADDRESS"):
        device.synchronise(stream)
    device.close()
    Double().forget()


def test_a_stream_forked_in_a_capture_must_be_joined(device: CudaDevice) -> None:
    stream, side = device.stream(), device.stream()
    array, pointer = device.pinned((16,), np.uint8).array, device.allocate(16)

    def work() -> None:
        device.wait(side, device.record(stream))
        device.upload(pointer, array, side)

    with pytest.raises(CudaError, match="cuStreamEndCapture: CUDA_ERROR_STREAM_CAPTURE_UNJOINED"):
        device.capture(stream, work)
    device.upload(pointer, array, side)
    device.synchronise(side)


def test_allocating_spoils_a_capture(device: CudaDevice) -> None:
    stream = device.stream()

    def work() -> None:
        device.allocate(8)

    with pytest.raises(CudaError, match="cuMemAlloc: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"):
        device.capture(stream, work)


def test_a_kernel_of_the_test_runs_in_its_turn_and_on_every_launch(device: CudaDevice) -> None:
    stream, buffer = device.stream(), device.pinned((1,), np.int32, mapped=True)
    buffer.array[:] = 1

    def kernel() -> None:
        ctypes.c_int32.from_address(buffer.pointer).value *= 3

    graph = device.capture(stream, lambda: Double().enqueue(stream, kernel))
    assert buffer.array[0] == 1
    graph.launch(stream)
    Double().enqueue(stream, kernel)
    graph.launch(stream)
    device.synchronise(stream)
    assert buffer.array[0] == 27


def test_a_call_without_a_context_fails() -> None:
    with open_cuda("cuda-python") as device:
        stream = device.stream()
        pop = ctypes.CDLL("libcuda.so.1").cuCtxPopCurrent_v2
        push = ctypes.CDLL("libcuda.so.1").cuCtxPushCurrent_v2
        context = ctypes.c_void_p()
        assert pop(ctypes.byref(context)) == 0
        with pytest.raises(CudaError, match="CUDA_ERROR_INVALID_CONTEXT; another library changed"):
            device.synchronise(stream)
        assert push(context) == 0


def test_a_stale_array_of_pinned_memory_faults(tmp_path: Path) -> None:
    script = """
import numpy as np
from edge_runtime.cuda import open_cuda
with open_cuda("cuda-python") as device:
    array = device.pinned((8,), np.uint8).array
    array[0] = 1
array[0] = 2
"""
    double.build(tmp_path)
    done = subprocess.run([sys.executable, "-c", script], env=double.environment(tmp_path), check=False)
    assert done.returncode == -11
