"""TensorRT's runtime objects for a machine without a GPU, to be used on the CUDA driver double.

Only what needs a GPU is doubled: loading and running. Parsing and building are the real library's. A run is a kernel
on the driver double's stream that computes the graph (by ONNX Runtime) on the memory behind the bound addresses, so
that a copy missing, too early or to the wrong place gives a wrong answer.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from edge_runtime.cuda import CudaDevice
from edge_runtime.infer.onnxruntime_engine import session_options
from edge_runtime.infer.tensorrt.backend import TensorRTBackend
from edge_runtime.infer.tensorrt.build import Built, build_engine
from edge_runtime.infer.tensorrt.cache import EngineCache
from edge_runtime.infer.tensorrt.library import Flavour, Library, MessageLog, find_library
from tests.cuda.double import Double

NUMPY_TO_TENSORRT = {
    "uint8": "UINT8",
    "int8": "INT8",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "HALF",
    "float32": "FLOAT",
    "bool": "BOOL",
}


class TensorRTDouble:
    """Stands for the module: what is not here is the real one's."""

    def __init__(self, flavour: Flavour = "tensorrt_rtx") -> None:
        found = find_library(("tensorrt_rtx",))
        if found is None:
            pytest.skip("tensorrt_rtx, which builds the engines, is not installed")
        self.real = found.module
        self.driver = Double()
        self.library = Library(flavour, "1.7.1.116" if flavour == "tensorrt_rtx" else "10.3.0", self, MessageLog(self))
        self.graphs: dict[str, bytes] = {}
        """Digest of a plan to the graph it was built from."""
        self.events: list[str] = []
        """What was done, in order."""
        self.capturable = True
        self.runs_fail = False
        self.disturb: Callable[[int, np.ndarray], np.ndarray] = lambda run, value: value
        """Takes the number of the run and an output; what the run gives instead."""
        self.runs = 0
        self._alive: weakref.WeakSet[Any] = weakref.WeakSet()
        double = self

        class Parser(self.real.OnnxParser):  # type: ignore[misc, name-defined]
            def parse(self, model: bytes) -> bool:
                double._parsed = model
                return bool(super().parse(model))

        class Builder(self.real.Builder):  # type: ignore[misc, name-defined]
            def build_serialized_network(self, network: Any, config: Any) -> Any:
                double.events.append("build")
                plan = super().build_serialized_network(network, config)
                if plan is not None:
                    double.graphs[hashlib.sha256(bytes(plan)).hexdigest()] = double._parsed
                return plan

        self.OnnxParser = Parser
        self.Builder = Builder

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def Runtime(self, logger: Any) -> RuntimeDouble:  # noqa: N802  # the module's name
        return RuntimeDouble(self)

    def build(self, model: bytes) -> Built:
        return build_engine(self.library, model)

    def backend(self, device: CudaDevice, folder: Path) -> TensorRTBackend:
        return TensorRTBackend(self.library, device, EngineCache(folder))

    def count(self) -> int:
        """Runtimes, engines and contexts alive."""
        return len(self._alive)

    def made(self, what: Any, kind: str) -> None:
        self._alive.add(what)
        self.events.append(f"make {kind}")
        weakref.finalize(what, self._gone, kind)

    def _gone(self, kind: str) -> None:
        # TensorRT frees device memory here: a context must be current.
        self.events.append(f"free {kind}" if self.driver.depth() else f"free {kind} without a context")


class RuntimeDouble:
    def __init__(self, double: TensorRTDouble) -> None:
        self._double = double
        double.made(self, "runtime")

    def deserialize_cuda_engine(self, plan: bytes) -> EngineDouble | None:
        graph = self._double.graphs.get(hashlib.sha256(plan).hexdigest())
        if graph is None:
            error = self._double.real.ILogger.Severity.ERROR
            self._double.library.messages.logger.log(error, "header.magicTag == kEXPECTED_MAGIC_TAG failed")
            return None
        return EngineDouble(self._double, graph)


class EngineDouble:
    def __init__(self, double: TensorRTDouble, graph: bytes) -> None:
        self.double = double
        self.session = onnxruntime.InferenceSession(
            graph, session_options(1, "as written"), providers=["CPUExecutionProvider"]
        )
        parsed = onnx.load_from_string(graph).graph
        self.inputs = {value.name: value for value in parsed.input}
        self.tensors = self.inputs | {value.name: value for value in parsed.output}
        double.made(self, "engine")

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self.double.real.TensorIOMode
        return modes.INPUT if name in self.inputs else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self.double.real.DataType, NUMPY_TO_TENSORRT[self.dtype(name).name])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(dim.dim_value for dim in self.tensors[name].type.tensor_type.shape.dim)

    def dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self.tensors[name].type.tensor_type.elem_type))

    def create_runtime_config(self) -> RuntimeConfigDouble:
        return RuntimeConfigDouble(self.double)

    def create_execution_context(self, config: RuntimeConfigDouble | None = None) -> ContextDouble:
        return ContextDouble(self, config)


class RuntimeConfigDouble:
    def __init__(self, double: TensorRTDouble) -> None:
        self.cuda_graph_strategy = double.real.CudaGraphStrategy.DISABLED
        self.dynamic_shapes_kernel_specialization_strategy: Any = None
        self.cache: KernelCacheDouble | None = None

    def create_runtime_cache(self) -> KernelCacheDouble:
        return KernelCacheDouble()

    def set_runtime_cache(self, cache: KernelCacheDouble) -> bool:
        self.cache = cache
        return True


class KernelCacheDouble:
    KERNELS = b"kernels for the driver double"

    def __init__(self) -> None:
        self.warm = False

    def deserialize(self, data: bytes) -> bool:
        self.warm = data == self.KERNELS
        return self.warm

    def serialize(self) -> bytes:
        return self.KERNELS


class ContextDouble:
    def __init__(self, engine: EngineDouble, config: RuntimeConfigDouble | None) -> None:
        self._engine = engine
        self._double = engine.double
        self._addresses: dict[str, int] = {}
        warm = config is not None and config.cache is not None and config.cache.warm
        self.own_graph = (
            config is not None and config.cuda_graph_strategy == self._double.real.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        )
        self._double.made(self, "warm context" if warm else "context")

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return name in self._engine.tensors

    def is_stream_capturable(self, stream: int) -> bool:
        return self._double.capturable

    def execute_async_v3(self, stream: int) -> bool:
        if set(self._addresses) != set(self._engine.tensors) or self._double.runs_fail:
            error = self._double.real.ILogger.Severity.ERROR
            self._double.library.messages.logger.log(error, "enqueueV3: not all addresses are set")
            return False
        self._double.events.append("execute in its own graph" if self.own_graph else "execute")
        events, compute = self._double.events, weakref.WeakMethod(self._compute)

        def kernel() -> None:
            # The driver double keeps its kernels for good; what they belong to must not outlive its owner.
            method = compute()
            if method is None:
                events.append("run after free")
            else:
                method()

        self._double.driver.enqueue(stream, kernel)
        return True

    def _compute(self) -> None:
        engine = self._engine
        feeds = {name: self._memory(name).copy() for name in engine.inputs}
        names = [name for name in engine.tensors if name not in engine.inputs]
        for name, value in zip(names, engine.session.run(names, feeds), strict=True):
            np.copyto(self._memory(name), self._double.disturb(self._double.runs, value))
        self._double.runs += 1

    def _memory(self, name: str) -> np.ndarray:
        dtype, shape = self._engine.dtype(name), self._engine.get_tensor_shape(name)
        nbytes = math.prod(shape) * dtype.itemsize
        array = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(self._addresses[name]))
        return array.view(dtype).reshape(shape)
