"""Run the model's stages. `open_engine` picks the back end from the visible table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edge_runtime.errors import ConfigError
from edge_runtime.infer.engine import Engine
from edge_runtime.tensors import TensorSpec


def _onnxruntime(
    name: str, precision: str, model: bytes, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], threads: int
) -> Engine:
    from edge_runtime.infer.onnxruntime_engine import OnnxRuntimeEngine

    return OnnxRuntimeEngine(name, precision, model, inputs, outputs, threads)


BACKENDS: dict[str, Callable[..., Engine]] = {"onnxruntime": _onnxruntime}


def open_engine(
    backend: str,
    name: str,
    precision: str,
    model: bytes,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    threads: int = 1,
) -> Engine:
    """Open `model` (ONNX bytes, already verified) with a back end of `BACKENDS`. Inference thread.

    Raises ConfigError for an unknown back end, BundleError if the graph does not load or does not meet the specs.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"engine.backend is {backend!r}; there are {sorted(BACKENDS)}")
    return BACKENDS[backend](name, precision, model, inputs, outputs, threads)
