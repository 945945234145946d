"""CUDA through NVIDIA's own bindings (`cuda.bindings`, the driver API), from 12.6 on."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.cuda.device import (
    NO_DRIVER,
    OTHER_CONTEXT,
    CudaDevice,
    CudaError,
    CudaUnavailable,
    DeviceInfo,
    Pinned,
)
from edge_runtime.cuda.driver import how_to_install, served_cuda

_NO_FUNCTION = "CUDA_ERROR_NOT_FOUND"


class CudaPythonDevice(CudaDevice):
    """See CudaDevice; with CUDA graphs."""

    name = "cuda-python"
    has_graphs = True

    def info(self) -> DeviceInfo:
        self.check_use()
        driver = self._driver
        attributes = driver.CUdevice_attribute

        def attribute(name: str) -> int:
            attribute_id = getattr(attributes, f"CU_DEVICE_ATTRIBUTE_{name}")
            return int(self._call(driver.cuDeviceGetAttribute, attribute_id, self._handle))

        return DeviceInfo(
            name=self._call(driver.cuDeviceGetName, 256, self._handle).split(b"\0")[0].decode(errors="replace"),
            compute=f"{attribute('COMPUTE_CAPABILITY_MAJOR')}.{attribute('COMPUTE_CAPABILITY_MINOR')}",
            integrated=bool(attribute("INTEGRATED")),
            can_map_host_memory=bool(attribute("CAN_MAP_HOST_MEMORY")),
            total_bytes=int(self._call(driver.cuDeviceTotalMem, self._handle)),
            driver=int(self._call(driver.cuDriverGetVersion)),
        )

    def free_bytes(self) -> int:
        self.check_use()
        free, _total = self._call(self._driver.cuMemGetInfo)
        return int(free)

    def _call(self, function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
        """The one way into the driver: what `function` returns beside its status, or CudaError."""
        try:
            status, *values = function(*arguments)
        except RuntimeError as error:  # the installed driver is older than this function
            raise CudaError(function.__name__, _NO_FUNCTION, str(error).splitlines()[0]) from None
        if status != self._success:
            raise CudaError(function.__name__, status.name)
        return values[0] if len(values) == 1 else values

    def _enter(self, ordinal: int) -> None:
        try:
            from cuda.bindings import driver
        except (ImportError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise CudaUnavailable(f"cuda.bindings does not load ({reason}); {how_to_install(served_cuda())}") from None
        self._driver = driver
        self._success = driver.CUresult.CUDA_SUCCESS
        try:
            self._call(driver.cuInit, 0)
        except CudaError as error:
            raise CudaUnavailable(NO_DRIVER if error.code == _NO_FUNCTION else str(error)) from None
        try:
            self._handle = self._call(driver.cuDeviceGet, ordinal)
            self._context = self._call(driver.cuDevicePrimaryCtxRetain, self._handle)
            try:
                current = int(self._call(driver.cuCtxGetCurrent))
                if current not in {0, int(self._context)}:
                    raise CudaUnavailable(OTHER_CONTEXT)
                self._call(driver.cuCtxPushCurrent, self._context)
            except BaseException:
                self._call(driver.cuDevicePrimaryCtxRelease, self._handle)
                raise
        except CudaError as error:
            raise CudaUnavailable(str(error)) from None

    def _leave(self) -> None:
        popped = self._call(self._driver.cuCtxPopCurrent)
        self._call(self._driver.cuDevicePrimaryCtxRelease, self._handle)
        if int(popped) != int(self._context):
            raise CudaError("cuCtxPopCurrent", "CUDA_ERROR_INVALID_CONTEXT")

    def _finish(self) -> None:
        self._call(self._driver.cuCtxSynchronize)

    def _make_stream(self) -> int:
        return int(self._call(self._driver.cuStreamCreate, self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING))

    def _free_stream(self, stream: int) -> None:
        self._call(self._driver.cuStreamDestroy, stream)

    def _synchronise(self, stream: int) -> None:
        self._call(self._driver.cuStreamSynchronize, stream)

    def _allocate(self, nbytes: int) -> int:
        return int(self._call(self._driver.cuMemAlloc, nbytes))

    def _free(self, pointer: int) -> None:
        self._call(self._driver.cuMemFree, pointer)

    def _pin(self, shape: tuple[int, ...], dtype: np.dtype[Any], mapped: bool) -> tuple[Pinned, Callable[[], None]]:
        driver = self._driver
        nbytes = math.prod(shape) * dtype.itemsize
        address = int(self._call(driver.cuMemHostAlloc, nbytes, driver.CU_MEMHOSTALLOC_DEVICEMAP if mapped else 0))
        try:
            pointer = int(self._call(driver.cuMemHostGetDevicePointer, address, 0)) if mapped else 0
        except CudaError:
            self._call(driver.cuMemFreeHost, address)
            raise
        array = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address)).view(dtype).reshape(shape)
        return Pinned(array, pointer), lambda: self._call(driver.cuMemFreeHost, address)

    def _upload(self, pointer: int, array: NDArray[Any], stream: int) -> None:
        self._call(self._driver.cuMemcpyHtoDAsync, pointer, array.ctypes.data, array.nbytes, stream)

    def _download(self, array: NDArray[Any], pointer: int, stream: int) -> None:
        self._call(self._driver.cuMemcpyDtoHAsync, array.ctypes.data, pointer, array.nbytes, stream)

    def _make_event(self, timing: bool) -> int:
        flags = self._driver.CUevent_flags
        return int(
            self._call(self._driver.cuEventCreate, flags.CU_EVENT_DEFAULT if timing else flags.CU_EVENT_DISABLE_TIMING)
        )

    def _free_event(self, event: int) -> None:
        self._call(self._driver.cuEventDestroy, event)

    def _record(self, event: int, stream: int) -> None:
        self._call(self._driver.cuEventRecord, event, stream)

    def _wait(self, stream: int, event: int) -> None:
        self._call(self._driver.cuStreamWaitEvent, stream, event, 0)

    def _elapsed_ms(self, start: int, stop: int) -> float:
        self._call(self._driver.cuEventSynchronize, stop)
        return float(self._call(self._driver.cuEventElapsedTime, start, stop))

    def _capture(self, stream: int, work: Callable[[], None]) -> int:
        driver = self._driver
        # Thread-local: another thread's allocations (a second device during a reload) must not spoil this capture.
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call(driver.cuStreamBeginCapture, stream, mode)
        try:
            work()
        except BaseException:
            # The stream refuses all else until its capture has ended; why it ended badly is the error under way.
            status, graph = driver.cuStreamEndCapture(stream)
            if status == self._success:
                driver.cuGraphDestroy(graph)
            raise
        graph = self._call(driver.cuStreamEndCapture, stream)
        try:
            return int(self._call(driver.cuGraphInstantiate, graph, 0))
        finally:
            self._call(driver.cuGraphDestroy, graph)

    def _launch(self, graph: int, stream: int) -> None:
        self._call(self._driver.cuGraphLaunch, graph, stream)

    def _free_graph(self, graph: int) -> None:
        self._call(self._driver.cuGraphExecDestroy, graph)
