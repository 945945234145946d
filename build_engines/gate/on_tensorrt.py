"""The gate's second witness: this machine's GPU, where it and TensorRT can be used."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from msgspec import Struct

from build_engines.build import Build
from build_engines.gate.limits import Agreement
from build_engines.quantisation.calibrate import StageInputs
from edge_runtime.bundle import Bundle
from edge_runtime.config import EngineConfig
from edge_runtime.errors import EngineError, GateRefused, UserError
from edge_runtime.infer.engine import compiled_for
from edge_runtime.infer.onnxruntime_engine import OnnxRuntimeEngine
from edge_runtime.infer.tensorrt.backend import TensorRTBackend
from edge_runtime.messages import Tensor

MOMENTS = 32
"""On which each stage's engine is compared with the oracle, alone."""


class Gpu(Struct, frozen=True):
    """Whether the plan can be judged on TensorRT here."""

    description: str = ""
    """Library and GPU; empty where there is none."""
    reason: str = ""
    """Why there is none."""


def settings(build: Build) -> EngineConfig:
    """TensorRT or nothing, its engines kept in the work folder."""
    return EngineConfig(backend="tensorrt", fallback=False, cache=str(build.work / "device-engines"))


def find_gpu(build: Build) -> Gpu:
    """This machine's. Raises GateRefused for a GPU that is there but fails."""
    try:
        with TensorRTBackend.open(settings(build)) as backend:
            return Gpu(description=backend.description)
    except UserError as error:
        return Gpu(reason=str(error))
    except EngineError as error:
        raise GateRefused(f"evaluate: there is a GPU, but it fails: {error}") from None


def stage_agreements(build: Build, bundle: Bundle, plan: Mapping[str, str], fed: StageInputs) -> dict[str, Agreement]:
    """Every stage of `plan` on TensorRT and in the oracle, on the same inputs: those that FP32 stages would give it.

    Raises GateRefused naming the stage whose engine cannot be had or run.
    """
    found: dict[str, Agreement] = {}
    with TensorRTBackend.open(settings(build)) as backend:
        for stage in bundle.manifest.stages:
            precision = plan[stage.name]
            model, inputs = bundle.read(stage.files[precision]), [item.spec for item in stage.inputs]
            compiled = compiled_for(bundle, stage.name, precision)
            given: list[Tensor] = []
            expected: list[Tensor] = []
            try:
                with (
                    backend.open_engine(stage.name, precision, model, inputs, stage.outputs, compiled) as engine,
                    OnnxRuntimeEngine(stage.name, precision, model, inputs, stage.outputs) as oracle,
                ):
                    feeds = [tensors for _, tensors in fed.of(stage.name)]
                    if feeds:
                        engine.warm_up(feeds[0])
                    for tensors in feeds:
                        answer, right = engine.run(tensors), oracle.run(tensors)
                        given += [np.asarray(answer[out.name]) for out in stage.outputs]
                        expected += [np.asarray(right[out.name]) for out in stage.outputs]
            except (EngineError, UserError) as error:
                raise GateRefused(f"evaluate: {stage.name} in {precision} on {backend.description}: {error}") from None
            found[stage.name] = Agreement.of(given, expected)
    return found
