"""What stands in for TensorRT's runtime where TensorRT cannot: the same objects, with torch computing the graphs.

`TensorRTEngine` is the device's own code: its buffers, copies, streams, graph capture, waiting and closing. It asks a
runtime for an engine, an engine for a context, and a context to enqueue work on one of *its* streams that reads and
writes *its* device pointers. Here these objects are `TorchGraph`s on those very pointers and streams, so that all of
that code can be proven on any CUDA GPU, and (with a `Launcher` for it) on the driver double.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.torch_graph import TorchGraph
from edge_runtime import infer
from edge_runtime.config import EngineConfig
from edge_runtime.cuda import CudaChoice, CudaDevice, open_cuda
from edge_runtime.errors import BundleError, EngineError
from edge_runtime.infer.engine import Backend, Compiled
from edge_runtime.infer.tensorrt.engine import TensorRTEngine
from edge_runtime.infer.tensorrt.library import Library, MessageLog
from edge_runtime.tensors import TensorSpec


class Launcher(Protocol):
    """How torch reaches a device's memory and streams."""

    @property
    def device(self) -> torch.device:
        """Where torch keeps the constants."""

    def view(self, address: int, shape: Sequence[int], dtype: np.dtype[Any]) -> Tensor:
        """The memory at `address` (device memory, or mapped host memory) as a tensor; nothing is copied."""

    def launch(self, stream: int, work: Callable[[], None]) -> None:
        """Enqueue what `work` does on `stream`, without waiting."""

    def close(self) -> None:
        """Let go of memory kept between launches."""


_lost: list[Any] = []
"""Memory pools of a lost device: torch ends the process where one of them is freed."""


@contextmanager
def _torch_errors() -> Iterator[None]:
    """torch's errors as a TensorRT library's would come: an EngineError in one line."""
    try:
        yield
    except RuntimeError as error:
        raise EngineError(f"torch: {(str(error).splitlines() or [type(error).__name__])[0]}") from None


class _Memory:
    """Device memory as torch takes it over: https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html"""

    def __init__(self, address: int, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
        self.__cuda_array_interface__ = {
            "data": (address, False),
            "shape": tuple(shape),
            "typestr": dtype.str,
            "version": 3,
        }


class CudaLauncher:
    """On a GPU, in the primary context that our devices and torch share. Thread: the device's."""

    def __init__(self) -> None:
        self.device = torch.device("cuda", 0)
        # Comparisons with single precision need single precision, and the same answer every time.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        torch.backends.cudnn.deterministic = True
        # A captured graph writes its intermediate results again on every replay: nobody else may get their memory.
        # Within a pool torch keeps each stream's apart, and every engine has a stream of its own.
        with _torch_errors():
            self._pool = torch.cuda.MemPool()

    def view(self, address: int, shape: Sequence[int], dtype: np.dtype[Any]) -> Tensor:
        """See Launcher."""
        with _torch_errors():
            return torch.as_tensor(_Memory(address, shape, dtype), device=self.device)

    def launch(self, stream: int, work: Callable[[], None]) -> None:
        """See Launcher."""
        with _torch_errors(), torch.cuda.stream(_external(stream)), torch.cuda.use_mem_pool(self._pool):
            work()

    def close(self) -> None:
        """See Launcher."""
        try:
            torch._C._cuda_clearCublasWorkspaces()  # they lie in the pool, kept by stream
            torch.cuda.synchronize()
        except RuntimeError:
            _lost.append(self._pool)


def _external(stream: int) -> Any:
    made: Any = torch.cuda.ExternalStream
    return made(stream)


class _Severity(Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class _Logger:
    Severity = _Severity


class _TensorIOMode(Enum):
    INPUT = 0
    OUTPUT = 1


class TorchLibrary(Library):
    """Stands where a TensorRT library does; says what it is."""

    def __str__(self) -> str:
        return f"torch {self.version}"


def torch_library() -> TorchLibrary:
    """torch as the library of engines."""
    module = SimpleNamespace(ILogger=_Logger, TensorIOMode=_TensorIOMode)
    return TorchLibrary("tensorrt", str(torch.__version__), module, MessageLog(module))


class TorchRuntime:
    """A TensorRT runtime's double: a "plan" is the ONNX graph itself."""

    def __init__(self, library: Library, launcher: Launcher) -> None:
        self._library = library
        self._launcher = launcher

    def say(self, error: str) -> None:
        """Put an error into the library's log, as TensorRT does before it answers False or None."""
        self._library.messages.logger.log(_Severity.ERROR, error)

    def deserialize_cuda_engine(self, plan: bytes) -> TorchEngine | None:
        """None, with the reason in the library's log, where the graph cannot be translated."""
        try:
            with _torch_errors():
                graph = TorchGraph(plan, self._launcher.device)
        except (BundleError, EngineError) as error:
            self.say(str(error))
            return None
        return TorchEngine(self, graph, self._launcher)


class TorchEngine:
    """A TensorRT engine's double."""

    def __init__(self, runtime: TorchRuntime, graph: TorchGraph, launcher: Launcher) -> None:
        self.runtime = runtime
        self.graph = graph
        self.launcher = launcher
        self._tensors = graph.inputs | graph.outputs

    @property
    def num_io_tensors(self) -> int:
        """Inputs and outputs together."""
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        """Name of input or output number `index`."""
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> _TensorIOMode:
        """Whether it is an input."""
        return _TensorIOMode.INPUT if name in self.graph.inputs else _TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        """Something whose `name` is the type's in TensorRT, or NumPy's where they agree in nothing else."""
        return SimpleNamespace(name=self._tensors[name][0].name)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """The fixed shape."""
        return self._tensors[name][1]

    def create_execution_context(self) -> TorchContext:
        """A context of its own buffers."""
        return TorchContext(self)


class TorchContext:
    """A TensorRT execution context's double."""

    def __init__(self, engine: TorchEngine) -> None:
        self._engine = engine
        self._views: dict[str, Tensor] = {}
        self.refuses = 0
        """Runs to come that are refused, as by a library that fails."""

    def set_tensor_address(self, name: str, address: int) -> bool:
        """Bind an input or output to the memory at `address`."""
        dtype, shape = self._engine.graph.inputs.get(name) or self._engine.graph.outputs[name]
        self._views[name] = self._engine.launcher.view(address, shape, dtype)
        return True

    def execute_async_v3(self, stream: int) -> bool:
        """Enqueue one run on `stream`. False where the run is refused."""
        if self.refuses:
            self.refuses -= 1
            self._engine.runtime.say("it was told to refuse this run")
            return False
        try:
            self._engine.launcher.launch(stream, self._compute)
        except EngineError as error:
            self._engine.runtime.say(str(error))
            return False
        return True

    def _compute(self) -> None:
        graph = self._engine.graph
        for name, value in graph({name: self._views[name] for name in graph.inputs}).items():
            self._views[name].copy_(value)


class TorchBackend(Backend):
    """Engines of one GPU, computed by torch. Thread: the one that opened the device."""

    name = "torch"

    def __init__(self, device: CudaDevice, launcher: Callable[[], Launcher] = CudaLauncher) -> None:
        """Takes the device over: `close` closes it."""
        self.device = device
        self.library = torch_library()
        self.launcher = launcher()
        self.runtime = TorchRuntime(self.library, self.launcher)
        self._engines: dict[str, TensorRTEngine] = {}

    def open_engine(
        self,
        name: str,
        precision: str,
        model: bytes,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        ahead_of_time: Sequence[Compiled] = (),
    ) -> TensorRTEngine:
        """See Backend: the device's own engine, with torch inside."""
        engine = TensorRTEngine(
            name, precision, inputs, outputs, model, library=self.library, runtime=self.runtime, device=self.device
        )
        engine.backend = self.name
        self._engines[name] = engine
        return engine

    def break_engine(self, name: str) -> None:
        """Let the next run of an open engine fail when it is launched: its graph is gone, or the library refuses."""
        engine = self._engines[name]
        if engine._graph is not None:
            engine._graph.close()
        else:
            engine._context.refuses += 1

    def close(self) -> None:
        """See Backend."""
        if self.device.is_open:
            self.launcher.close()
        self._engines.clear()
        self.device.close()


@dataclass(frozen=True)
class TorchEngines:
    """What `torch_engines` gives: the settings to run with, and the back ends opened with them so far."""

    settings: EngineConfig
    backends: list[TorchBackend]


@contextmanager
def torch_engines(cuda: CudaChoice, launcher: Callable[[], Launcher] = CudaLauncher) -> Iterator[TorchEngines]:
    """While open, `backend = "tensorrt"` means torch: for pipelines and runtimes that know nothing of it."""
    made = TorchEngines(EngineConfig(backend="tensorrt", cuda=cuda, fallback=False), [])

    def open_backend(settings: EngineConfig) -> Backend:
        device = open_cuda(settings.cuda)
        try:
            made.backends.append(TorchBackend(device, launcher))
        except BaseException:
            device.close()
            raise
        return made.backends[-1]

    usual = infer.BACKENDS["tensorrt"]
    infer.BACKENDS["tensorrt"] = open_backend
    try:
        yield made
    finally:
        infer.BACKENDS["tensorrt"] = usual
