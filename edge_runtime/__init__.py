"""Run fused camera + sensor + text models on edge devices. What `__all__` names may be built on; it loads when used."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_runtime.capture.source import Source
    from edge_runtime.config import Config
    from edge_runtime.pipeline import Pipeline
    from edge_runtime.publish.sink import Sink
    from edge_runtime.publish.subscriber import Subscriber
    from edge_runtime.runtime import Runtime

    __version__: str

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
"""ONNX Runtime reads it once, when it is imported: it would write an identifier below the home and report what runs."""

__all__ = ["Config", "Pipeline", "Runtime", "Sink", "Source", "Subscriber", "__version__"]

_MODULES = {
    "Config": "config",
    "Pipeline": "pipeline",
    "Runtime": "runtime",
    "Sink": "publish.sink",
    "Source": "capture.source",
    "Subscriber": "publish.subscriber",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("edge-runtime")
    if name in _MODULES:
        return getattr(import_module(f"edge_runtime.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'edge_runtime' has no attribute {name!r}")
