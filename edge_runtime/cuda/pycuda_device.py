"""CUDA through PyCUDA. It has no graphs, and no numbers for its objects but those of streams and memory."""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Callable
from functools import cache
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

_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING, which PyCUDA takes but does not name."""


class _Contexts(threading.local):
    """This thread's primary contexts by device number, each with the number of open devices on it.

    PyCUDA frees an object in the context *object* that was on top when it was made. Two objects for one context would
    tie a device's buffers to another device that may close first.
    """

    def __init__(self) -> None:
        self.open: dict[int, tuple[Any, int]] = {}


_contexts = _Contexts()


class PycudaDevice(CudaDevice):
    """See CudaDevice; without CUDA graphs."""

    name = "pycuda"
    has_graphs = False

    def info(self) -> DeviceInfo:
        self.check_use()
        attributes = self._driver.device_attribute
        major, minor = self._call(self._handle.compute_capability)
        return DeviceInfo(
            name=self._call(self._handle.name),
            compute=f"{major}.{minor}",
            integrated=bool(self._call(self._handle.get_attribute, attributes.INTEGRATED)),
            can_map_host_memory=bool(self._call(self._handle.get_attribute, attributes.CAN_MAP_HOST_MEMORY)),
            total_bytes=int(self._call(self._handle.total_memory)),
            driver=int(self._call(self._driver.get_driver_version)),
        )

    def free_bytes(self) -> int:
        self.check_use()
        free, _total = self._call(self._driver.mem_get_info)
        return int(free)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The one way into PyCUDA: what `function` returns, or CudaError."""
        try:
            return function(*arguments)
        except self._driver.Error as error:
            # This frame lives on in the error's trace, and what it holds would not be freed when its scope closes.
            del function, arguments
            # PyCUDA keeps the text only: "cuMemAlloc failed: out of memory".
            call, _, text = str(error).partition(" failed: ")
            raise CudaError(call, _error_names().get(text, text)) from None

    def _enter(self, ordinal: int) -> None:
        try:
            from pycuda import driver  # never pycuda.autoinit: it makes a context of its own
        except (ImportError, OSError) as error:
            raise CudaUnavailable(_why_no_pycuda(str(error).splitlines()[0])) from None
        self._driver = driver
        self._ordinal = ordinal
        self._serials = itertools.count(1)
        self._streams: dict[int, Any] = {}
        self._timeline: dict[int, Any] = {}
        """PyCUDA's events, by numbers of our own."""
        self._memory: dict[int, Any] = {}
        try:
            self._call(driver.init)
            self._handle = self._call(driver.Device, ordinal)
            context, users = _contexts.open.get(ordinal, (None, 0))
            if context is None:
                context = self._call(self._handle.retain_primary_context)
                try:
                    if _current_context() not in {0, context.handle}:
                        raise CudaUnavailable(OTHER_CONTEXT)
                    self._call(context.push)
                except BaseException:
                    _detach(context)
                    raise
            _contexts.open[ordinal] = (context, users + 1)
        except CudaError as error:
            raise CudaUnavailable(str(error)) from None

    def _leave(self) -> None:
        context, users = _contexts.open.pop(self._ordinal)
        if users > 1:
            _contexts.open[self._ordinal] = (context, users - 1)
        else:
            self._call(_detach, context)

    def _finish(self) -> None:
        self._call(self._driver.Context.synchronize)

    def _make_stream(self) -> int:
        stream = self._call(self._driver.Stream, _NON_BLOCKING)
        self._streams[stream.handle] = stream
        return int(stream.handle)

    def _free_stream(self, stream: int) -> None:
        # PyCUDA destroys streams and events with their last reference, which is here.
        del self._streams[stream]

    def _synchronise(self, stream: int) -> None:
        self._call(self._streams[stream].synchronize)

    def _allocate(self, nbytes: int) -> int:
        memory = self._call(self._driver.mem_alloc, nbytes)
        self._memory[int(memory)] = memory
        return int(memory)

    def _free(self, pointer: int) -> None:
        self._call(self._memory.pop(pointer).free)

    def _pin(self, shape: tuple[int, ...], dtype: np.dtype[Any], mapped: bool) -> tuple[Pinned, Callable[[], None]]:
        flags = self._driver.host_alloc_flags.DEVICEMAP if mapped else 0
        array: NDArray[Any] = self._call(self._driver.pagelocked_empty, shape, dtype, "C", flags)
        memory = array.base
        pointer = int(self._call(memory.get_device_pointer)) if mapped else 0  # type: ignore[union-attr]
        return Pinned(array, pointer), lambda: self._call(memory.free)  # type: ignore[union-attr]

    def _upload(self, pointer: int, array: NDArray[Any], stream: int) -> None:
        self._call(self._driver.memcpy_htod_async, pointer, array, self._streams[stream])

    def _download(self, array: NDArray[Any], pointer: int, stream: int) -> None:
        self._call(self._driver.memcpy_dtoh_async, array, pointer, self._streams[stream])

    def _make_event(self, timing: bool) -> int:
        flags = self._driver.event_flags
        event = self._call(self._driver.Event, flags.DEFAULT if timing else flags.DISABLE_TIMING)
        serial = next(self._serials)
        self._timeline[serial] = event
        return serial

    def _free_event(self, event: int) -> None:
        del self._timeline[event]

    def _record(self, event: int, stream: int) -> None:
        self._call(self._timeline[event].record, self._streams[stream])

    def _wait(self, stream: int, event: int) -> None:
        self._call(self._streams[stream].wait_for_event, self._timeline[event])

    def _elapsed_ms(self, start: int, stop: int) -> float:
        self._call(self._timeline[stop].synchronize)
        return float(self._call(self._timeline[stop].time_since, self._timeline[start]))


def _why_no_pycuda(reason: str) -> str:
    if "libcuda" in reason:
        return NO_DRIVER
    return f"PyCUDA does not load ({reason}); pip install 'edge-runtime[pycuda]'"


@cache
def _libcuda() -> ctypes.CDLL:
    """The driver that PyCUDA has loaded, for what PyCUDA leaves out."""
    return ctypes.CDLL("libcuda.so.1")


def _current_context() -> int:
    context = ctypes.c_void_p()
    _libcuda().cuCtxGetCurrent(ctypes.byref(context))
    return context.value or 0


def _detach(context: Any) -> None:
    """Give a primary context back, with the thread's context stack as it was before.

    PyCUDA's `detach` releases it but leaves it on the driver's stack (it counts on `cuCtxDetach`, which pops).
    """
    context.detach()
    _libcuda().cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


@cache
def _error_names() -> dict[str, str]:
    """The driver's names of its errors by its texts for them ("out of memory": "CUDA_ERROR_OUT_OF_MEMORY")."""
    names = {}
    for code in range(1, 1000):
        name, text = ctypes.c_char_p(), ctypes.c_char_p()
        named = _libcuda().cuGetErrorName(code, ctypes.byref(name)) == 0
        if named and _libcuda().cuGetErrorString(code, ctypes.byref(text)) == 0 and name.value and text.value:
            names[text.value.decode()] = name.value.decode()
    return names
