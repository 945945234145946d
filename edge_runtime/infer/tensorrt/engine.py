"""One stage in TensorRT: its execution context, one stream, and buffers whose addresses never change.

Inputs are copied into pinned memory, outputs out of it. Where CPU and GPU share one memory, kernels work on the
pinned memory in place; elsewhere a copy each way goes with the run. Because addresses are fixed, copies and kernels of
a frame can be one CUDA graph, launched by one call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from edge_runtime.cuda import CudaDevice, CudaError, Graph, Pinned
from edge_runtime.errors import BundleError, EngineError
from edge_runtime.infer.engine import Engine
from edge_runtime.infer.tensorrt.library import Library
from edge_runtime.messages import Tensor, Tensors
from edge_runtime.tensors import TensorSpec

log = logging.getLogger("edge_runtime.infer")

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}
AGREEMENT = 1e-3
"""Two runs on the same input may differ by this part of their largest value (order of sums in atomic additions)."""

LaunchMode = Literal["graph", "library graph", "enqueue"]


class TensorRTEngine(Engine):
    """An engine, loaded. Thread: the device's."""

    backend = "tensorrt"

    def __init__(
        self,
        name: str,
        precision: str,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        plan: bytes,
        *,
        library: Library,
        runtime: Any,
        device: CudaDevice,
        kernels: bytes = b"",
        keep_kernels: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        """Load `plan`, which is executable code: the caller answers for where it came from.

        `runtime`: the library's, whose lifetime must contain this engine's. `kernels`: what TensorRT-RTX compiled of
        this plan earlier; after warm-up `keep_kernels` gets it for the next time.
        Raises EngineError if it does not load, BundleError if its tensors are not those of the specs.
        """
        super().__init__(name, precision, inputs, outputs)
        self._library = library
        self._device = device
        self._kernels = kernels
        self._keep_kernels = keep_kernels
        self._engine: Any = None
        self._context: Any = None
        self._kernel_cache: Any = None
        self._graph: Graph | None = None
        self._in_flight = False
        self._pinned: dict[str, Pinned] = {}
        self._addresses: dict[str, int] = {}
        self._scope = device.scope()
        try:
            self._load(runtime, plan)
            self._check_tensors()
            self._stream = self._scope.stream()
            self._make_buffers()
            # Without graphs of ours, TensorRT-RTX can make its own.
            self.launch_mode: LaunchMode = "enqueue"
            self._make_context(library_graph=library.is_rtx and not device.has_graphs)
        except BaseException:
            self.close()
            raise

    def warm_up(self, tensors: Tensors, times: int = 3) -> None:
        """Run until all is loaded, capture the graph, and see that answers follow from inputs.

        Raises EngineError if the same input gives different answers, from a graph or without.
        """
        for _ in range(max(2, times - 1)):
            self.run(tensors)
        other = {spec.name: _pattern(spec) for spec in self.inputs}
        plain = [self.run(tensors), self.run(other)]
        self._check_same(plain[0], self.run(tensors), "gives different answers on the same input")
        if all(np.array_equal(value, plain[1][key], equal_nan=True) for key, value in plain[0].items()):
            log.warning("engine %s: two different inputs give the same answer", self.name)
        self._capture()
        if self.launch_mode != "enqueue":
            for inputs, expected in zip((tensors, other), plain, strict=True):
                self._check_same(expected, self.run(inputs), "answers otherwise from a CUDA graph")
        if self._kernel_cache is not None:
            kernels = bytes(self._kernel_cache.serialize())
            if kernels != self._kernels:
                self._keep_kernels(kernels)

    def drop_graph(self) -> None:
        """Free the captured graph: later runs enqueue copies and kernels one by one. For measuring what it is worth."""
        if self._graph is not None:
            self._graph.close()
            self._graph = None
            self.launch_mode = "enqueue"

    def time_engine(self, times: int) -> list[float]:
        """Milliseconds on the device of `times` runs on the last input, copies left out. Call after `warm_up`."""
        timer = self._scope.timer(self._stream)
        graph = self._scope.capture(self._stream, self._execute) if self._graph is not None else None
        spent = []
        for _ in range(times):
            timer.start()
            if graph is not None:
                graph.launch(self._stream)
            else:
                self._execute()
            timer.stop()
            spent.append(timer.elapsed_ms())
        if graph is not None:
            graph.close()
        return spent

    def _start(self, tensors: Tensors) -> None:
        if self._in_flight:
            # Nobody fetched the last answer; its copies may still be reading the buffers filled below.
            self._device.synchronise(self._stream)
        for spec in self.inputs:
            np.copyto(self._pinned[spec.name].array, tensors[spec.name])
        self._in_flight = True
        if self._graph is not None:
            self._graph.launch(self._stream)
        else:
            self._enqueue()

    def _finish(self) -> Tensors:
        self._device.synchronise(self._stream)
        self._in_flight = False
        return {spec.name: self._pinned[spec.name].array.copy() for spec in self.outputs}

    def _enqueue(self) -> None:
        """Everything of one run, in order, without waiting: what a graph captures."""
        for spec in self.inputs:
            self._upload(spec)
        self._execute()
        for spec in self.outputs:
            self._download(spec)

    def _upload(self, spec: TensorSpec) -> None:
        pinned = self._pinned[spec.name]
        if not pinned.pointer:
            self._device.upload(self._addresses[spec.name], pinned.array, self._stream)

    def _download(self, spec: TensorSpec) -> None:
        pinned = self._pinned[spec.name]
        if not pinned.pointer:
            self._device.download(pinned.array, self._addresses[spec.name], self._stream)

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._stream):
            raise EngineError(f"engine {self.name}: {self._library} does not run it ({self._reason()})")

    def _load(self, runtime: Any, plan: bytes) -> None:
        with self._library.messages.collect() as messages:
            self._engine = runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            reason = messages[-1] if messages else "its log gives no reason"
            raise EngineError(f"engine {self.name}: {self._library} does not load it ({reason})")
        for text in messages:
            log.warning("engine %s: %s", self.name, text)

    def _check_tensors(self) -> None:
        actual: dict[str, tuple[bool, str, tuple[int, ...]]] = {}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            is_input = self._engine.get_tensor_mode(name) == self._library.module.TensorIOMode.INPUT
            kind = self._engine.get_tensor_dtype(name).name
            actual[name] = (is_input, _DTYPES.get(kind, kind), tuple(self._engine.get_tensor_shape(name)))
        for direction, specs in (("input", self.inputs), ("output", self.outputs)):
            for spec in specs:
                if actual.get(spec.name) != (direction == "input", spec.dtype, spec.shape):
                    raise BundleError(
                        f"stage {self.name}: the manifest's {direction} {spec.name!r} is "
                        f"{spec.dtype}{list(spec.shape)}, the engine has "
                        f"{actual.get(spec.name, 'no such ' + direction)}; rebuild the bundle"
                    )
        named = {spec.name for spec in (*self.inputs, *self.outputs)}
        if extra := sorted(set(actual) - named):
            raise BundleError(f"stage {self.name}: the manifest does not name the engine's {extra}; rebuild the bundle")

    def _make_buffers(self) -> None:
        info = self._device.info()
        in_place = info.integrated and info.can_map_host_memory
        for spec in (*self.inputs, *self.outputs):
            pinned = self._scope.pinned(spec.shape, spec.dtype, mapped=in_place)
            pinned.array.fill(0)
            self._pinned[spec.name] = pinned
            self._addresses[spec.name] = pinned.pointer or self._scope.allocate(pinned.array.nbytes)

    def _make_context(self, library_graph: bool) -> None:
        self._context = self._new_context(library_graph)
        if self._context is None:
            raise EngineError(f"engine {self.name}: {self._library} cannot prepare it ({self._reason()})")
        if library_graph:
            self.launch_mode = "library graph"
        for name, address in self._addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise EngineError(f"engine {self.name}: {self._library} refuses the buffer of {name!r}")

    def _new_context(self, library_graph: bool) -> Any:
        if not self._library.is_rtx:
            return self._engine.create_execution_context()
        module = self._library.module
        config = self._engine.create_runtime_config()
        self._kernel_cache = config.create_runtime_cache()
        if self._kernels and not self._kernel_cache.deserialize(self._kernels):
            log.info("engine %s: kernels kept from another driver or GPU do not fit; compiling anew", self.name)
            self._kernels = b""
        config.set_runtime_cache(self._kernel_cache)
        # Compiling later, in the background, would make some frames slow.
        strategy = module.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = strategy
        if library_graph:
            config.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return self._engine.create_execution_context(config)

    def _capture(self) -> None:
        if not self._device.has_graphs:
            return
        if self._library.is_rtx and not self._context.is_stream_capturable(self._stream):
            self._make_context(library_graph=True)
            return
        try:
            self._graph = self._scope.capture(self._stream, self._enqueue)
        except EngineError as error:
            if isinstance(error, CudaError) and error.device_lost:
                raise
            log.warning("engine %s: runs without a CUDA graph (%s)", self.name, error)
            if self._library.is_rtx:
                self._make_context(library_graph=True)
            return
        self.launch_mode = "graph"

    def _check_same(self, expected: Tensors, actual: Tensors, problem: str) -> None:
        for name, value in expected.items():
            if not _agree(value, actual[name]):
                raise EngineError(f"engine {self.name}: {problem} (output {name!r})")

    def _reason(self) -> str:
        return self._library.messages.last_error or "its log gives no reason"

    def close(self) -> None:
        """See Engine. Raises EngineError from another thread than the device's, with all still open."""
        self._device.check_thread()
        super().close()

    def _close(self) -> None:
        try:
            if self._in_flight:
                self._device.synchronise(self._stream)
            # The graph holds the context's kernels, the context the engine's weights, and both the buffers.
            if self._graph is not None:
                self._graph.close()
        except CudaError as error:
            log.warning("engine %s, while closing: %s", self.name, error)
        self._context = None
        self._kernel_cache = None
        self._engine = None
        self._pinned.clear()
        try:
            self._scope.close()
        except CudaError as error:
            log.warning("engine %s, while closing: %s", self.name, error)


def _agree(expected: Tensor, actual: Tensor) -> bool:
    largest = np.nan_to_num(np.abs(expected.astype(np.float64)), nan=0, posinf=0).max(initial=0)
    return np.allclose(actual, expected, rtol=0, atol=AGREEMENT * max(largest, 1e-6), equal_nan=True)


def _pattern(spec: TensorSpec) -> Tensor:
    """An input unlike zeros that any graph can stand: indices are 0 or 1."""
    count = np.arange(int(np.prod(spec.shape)))
    values: Tensor = (count + 1) % 2
    if spec.dtype.startswith("float"):
        values = np.where(count % 2, 1, -1) * (1 + count % 7) / 8
    elif spec.dtype == "uint8":
        values = count * 37 % 256
    return values.astype(spec.dtype).reshape(spec.shape)
