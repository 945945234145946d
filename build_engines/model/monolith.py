"""The monolith: one graph composed of a bundle's own stage graphs, for proofs of equality and as a yardstick.

Needs onnx only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec
import onnx
from onnx import ModelProto, compose

from build_engines.modalities import MODALITIES
from edge_runtime.bundle import MANIFEST, TOKENIZER, TOKENIZER_JSON, Bundle, Stage, encode_manifest
from edge_runtime.errors import UserError
from edge_runtime.heads import Head
from edge_runtime.tensor_source import PRESENCE, stage_output

IR_VERSION = 10
MONOLITH_NAMES = {
    (stage, field): item.monolith for stage, row in MODALITIES.items() for field, item in row.inputs.items()
} | {("fusion", "presence"): "presence"}
"""Stage and its input to the monolith's input, where it is not called `<stage>_<input>`."""


def monolith_name(stage: str, field: str) -> str:
    """What the monolith calls a stage's input that no other stage makes."""
    return MONOLITH_NAMES.get((stage, field), f"{stage}_{field}")


def monolith_inputs(stage: Stage) -> dict[str, str]:
    """The stage's inputs that no other stage makes, to what the monolith calls them."""
    own = (item for item in stage.inputs if all(source.kind != "stage" for source in item.sources))
    return {item.name: monolith_name(stage.name, item.name) for item in own}


def compose_monolith(graphs: Mapping[str, ModelProto]) -> ModelProto:
    """One graph made of the stages' own graphs, with the streams' tensors and `presence` as inputs."""
    prefixed = {name: compose.add_prefix(graph, f"{name}/") for name, graph in graphs.items()}
    encoders = [name for name in graphs if name != "fusion"]
    whole = prefixed[encoders[0]]
    for name in encoders[1:]:
        whole = compose.merge_models(whole, prefixed[name], io_map=[])
    links = [(f"{name}/features", f"fusion/{name}") for name in encoders]
    whole = compose.merge_models(whole, prefixed["fusion"], io_map=links)
    inputs = [(stage, value.name) for stage in encoders for value in graphs[stage].graph.input]
    names = {f"{stage}/{field}": monolith_name(stage, field) for stage, field in (*inputs, ("fusion", PRESENCE.kind))}
    answers = [value.name for value in graphs["fusion"].graph.output]
    rename_values(whole, names | {f"fusion/{name}": name for name in answers})
    whole.ir_version = IR_VERSION
    whole.graph.name = "monolith"
    check_graph(whole, "monolith")
    return whole


def check_graph(graph: ModelProto, name: str) -> None:
    """Raise UserError unless every input and output has a fixed shape, and onnx's own error if `graph` is broken."""
    onnx.checker.check_model(graph, full_check=True)
    for value in (*graph.graph.input, *graph.graph.output):
        if any(not dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim):
            raise UserError(f"export: {name}'s {value.name} has no fixed shape; the device cannot plan such a graph")


def rename_values(model: ModelProto, names: Mapping[str, str]) -> None:
    """Call inputs, outputs and what lies between by their `names`, where they have one, in place."""
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def stage_graphs(bundle: Bundle, precision: str = "fp32") -> dict[str, ModelProto]:
    """Stage to its graph, in the order they run."""
    return {stage.name: onnx.load_from_string(bundle.read(stage.files[precision])) for stage in bundle.manifest.stages}


def _moved(head: Head) -> Head:
    """`head`, reading the same output of the monolith."""
    return msgspec.structs.replace(head, output=str(stage_output("monolith", head.source.field)))


def monolith_bundle(bundle: Bundle, monolith: bytes, target: Path) -> Path:
    """Write a bundle to `target` that decides as `bundle` does, with `monolith` as its only stage."""
    manifest = bundle.manifest
    inputs = tuple(
        msgspec.structs.replace(item, name=names[item.name])
        for stage in manifest.stages
        for names in [monolith_inputs(stage)]
        for item in stage.inputs
        if item.name in names
    )
    file = "stages/monolith.fp32.onnx"
    stage = Stage("monolith", inputs, manifest.stages[-1].outputs, {"fp32": file})
    tokenizers = {name: bundle.read(name) for name in (TOKENIZER, TOKENIZER_JSON) if name in manifest.files}
    files = {file: monolith} | tokenizers
    (target / "stages").mkdir(parents=True)
    for name, data in files.items():
        (target / name).write_bytes(data)
    whole = msgspec.structs.replace(
        manifest,
        stages=(stage,),
        head=_moved(manifest.head),
        side_heads=tuple(msgspec.structs.replace(side, head=_moved(side.head)) for side in manifest.side_heads),
        precision={"default": {"monolith": "fp32"}},
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    )
    (target / MANIFEST).write_bytes(encode_manifest(whole))
    return target
