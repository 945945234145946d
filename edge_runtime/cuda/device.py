"""One CUDA device as the runtime sees it: whole numbers for handles, one owner for every object, one thread.

Two back ends stand behind it (`cuda_python_device`, `pycuda_device`). Both make the device's *primary* context current
in the thread that opens them, because that is the context TensorRT and every other user of the CUDA runtime share;
a context of one's own would give pointers that the others must not touch.

Everything made on a device belongs to a `Scope` and is freed when the scope closes, newest first. The device itself is
the outermost scope; an engine takes one of its own (`device.scope()`) so that it can be closed and opened again while
the device stays. Nothing is freed by the garbage collector: it may run in any thread, CUDA may not.
"""

from __future__ import annotations

import itertools
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edge_runtime.errors import EngineError, UserError


class CudaUnavailable(UserError):
    """No usable CUDA here: the message says whether library, driver or device is amiss."""


class CudaError(EngineError):
    """A CUDA call failed.

    `call` is the driver function, `code` the driver's own name of the error ("CUDA_ERROR_OUT_OF_MEMORY").
    """

    def __init__(self, call: str, code: str, detail: str = "") -> None:
        parts = (f"{call}: {code}", detail, _REMEDIES.get(code, ""))
        super().__init__("; ".join(part for part in parts if part))
        self.call = call
        self.code = code

    @property
    def device_lost(self) -> bool:
        """See EngineError: true if the context cannot be used any more: every later call in this process fails too."""
        return self.code in _LOST


NO_DRIVER = "the NVIDIA driver (libcuda.so.1) is not installed on this machine"

OTHER_CONTEXT = (
    "this thread already has another CUDA context (of another GPU, or made by pycuda.autoinit): "
    "open CUDA in a thread of its own"
)
"""Why a back end does not open where buffers of the primary context could not be used."""

_OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"

_LOST = frozenset(
    f"CUDA_ERROR_{name}"
    for name in (
        "ASSERT",
        "CONTEXT_IS_DESTROYED",
        "DEINITIALIZED",
        "ECC_UNCORRECTABLE",
        "HARDWARE_STACK_ERROR",
        "ILLEGAL_ADDRESS",
        "ILLEGAL_INSTRUCTION",
        "INVALID_ADDRESS_SPACE",
        "INVALID_PC",
        "LAUNCH_FAILED",
        "LAUNCH_TIMEOUT",
        "MISALIGNED_ADDRESS",
        "NVLINK_UNCORRECTABLE",
    )
)

_REMEDIES = dict.fromkeys(_LOST, "the device is lost to this process: restart it") | {
    _OUT_OF_MEMORY: "close other programs that use the GPU, or run fewer cameras, smaller images or FP16/INT8 engines",
    "CUDA_ERROR_INVALID_CONTEXT": "another library changed this thread's CUDA context: keep it off this thread",
    "CUDA_ERROR_NO_DEVICE": "no GPU is visible: look at CUDA_VISIBLE_DEVICES and at the rights on /dev/nvidia*",
    "CUDA_ERROR_INVALID_DEVICE": "there is no GPU of this number",
    "CUDA_ERROR_DEVICE_UNAVAILABLE": "another process has the GPU to itself (compute mode): end it, or change the mode",
    "CUDA_ERROR_OPERATING_SYSTEM": "the driver's device files refuse: add the user to the groups video and render",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "library and kernel driver differ: restart the machine after a driver update",
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": "install a newer driver, or a CUDA library that fits this one",
    "CUDA_ERROR_UNKNOWN": "the driver is in a bad state: reload its kernel module or restart the machine",
    "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED": "this work cannot be captured in a CUDA graph: run it without one",
    "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED": "this work cannot be captured in a CUDA graph: run it without one",
}


@dataclass(frozen=True)
class DeviceInfo:
    """What a device is. `compute`: compute capability ("8.7"); `driver`: the CUDA version it serves (13000 = 13.0).

    `integrated`: CPU and GPU share one memory (Jetson). `can_map_host_memory`: kernels may read pinned host memory in
    place; both together make mapped buffers cheaper than copies for data that is read once.
    """

    name: str
    compute: str
    integrated: bool
    can_map_host_memory: bool
    total_bytes: int
    driver: int


@dataclass(frozen=True)
class Pinned:
    """Page-locked host memory as an array; `pointer` is its address on the device, 0 if it is not mapped.

    The array must not be touched once the scope it came from is closed: its memory is gone then.
    """

    array: NDArray[Any]
    pointer: int


class Timer:
    """Time between two points of one stream, on the device's own clock."""

    def __init__(self, scope: Scope, stream: int, start: int, stop: int) -> None:
        self._scope = scope
        self._stream = stream
        self._start = start
        self._stop = stop

    def start(self) -> None:
        """Mark the beginning: after all that is on the stream now."""
        self._scope.check_use()
        self._scope.device._record(self._start, self._stream)

    def stop(self) -> None:
        """Mark the end: after all that is on the stream now."""
        self._scope.check_use()
        self._scope.device._record(self._stop, self._stream)

    def elapsed_ms(self) -> float:
        """Milliseconds between the two marks; waits for the second. Raises EngineError if one was never set."""
        self._scope.check_use()
        return self._scope.device._elapsed_ms(self._start, self._stop)


class Graph:
    """Work captured once, launched as one unit. Reads and writes the buffers it was captured with."""

    def __init__(self, scope: Scope, handle: int, free: Callable[[], None]) -> None:
        self._scope = scope
        self._handle = handle
        self._free = free
        self._open = True

    def launch(self, stream: int) -> None:
        """Enqueue the captured work on `stream`."""
        self._scope.check_use()
        if not self._open:
            raise EngineError("CUDA graph: launched after close")
        self._scope.device.check_stream(stream)
        self._scope.device._launch(self._handle, stream)

    def close(self) -> None:
        """Free the graph before its scope does (to capture anew, say). Harmless when called again."""
        if self._open and self._scope.is_open:
            self._scope.check_use()
            self._open = False
            self._free()


_Scope = TypeVar("_Scope", bound="Scope")


class Scope:
    """Makes streams, buffers, timers and graphs, and frees them, newest first, when it closes.

    All calls from the device's thread. Raises EngineError from any other, and after `close`.
    """

    def __init__(self, device: CudaDevice, forget: Callable[[], None]) -> None:
        """`forget` is called on closing: takes this scope out of the one around it."""
        self.device = device
        self.is_open = True
        self._forget = forget
        self._frees: dict[int, Callable[[], None]] = {}
        self._serials = itertools.count()

    def check_use(self) -> None:
        """Raise EngineError unless the scope is open and this is its device's thread."""
        self.device.check_thread()
        if not self.is_open:
            raise EngineError(f"CUDA {type(self).__name__}: used after close")

    def stream(self) -> int:
        """A new stream, which does not wait for the default stream."""
        self.check_use()
        device = self.device
        stream = device._make_stream()
        self._own(lambda: device._free_stream(stream))
        event = device._make_event(timing=False)
        device._events[stream] = event

        def free_event() -> None:
            del device._events[stream]
            device._free_event(event)

        self._own(free_event)
        return stream

    def allocate(self, nbytes: int) -> int:
        """The address of `nbytes` (at least 1) of device memory, not initialised."""
        self.check_use()
        device = self.device
        try:
            pointer = device._allocate(nbytes)
        except CudaError as error:
            if error.code != _OUT_OF_MEMORY:
                raise
            sizes = f"asked for {_mib(nbytes)} of device memory, {_mib(device.free_bytes())} are free"
            raise CudaError(error.call, error.code, sizes) from None
        self._own(lambda: device._free(pointer))
        return pointer

    def pinned(self, shape: Sequence[int], dtype: DTypeLike, mapped: bool = False) -> Pinned:
        """Page-locked host memory, not initialised; with `mapped` kernels reach it in place at `.pointer`."""
        self.check_use()
        kind = np.dtype(dtype)
        try:
            pinned, free = self.device._pin(tuple(shape), kind, mapped)
        except CudaError as error:
            if error.code != _OUT_OF_MEMORY:
                raise
            detail = f"asked for {_mib(math.prod(shape) * kind.itemsize)} of page-locked host memory"
            raise CudaError(error.call, error.code, detail) from None
        self._own(free)
        return pinned

    def timer(self, stream: int) -> Timer:
        """A timer for work on `stream`."""
        self.check_use()
        self.device.check_stream(stream)
        return Timer(self, stream, self._timing_event(), self._timing_event())

    def capture(self, stream: int, work: Callable[[], None]) -> Graph:
        """What `work` enqueues on `stream`, as a graph; nothing of it is run yet.

        `work` may only enqueue: a call that waits or allocates fails. What `work` raises comes through, and the stream
        can be used on. Raises EngineError where the back end has no graphs (`has_graphs`).
        """
        self.check_use()
        device = self.device
        device.check_stream(stream)
        handle = device._capture(stream, work)
        serial = self._own(lambda: device._free_graph(handle))

        def free() -> None:
            self._disown(serial)
            device._free_graph(handle)

        return Graph(self, handle, free)

    def scope(self) -> Scope:
        """A scope inside this one: closed with it at the latest."""
        self.check_use()
        inner = Scope(self.device, lambda: self._disown(serial))
        serial = self._own(inner._free_all)
        return inner

    def close(self) -> None:
        """Wait for the device, then free everything, newest first. Harmless when called again.

        Frees all it can before it raises (CudaError). A device that is lost is no error here: all on it went with it.
        """
        if self.is_open:
            self.check_use()
            self._forget()
            self._free_all()

    def __enter__(self: _Scope) -> _Scope:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _timing_event(self) -> int:
        device = self.device
        event = device._make_event(timing=True)
        self._own(lambda: device._free_event(event))
        return event

    def _own(self, free: Callable[[], None]) -> int:
        serial = next(self._serials)
        self._frees[serial] = free
        return serial

    def _disown(self, serial: int) -> None:
        del self._frees[serial]

    def _free_all(self) -> None:
        self.is_open = False
        # Copies may still be reading or writing what is freed below.
        steps = [self.device._finish, *reversed(self._frees.values())]
        self._frees.clear()
        _run_all(steps)


class CudaDevice(Scope, ABC):
    """One device, opened, used and closed by one thread. See `open_cuda`.

    Every method raises EngineError if called from another thread (both are named) or after `close`, and CudaError (an
    EngineError) if CUDA refuses. Copies, events, timers and graph launches are asynchronous: an error of earlier work
    may surface in a later call.
    """

    name: ClassVar[str]
    """The back end: "cuda-python" or "pycuda"."""
    has_graphs: ClassVar[bool]
    """Whether `capture` works."""

    def __init__(self, ordinal: int) -> None:
        """Make device number `ordinal`'s primary context current in this thread. Raises CudaUnavailable."""
        super().__init__(self, lambda: None)
        self._thread = threading.current_thread()
        self._events: dict[int, int] = {}
        """The event that `record` moves, by live stream."""
        self._enter(ordinal)

    def check_thread(self) -> None:
        """Raise EngineError unless this is the thread that opened the device."""
        if threading.current_thread() is not self._thread:
            raise EngineError(
                f"CUDA device of thread {self._thread.name!r} used from thread {threading.current_thread().name!r}: "
                "CUDA stays on the thread that opened it; hand arrays over instead"
            )

    def check_stream(self, stream: int) -> None:
        """Raise EngineError unless `stream` is one of this device's, not yet freed (drivers crash on a freed one)."""
        if stream not in self._events:
            raise EngineError(f"CUDA stream {stream:#x} is not open on this device")

    @abstractmethod
    def info(self) -> DeviceInfo:
        """What the device is."""

    @abstractmethod
    def free_bytes(self) -> int:
        """Device memory nobody uses now, in bytes."""

    def upload(self, pointer: int, array: NDArray[Any], stream: int) -> None:
        """Enqueue the copy of a pinned, contiguous array to device memory; leave the array alone until it is done."""
        self.check_use()
        self.check_stream(stream)
        _check_contiguous(array)
        self._upload(pointer, array, stream)

    def download(self, array: NDArray[Any], pointer: int, stream: int) -> None:
        """Enqueue the copy of device memory into a pinned, contiguous array; it holds the data after `synchronise`."""
        self.check_use()
        self.check_stream(stream)
        _check_contiguous(array)
        self._download(array, pointer, stream)

    def record(self, stream: int) -> int:
        """Mark what is on `stream` now; the event is the stream's only one, so that a later `record` moves it."""
        self.check_use()
        self.check_stream(stream)
        event = self._events[stream]
        self._record(event, stream)
        return event

    def wait(self, stream: int, event: int) -> None:
        """Let later work on `stream` begin after the mark that `event` is at now; the CPU does not wait."""
        self.check_use()
        self.check_stream(stream)
        if event not in self._events.values():
            raise EngineError(f"CUDA event {event:#x} belongs to no open stream of this device")
        self._wait(stream, event)

    def synchronise(self, stream: int) -> None:
        """Block until all work on `stream` is done."""
        self.check_use()
        self.check_stream(stream)
        self._synchronise(stream)

    def close(self) -> None:
        """Free everything that is left, newest first, and give the context back. Harmless when called again."""
        if self.is_open:
            self.check_use()
            _run_all([super().close, self._leave])

    # What a back end brings. Called from the device's thread only, with the device open.

    @abstractmethod
    def _enter(self, ordinal: int) -> None:
        """Retain the primary context and make it current, or leave nothing behind and raise CudaUnavailable."""

    @abstractmethod
    def _leave(self) -> None:
        """Undo `_enter`."""

    @abstractmethod
    def _finish(self) -> None:
        """Wait for all work on the device."""

    @abstractmethod
    def _make_stream(self) -> int: ...

    @abstractmethod
    def _free_stream(self, stream: int) -> None: ...

    @abstractmethod
    def _synchronise(self, stream: int) -> None: ...

    @abstractmethod
    def _allocate(self, nbytes: int) -> int: ...

    @abstractmethod
    def _free(self, pointer: int) -> None: ...

    @abstractmethod
    def _pin(self, shape: tuple[int, ...], dtype: np.dtype[Any], mapped: bool) -> tuple[Pinned, Callable[[], None]]:
        """The memory and what frees it."""

    @abstractmethod
    def _upload(self, pointer: int, array: NDArray[Any], stream: int) -> None: ...

    @abstractmethod
    def _download(self, array: NDArray[Any], pointer: int, stream: int) -> None: ...

    @abstractmethod
    def _make_event(self, timing: bool) -> int: ...

    @abstractmethod
    def _free_event(self, event: int) -> None: ...

    @abstractmethod
    def _record(self, event: int, stream: int) -> None: ...

    @abstractmethod
    def _wait(self, stream: int, event: int) -> None: ...

    @abstractmethod
    def _elapsed_ms(self, start: int, stop: int) -> float:
        """Wait for `stop`, then tell."""

    # Only where has_graphs.

    def _capture(self, stream: int, work: Callable[[], None]) -> int:
        raise EngineError(f'CUDA through {self.name} has no graphs; use cuda = "cuda-python"')

    def _launch(self, graph: int, stream: int) -> None:
        raise NotImplementedError

    def _free_graph(self, graph: int) -> None:
        raise NotImplementedError


def _check_contiguous(array: NDArray[Any]) -> None:
    # A strided view's bytes are not the nbytes behind its first element: CUDA would copy its neighbours.
    if not array.flags.c_contiguous:
        raise EngineError(f"CUDA copy: an array of shape {array.shape} that is not contiguous; copy it first")


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:.1f} MiB"


def _run_all(steps: Iterable[Callable[[], None]]) -> None:
    """Take every step; then raise the first CudaError that isn't just a lost device."""
    first: CudaError | None = None
    for step in steps:
        try:
            step()
        except CudaError as error:
            if first is None and not error.device_lost:
                first = error
    if first is not None:
        raise first
