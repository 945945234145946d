"""Run the model's stages. `open_backend` decides what on, and says why."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge_runtime.config import EngineConfig
from edge_runtime.errors import EngineError, UserError
from edge_runtime.infer.engine import Backend

log = logging.getLogger("edge_runtime.infer")

ON_CPU = EngineConfig(backend="onnxruntime")


def _open_onnxruntime(settings: EngineConfig) -> Backend:
    from edge_runtime.infer.onnxruntime_engine import OnnxRuntimeBackend

    return OnnxRuntimeBackend(settings.threads)


def _open_tensorrt(settings: EngineConfig) -> Backend:
    from edge_runtime.infer.tensorrt.backend import TensorRTBackend

    return TensorRTBackend.open(settings)


BACKENDS: dict[str, Callable[[EngineConfig], Backend]] = {
    "tensorrt": _open_tensorrt,
    "onnxruntime": _open_onnxruntime,
}
"""What `[engine] backend` names, to how it is opened; each imports its library then."""


def open_backend(settings: EngineConfig) -> Backend:
    """Open the back end that `settings` ask for, or fall back to ONNX Runtime where they allow it (logged).

    Raises UserError or EngineError if the one asked for cannot be had. Inference thread.
    """
    if settings.backend != "onnxruntime":
        try:
            return BACKENDS["tensorrt"](settings)
        except (UserError, EngineError) as error:
            if not settings.falls_back:
                raise
            level = logging.INFO if settings.backend == "auto" else logging.WARNING
            log.log(level, "engines run on ONNX Runtime (CPU): %s", error)
    return BACKENDS["onnxruntime"](settings)
