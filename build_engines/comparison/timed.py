"""How long trained models take on this machine: their stages' graphs, as a device would run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
from torch import nn

from build_engines.model.export import Staged, stage_exports, to_onnx
from build_engines.model.fused import Fusion
from build_engines.model.trained_bundle import describe_stage
from build_engines.recipe import Recipe
from edge_runtime.infer import ON_CPU, open_backend
from edge_runtime.infer.timing import Graph, median_ms
from edge_runtime.streams import StreamSpec


@dataclass(frozen=True)
class Assembled:
    """Encoders of one model under a fusion of another."""

    encoders: Mapping[str, nn.Module]
    fusion: Fusion


def exported(recipe: Recipe, streams: Mapping[str, StreamSpec], model: Staged) -> list[Graph]:
    """The FP32 graphs of `model`, which `recipe` describes; `streams` as training has fitted them."""
    recipe = msgspec.structs.replace(recipe, streams=dict(streams))
    graphs = []
    for stage in stage_exports(recipe, model):
        graph = to_onnx(stage)
        form = describe_stage(recipe, stage.name, graph, {})
        inputs = tuple(item.spec for item in form.inputs)
        graphs.append(Graph(stage.name, "fp32", graph.SerializeToString(), inputs, form.outputs))
    return graphs


def times_of(contestants: Mapping[str, Sequence[Graph]]) -> dict[str, float]:
    """Name to the milliseconds of all its graphs together, in FP32 on one thread of this machine's CPU. All of them
    take turns; a graph that several have is timed once."""
    different = {graph.sha256: graph for graphs in contestants.values() for graph in graphs}
    with open_backend(ON_CPU) as backend:
        spent = dict(zip(different, median_ms(backend, list(different.values())), strict=True))
    return {name: round(sum(spent[graph.sha256] for graph in graphs), 3) for name, graphs in contestants.items()}
