"""One stage's graph over many inputs, by all cores."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue

from calibration.spread import cores
from edge_runtime.bundle import Stage
from edge_runtime.infer.onnxruntime_engine import OnnxRuntimeEngine
from edge_runtime.messages import Tensors


def run_each(stage: Stage, precision: str, model: bytes, feeds: Iterable[Tensors]) -> list[Tensors]:
    """The stage's outputs for each of `feeds`, in order: each by one engine, of which there is one for every core. An
    engine computes on one thread, and waits for nobody. Raises EngineError, BundleError.
    """
    inputs = [item.spec for item in stage.inputs]
    with ExitStack() as stack:
        free: SimpleQueue[OnnxRuntimeEngine] = SimpleQueue()
        count = cores()
        for _ in range(count):
            free.put(stack.enter_context(OnnxRuntimeEngine(stage.name, precision, model, inputs, stage.outputs)))

        def run(tensors: Tensors) -> Tensors:
            engine = free.get()
            try:
                return engine.run(tensors)
            finally:
                free.put(engine)

        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(run, feeds))
