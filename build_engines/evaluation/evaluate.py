"""Evaluate a bundle with the device's own code: admission, alignment, preprocessing, stage graph and policy."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import UnsetType
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from build_engines.data.datasets import Layout
from build_engines.heads import build_of
from build_engines.heads.kind import AnyHeadBuild, HeadScores, Pairs
from build_engines.heads.prediction import Prediction
from calibration.moments import LabelledSet, admitted
from calibration.spread import spread
from edge_runtime.bundle import Bundle
from edge_runtime.errors import UserError
from edge_runtime.heads import Head
from edge_runtime.heads.policy import Inputs
from edge_runtime.infer.onnxruntime_engine import OnnxRuntimeEngine
from edge_runtime.messages import Detection, Tensor, Verdict
from edge_runtime.pipeline import Outcome, Pipeline
from edge_runtime.streams import kind


@dataclass(frozen=True)
class Evaluation:
    """The decisions of a bundle's head on one split."""

    head: Head
    scores: HeadScores
    predictions: list[Prediction]
    refused: Counter[str]
    """Messages that admission refused, by `stream reason`."""
    model: HeadScores
    """The same of the model's own answers: without thresholds and hysteresis."""
    timings: dict[str, list[int]] = field(default_factory=dict)
    """Nanoseconds of each decision: `preprocess`, every stage (where it ran: cached features cost nothing), `total`
    (alignment to verdict; the decoding of pictures comes before)."""
    side: Mapping[str, Evaluation] = field(default_factory=dict)
    """The same of the heads beside the first, by name."""
    outputs: Sequence[Tensor | None] = ()
    """The first head's raw values for each decision; None where the model was not asked, or had no answer."""

    @classmethod
    def of(
        cls, head: Head, predictions: list[Prediction], refused: Counter[str], timings: dict[str, list[int]],
        side: Mapping[str, Evaluation], outputs: Sequence[Tensor | None] = (),
    ) -> Evaluation:  # fmt: skip
        """With the scores worked out."""
        build = build_of(head)
        decided, own = (build.pairs(head, predictions, model).scores for model in (False, True))
        return cls(head, decided, predictions, refused, own, timings, side, outputs)

    @property
    def build(self) -> AnyHeadBuild:
        """The row of its head."""
        return build_of(self.head)

    def pairs(self, model: bool = False) -> Pairs:
        """Truths beside the decisions, or beside the model's own answers."""
        return self.build.pairs(self.head, self.predictions, model)

    @property
    def everything(self) -> Mapping[str, Evaluation]:
        """This one (with an empty name) and those of the heads beside it."""
        return {"": self, **self.side}


def evaluate(
    pipeline: Pipeline,
    sets: Iterable[LabelledSet],
    drop: Sequence[str] = (),
    blocking: bool = True,
    unknown: Collection[str] | None = None,
) -> Evaluation:
    """Decide every labelled moment of `sets` with `pipeline`, starting afresh with each group; where there are many, by
    several processes, each with engines of its own: the decisions are the same.

    Messages of `drop` never arrive. `unknown` names the streams without which something else may be right: where one
    of them is absent, the truth is what the data says is right without it (default: those that are dropped; none:
    always what is right with everything known). `blocking` = False switches off the policy's check of required
    inputs, to see what the model itself makes of the rest.
    """
    manifest = pipeline.bundle.manifest
    predictions: dict[str, list[Prediction]] = {}
    refused: Counter[str] = Counter()
    timings: dict[str, list[int]] = {}
    outputs: list[Tensor | None] = []
    deciding = _Deciding(pipeline, tuple(drop), blocking, tuple(drop if unknown is None else unknown))
    # A GPU has one queue: more processes would only wait for each other.
    on_cpu = set(pipeline.backends.values()) == {OnnxRuntimeEngine.backend}
    for one in spread(deciding, sets, of_group) if on_cpu else deciding()(iter(sets)):
        for name, prediction in one.predictions.items():
            predictions.setdefault(name, []).append(prediction)
        refused.update(one.refused)
        for part, spent in one.timings.items():
            timings.setdefault(part, []).append(spent)
        outputs.append(one.output)
    if not predictions:
        raise UserError("evaluate: the split holds no labelled moment")
    side = {
        head.name: Evaluation.of(head.head, predictions[head.name], refused, timings, {})
        for head in manifest.side_heads
    }
    return Evaluation.of(manifest.head, predictions[""], refused, timings, side, outputs)


def of_group(moment: LabelledSet) -> str:
    """What must be decided in one go: the runtime's memory goes on within it."""
    return moment.group


class _Decided(NamedTuple):
    """What became of one moment."""

    predictions: dict[str, Prediction]
    """By head."""
    refused: dict[str, int]
    timings: dict[str, int]
    output: Tensor | None


@dataclass(frozen=True)
class _Deciding:
    """The job of one evaluation."""

    pipeline: Pipeline
    drop: tuple[str, ...]
    blocking: bool
    unknown: tuple[str, ...]

    def __call__(self) -> Callable[[Iterator[LabelledSet]], Iterator[_Decided]]:
        return self.decide

    def decide(self, sets: Iterator[LabelledSet]) -> Iterator[_Decided]:
        pipeline, manifest = self.pipeline, self.pipeline.bundle.manifest
        heads: dict[str, Head] = {"": manifest.head} | {side.name: side.head for side in manifest.side_heads}
        refused: Counter[str] = Counter()
        for moment, begins, messages in admitted(pipeline.streams, sets, self.drop, refused):
            if begins:
                pipeline.reset()
            for message in messages:
                pipeline.add(message)
            start = time.perf_counter_ns()
            outcome = pipeline.decide(moment.reference_ns, moment.reference_ns, self.blocking)
            timings = {"total": time.perf_counter_ns() - start, "preprocess": outcome.inference.preprocess_ns}
            timings |= {stage: spent for stage, spent in outcome.inference.stage_ns.items() if spent}
            for part in outcome.aligned.slices.values():
                pipeline.settle(part)
            absent = (name for name in self.unknown if not outcome.aligned.slices[name].present)
            right = next((moment.label_without[name] for name in absent if name in moment.label_without), moment.label)
            predictions = {}
            for name, verdict in {"": outcome.verdict, **outcome.side}.items():
                truth = moment.side.get(name, "") if name else right
                output = outcome.inference.side.get(name) if name else outcome.inference.output
                found = () if output is None else _found(heads[name], output, pipeline, outcome)
                predictions[name] = prediction_of(moment, heads[name], truth, verdict, found)
            yield _Decided(predictions, dict(refused), timings, outcome.inference.output)
            refused.clear()


def _found(head: Head, output: NDArray[np.float32], pipeline: Pipeline, outcome: Outcome) -> tuple[Detection, ...]:
    return build_of(head).candidates(head, output, Inputs(pipeline.streams, outcome.aligned))


def prediction_of(
    moment: LabelledSet, head: Head, truth: str, verdict: Verdict, found: tuple[Detection, ...] = ()
) -> Prediction:
    """What `head` said of `moment`, beside the right label `truth`, tags, values and objects; `found`: candidates."""
    return Prediction(
        moment.id, truth, verdict.label, verdict.confidence, verdict.source, verdict.reason,
        dict(verdict.probabilities), moment.condition, moment.group, moment.tags, verdict.tags, head.kind,
        moment.cluster or moment.group, dict(moment.values),
        {} if isinstance(verdict.values, UnsetType) else dict(verdict.values), moment.objects,
        () if isinstance(verdict.detections, UnsetType) else tuple(verdict.detections), found,
    )  # fmt: skip


def ablate(pipeline: Pipeline, layout: Layout, data: Path, split: str) -> list[tuple[str, HeadScores]]:
    """Scores for every non-empty subset of the model's streams, the largest first: what each stream is worth.

    The truth is what was right with everything known. The model alone answers: the policy neither blocks nor holds.
    """
    modalities = pipeline.bundle.manifest.presence
    scores = []
    for size in range(len(modalities), 0, -1):
        for present in combinations(modalities, size):
            drop = [name for name in modalities if name not in present]
            result = evaluate(pipeline, layout.read(data, split, pipeline.streams), drop, blocking=False, unknown=())
            scores.append((" + ".join(present), result.model))
    return scores


def dropped_streams(bundle: Bundle, selectors: Sequence[str]) -> list[str]:
    """Streams named in `selectors` by name or by kind (`camera`, `sensors`, `text`). Raises UserError."""
    manifest = bundle.manifest
    kinds = {name: kind(spec) for name, spec in manifest.streams.items() if name in manifest.presence}
    dropped: list[str] = []
    for word in selectors:
        names = [word] if word in kinds else [name for name, kind in kinds.items() if kind == word]
        if not names:
            streams = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
            raise UserError(f"--drop {word}: the bundle's streams are {streams}")
        dropped += names
    return dropped


def by_condition(result: Evaluation) -> dict[str, HeadScores]:
    """Scores per recorded condition (day, night, ...), where the data names any."""
    names = sorted({prediction.condition for prediction in result.predictions if prediction.condition})
    groups = {name: [prediction for prediction in result.predictions if prediction.condition == name] for name in names}
    return {name: result.build.pairs(result.head, part).scores for name, part in groups.items()}


def document(
    bundle: Bundle, split: str, result: Evaluation, modalities: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """The evaluation as plain data. `modalities`: what is present to the model's scores."""
    manifest = bundle.manifest
    conditions = by_condition(result)
    fields: dict[str, Any] = {
        "bundle": {"name": manifest.name, "version": manifest.version},
        "precision": dict(manifest.precision["default"]),
        "split": split,
        "scores": result.scores,
        "model_alone": result.model.summary,
        "safe_decisions": sum(prediction.source == "safe" for prediction in result.predictions),
        "refused": dict(result.refused),
        "conditions": {name: {**scores.summary, "count": scores.count} for name, scores in conditions.items()},
        "modalities": modalities,
    }
    fields |= result.build.document(result.head, result.predictions)
    if result.side:
        fields["side_heads"] = {
            name: {"scores": side.scores, "model_alone": side.model.summary} for name, side in result.side.items()
        }
    return fields


def as_json(bundle: Bundle, split: str, result: Evaluation, ablation: Sequence[tuple[str, HeadScores]] = ()) -> bytes:
    """The evaluation as JSON: what `--json` holds."""
    modalities = {name: s.summary for name, s in ablation}
    written = msgspec.json.encode(document(bundle, split, result, modalities))
    return msgspec.json.format(written, indent=1) + b"\n"


def predictions_jsonl(result: Evaluation) -> bytes:
    """One line per decision."""
    return b"".join(msgspec.json.encode(prediction) + b"\n" for prediction in result.predictions)


def show(console: Console, bundle: Bundle, split: str, result: Evaluation) -> None:
    """Print the per-class table and what was refused."""
    manifest = bundle.manifest
    title = f"{manifest.name} {manifest.version} on {split}"
    for name, answer in result.everything.items():
        for part in answer.build.tables(
            answer.head, answer.pairs(), answer.predictions, f"{title}: {name}" if name else title
        ):
            console.print(part, highlight=False)
    figure = result.build.figure
    for name, scores in by_condition(result).items():
        console.print(f"{name}: accuracy {scores.accuracy:.3f}, {figure} {scores.figure:.3f} ({scores.count})")
    safe = sum(prediction.source == "safe" for prediction in result.predictions)
    refused = ", ".join(f"{reason}: {count}" for reason, count in result.refused.items()) or "none"
    model = result.model
    console.print(f"model alone, without the policy: accuracy {model.accuracy:.3f}, {figure} {model.figure:.3f}")
    console.print(f"safe decisions: {safe}; messages refused: {refused}")


def show_ablation(console: Console, result: Evaluation, ablation: Sequence[tuple[str, HeadScores]]) -> None:
    """Print the table of modality subsets."""
    table = Table(title="the model alone, by the modalities that are present")
    table.add_column("present")
    table.add_column("accuracy", justify="right")
    table.add_column(result.build.figure, justify="right")
    for name, part in ablation:
        table.add_row(name, f"{part.accuracy:.3f}", f"{part.figure:.3f}")
    console.print(table)
