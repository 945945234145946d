"""ONNX Runtime on the CPU: the embedded default and the numeric reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime

from edge_runtime.errors import BundleError, EngineError
from edge_runtime.infer.engine import Backend, Compiled, Engine
from edge_runtime.messages import Tensors
from edge_runtime.tensors import TensorSpec

onnxruntime.disable_telemetry_events()  # for programs that imported it before us: see edge_runtime/__init__.py

_DTYPES = {
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(bool)": "bool",
}


def session_options(threads: int, precision: str = "fp32") -> onnxruntime.SessionOptions:
    """Options for steady latency: fixed threads that sleep rather than spin between frames.

    Graphs of reduced precision are run as they are written, node by node. On CPUs they are the numeric reference of
    what a GPU will compute, and ONNX Runtime's rewriting has been seen to change their values (quantised: saturating
    integer kernels where the CPU has no VNNI; half precision: fused kernels that crash).
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # Spinning workers would take a core from the camera threads between frames.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Denormals make a quiet input cost many times a busy one on x86.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    if precision != "fp32":
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


class OnnxRuntimeEngine(Engine):
    """One ONNX graph in an ONNX Runtime CPU session."""

    backend = "onnxruntime"

    def __init__(
        self,
        name: str,
        precision: str,
        model: bytes,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        threads: int = 1,
    ) -> None:
        super().__init__(name, precision, inputs, outputs)
        try:
            if precision != "fp32":
                from edge_runtime.infer.half_reference import half_reference

                model = half_reference(model)
            self._session = onnxruntime.InferenceSession(
                model, sess_options=session_options(threads, precision), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime raises a family of unrelated types here
            first_line = str(error).splitlines()[0]
            raise BundleError(f"stage {name}: ONNX Runtime cannot load its graph ({first_line})") from None
        self._check_graph("input", self._session.get_inputs(), self.inputs)
        self._check_graph("output", self._session.get_outputs(), self.outputs)
        self._output_names = [spec.name for spec in self.outputs]

    def _check_graph(self, kind: str, nodes: Sequence[onnxruntime.NodeArg], specs: Sequence[TensorSpec]) -> None:
        actual = {node.name: (_DTYPES.get(node.type, node.type), tuple(node.shape)) for node in nodes}
        if kind == "input" and (unknown := sorted(set(actual) - {spec.name for spec in specs})):
            raise BundleError(
                f"stage {self.name}: the graph takes the input {unknown[0]!r}, which the manifest does not name; "
                "rebuild the bundle"
            )
        for spec in specs:
            if actual.get(spec.name) != (spec.dtype, spec.shape):
                raise BundleError(
                    f"stage {self.name}: the manifest's {kind} {spec.name!r} is {spec.dtype}{list(spec.shape)}, "
                    f"the graph has {actual.get(spec.name, 'no such ' + kind)}; rebuild the bundle"
                )

    def _start(self, tensors: Tensors) -> None:
        try:
            values = self._session.run(self._output_names, {spec.name: tensors[spec.name] for spec in self.inputs})
        except Exception as error:  # same family of types as above
            raise EngineError(f"engine {self.name}: {str(error).splitlines()[0]}") from error
        self._answer = {name: np.asarray(value) for name, value in zip(self._output_names, values, strict=True)}

    def _finish(self) -> Tensors:
        return self._answer

    def _close(self) -> None:
        del self._session


class OnnxRuntimeBackend(Backend):
    """ONNX Runtime on the CPU: nothing is shared but the number of threads each engine may use."""

    name = "onnxruntime"

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads

    def open_engine(
        self,
        name: str,
        precision: str,
        model: bytes,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        ahead_of_time: Sequence[Compiled] = (),
    ) -> Engine:
        return OnnxRuntimeEngine(name, precision, model, inputs, outputs, self._threads)

    def close(self) -> None:
        """Nothing is held."""
