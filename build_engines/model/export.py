"""The trained model as ONNX: one graph per stage, the monolith composed of those very graphs, and the proof.

The proof runs every graph in the device's ONNX Runtime session on real samples: each stage against torch, and the
stages one after the other against the monolith.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import torch
from msgspec import Struct
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor, nn

from build_engines.heads import build_of
from build_engines.model.fused import FusedModel, Fusion, Tagger
from build_engines.model.monolith import IR_VERSION, MONOLITH_NAMES, check_graph, compose_monolith
from build_engines.model.train import SAMPLES, Trained
from build_engines.recipe import Recipe
from edge_runtime.bundle import stream_tensor_spec
from edge_runtime.errors import GateRefused, UserError
from edge_runtime.infer.onnxruntime_engine import session_options
from edge_runtime.streams import CameraStream, SensorStream, TextStream
from edge_runtime.tensor_source import stream_tensor

OPSET = 20
STAGE_TOLERANCE = 1e-4
"""Largest difference between a stage's graph and torch: in the outputs' own unit, or in half ranges of values."""
MONOLITH_TOLERANCE = 1e-5
MONOLITH = "monolith.fp32.onnx"
Arrays = Mapping[str, NDArray[np.generic]]


class EncoderStage(nn.Module):
    """An encoder without its auxiliary outputs."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, *inputs: Tensor) -> Tensor:
        features: Tensor = self.encoder(*inputs)[0]
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


class Equality(Struct, frozen=True):
    """`equality.json`: the largest absolute differences found, and over how many samples."""

    samples: int
    stage_against_torch: dict[str, float]
    staged_against_monolith: float
    bytes: dict[str, int]


def stage_exports(recipe: Recipe, model: FusedModel) -> list[StageExport]:
    """The stages that the recipe's model has, in the order they run."""
    stages: list[StageExport] = []
    features: dict[str, Tensor] = {}
    d = recipe.model.features
    if recipe.model.vision is not None and model.vision is not None:
        cameras = recipe.model.vision.streams
        spec = recipe.streams[cameras[0]]
        assert isinstance(spec, CameraStream)
        image = torch.zeros(len(cameras), spec.height, spec.width, 3, dtype=torch.uint8)
        stages.append(StageExport("vision", EncoderStage(model.vision), {"image": image}, ("features",)))
        features["vision"] = torch.zeros(len(cameras), d)
    if recipe.model.text is not None and model.text is not None:
        words = recipe.streams[recipe.model.text.stream]
        assert isinstance(words, TextStream)
        read = stream_tensor_spec(recipe.streams, stream_tensor(recipe.model.text.stream, "ids"))
        assert read is not None
        ids = torch.zeros(read.shape, dtype=torch.int32)
        stages.append(
            StageExport("text", EncoderStage(model.text), {"ids": ids, "mask": torch.ones(ids.shape)}, ("features",))
        )
        features["text"] = torch.zeros(1, words.max_tokens, d) if words.word_pieces else torch.zeros(1, d)
    if recipe.model.sensors is not None and model.sensors is not None:
        values = recipe.streams[recipe.model.sensors.stream]
        assert isinstance(values, SensorStream)
        window = torch.zeros(1, values.window, len(values.channels))
        inputs = {"window": window, "mask": torch.ones(window.shape)}
        stages.append(StageExport("sensors", EncoderStage(model.sensors), inputs, ("features",)))
        features["sensors"] = torch.zeros(1, d)
    if isinstance(model.fusion, Tagger):
        return [*stages, StageExport("fusion", TaggerStage(model.fusion), features, ("logits",))]
    features["presence"] = torch.ones(1, len(recipe.modalities))
    names = ("logits", *model.fusion.side_heads)
    scalings = [build_of(head).scaling(head) for head in recipe.heads.values()]
    scales = tuple(np.ones(1) if scaling is None else scaling[1] for scaling in scalings)
    stages.append(StageExport("fusion", FusionStage(model.fusion), features, names, scales))
    return stages


def to_onnx(stage: StageExport) -> ModelProto:
    """The stage's graph, checked: fixed shapes, opset 20, IR version 10 (what the oldest supported runtimes read)."""
    buffer = io.BytesIO()
    with _quiet():
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


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns about its own deprecation and internals; none of it concerns the user of a recipe."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        previous = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(previous)


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
    proof = prove(stages, graphs, monolith, samples)
    equality = Equality(*proof, bytes=sizes | {"monolith": (work / MONOLITH).stat().st_size})
    (work / "equality.json").write_bytes(msgspec.json.format(msgspec.json.encode(equality), indent=1))
    worst = max(equality.stage_against_torch.values())
    if not worst <= STAGE_TOLERANCE or not equality.staged_against_monolith <= MONOLITH_TOLERANCE:
        raise GateRefused(
            f"export: stages differ from torch by {worst:.2e} (at most {STAGE_TOLERANCE}), "
            f"from the monolith by {equality.staged_against_monolith:.2e} (at most {MONOLITH_TOLERANCE})"
        )
    return equality


def prove(
    stages: Sequence[StageExport], graphs: Mapping[str, ModelProto], monolith: ModelProto, samples: Arrays
) -> tuple[int, dict[str, float], float]:
    """Number of samples, largest |stage - torch| by stage, largest |staged - monolith| over `samples`.

    Every second sample has one modality switched off (zeros as its features, as the device feeds them).
    """
    sessions = {name: _session(graph) for name, graph in graphs.items()}
    whole = _session(monolith)
    worst = {stage.name: 0.0 for stage in stages}
    apart = 0.0
    count = len(samples["presence"])
    for index in range(count):
        presence = samples["presence"][index : index + 1].copy()
        if index % 2:
            presence[0, index // 2 % presence.shape[1]] = 0.0
        outputs: dict[str, list[NDArray[np.float32]]] = {}
        feeds: dict[str, NDArray[np.generic]] = {}
        for stage in stages:
            inputs = _stage_inputs(stage, samples, index, outputs, presence, feeds)
            with torch.no_grad():
                answer = stage.module(*(torch.from_numpy(value) for value in inputs.values()))
            expected = [one.numpy() for one in (answer if isinstance(answer, tuple) else (answer,))]
            outputs[stage.name] = sessions[stage.name].run(list(stage.outputs), inputs)
            worst[stage.name] = max(worst[stage.name], _apart(stage, outputs[stage.name], expected))
        apart = max(apart, _apart(stages[-1], whole.run(list(stages[-1].outputs), feeds), outputs[stages[-1].name]))
    return count, worst, apart


def _apart(stage: StageExport, found: Sequence[NDArray[np.float32]], expected: Sequence[NDArray[np.float32]]) -> float:
    """The largest difference of any output's values, in half ranges for values that have a unit."""
    scales = stage.scales or (np.ones(1),) * len(stage.outputs)
    return max(
        float((np.abs(one - other) / scale).max()) for one, other, scale in zip(found, expected, scales, strict=True)
    )


def _stage_inputs(
    stage: StageExport,
    samples: Arrays,
    index: int,
    outputs: Mapping[str, Sequence[NDArray[np.float32]]],
    presence: NDArray[np.generic],
    feeds: dict[str, NDArray[np.generic]],
) -> dict[str, NDArray[np.generic]]:
    """The stage's inputs for one sample; what comes from streams is added to `feeds` under the monolith's names."""
    inputs: dict[str, NDArray[np.generic]] = {}
    for field, example in stage.inputs.items():
        if stage.name == "fusion" and field != "presence":
            inputs[field] = outputs[field][0]
            continue
        name = MONOLITH_NAMES[stage.name, field]
        value = presence if name == "presence" else samples[name][index]
        inputs[field] = feeds[name] = np.ascontiguousarray(value).reshape(tuple(example.shape))
    return inputs


def _session(graph: ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(
        graph.SerializeToString(), sess_options=session_options(1), providers=["CPUExecutionProvider"]
    )
