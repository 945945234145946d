"""Evaluate a bundle with the device's own code: admission, alignment, preprocessing, stage graph and policy."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from build_engines.data.datasets import Layout
from build_engines.evaluation import tagging
from build_engines.evaluation.metrics import Scores, class_table, score
from calibration.moments import LabelledSet, admitted
from edge_runtime.bundle import Bundle
from edge_runtime.errors import UserError
from edge_runtime.pipeline import Pipeline
from edge_runtime.streams import kind


class Prediction(Struct, frozen=True):
    """One decision beside its truth: a line of the predictions file."""

    id: str
    truth: str
    label: str
    confidence: float
    source: str
    reason: str | None
    probabilities: dict[str, float]
    condition: str = ""
    group: str = ""
    """What it belongs to: the runtime's memory starts afresh with each group."""
    truth_tags: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    """What a tagging head gave each word; the labels that a sigmoid head found."""

    head: str = "softmax"
    cluster: str = ""
    """Moments of one cluster are not independent."""

    @property
    def answer(self) -> str:
        """The model's own answer, without hysteresis and abstention: the most probable label of a softmax head."""
        if self.head == "softmax" and self.probabilities:
            return max(self.probabilities, key=self.probabilities.__getitem__)
        return self.label


@dataclass(frozen=True)
class Evaluation:
    """A bundle's decisions on one split."""

    scores: Scores
    predictions: list[Prediction]
    refused: Counter[str]
    """Messages that admission refused, by `stream reason`."""
    model: Scores
    """The same with the model's most probable label as the answer: without thresholds and hysteresis."""
    timings: dict[str, list[int]] = field(default_factory=dict)
    """Nanoseconds of each decision: `preprocess`, every stage (where it ran: cached features cost nothing), `total`
    (alignment to verdict; the decoding of pictures comes before)."""


def evaluate(
    pipeline: Pipeline,
    sets: Iterable[LabelledSet],
    drop: Sequence[str] = (),
    blocking: bool = True,
    unknown: Collection[str] | None = None,
) -> Evaluation:
    """Decide every labelled moment of `sets` with `pipeline`, starting afresh with each group.

    Messages of `drop` never arrive. `unknown` names the streams without which something else may be right: where one
    of them is absent, the truth is what the data says is right without it (default: those that are dropped; none:
    always what is right with everything known). `blocking` = False switches off the policy's check of required
    inputs, to see what the model itself makes of the rest.
    """
    unknown = drop if unknown is None else unknown
    predictions: list[Prediction] = []
    refused: Counter[str] = Counter()
    timings: dict[str, list[int]] = {}
    head = pipeline.bundle.manifest.head
    for moment, begins, messages in admitted(pipeline.streams, sets, drop, refused):
        if begins:
            pipeline.reset()
        for message in messages:
            pipeline.add(message)
        start = time.perf_counter_ns()
        outcome = pipeline.decide(moment.reference_ns, moment.reference_ns, blocking)
        timings.setdefault("total", []).append(time.perf_counter_ns() - start)
        timings.setdefault("preprocess", []).append(outcome.inference.preprocess_ns)
        for stage, spent in outcome.inference.stage_ns.items():
            if spent:
                timings.setdefault(stage, []).append(spent)
        for part in outcome.aligned.slices.values():
            pipeline.settle(part)
        said = outcome.verdict
        absent = (name for name in unknown if not outcome.aligned.slices[name].present)
        right = next((moment.label_without[name] for name in absent if name in moment.label_without), moment.label)
        predictions.append(
            Prediction(
                moment.id, right, said.label, said.confidence, said.source, said.reason, dict(said.probabilities),
                moment.condition, moment.group, moment.tags, said.tags, head.kind, moment.cluster or moment.group,
            )
        )  # fmt: skip
    if not predictions:
        raise UserError("evaluate: the split holds no labelled moment")
    if head.kind == "tagging":
        scores = score(*tagging.token_pairs(predictions, head.labels[0]), head.labels)
        return Evaluation(scores, predictions, refused, scores, timings)
    truth = [one.truth for one in predictions]
    scores = score(truth, [one.label for one in predictions], head.labels)
    return Evaluation(
        scores, predictions, refused, score(truth, [one.answer for one in predictions], head.labels), timings
    )


def ablate(pipeline: Pipeline, layout: Layout, data: Path, split: str) -> list[tuple[str, Scores]]:
    """Scores for every non-empty subset of the model's streams, the largest first: what each stream is worth.

    The truth is what was right with everything known. The model alone answers: the policy neither blocks nor holds.
    """
    modalities = pipeline.bundle.manifest.presence
    found = []
    for size in range(len(modalities), 0, -1):
        for kept in combinations(modalities, size):
            drop = [name for name in modalities if name not in kept]
            result = evaluate(pipeline, layout.read(data, split, pipeline.streams), drop, blocking=False, unknown=())
            found.append((" + ".join(kept), result.model))
    return found


def dropped_streams(bundle: Bundle, wanted: Sequence[str]) -> list[str]:
    """Streams named in `wanted` by name or by kind (`camera`, `sensors`, `text`). Raises UserError."""
    manifest = bundle.manifest
    kinds = {name: kind(spec) for name, spec in manifest.streams.items() if name in manifest.presence}
    found: list[str] = []
    for word in wanted:
        names = [word] if word in kinds else [name for name, kind in kinds.items() if kind == word]
        if not names:
            known = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
            raise UserError(f"--drop {word}: the bundle's streams are {known}")
        found += names
    return found


def by_condition(predictions: Sequence[Prediction], labels: Sequence[str]) -> dict[str, Scores]:
    """Scores per recorded condition (day, night, ...), where the data names any."""
    names = sorted({one.condition for one in predictions if one.condition})
    groups = {name: [one for one in predictions if one.condition == name] for name in names}
    return {
        name: score([one.truth for one in part], [one.label for one in part], labels) for name, part in groups.items()
    }


def document(
    bundle: Bundle, split: str, result: Evaluation, modalities: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """The evaluation as plain data. `modalities`: what is present to the model's scores."""
    manifest = bundle.manifest
    conditions = by_condition(result.predictions, manifest.head.labels)
    found: dict[str, Any] = {
        "bundle": {"name": manifest.name, "version": manifest.version},
        "precision": dict(manifest.precision["default"]),
        "split": split,
        "scores": result.scores,
        "model_alone": {"accuracy": result.model.accuracy, "f1_macro": result.model.f1_macro},
        "safe_decisions": sum(one.source == "safe" for one in result.predictions),
        "refused": dict(result.refused),
        "conditions": {
            name: {"accuracy": s.accuracy, "f1_macro": s.f1_macro, "count": s.count} for name, s in conditions.items()
        },
        "modalities": modalities,
    }
    if manifest.head.kind == "tagging":
        found["tagging"] = tagging.report_of(result.predictions, manifest.head.labels[0])
    return found


def as_json(bundle: Bundle, split: str, result: Evaluation, ablation: Sequence[tuple[str, Scores]] = ()) -> bytes:
    """The evaluation as JSON: what `--json` holds."""
    modalities = {name: {"accuracy": s.accuracy, "f1_macro": s.f1_macro} for name, s in ablation}
    written = msgspec.json.encode(document(bundle, split, result, modalities))
    return msgspec.json.format(written, indent=1) + b"\n"


def predictions_jsonl(result: Evaluation) -> bytes:
    """One line per decision."""
    return b"".join(msgspec.json.encode(one) + b"\n" for one in result.predictions)


def show(console: Console, bundle: Bundle, split: str, result: Evaluation) -> None:
    """Print the per-class table and what was refused."""
    manifest = bundle.manifest
    title = f"{manifest.name} {manifest.version} on {split}"
    if manifest.head.kind == "tagging":
        for table in tagging.tables(tagging.report_of(result.predictions, manifest.head.labels[0]), title):
            console.print(table)
        console.print(tagging.cut_words(result.predictions), highlight=False)
    else:
        console.print(class_table(result.scores, title))
    for name, part in by_condition(result.predictions, manifest.head.labels).items():
        console.print(f"{name}: accuracy {part.accuracy:.3f}, macro-F1 {part.f1_macro:.3f} ({part.count})")
    safe = sum(one.source == "safe" for one in result.predictions)
    refused = ", ".join(f"{reason}: {count}" for reason, count in result.refused.items()) or "none"
    model = result.model
    if manifest.head.kind != "tagging":  # a tagging head has no hysteresis: its decisions are the model's own
        console.print(f"model alone, without hysteresis: accuracy {model.accuracy:.3f}, macro-F1 {model.f1_macro:.3f}")
    console.print(f"safe decisions: {safe}; messages refused: {refused}")


def show_ablation(console: Console, ablation: Sequence[tuple[str, Scores]]) -> None:
    """Print the table of modality subsets."""
    table = Table(title="the model alone, by the modalities that are present")
    table.add_column("present")
    table.add_column("accuracy", justify="right")
    table.add_column("macro-F1", justify="right")
    for name, part in ablation:
        table.add_row(name, f"{part.accuracy:.3f}", f"{part.f1_macro:.3f}")
    console.print(table)
