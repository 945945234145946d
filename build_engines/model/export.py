"""The trained model as ONNX: one graph per stage, the monolith composed of those very graphs, and the proof.

The proof runs every graph in the device's ONNX Runtime session on real samples: each stage against torch, and the
stages one after the other against the monolith.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import onnx
import onnxruntime
import torch
from msgspec import Struct
from numpy.typing import NDArray
from onnx import ModelProto, compose
from torch import Tensor, nn

from build_engines.heads import build_of
from build_engines.modalities import encoder_fields, modality_of_encoder
from build_engines.modalities.pretrained_encoder import PretrainedEncoder
from build_engines.model.fused import Fusion, Tagger
from build_engines.model.monolith import IR_VERSION, check_graph, compose_monolith, monolith_inputs, rename_values
from build_engines.model.train import SAMPLES, Trained
from build_engines.model.trained_bundle import describe_stage
from build_engines.quiet import quiet
from build_engines.recipe import Recipe
from edge_runtime.errors import GateRefused, UserError
from edge_runtime.infer.feed import feed
from edge_runtime.infer.onnxruntime_engine import session_options
from edge_runtime.streams import TextStream
from edge_runtime.tensor_source import PRESENCE, TensorSource, stream_tensor

OPSET = 20
STAGE_TOLERANCE = 1e-4
"""Largest difference between a stage's graph and torch: in the outputs' own unit, or in half ranges of values."""
MONOLITH_TOLERANCE = 1e-5
LEAST_COSINE = 0.9999
"""Between what a pretrained network's graph makes of a sample and what the network does."""
MONOLITH = "monolith.fp32.onnx"
Arrays = Mapping[str, NDArray[np.generic]]


class Staged(Protocol):
    """What stages are exported from."""

    @property
    def encoders(self) -> Mapping[str, nn.Module]:
        """Stage to its encoder, in the order of the presence mask."""

    @property
    def fusion(self) -> nn.Module:
        """A `Fusion` or a `Tagger`."""


class EncoderStage(nn.Module):
    """An encoder without its auxiliary outputs."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, *inputs: Tensor) -> Tensor:
        features: Tensor = self.encoder(*inputs)[0]
        return features


class _Head(nn.Module):
    """What a pretrained encoder does behind its frozen part, which needs none of the inputs."""

    def __init__(self, encoder: PretrainedEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, hidden: Tensor) -> Tensor:
        features: Tensor = self.encoder.finish(hidden)[0]
        return features


class FusionStage(nn.Module):
    """One decision's features, each stage's as it comes ([cameras, d], [1, d], [1, d]), to what each head reads."""

    def __init__(self, fusion: Fusion) -> None:
        super().__init__()
        self.fusion = fusion

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        *features, presence = inputs
        together = torch.cat(features, dim=0).unsqueeze(0)
        if not self.fusion.side_heads:
            # As a call of the module: its name is a part of the graph's node names, and so of its bytes.
            logits: Tensor = self.fusion(together, presence)
            return logits
        return tuple(self.fusion.every(together, presence).values())


class TaggerStage(nn.Module):
    """One sentence's features [1, W, d] to logits [1, W, labels]."""

    def __init__(self, tagger: nn.Module) -> None:
        super().__init__()
        self.tagger = tagger

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.tagger(features.unsqueeze(1))
        return logits


@dataclass(frozen=True)
class StageExport:
    """How one stage is exported: the torch module, example inputs by name, and its outputs' names."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    scales: tuple[NDArray[np.float64], ...] = ()
    """What a difference counts in, by output, where it is not the output's own unit."""
    front: ModelProto | None = None
    """The first part of the stage, where that is a graph already; its one output is what `rest` reads."""
    rest: nn.Module | None = None
    """With a front: what follows it."""


class Equality(Struct, frozen=True):
    """`equality.json`: the largest absolute differences found, and over how many samples."""

    samples: int
    stage_against_torch: dict[str, float]
    staged_against_monolith: float
    bytes: dict[str, int]
    pretrained: dict[str, float] = {}
    """Of each encoder on a pretrained network: the smallest cosine between what its graph and what the network itself
    makes of a sample, before anything that was learned here."""
    origins: dict[str, str] = {}
    """Of each such encoder: sha256 of the file that the network came in."""


def stage_exports(recipe: Recipe, model: Staged) -> list[StageExport]:
    """The stages that the recipe's model has, in the order they run."""
    stages: list[StageExport] = []
    features: dict[str, Tensor] = {}
    for name, module in model.encoders.items():
        streams = recipe.model.encoders[name].streams
        spec = recipe.streams[streams[0]]
        inputs = {
            field: (torch.ones if field == "mask" else torch.zeros)(
                len(streams) * form.shape[0], *form.shape[1:], dtype=getattr(torch, form.dtype)
            )
            for field, form in encoder_fields(spec).items()
        }
        stage = StageExport(name, EncoderStage(module), inputs, ("features",))
        front = module.graph(len(streams)) if isinstance(module, PretrainedEncoder) else None
        if front is not None:
            assert isinstance(module, PretrainedEncoder)
            stage = replace(stage, front=front, rest=_Head(module))
        stages.append(stage)
        words = spec.max_tokens if isinstance(spec, TextStream) and spec.word_pieces else None
        shape = (len(streams),) if words is None else (1, words)
        features[name] = torch.zeros(*shape, recipe.model.features)
    if isinstance(model.fusion, Tagger):
        return [*stages, StageExport("fusion", TaggerStage(model.fusion), features, ("logits",))]
    assert isinstance(model.fusion, Fusion)
    features["presence"] = torch.ones(1, len(recipe.modalities))
    names = ("logits", *model.fusion.side_heads)
    scalings = [build_of(head).scaling(head) for head in recipe.heads.values()]
    scales = tuple(np.ones(1) if scaling is None else scaling[1] for scaling in scalings)
    stages.append(StageExport("fusion", FusionStage(model.fusion), features, names, scales))
    return stages


def to_onnx(stage: StageExport) -> ModelProto:
    """The stage's graph, checked: fixed shapes, opset 20, IR version 10 (what the oldest supported runtimes read)."""
    if stage.front is not None:
        return _behind(stage.front, stage)
    buffer = io.BytesIO()
    with quiet():
        # The tracing exporter: fixed shapes, folded batch norms, and no helper functions in the graph.
        torch.onnx.export(
            stage.module.eval(),
            tuple(stage.inputs.values()),
            buffer,  # type: ignore[arg-type]  # a file object is accepted by this exporter
            input_names=list(stage.inputs),
            output_names=list(stage.outputs),
            opset_version=OPSET,
            dynamo=False,
        )
    graph = onnx.load_from_string(buffer.getvalue())
    graph.ir_version = IR_VERSION
    graph.graph.name = stage.name
    check_graph(graph, stage.name)
    return graph


def _behind(front: ModelProto, stage: StageExport) -> ModelProto:
    """The graph `front` with the rest of the stage behind it."""
    (given,) = front.graph.output
    shape = tuple(dim.dim_value for dim in given.type.tensor_type.shape.dim)
    assert stage.rest is not None
    rest = to_onnx(StageExport(stage.name, stage.rest, {given.name: torch.zeros(shape)}, stage.outputs))
    # Of the front alone the names may be anything: those that the rest and the device know stay.
    parts = compose.add_prefix(front, "network/"), compose.add_prefix(rest, "head/")
    whole = compose.merge_models(*parts, io_map=[(f"network/{given.name}", f"head/{given.name}")])
    names = {f"network/{value.name}": value.name for value in front.graph.input}
    rename_values(whole, names | {f"head/{name}": name for name in stage.outputs})
    del whole.opset_import[:]  # it has come with both parts
    whole.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    whole.ir_version = IR_VERSION
    whole.graph.name = stage.name
    check_graph(whole, stage.name)
    return whole


def export(recipe: Recipe, trained: Trained, work: Path) -> Equality:
    """Write stages/<stage>.fp32.onnx, monolith.fp32.onnx and equality.json into `work`.

    Raises GateRefused if a graph does not compute what torch computes.
    """
    recipe = msgspec.structs.replace(recipe, streams=trained.record.streams)
    stages = stage_exports(recipe, trained.model)
    graphs = {stage.name: to_onnx(stage) for stage in stages}
    monolith = compose_monolith(graphs)
    folder = work / "stages"
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {}
    for name, graph in graphs.items():
        path = folder / f"{name}.fp32.onnx"
        path.write_bytes(graph.SerializeToString())
        sizes[name] = path.stat().st_size
    (work / MONOLITH).write_bytes(monolith.SerializeToString())
    try:
        with np.load(work / SAMPLES, allow_pickle=False) as arrays:
            samples = {name: arrays[name] for name in arrays.files}
    except OSError:
        raise UserError(f"no samples in {work}; run the train stage first") from None
    proof = prove(recipe, stages, graphs, monolith, samples)
    size = sizes | {"monolith": (work / MONOLITH).stat().st_size}
    encoders = trained.model.encoders.items()
    origins = {name: module.origin.sha256 for name, module in encoders if isinstance(module, PretrainedEncoder)}
    equality = Equality(*proof, bytes=size, pretrained=faithful(recipe, trained, samples), origins=origins)
    (work / "equality.json").write_bytes(msgspec.json.format(msgspec.json.encode(equality), indent=1))
    worst = max(equality.stage_against_torch.values())
    if not worst <= STAGE_TOLERANCE or not equality.staged_against_monolith <= MONOLITH_TOLERANCE:
        raise GateRefused(
            f"export: stages differ from torch by {worst:.2e} (at most {STAGE_TOLERANCE}), "
            f"from the monolith by {equality.staged_against_monolith:.2e} (at most {MONOLITH_TOLERANCE})"
        )
    for name, cosine in equality.pretrained.items():
        if not cosine >= LEAST_COSINE:
            raise GateRefused(
                f"export: {name}: the graph of the pretrained network agrees with the network itself by a cosine of "
                f"{cosine:.6f} only (at least {LEAST_COSINE})"
            )
    return equality


class _KeptStage(nn.Module):
    """The frozen part of an encoder."""

    def __init__(self, encoder: PretrainedEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.encoder.kept(*inputs)


def faithful(recipe: Recipe, trained: Trained, samples: Arrays) -> dict[str, float]:
    """Of each pretrained encoder: the smallest cosine, over `samples`, between what the graph of its frozen part makes
    and what the network does whose weights are read from where they came from once more."""
    found = {}
    for name, encoder in trained.model.encoders.items():
        if not isinstance(encoder, PretrainedEncoder) or not encoder.stays:
            continue
        keys = recipe.model.encoders[name]
        spec = recipe.streams[keys.streams[0]]
        afresh = modality_of_encoder(keys).network(keys, spec, trained.record.vocabulary, recipe.model.features).eval()
        assert isinstance(afresh, PretrainedEncoder)
        fields = list(encoder_fields(spec))
        rows = [
            tuple(samples[str(stream_tensor(stream, field))][index] for field in fields)
            for stream in keys.streams
            for index in range(len(samples[str(PRESENCE)]))
        ]
        example = {field: torch.from_numpy(value) for field, value in zip(fields, rows[0], strict=True)}
        graph = encoder.graph(1) or to_onnx(StageExport(name, _KeptStage(encoder), example, ("kept",)))
        session = _session(graph)
        cosines = []
        for row in rows:
            read = {item.name for item in session.get_inputs()}
            feeds = {field: value for field, value in zip(fields, row, strict=True) if field in read}
            (made,) = session.run(None, feeds)
            expected = afresh.reference(*map(torch.from_numpy, row)).numpy()
            norms = np.linalg.norm(made) * np.linalg.norm(expected)
            cosines.append(float((made * expected).sum() / norms) if norms else float(np.array_equal(made, expected)))
        found[name] = min(cosines)
    return found


def prove(
    recipe: Recipe,
    stages: Sequence[StageExport],
    graphs: Mapping[str, ModelProto],
    monolith: ModelProto,
    samples: Arrays,
) -> tuple[int, dict[str, float], float]:
    """Number of samples, largest |stage - torch| by stage, largest |staged - monolith| over `samples`.

    Every second sample has one modality switched off (zeros in its place, as the device feeds them).
    """
    sessions = {name: _session(graph) for name, graph in graphs.items()}
    forms = [describe_stage(recipe, stage.name, graphs[stage.name], {}) for stage in stages]
    whole = _session(monolith)
    worst = {stage.name: 0.0 for stage in stages}
    apart = 0.0
    count = len(samples[str(PRESENCE)])
    for index in range(count):
        presence = samples[str(PRESENCE)][index].copy()
        if index % 2:
            presence[0, index // 2 % presence.shape[1]] = 0.0
        present = {name for name, flag in zip(recipe.modalities, presence[0], strict=True) if flag}
        outputs: dict[str, list[NDArray[np.float32]]] = {}
        tensor_of = partial(_sample, samples, index, presence, present, outputs)
        feeds: dict[str, NDArray[np.generic]] = {}
        for stage, form in zip(stages, forms, strict=True):
            inputs = feed(form, tensor_of)
            feeds |= {theirs: inputs[name] for name, theirs in monolith_inputs(form).items()}
            with torch.no_grad():
                arguments = [torch.from_numpy(np.ascontiguousarray(value)) for value in inputs.values()]
                answer = stage.module(*arguments)
            expected = [output.numpy() for output in (answer if isinstance(answer, tuple) else (answer,))]
            outputs[stage.name] = sessions[stage.name].run(list(stage.outputs), dict(inputs))
            worst[stage.name] = max(worst[stage.name], _apart(stage, outputs[stage.name], expected))
        apart = max(apart, _apart(stages[-1], whole.run(list(stages[-1].outputs), feeds), outputs[stages[-1].name]))
    return count, worst, apart


def _apart(stage: StageExport, actual: Sequence[NDArray[np.float32]], expected: Sequence[NDArray[np.float32]]) -> float:
    """The largest difference of any output's values, in half ranges for values that have a unit."""
    scales = stage.scales or (np.ones(1),) * len(stage.outputs)
    return max(
        float((np.abs(value - reference) / scale).max())
        for value, reference, scale in zip(actual, expected, scales, strict=True)
    )


def _sample(
    samples: Arrays,
    index: int,
    presence: NDArray[np.generic],
    present: Collection[str],
    outputs: Mapping[str, Sequence[NDArray[np.float32]]],
    source: TensorSource,
) -> NDArray[np.generic] | None:
    """What `source` gives in one sample; of a stage before it, its features."""
    if source.kind == "presence":
        return presence
    if source.kind == "stage":
        return outputs[source.name][0]
    return samples[str(source)][index] if source.name in present else None


def _session(graph: ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(
        graph.SerializeToString(), sess_options=session_options(1), providers=["CPUExecutionProvider"]
    )
