"""How long the stages of a bundle take on this machine, and the file in which a machine says so."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from edge_runtime.bundle import Bundle
from edge_runtime.config import EngineConfig
from edge_runtime.errors import UserError
from edge_runtime.infer import open_backend
from edge_runtime.infer.engine import Backend, Compiled, compiled_for
from edge_runtime.infer.outside import refuse_outside
from edge_runtime.machine_kind import MachineKind, machine_kind
from edge_runtime.tensors import TensorSpec, zeros

ROUNDS, RUNS = 5, 3
"""Every graph takes its turn so often, each time with so many runs in a row that count and one before that does not."""


@dataclass(frozen=True)
class Graph:
    """What an engine is opened from."""

    name: str
    """Of the stage."""
    precision: str
    model: bytes = field(repr=False)
    """ONNX, verified."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    compiled: Sequence[Compiled] = ()

    @property
    def sha256(self) -> str:
        """Of the model, in hexadecimal."""
        return hashlib.sha256(self.model).hexdigest()


class StageTime(Struct, frozen=True):
    """How long one stage took."""

    stage: str
    precision: str
    sha256: str
    """Of its graph: the time is that graph's and no other's."""
    ms: float
    """Median."""


class Times(Struct, frozen=True):
    """What `edge-runtime bundle time --out` writes."""

    format: Literal[1]
    target: str
    """The back end, as a bundle's precision plans call it."""
    backend: str
    """The same for people, with what it ran on."""
    machine: MachineKind
    stages: tuple[StageTime, ...]

    @property
    def ms(self) -> float:
        """Of a decision for which every stage runs."""
        return sum(stage.ms for stage in self.stages)


def graphs_of(bundle: Bundle, plan: Mapping[str, str]) -> list[Graph]:
    """The graphs of `bundle` as `plan` (stage to precision) has them. Raises BundleError."""
    graphs = []
    for stage in bundle.manifest.stages:
        precision = plan[stage.name]
        model = bundle.read(stage.files[precision])
        refuse_outside(model, stage.name)
        inputs = tuple(item.spec for item in stage.inputs)
        compiled = compiled_for(bundle, stage.name, precision)
        graphs.append(Graph(stage.name, precision, model, inputs, stage.outputs, compiled))
    return graphs


def median_ms(backend: Backend, graphs: Sequence[Graph]) -> list[float]:
    """Median milliseconds of each of `graphs` on `backend`, on inputs of zeros. They take turns, so that a machine that
    slows down meanwhile slows all of them. Raises BundleError and EngineError. The thread that opened `backend`.
    """
    with ExitStack() as opened:
        turns = []
        for graph in graphs:
            engine = backend.open_engine(
                graph.name, graph.precision, graph.model, graph.inputs, graph.outputs, graph.compiled
            )
            feeds = {spec.name: zeros(spec) for spec in graph.inputs}
            turns.append((opened.enter_context(engine), feeds, list[int]()))
            engine.warm_up(feeds)
        for _ in range(ROUNDS):
            for engine, feeds, spent in turns:
                engine.run(feeds)  # another one has been here: its weights and its ways are not in any cache
                for _ in range(RUNS):
                    start = time.perf_counter_ns()
                    engine.run(feeds)
                    spent.append(time.perf_counter_ns() - start)
        return [round(statistics.median(spent) / 1e6, 3) for _, _, spent in turns]


def measure(bundle: Bundle, settings: EngineConfig) -> Times:
    """The times of `bundle` on the back end that `settings` give. Raises UserError, BundleError and EngineError."""
    with open_backend(settings) as backend:
        graphs = graphs_of(bundle, bundle.plan(backend.name))
        spent = median_ms(backend, graphs)
        names = backend.name, backend.description
    stages = (StageTime(graph.name, graph.precision, graph.sha256, ms) for graph, ms in zip(graphs, spent, strict=True))
    return Times(1, *names, machine_kind(), tuple(stages))


def read_times(path: Path) -> Times:
    """What a machine wrote. Raises UserError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Times)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); edge-runtime bundle time --out writes it"
        ) from None
    except msgspec.DecodeError as error:
        raise UserError(f"{path}: is not what edge-runtime bundle time --out writes ({error})") from None


def write_times(path: Path, times: Times) -> None:
    """Keep `times` for the build that asks for them. Raises UserError."""
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(times), indent=1) + b"\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); check --out") from None
