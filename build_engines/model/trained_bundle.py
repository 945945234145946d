"""The FP32 bundle of a trained model's graphs: what the rest of the build line starts from."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import ModelProto

from build_engines.data.datasets import RECIPE_FILE, recipe_json
from build_engines.graphs import tensor_spec
from build_engines.heads.fitted import fitted_policy
from build_engines.modalities import modality_of_encoder
from build_engines.modalities.text import tokenizer_kind
from build_engines.model.train import TOKENIZER_FILE, TrainingRecord
from build_engines.pretrained.shelf import Origin
from build_engines.recipe import Recipe
from build_engines.write_bundle import write_exact
from edge_runtime.bundle import LICENCES, Bundle, SideHead, Stage, StageInput
from edge_runtime.errors import UserError
from edge_runtime.tensor_source import PRESENCE, stage_output, stream_tensor
from edge_runtime.tensors import TensorSpec
from edge_runtime.tokenizer import FILES


def write_trained(recipe: Recipe, record: TrainingRecord, work: Path, target: Path) -> Bundle:
    """Write the FP32 bundle of the graphs that the export stage left in `work`."""
    files: dict[str, bytes] = {}
    stages = []
    for name in (*recipe.model.encoders, "fusion"):
        source = work / "stages" / f"{name}.fp32.onnx"
        if source.is_file():
            relative = f"stages/{name}.fp32.onnx"
            files[relative] = source.read_bytes()
            stages.append(describe_stage(recipe, name, onnx.load(source), {"fp32": relative}))
    if not stages:
        raise UserError(f"no stages in {work}; run the export stage first")
    if (work / TOKENIZER_FILE).is_file():
        files[FILES[tokenizer_kind(record.streams)]] = (work / TOKENIZER_FILE).read_bytes()
    if (work / "equality.json").is_file():
        files["report/equality.json"] = (work / "equality.json").read_bytes()
    files[RECIPE_FILE] = recipe_json(recipe)
    origins = origins_of(recipe)
    files |= {f"{LICENCES}{name}.txt": origin.licence_text.encode() for name, origin in origins.items()}
    training = {"recipe_sha256": record.recipe_sha256, "data_sha256": record.data_sha256, "seed": str(record.seed)}
    training |= {f"{name}_pretrained_sha256": origin.sha256 for name, origin in origins.items()}
    return write_exact(
        target,
        recipe,
        files,
        stages,
        training,
        streams=record.streams,
        decision=fitted_policy(recipe.decision, {"temperature": record.temperature, "thresholds": record.thresholds}),
        presence=recipe.modalities,
        attribution=(*recipe.attribution, *(f"{name} encoder: {origin.words}" for name, origin in origins.items())),
        side_heads=_side_heads(recipe, record),
    )


def origins_of(recipe: Recipe) -> dict[str, Origin]:
    """Encoder to where its pretrained network comes from, of those that have one. Raises UserError."""
    found = ((name, modality_of_encoder(encoder).origin(encoder)) for name, encoder in recipe.model.encoders.items())
    return {name: origin for name, origin in found if origin is not None}


def _side_heads(recipe: Recipe, record: TrainingRecord) -> tuple[SideHead, ...]:
    """The heads beside the first, with what was fitted; thresholds of the recipe's own stand above fitted ones."""
    return tuple(
        SideHead(side.name, recipe.heads[side.name], fitted_policy(side.decision, record.side_heads.get(side.name, {})))
        for side in recipe.side_heads
    )


def describe_stage(recipe: Recipe, name: str, model: ModelProto, files: dict[str, str]) -> Stage:
    """The manifest's entry for one stage: names, types and shapes as the graph has them, and where inputs come from."""
    graph = model.graph
    inputs = []
    for value in graph.input:
        spec = tensor_spec(value)
        source = _source(recipe, name, value.name)
        inputs.append(StageInput(spec.name, spec.dtype, spec.shape, source, _layout(recipe, name, spec)))
    return Stage(name, tuple(inputs), tuple(tensor_spec(value) for value in graph.output), files)


def _source(recipe: Recipe, stage: str, field: str) -> str | tuple[str, ...]:
    encoder = recipe.model.encoders.get(stage)
    if encoder is None:
        return str(PRESENCE if field == PRESENCE.kind else stage_output(field, "features"))
    sources = tuple(str(stream_tensor(stream, field)) for stream in encoder.streams)
    return sources[0] if len(sources) == 1 else sources


def _layout(recipe: Recipe, stage: str, spec: TensorSpec) -> str:
    encoder = recipe.model.encoders.get(stage)
    if encoder is not None:
        return modality_of_encoder(encoder).layout(spec.name, spec.shape)
    return "1 = the stream is present" if spec.name == PRESENCE.kind else ""
